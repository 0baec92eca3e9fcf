"""The Ray that `run` starts listens on this machine alone."""

import os

import psutil

from freqbench.engine import cluster, janitor


def test_it_listens_on_loopback() -> None:
    with cluster.own(1):
        processes = [psutil.Process(), *janitor.marked(os.environ[janitor.MARK])]
        connections = [found for process in processes for found in process.net_connections("inet")]
    listening = [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]
    assert len(processes) > 3
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
