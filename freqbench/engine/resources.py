"""Decides the number of workers and the resources of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from freqbench.job.schema import Resources

CORES_A_WORKER = 2
PROCESS_BYTES = 1 << 30  # interpreter, libraries, a case and its predictions


@dataclass(frozen=True, kw_only=True)
class Node:
    """Resources of a machine: cores, GPUs, and bytes of memory."""

    cores: float
    gpus: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A number of workers, each with `threads` CPU threads and `gpus` GPUs or a share of one."""

    workers: int
    threads: int
    gpus: float

    @property
    def memory_share(self) -> float:
        """Part of a GPU's memory that one worker may take."""
        return min(1.0, self.gpus) if self.gpus else 1.0


def share(resources: Resources, nodes: Sequence[Node], num_units: int, model_bytes: int, grows: bool = False) -> Pool:
    """Decides the workers for a run: one for each share of `gpus_per_worker`; without GPUs, for each two cores (or
    `threads`), at least two on one machine of two cores; fewer if memory is short.

    Args:
        resources: those of the job, whose numbers stand.
        nodes: the machines.
        num_units: units to compute; no worker is without one.
        model_bytes: memory of a worker's networks.
        grows: GPUs may join that the job asks for.
    """
    asked = resources.workers
    threads = resources.threads
    is_asked = grows and asked != "auto" and "gpus_per_worker" in resources.model_fields_set
    gpus = resources.gpus_per_worker if is_asked or any(node.gpus for node in nodes) else 0.0
    rooms = [_room(resources, node, gpus, model_bytes) for node in nodes]
    if len(nodes) == 1 and not gpus and threads == "auto":
        rooms = [max(rooms[0], min(2, int(nodes[0].cores), _memory_room(nodes[0], model_bytes)))]
    workers = sum(rooms) if asked == "auto" else asked
    workers = max(1, min(workers, num_units))
    if len(nodes) == 1:
        rooms = [workers]
    fair = min((int(node.cores // room) for node, room in zip(nodes, rooms, strict=True) if room), default=1)
    return Pool(workers=workers, threads=max(1, fair) if threads == "auto" else threads, gpus=gpus)


def room(resources: Resources, pool: Pool, model_bytes: int, nodes: Sequence[Node]) -> int:
    """Returns how many workers of a pool's kind, each with `model_bytes` of networks, fit on machines, `nodes`; the
    number in a job's `resources` is used unchanged."""
    if resources.workers != "auto":
        return pool.workers
    return sum(min(_room(resources, node, pool.gpus, model_bytes), int(node.cores // pool.threads)) for node in nodes)


def _room(resources: Resources, node: Node, gpus: float, model_bytes: int) -> int:
    if gpus:
        return int(node.gpus / gpus + 1e-9)
    if node.cores < 1:
        return 0  # such as the head of a cluster that keeps work off it
    cores = CORES_A_WORKER if resources.threads == "auto" else resources.threads
    return min(max(1, int(node.cores // cores)), _memory_room(node, model_bytes))


def _memory_room(node: Node, model_bytes: int) -> int:
    return int(node.memory // (PROCESS_BYTES + model_bytes))
