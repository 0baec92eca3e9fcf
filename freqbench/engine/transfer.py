"""How an attacked volume comes to targets that have a space of their own."""

from functools import cached_property

from torch import Tensor

from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, NativeCase
from freqbench.data import Dataset, attacked_native, prepare, resampling_error


class Passage:
    """An attacked volume, and the same in every other space that is asked for, each made once.

    Between two spaces the perturbation goes through the native grid and unit, as a volume that is handed on would.

    Args:
        dataset: of the case.
        case: the clean case in the space of the attack.
        adversarial: what became of its image.
        space: of the attack; None: the dataset's.
    """

    def __init__(self, dataset: Dataset, case: Case, adversarial: Tensor, space: Preprocess | None) -> None:
        self._dataset = dataset
        self._case = case
        self._adversarial = adversarial
        self._space = space or dataset.space
        self._others: dict[str, Tensor] = {}

    def into(self, space: Preprocess | None) -> tuple[Tensor, float | None]:
        """The volume in a space, and what the way there took; None where the spaces are one.

        Args:
            space: of a target; None: the dataset's.
        """
        space = space or self._dataset.space
        if space.identity() == self._space.identity():  # however either is spelled
            return self._adversarial, None
        native, attacked, error = self._handed_on
        key = digest(space.identity())
        if key not in self._others:
            self._others[key] = prepare(attacked, space, clean=native).image
        return self._others[key], error

    @cached_property
    def _handed_on(self) -> tuple[NativeCase, NativeCase, float]:
        """The file's volume, the same attacked, and what is lost when that is prepared again."""
        native = self._dataset.native(self._case.ref)
        attacked = attacked_native(native, self._case, self._adversarial)
        return native, attacked, resampling_error(native, attacked, self._adversarial, self._space)
