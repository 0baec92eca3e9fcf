"""Chooses which unit a worker takes next, the same way for every engine."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence

from freqbench.job.cells import Unit

Place = tuple[str, tuple[str, str]]

ENDING = 2.0
"""The end of a grid begins where what is left a worker is this many times the longest unit: begun later, that unit
would leave all other workers idle. More makes no difference to the makespan, but takes workers off their cases."""


class Schedule:
    """Units that wait.

    A worker stays on its source model while that has units, and on its case within it, longest first; so a model is
    loaded once and a case read once a model. Without one it takes the model with most work left a worker, and there the
    first case that the fewest workers are on. At the end of the grid the longest unit of the model comes first, of
    whatever case.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        waiting: dict[str, dict[tuple[str, str], list[tuple[int, Unit]]]] = {}
        for unit in units:
            source, case = _place(unit)
            waiting.setdefault(source, {}).setdefault(case, []).append((_work(unit), unit))
        self._waiting: dict[str, dict[tuple[str, str], deque[tuple[int, Unit]]]] = {
            source: {case: deque(sorted(cases[case], key=lambda pair: -pair[0])) for case in sorted(cases)}
            for source, cases in sorted(waiting.items())
        }
        works = {source: [work for case in cases.values() for work, _ in case] for source, cases in waiting.items()}
        self._work = {source: sum(each) for source, each in works.items()}
        self._longest = {source: max(each) for source, each in works.items()}
        self._at: dict[Hashable, Place] = {}
        self._left = len(units)

    def __len__(self) -> int:
        return self._left

    @property
    def is_ending(self) -> bool:
        """Whether what waits is so little that each worker had better take one unit at a time."""
        return not self._waiting or self._is_ending(max(self._longest[source] for source in self._waiting), None)

    def take(self, worker: Hashable) -> Unit | None:
        """The unit that a worker is to do now; None where nothing waits."""
        place = self._choose(worker)
        if place is None:
            return None
        self._at[worker] = place
        source, case = place
        work, unit = self._waiting[source][case].popleft()
        self._work[source] -= work
        self._left -= 1
        if not self._waiting[source][case]:
            del self._waiting[source][case]
            if not self._waiting[source]:
                del self._waiting[source]
        return unit

    def next_unit(self, worker: Hashable) -> Unit | None:
        """The unit that `take` would give now."""
        place = self._choose(worker)
        return self._waiting[place[0]][place[1]][0][1] if place else None

    def put_back(self, unit: Unit) -> None:
        """A unit that was taken and not done waits again, behind the others of its case."""
        (source, case), work = _place(unit), _work(unit)
        self._waiting.setdefault(source, {}).setdefault(case, deque()).append((work, unit))
        self._work[source] += work
        self._left += 1

    def leave(self, worker: Hashable) -> None:
        """A worker is gone, or has forgotten what it had loaded."""
        self._at.pop(worker, None)

    def _choose(self, worker: Hashable) -> Place | None:
        if not self._waiting:
            return None
        at = self._at.get(worker)
        if at and at[0] in self._waiting:
            source = at[0]
        else:
            workers = Counter(place[0] for other, place in self._at.items() if other != worker)
            source = max(self._waiting, key=lambda source: self._work[source] / (1 + workers[source]))
        cases = self._waiting[source]
        if at and at[0] == source and at[1] in cases:
            case = at[1]
        else:
            others = Counter(place for other, place in self._at.items() if other != worker)
            case = min(cases, key=lambda case: others[source, case])
        if self._is_ending(self._longest[source], worker):
            longest = max(cases, key=lambda other: (cases[other][0][0], other == case))
            if self._is_ending(cases[longest][0][0], worker):
                case = longest
        return source, case

    def _is_ending(self, longest: int, worker: Hashable) -> bool:
        workers = len(self._at) + (worker not in self._at)
        return ENDING * longest * workers >= sum(self._work.values())


def _place(unit: Unit) -> Place:
    return unit.cell.source.model_id, (unit.cell.dataset.name, unit.ref.case_id)


def _work(unit: Unit) -> int:
    """Passes to attack, and something for scoring, so that an attack without gradients counts."""
    return unit.passes + unit.num_windows * len(unit.targets)
