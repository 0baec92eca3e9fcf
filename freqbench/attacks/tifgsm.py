"""TI-FGSM, translation-invariant attacks.  Dong et al., CVPR 2019, arXiv:1904.02884."""

from dataclasses import dataclass

from freqbench.attacks.core.task import Task
from freqbench.attacks.mifgsm import MIFGSM, Gradient
from freqbench.ops.blocks import along_axes
from freqbench.ops.resampling import gaussian_matrix


@dataclass(frozen=True, kw_only=True)
class TIFGSM(MIFGSM):
    r"""`MIFGSM` along a smoothed gradient, which approximates the gradient averaged over shifted volumes.

    With W a Gaussian of `kernel_size` weights a side (an odd number; 1 smooths nothing) and a standard deviation of
    `sigma` voxels (None: a third of its radius, as in the authors' code), the gradient of every step becomes

    .. math:: W * \nabla L(x)

    before it is normalised; beyond the window it counts as 0. This is the paper's TI-MI-FGSM; with `decay: 0` its
    TI-BIM, with `steps: 1` its TI-FGSM.

    **Differs from the paper**: the kernel is Gaussian in three dimensions, over H, W and D alike whatever the spacing;
    theirs is in two. L as in `MIFGSM`.
    """

    name = "tifgsm"

    kernel_size: int = 15
    sigma: float | None = None

    def gradients(self, task: Task) -> Gradient:
        """Returns the smoothed gradient."""
        if self.kernel_size == 1:
            return super().gradients(task)
        sigma = self.kernel_size // 2 / 3 if self.sigma is None else self.sigma
        smoothing = [gaussian_matrix(size, self.kernel_size, sigma).to(task.clean) for size in task.clean.shape[2:]]
        return lambda x, i: along_axes(task.gradient(x), smoothing)
