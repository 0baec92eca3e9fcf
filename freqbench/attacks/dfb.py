"""DFB, dropping a frequency band: the probe released with SA2's code.  Hanif et al., ISBI 2025."""

from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.parameters import DROPPED_BAND, PARAMETERS, SLICE_BLOCK
from freqbench.attacks.core.task import Task
from freqbench.attacks.sa2 import band_scaler
from freqbench.ops.blocks import cut_block


@dataclass(frozen=True, kw_only=True)
class DFB(Attack):
    r"""Drops a frequency band of every block; the model is not queried, and `targeted` has no effect.

    With c the spectrum of the clean block minus 0.5, and m = 0 in the band (`low`, `middle` or `high`,
    `freqbench.ops.dct`) except at DC, 1 elsewhere:

    .. math:: a = \mathrm{clamp}(\mathrm{IDCT}(c \, m) + 0.5, 0, 1)

    Nothing bounds the change: no parameter is a budget. `middle` holds nearly all coefficients.
    """

    name = "dfb"
    threat_model = "none"
    budget_name = None
    passes = (0, 0)
    per_slice = False
    parameters = PARAMETERS | {"band": DROPPED_BAND}

    band: str
    block: int | tuple[int, ...] = 8

    def perturb(self, task: Task) -> Tensor:
        """Scales the band by 0."""
        sides = cut_block(self.block, task.clean.shape[2:], self.per_slice)
        scale = band_scaler(task.clean, sides, self.band, with_dc=False)
        return scale(task.clean.new_zeros(())).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class DFB2D(DFB):
    """`DFB` on the two-dimensional DCT of every depth slice; `block` has one side or two.

    **Differs from the released code**: H and W may differ; the released re-assembly confuses them and fails.
    """

    name = "dfb_2d"
    parameters = DFB.parameters | {"block": SLICE_BLOCK}
    per_slice = True
