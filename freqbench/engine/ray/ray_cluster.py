"""Connects to the Ray that workers run on: one of this process's own, or a cluster that is there already.

Ray itself is imported within the functions, as it reads some variables of the environment only when it is imported.
"""

import logging
import os
import resource
import secrets
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from freqbench.core.errors import EngineLost, UserError, one_line
from freqbench.core.interrupt import deferred_interrupt
from freqbench.engine.ray import ray_cleanup
from freqbench.engine.resources import Node

STORE_BYTES = 512 << 20
CONNECT_S = 20.0
# Ray prints a paragraph for every process that dies, whatever its log settings: the engine says so in a line.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}


@contextmanager
def own(cpus: int) -> Iterator[None]:
    """A Ray of this process's own with so many CPUs to give away, which ends with it.

    Nothing of it listens beyond this machine, unless Ray was imported before: then it also prints a paragraph for every
    process that dies. Where this version of Ray has tokens, whoever calls it needs one that only its processes know. As
    Ray does not bear an exception while it starts, Ctrl-C and SIGTERM are heeded when it has.

    Raises:
        KeyboardInterrupt: Ctrl-C meanwhile.
        UserError: its object store would be a larger file than may be written.
        EngineLost: it does not start.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= most < STORE_BYTES:
        raise UserError(
            f"Ray: expected to write files of {STORE_BYTES:,} bytes, got a limit of {most:,}: raise it (ulimit -f), or "
            "take --engine serial"
        )
    mark = secrets.token_hex(8)
    environment = {
        ray_cleanup.MARK: mark,
        "RAY_AUTH_TOKEN": _token(),  # so that Ray writes none into the user's home
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_period_ms": "1000",  # a dead node process misses five; a slow one has 10 s for each
        "RAY_worker_niceness": "0",  # the default of 15 starves workers on a machine that does anything else
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # whatever the system: not one of several machines, so on loopback
        **QUIET,
    }
    # In a thread of its own, as in the main one Ray would take SIGTERM for itself and end the driver at once.
    # The thread stays, as Ray's processes end with the one that started them.
    with ray_cleanup.nothing_left(mark), _environment(environment), ThreadPoolExecutor(1) as thread:
        import ray

        with deferred_interrupt() as interrupt:
            started = thread.submit(
                ray.init,
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            try:
                started.result()
            except Exception as error:  # noqa: BLE001 (a plain one where its processes come up too late)
                reason = one_line(error).rstrip(".")
                raise EngineLost(f"Ray did not start: {reason}: try again, or take --engine serial") from None
        try:
            if interrupt.requested:
                raise KeyboardInterrupt
            yield
        finally:
            ray.shutdown()


@contextmanager
def existing(address: str) -> Iterator[None]:
    """The cluster at an address; left again, not ended.

    Raises:
        UserError: it cannot be reached, or does not take this driver.
    """
    with _environment(QUIET):
        import ray
    try:
        # By `auto` Ray takes the variable, else the last one that was started here, though it has ended.
        place = (os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address
        last = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
        place = last.read_text().strip() if place == "auto" and last.is_file() else place
        host, _, port = place.rpartition(":")
        if host and port.isdecimal() and "/" not in place:
            # Ray tries an address for many minutes; a server that is there answers at once.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        with ThreadPoolExecutor(1) as thread:  # as in `own`; nothing is started here
            thread.submit(ray.init, address=address, log_to_driver=False, logging_level=logging.ERROR).result()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"expected a Ray cluster at {address}, got {type(error).__name__}: {' '.join(str(error).split())}: "
            "start one (ray start --head), or leave --address and RAY_ADDRESS out for one of this machine's own"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def machines() -> dict[str, Node]:
    """The machines that are alive, by id."""
    import ray

    return {
        node["NodeID"]: Node(cores=found.get("CPU", 0), gpus=found.get("GPU", 0), memory=found.get("memory", 0))
        for node, found in ((node, node["Resources"]) for node in ray.nodes() if node["Alive"])
    }


def sign_of_life(node_id: str) -> Any:
    """A reference to an answer from a machine: getting it raises RayError where the machine is gone.

    Processes of a machine that goes away are missed at once, the machine itself only when Ray's health check has failed
    several times. This is answered at once or after that, but not wrongly.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def answer() -> None: ...

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()


def shortage(wanted: Mapping[str, float]) -> str | None:
    """What one more worker wants and what is free, where that is not enough; None where it is."""
    import ray

    wanted = {name: amount for name, amount in wanted.items() if amount}
    free = ray.available_resources()
    if all(free.get(name, 0) >= amount for name, amount in wanted.items()):
        return None
    wants, has = (" and ".join(f"{each.get(name, 0):g} {name}" for name in wanted) for each in (wanted, free))
    return f"each wants {wants}, free are {has}"


def cause(error: Exception) -> str:
    """One line of a RayError: what code of ours raised, or its own first line."""
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    raised_by_ours = isinstance(error, RayActorError) and error.actor_init_failed
    return f"{type(error).__name__}: {lines[-1 if raised_by_ours else 0][:200]}"


@cache
def _token() -> str:
    """One a process, as Ray reads it once."""
    return os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set within; Ray sets one more, RAY_AUTH_MODE."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in ("RAY_AUTH_MODE", *values):
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in ("RAY_AUTH_MODE", *values) if name in before})
