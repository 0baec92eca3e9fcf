"""Dynamic scaling, a transfer attack on segmentation.  Gu et al., 2021, arXiv:2111.11368."""

from dataclasses import dataclass

from freqbench.attacks.core.parameters import SCOPES_WITHOUT_JOINT
from freqbench.attacks.core.task import Task
from freqbench.attacks.difgsm import resized_gradients
from freqbench.attacks.mifgsm import MIFGSM, Gradient


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(MIFGSM):
    """`MIFGSM` whose gradient is taken at another scale of the volume in every step.

    The paper finds that perturbations of segmentation networks transfer badly, because each network sees objects at its
    own scales, and queries the source at changing scales. Here, in every step, the sides become r times the window's, r
    uniform in [`min_scale`, `max_scale`] and equal for all axes. A smaller volume is put at a random place in zeros; of
    a larger one the network sees a random part, and only its voxels count in L (`resized_gradients`). With scales of 1
    this is `mifgsm`.

    `start`: the draws of all steps in [0, 1), `[B, steps, 4]`: for r and for the place on each axis.

    **Variants.** `reconstruction`: made from the idea in the paper's abstract, not from its algorithm or code. Fact:
    the source is queried at scales that change during the attack. Choice: one random scale per step, its range, linear
    interpolation, all else as in `MIFGSM`, so that the two differ in scale alone.

    **Differs from the paper**: volumetric networks are built for one window, so a larger volume is cut to it; a network
    for images takes any size. L as in `MIFGSM`.
    """

    name = "dynamic_scaling"
    variants = ("reconstruction",)
    scopes = SCOPES_WITHOUT_JOINT
    looks_apart = True

    min_scale: float = 0.75
    max_scale: float = 1.25
    variant: str = "reconstruction"

    @property
    def is_stochastic(self) -> bool:
        """True if scales and places are drawn."""
        return self.min_scale < self.max_scale

    def gradients(self, task: Task) -> Gradient:
        """Returns the gradients at the resized volumes."""

        def ratio(size: float) -> float:
            return self.min_scale + (self.max_scale - self.min_scale) * size

        return resized_gradients(task, self.steps, 1, ratio, may_cut=self.max_scale > 1)
