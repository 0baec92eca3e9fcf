"""DI2-FGSM, diverse inputs.  Xie et al., CVPR 2019, arXiv:1803.06978."""

from dataclasses import dataclass
from typing import ClassVar

from freqbench.attacks.core.resized import RescaledMIFGSM


@dataclass(frozen=True, kw_only=True)
class DIFGSM(RescaledMIFGSM):
    """`MIFGSM` whose gradient is taken, now and then, at the volume made smaller and put at a random place in zeros.

    In every step, with `probability`, the sides become r times the window's, r uniform in [`min_scale`, 1) and the same
    for all axes, by linear interpolation, and the place is uniform among those that fit. The logits of the part that
    holds the volume are enlarged to its old shape, linearly too: labels stay as they are, what stands in the zeros does
    not count (`freqbench.attacks.core.resized`). This is the paper's M-DI2-FGSM; with `decay: 0` its DI2-FGSM.

    Args:
        probability: of a step's volume being resized; 0 makes it `mifgsm`.
        min_scale: the smallest r.

    `start`: the draws of all steps in [0, 1), `[B, steps, 5]`: against `probability`, for r, for the three places.

    **Differs from the paper**: the window keeps its shape, as volumetric networks are built for one: what is 299 to 329
    pixels in 330 there (0.906 to 1) is 0.9 to 1 of a window here. Each sample of a batch is drawn for. Interpolation is
    linear, in the authors' code it is the nearest pixel. Steps are eps / steps, 10 of them; the paper takes steps of
    1/255, min(255 eps + 4, 1.25 * 255 eps) of them, which for 8/255 is 10. That logits are brought back has no
    counterpart with a classifier. L as in `MIFGSM`.

    Example:
        >>> attack = DIFGSM(eps=8 / 255, min_scale=0.5)
        >>> attack.ratio(0.2, 0.5), attack.ratio(0.7, 0.5)
        (0.75, 1.0)
    """

    name: ClassVar[str] = "difgsm"
    num_draws: ClassVar[int] = 2

    probability: float = 0.5
    min_scale: float = 0.9

    @property
    def is_stochastic(self) -> bool:
        """Steps, sizes and places are drawn."""
        return self.probability > 0 and self.min_scale < 1

    def ratio(self, *draws: float) -> float:
        """r, or 1."""
        chance, size = draws
        return self.min_scale + (1 - self.min_scale) * size if chance < self.probability else 1.0
