"""The Ray that `run` starts listens on this machine alone, leaves SIGTERM alone, and is quiet about deaths."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from freqbench.engine.ray import ray_cleanup

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
    processes = [psutil.Process(), *ray_cleanup.marked_processes(os.environ[ray_cleanup.MARK])]
    connections = [each for process in processes for each in process.net_connections("inet")]
    print(*(each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN), file=sys.stderr)
"""


@pytest.mark.integration
def test_own_ray_listens_on_loopback() -> None:
    """The process has not imported Ray before, as that of a command."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True)
    listening = done.stderr.split()
    assert done.returncode == 0, done.stderr
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert done.stdout == ""


def test_processes_of_a_killed_driver_are_ended_and_no_others() -> None:
    wait = [sys.executable, "-c", "input()"]
    processes = []
    try:
        for mark in ("one driver", "another"):
            processes.append(subprocess.Popen(wait, env={**os.environ, ray_cleanup.MARK: mark}, stdin=subprocess.PIPE))
        subprocess.run([sys.executable, ray_cleanup.__file__, "one driver"], stdin=subprocess.DEVNULL, check=True)
        own, other = processes
        assert (own.poll(), other.poll()) == (-signal.SIGKILL, None)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
