"""How many workers, and what each may take: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from freqbench.job import Resources

CORES_A_WORKER = 2
PROCESS_BYTES = 1 << 30  # interpreter, libraries, a case and its predictions


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine.

    Attributes:
        cores: CPUs to give away.
        gpus: GPUs to give away.
        memory: bytes free.
    """

    cores: float
    gpus: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers that are alike.

    Attributes:
        workers: how many.
        threads: CPU threads of each.
        gpus: GPUs, or the share of one, of each.
    """

    workers: int
    threads: int
    gpus: float

    @property
    def memory_share(self) -> float:
        """The part of a GPU's memory that one worker may take."""
        return min(1.0, self.gpus) if self.gpus else 1.0


def share(resources: Resources, nodes: Sequence[Node], num_units: int, model_bytes: int) -> Pool:
    """Workers for a number of units on some machines.

    With GPUs one worker a share of `gpus_per_worker`. Without, one for two cores (for `threads`, where given), and on a
    single machine at least two; fewer where memory is short. Threads are a machine's cores over its workers.

    Args:
        resources: what the job says; its numbers are taken as they are, but there is no worker without a unit.
        nodes: the machines, one at least.
        num_units: what there is to do.
        model_bytes: of the models and one attack step.
    """
    gpus = resources.gpus_per_worker if any(node.gpus for node in nodes) else 0.0
    wanted = CORES_A_WORKER if resources.threads == "auto" else resources.threads
    rooms = [_gpu_room(node, gpus) if gpus else _core_room(node, wanted, model_bytes) for node in nodes]
    if len(nodes) == 1 and not gpus and resources.threads == "auto":
        rooms = [max(rooms[0], min(2, _memory_room(nodes[0], model_bytes)))]
    workers = sum(rooms) if resources.workers == "auto" else resources.workers
    workers = max(1, min(workers, num_units))
    if len(nodes) == 1:
        rooms = [workers]
    fair = min((int(node.cores // room) for node, room in zip(nodes, rooms, strict=True) if room), default=1)
    return Pool(workers=workers, threads=max(1, fair) if resources.threads == "auto" else resources.threads, gpus=gpus)


def _gpu_room(node: Node, gpus: float) -> int:
    return int(node.gpus / gpus + 1e-9)


def _core_room(node: Node, cores: int, model_bytes: int) -> int:
    return min(max(1, int(node.cores // cores)), _memory_room(node, model_bytes))


def _memory_room(node: Node, model_bytes: int) -> int:
    return int(node.memory // (PROCESS_BYTES + model_bytes))
