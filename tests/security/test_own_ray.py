"""The Ray that `run` starts listens on this machine alone."""

import os

import psutil

from freqbench.engine import ray_cleanup, ray_cluster


def test_it_listens_on_loopback() -> None:
    with ray_cluster.own(1):
        processes = [psutil.Process(), *ray_cleanup.marked(os.environ[ray_cleanup.MARK])]
        connections = [found for process in processes for found in process.net_connections("inet")]
    listening = [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]
    assert len(processes) > 3
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
