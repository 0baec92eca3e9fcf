"""Decides how many workers there are, and what each may take."""

from collections.abc import Sequence
from dataclasses import dataclass

from freqbench.job.schema import Resources

CORES_A_WORKER = 2
PROCESS_BYTES = 1 << 30  # interpreter, libraries, a case and its predictions


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a machine has to give: cores, GPUs, and bytes of memory."""

    cores: float
    gpus: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """So many workers, each with `threads` CPU threads and `gpus` GPUs or a share of one."""

    workers: int
    threads: int
    gpus: float

    @property
    def memory_share(self) -> float:
        """The part of a GPU's memory that one worker may take."""
        return min(1.0, self.gpus) if self.gpus else 1.0


def share(resources: Resources, nodes: Sequence[Node], num_units: int, model_bytes: int, grows: bool = False) -> Pool:
    """Workers for a number of units on some machines.

    With GPUs one worker a share of `gpus_per_worker`. Without, one for two cores (for `threads`, where given), and on a
    single machine at least two; fewer where memory is short. Threads are a machine's cores over its workers. The job's
    numbers are taken as they are, but there is no worker without a unit. Where machines may join (`grows`), GPUs that
    the job names are asked for, with the workers that it names, before there is one. `model_bytes` is what the models
    and one attack step take.
    """
    is_asked = grows and resources.workers != "auto" and "gpus_per_worker" in resources.model_fields_set
    gpus = resources.gpus_per_worker if is_asked or any(node.gpus for node in nodes) else 0.0
    rooms = [_room(resources, node, gpus, model_bytes) for node in nodes]
    if len(nodes) == 1 and not gpus and resources.threads == "auto":
        rooms = [max(rooms[0], min(2, _memory_room(nodes[0], model_bytes)))]
    workers = sum(rooms) if resources.workers == "auto" else resources.workers
    workers = max(1, min(workers, num_units))
    if len(nodes) == 1:
        rooms = [workers]
    fair = min((int(node.cores // room) for node, room in zip(nodes, rooms, strict=True) if room), default=1)
    return Pool(workers=workers, threads=max(1, fair) if resources.threads == "auto" else resources.threads, gpus=gpus)


def room(resources: Resources, pool: Pool, model_bytes: int, nodes: Sequence[Node]) -> int:
    """How many workers like those of a pool some machines have room for; a job's own number is taken as it is."""
    if resources.workers != "auto":
        return pool.workers
    return sum(min(_room(resources, node, pool.gpus, model_bytes), int(node.cores // pool.threads)) for node in nodes)


def _room(resources: Resources, node: Node, gpus: float, model_bytes: int) -> int:
    if gpus:
        return int(node.gpus / gpus + 1e-9)
    if node.cores < 1:
        return 0  # as the head of a cluster that keeps work off it
    cores = CORES_A_WORKER if resources.threads == "auto" else resources.threads
    return min(max(1, int(node.cores // cores)), _memory_room(node, model_bytes))


def _memory_room(node: Node, model_bytes: int) -> int:
    return int(node.memory // (PROCESS_BYTES + model_bytes))
