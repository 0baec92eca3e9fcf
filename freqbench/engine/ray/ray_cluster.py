"""Connects to the Ray that workers run on: one started by this process, or an existing cluster.
Functions import Ray themselves, because it reads some environment variables only on import."""

import logging
import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, TypeVar

import psutil

from freqbench.core.errors import EngineLost, UserError, one_line
from freqbench.core.plugins import BESIDE
from freqbench.engine.ray import ray_cleanup
from freqbench.engine.resources import Node
from freqbench.engine.retry import FULL

STORE_BYTES = 512 << 20
ROOM_BYTES = 8 << 20  # for its first files
FOLLOW_S = 5.0
HEADLESS_S = 6.0
# limits for a cluster's address to answer, and for the cluster to accept this driver
REACH_S = 4.0
JOIN_S = 14.0
START_S = 180.0  # limit for a Ray of this process; its start may hang where its node process dies meanwhile
# Ray prints a paragraph for every dead process, whatever its log settings: the engine reports it in a line.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# The longest path of a socket, in bytes, and the part of it that Ray adds to its folder.
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
SOCKET = "/ray/session_2026-01-31_12-30-59_123456_4194304/sockets/plasma_store"
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
T = TypeVar("T")
NO_NODE = "Ray's node process has died, and all workers: the same command goes on"
logger = logging.getLogger(__name__)
WITHOUT = "take --engine serial (a training job: engine: local)"


@contextmanager
def own(cpus: int) -> Iterator[None]:
    """Starts a Ray of this process with `cpus` CPUs for workers, on this machine only unless Ray was imported before,
    and ends it. Its files go where Ray puts them, or, logged, to another folder where that is full, not writable or too
    long for sockets. Raises KeyboardInterrupt at Ctrl-C or SIGTERM while it starts; UserError for a low file size limit
    or no folder for its files; EngineLost if it does not start."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= most < STORE_BYTES:
        raise UserError(
            f"Ray: expected to write files of {STORE_BYTES:,} bytes, got a limit of {most:,}: raise it (ulimit -f), or "
            + WITHOUT
        )
    mark = secrets.token_hex(8)
    variables = {
        ray_cleanup.MARK: mark,
        "RAY_AUTH_TOKEN": _token(),  # keeps Ray from writing one into the user's home
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_period_ms": "1000",  # a dead node process misses five; a slow one has 10 s for each
        "RAY_worker_niceness": "0",  # the default of 15 starves workers on a machine that does anything else
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: a single machine, so loopback is enough
        **_folder_for_files(),
        **QUIET,
    }
    if BESIDE:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *BESIDE)))
    options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    with ray_cleanup.nothing_left(mark), environment(variables):
        import ray

        connected, leave = _connecting("local", **options)
        try:
            try:
                _wait_for(connected, START_S)
            except Exception as error:  # noqa: BLE001 (a plain one if its processes start too late)
                raise EngineLost(f"Ray did not start: {one_line(error).rstrip('.')}: try again, or {WITHOUT}") from None
            yield
        finally:
            if connected.done():
                ray.shutdown()
            leave.set()


@contextmanager
def existing(address: str) -> Iterator[None]:
    """Joins the cluster at an address and leaves it running; `auto` is that of RAY_ADDRESS, else of `ray start` here,
    else any Ray of this user that is of no run. Raises UserError if it does not accept this driver within seconds."""
    with environment(QUIET):
        import ray
    place = address
    try:
        place = _reachable(address)
        connected, leave = _connecting(place)
        _wait_for(connected, JOIN_S)
        leave.set()
    except TimeoutError:
        raise UserError(
            f"expected a Ray cluster at {place}, got no answer in {JOIN_S:.0f} s: check that it is alive and of this "
            "version of Ray, and that this shell has its token (RAY_AUTH_TOKEN)"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"expected a Ray cluster at {place}, got {type(error).__name__}: {one_line(error)}: start one (ray start "
            "--head), or leave --address and RAY_ADDRESS out for one of this machine's own"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _connecting(address: str, **options: Any) -> tuple[Future[Any], Event]:
    """Calls `ray.init` in a thread, where it handles no signal; returns its result, and the event that ends it."""
    import ray

    leave = Event()
    call = partial(ray.init, address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    return _call_in_thread(partial(_twice, call, leave) if address == "local" else call, leave), leave


def _twice(call: Callable[[], T], leave: Event) -> T:
    """Repeats a call that failed, unless nobody waits any more: a busy machine may miss the 30 s of Ray's processes."""
    try:
        return call()
    except Exception as error:  # Ray raises a plain one
        if leave.is_set():
            raise
        logger.info("Ray starts once more: %s", one_line(error))
    return call()


def _wait_for(connected: Future[Any], seconds: float) -> None:
    """Waits for a connection for a number of seconds; raises TimeoutError, and what the connection raises."""
    end = time.monotonic() + seconds
    while not connected.done() and time.monotonic() < end:
        wait([connected], timeout=1)  # in short waits: a signal that comes just before a wait is handled only after it
    if not connected.done():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    connected.result()


def result_of(call: Callable[[], T]) -> T:
    """Returns the result of a long call of Ray, made in a thread: there Ray handles no signal; Ctrl-C ends the wait.
    Raises EngineLost if the head of the cluster or every machine is gone meanwhile, and what the call raises."""
    result = _call_in_thread(call)
    head = HeadWatch()
    while not result.done():
        wait([result], timeout=1)
        if head.answers() and not machines():
            raise EngineLost(NO_NODE)
    return result.result()


def _call_in_thread(call: Callable[[], T], leave: Event | None = None) -> Future[T]:
    """Makes a call in a thread that does not block the exit and, after its success, lives until `leave` is set."""
    result = Future[T]()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
            result.set_exception(error)
        else:
            if leave:
                leave.wait()

    Thread(target=work, name="ray", daemon=True).start()
    return result


def _reachable(address: str) -> str:
    """Returns the address of a cluster, searched if it is `auto`; raises OSError if nothing listens there."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    refusal: OSError = ConnectionError("none that a user started on this machine")
    for place in _local_clusters() if address == "auto" else (address,):
        try:
            require_answer(place)
            return place
        except OSError as error:
            refusal = error
    raise refusal


def require_answer(place: str) -> None:
    """Raises OSError unless something listens at `place`, HOST:PORT; Ray itself would try for many minutes."""
    host, _, port = place.rpartition(":")
    if host and port.isdecimal() and "/" not in place:  # otherwise a word or URI that Ray understands
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()


def _local_clusters() -> Iterator[str]:
    """Yields addresses of clusters that a user started on this machine, the last one by `ray start` first."""
    last = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    if last.is_file():
        yield last.read_text().strip()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, or is another user's
            words = process.cmdline()  # before the environment: both are empty for a moment while it starts
            if process.name() == "raylet" and ray_cleanup.MARK not in process.environ():
                yield from (word.partition("=")[2] for word in words if word.startswith("--gcs-address="))


def machines() -> dict[str, Node]:
    """Returns the machines that are alive, by id."""
    import ray

    return {node["NodeID"]: _node(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def _node(amounts: Mapping[str, float]) -> Node:
    return Node(cores=amounts.get("CPU", 0), gpus=amounts.get("GPU", 0), memory=amounts.get("memory", 0))


class HeadWatch:
    """Process that knows all machines (GCS); without it most calls of Ray hang, and Ray ends the driver in a minute."""

    def __init__(self) -> None:
        self._asked = self._answered = time.monotonic()

    def answers(self) -> bool:
        """True if it listens, asked every FOLLOW_S, else False; EngineLost after HEADLESS_S without an answer."""
        import ray

        now = time.monotonic()
        if now - self._asked < FOLLOW_S:
            return False
        self._asked = now
        try:
            require_answer(ray.get_runtime_context().gcs_address)
        except OSError:
            if now - self._answered > HEADLESS_S:
                raise EngineLost("Ray's head process (gcs_server) has died: the same command goes on") from None
            return False
        self._answered = now
        return True


def sign_of_life(node_id: str) -> Any:
    """Returns a reference to an answer of the machine `node_id`; getting it raises RayError, some health checks late,
    if it is gone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def answer() -> None: ...

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(answer).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()


def shortage(wanted: Mapping[str, float], workers: int | None) -> str | None:
    """Describes what one more worker needs (`wanted`, amounts by Ray's names) and what is free, if that is not enough;
    None otherwise, or if `workers` are all that use this Ray (None: others may too) and the whole has room, as some of
    them still import."""
    import ray

    wanted = {name: amount for name, amount in wanted.items() if amount}
    free = ray.available_resources()
    if all(free.get(name, 0) >= amount for name, amount in wanted.items()):
        return None
    whole = ray.cluster_resources()
    if workers and all(whole.get(name, 0) >= workers * amount for name, amount in wanted.items()):
        return None
    needs = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    has = " and ".join(f"{free.get(name, 0):g} {name}" for name in wanted)
    return f"each needs {needs}; free: {has}"


def cause(error: Exception) -> str:
    """Returns one line of a RayError: the error that freqbench's code raised, or its own first line."""
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    if isinstance(error, OutOfMemoryError):
        return "Ray ended it, as its machine ran low on memory: take fewer workers (resources.workers), or free memory"
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    raised_by_ours = isinstance(error, RayActorError) and error.actor_init_failed
    return f"{type(error).__name__}: {one_line(lines[-1 if raised_by_ours else 0], 200)}"


def _folder_for_files() -> dict[str, str]:
    """Returns the variable that moves Ray's files to a folder that will do; empty where Ray's own choice does."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "/tmp")
    own = os.environ.get(name, name)
    most = LONGEST_SOCKET - len(SOCKET)
    size = len(own.encode())
    fault = _fault_of(own) if size <= most else f"of {size} bytes, too long for its sockets"
    if not fault:
        return {}
    for folder in FOLDERS:
        if folder != own and not _fault_of(folder):
            logger.warning("Ray puts its files into %s/ray, as %s is %s, %s", folder, name, own, fault)
            return {"RAY_TMPDIR": folder}
    raise UserError(
        f"Ray: expected a writable folder of at most {most} bytes for its files, got {own}, {fault}: set RAY_TMPDIR to "
        f"a shorter one, or {WITHOUT}"
    )


def _fault_of(folder: str) -> str:
    """Returns why Ray cannot make its files below a folder, which need not exist yet; empty if it can."""
    place = Path(folder, "ray").absolute()
    while not place.exists():
        place = place.parent
    try:
        with TemporaryDirectory(dir=place) as made:
            Path(made, "room").write_bytes(bytes(ROOM_BYTES))
            return ""
    except OSError as error:
        return f"where less than {ROOM_BYTES >> 20} MiB are left" if error.errno in FULL else "which is not writable"


@cache
def _token() -> str:
    """Returns the token of this process; one for all calls, because Ray reads it once."""
    return os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables to `values` inside and restores them; Ray sets one more, RAY_AUTH_MODE."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in ("RAY_AUTH_MODE", *values):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
