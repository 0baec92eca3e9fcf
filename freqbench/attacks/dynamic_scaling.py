"""Dynamic scaling, a transfer attack on segmentation.  Gu et al., 2021, arXiv:2111.11368."""

from dataclasses import dataclass
from typing import ClassVar

from freqbench.attacks.difgsm import RescaledMIFGSM


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(RescaledMIFGSM):
    """`MIFGSM` whose gradient is taken at another scale of the volume in every step.

    The paper finds that perturbations of segmentation networks transfer badly, as each looks at objects at scales of
    its own, and asks the source at changing scales. Here, in every step, the sides become r times the window's, r
    uniform in [`min_scale`, `max_scale`] and the same for all axes. A smaller volume stands at a random place in zeros;
    of a larger one a random part is seen, whose voxels alone count in L (`RescaledMIFGSM`). Scales of 1 are `mifgsm`.

    `start`: the draws of all steps in [0, 1), `[B, steps, 4]`: for r and for the place on each axis.

    **Variants.** `reconstruction`: made from the idea as the paper's abstract states it, not from its algorithm or from
    code. Fact: the source is asked at scales that change during the attack. Choice: one random scale a step, its range,
    linear interpolation, all else as in `MIFGSM`, so that the two differ in the scales alone.

    **Differs from the paper**: volumetric networks are built for one window, so that a larger volume is cut to it; a
    network of images takes any size. L as in `MIFGSM`.
    """

    name: ClassVar[str] = "dynamic_scaling"
    variants: ClassVar[tuple[str, ...]] = ("reconstruction",)
    num_draws: ClassVar[int] = 1

    min_scale: float = 0.75
    max_scale: float = 1.25
    variant: str = "reconstruction"

    @property
    def is_stochastic(self) -> bool:
        """Scales and places are drawn."""
        return self.min_scale < self.max_scale

    @property
    def may_cut(self) -> bool:
        """Where volumes may be larger than the window."""
        return self.max_scale > 1

    def ratio(self, *draws: float) -> float:
        """r."""
        (size,) = draws
        return self.min_scale + (self.max_scale - self.min_scale) * size
