"""Chooses the next unit of a worker, the same way for every engine."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence

from freqbench.job.cells import Unit

Place = tuple[str, tuple[str, str]]

ENDING = 2.0
"""The end of a grid begins when the work left per worker is this many times the longest unit. From then on the longest
unit goes first, or it would finish alone. A larger factor gains nothing and makes workers reload cases."""


class Schedule:
    """Units that wait for a worker, which stays on its source model, and on its case within it, longest unit first: a
    model is loaded once, a case read once per model. A free worker takes the model with most work left per worker; at
    the end of the grid the longest unit comes first; the first of all is the shortest of its case, to see soon if all
    fits. Attacks wait until every clean unit has ended (`end`)."""

    def __init__(self, units: Sequence[Unit]) -> None:
        clean = [unit for unit in units if unit.is_clean]
        self._attacks = [unit for unit in units if not unit.is_clean]
        self._clean_left = len(clean)
        self._left = len(units)
        self._at: dict[Hashable, Place] = {}
        self._predicted: dict[Place, Hashable] = {}  # by which worker
        self._fill(clean or self._attacks)

    def _fill(self, units: Sequence[Unit]) -> None:
        waiting: dict[str, dict[tuple[str, str], list[tuple[int, Unit]]]] = {}
        for unit in units:
            source, case = _place(unit)
            waiting.setdefault(source, {}).setdefault(case, []).append((_work(unit), unit))
        self._waiting: dict[str, dict[tuple[str, str], deque[tuple[int, Unit]]]] = {}
        self._work: dict[str, int] = {}
        self._longest: dict[str, int] = {}
        # Sorted, so that every engine, and a run that goes on, takes units in one order.
        for source, cases in sorted(waiting.items()):
            queues = {case: deque(sorted(cases[case], key=lambda pair: -pair[0])) for case in sorted(cases)}
            works: list[int] = []
            for queue in queues.values():
                works += [work for work, _ in queue]
            self._waiting[source] = queues
            self._work[source] = sum(works)
            self._longest[source] = max(works)
        self._has_begun = False

    def __len__(self) -> int:
        return self._left

    @property
    def is_ending(self) -> bool:
        """True if so little work waits that each worker should take one unit at a time."""
        return not self._waiting or self._is_ending(max(self._longest[source] for source in self._waiting), None)

    @property
    def _is_first(self) -> bool:
        return not self._has_begun and not self.is_ending

    def take(self, worker: Hashable) -> Unit | None:
        """Takes the unit that a worker does now; None if nothing waits, or attacks wait for clean units at work."""
        place = self._choose(worker)
        if place is None:
            return None
        source, case = place
        cases = self._waiting[source]
        waiting = cases[case]
        # The very first is the shortest, at the end: its rows soon show whether model and data are right.
        work, unit = waiting.pop() if self._is_first else waiting.popleft()
        self._at[worker] = place
        if unit.is_clean:
            self._predicted[place] = worker
        self._has_begun = True
        self._work[source] -= work
        self._left -= 1
        if not waiting:
            del cases[case]
            if not cases:
                del self._waiting[source]
        return unit

    def next_unit(self, worker: Hashable) -> Unit | None:
        """Returns the unit that `take` would give a `worker` now, without taking it."""
        place = self._choose(worker)
        return self._waiting[place[0]][place[1]][-1 if self._is_first else 0][1] if place else None

    def put_back(self, unit: Unit) -> None:
        """Puts back a unit that was taken and not done, behind the others of its case."""
        source, case = _place(unit)
        work = _work(unit)
        self._waiting.setdefault(source, {}).setdefault(case, deque()).append((work, unit))
        self._work[source] += work
        self._left += 1

    def end(self, unit: Unit) -> None:
        """Notes that a unit was done or given up, and that its outcome was taken."""
        self._clean_left -= unit.is_clean
        if unit.is_clean and not self._clean_left:
            self._fill(self._attacks)

    def leave(self, worker: Hashable) -> None:
        """Forgets the place of a worker that is gone or has lost its loaded data."""
        self._at.pop(worker, None)

    def _choose(self, worker: Hashable) -> Place | None:
        at = self._at
        waiting = self._waiting
        if not waiting:
            return None
        source, case = at.get(worker, ("", ("", "")))
        others = [place for other, place in at.items() if other != worker]
        if source not in waiting:
            workers = Counter(source for source, _ in others)
            # With the asking worker counted in, the model that would end last.
            source = max(waiting, key=lambda source: self._work[source] / (1 + workers[source]))
        cases = waiting[source]
        if at.get(worker) != (source, case) or case not in cases:
            at_cases = Counter(others)
            by = self._predicted
            case = min(cases, key=lambda case: (at_cases[source, case], by.get((source, case), worker) != worker))
        if self._is_ending(self._longest[source], worker):
            longest = max(cases, key=lambda other: (cases[other][0][0], other == case))
            if self._is_ending(cases[longest][0][0], worker):
                case = longest
        return source, case

    def _is_ending(self, longest: int, worker: Hashable) -> bool:
        return ENDING * longest * (len(self._at) + (worker not in self._at)) >= sum(self._work.values())


def _place(unit: Unit) -> Place:
    return unit.cell.source.model_id, (unit.cell.dataset.name, unit.ref.case_id)


def _work(unit: Unit) -> int:
    """Returns the passes of the attack plus a share for scoring, so that an attack without gradients counts."""
    return unit.passes + unit.num_windows * len(unit.targets)
