"""The Ray that `run` starts listens on this machine alone, leaves SIGTERM alone, and is quiet about deaths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTENING = """
import os, signal, sys, time
import psutil
from freqbench.engine.ray import ray_cleanup, ray_cluster

with ray_cluster.own(1):
    import ray

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "Ray has kept it"
    kill = ray.remote(lambda: os._exit(1)).options(max_retries=0)
    try:
        ray.get(kill.remote())
    except ray.exceptions.RayError:
        time.sleep(1)
    processes = [psutil.Process(), *ray_cleanup.marked(os.environ[ray_cleanup.MARK])]
    connections = [found for process in processes for found in process.net_connections("inet")]
    print(*(found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN), file=sys.stderr)
"""


@pytest.mark.integration
def test_it_listens_on_loopback() -> None:
    """In a process that has not imported Ray, as that of a command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True)
    listening = done.stderr.split()
    assert done.returncode == 0, done.stderr
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert done.stdout == ""
