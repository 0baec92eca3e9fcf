"""How a model wants whole volumes predicted: what a job file's `inference` of a model holds."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from freqbench.core.config import Strict

AXES = "HWD"


class Inference(Strict):
    """The sliding window of a model; the defaults are those of the VAFA and SA2 papers.

    Attributes:
        overlap: the part of a window, along each axis, that the next one covers again, in [0, 1).
        weighting: `constant`: all voxels of a window count alike; `gaussian`: those near its centre more (MONAI's
            importance map, exp(-z^2 / 2) of the distance z from the centre in sigmas of an eighth of the window, as
            nnU-Net has it).
        mirror: axes of the volume, some of `HWD`, over which each window is also shown mirrored: `HWD` makes eight
            passes of every window. For predictions only: attacks run plain forward passes.
        average: what is averaged over mirror images and overlapping windows: `logits`, as MONAI and nnU-Net v2 do
            (Isensee et al., Nature Methods 2021, arXiv:1904.08128), or `probabilities`, as nnU-Net v1 does and what was
            built on it (nnFormer, UNETR++).

    **Differs from nnU-Net:** windows start where MONAI's do, a step apart and the last shifted back, where nnU-Net
    spreads them evenly; weights are centred between the two middle voxels of an even axis, where nnU-Net takes the
    upper one, and never fall below 1e-3 of the largest.
    """

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    weighting: Literal["constant", "gaussian"] = "constant"
    mirror: str = ""
    average: Literal["logits", "probabilities"] = "logits"

    @field_validator("mirror")
    @classmethod
    def _axes(cls, given: str) -> str:
        if len(set(given)) < len(given) or not set(given) <= set(AXES):
            raise ValueError(f"expected some of the axes {AXES}, each once, got {given!r}")
        return "".join(axis for axis in AXES if axis in given)


DEFAULT_INFERENCE = Inference()
