"""Takes an attacked volume from the space of one model into those of others."""

from collections.abc import Callable
from functools import cache

from torch import Tensor

from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, NativeCase
from freqbench.data.base import Dataset
from freqbench.data.preprocess import attacked_native, prepare, resampling_error


def in_spaces(
    dataset: Dataset, case: Case, adversarial: Tensor, own: Preprocess | None
) -> Callable[[Preprocess | None], tuple[Tensor, float | None]]:
    """Returns a function that takes a volume from space `own` to a target space, with the resampling error.

    The error is None if the two spaces are one. The perturbation goes through the file's grid and unit, as an exported
    volume would. A space of None is the dataset's.
    """
    own_space, others = own or dataset.space, dict[str, Tensor]()

    @cache
    def native() -> tuple[NativeCase, NativeCase, float]:
        """Returns the file's volume, the attacked one, and the resampling error."""
        clean = dataset.native(case.ref)
        attacked = attacked_native(clean, case, adversarial)
        return clean, attacked, resampling_error(clean, attacked, adversarial, own_space)

    def volume(space: Preprocess | None) -> tuple[Tensor, float | None]:
        space = space or dataset.space
        if space.identity() == own_space.identity():  # however each is written
            return adversarial, None
        clean, attacked, error = native()
        key = digest(space.identity())
        if key not in others:
            others[key] = prepare(attacked, space, clean=clean).image
        return others[key], error

    return volume
