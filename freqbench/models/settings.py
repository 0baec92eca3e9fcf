"""Describes a network's input (axes and intensities) and the sliding window of its predictions."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, PositiveFloat, field_validator

from freqbench.core.config import Strict
from freqbench.core.types import Shape, triple

if TYPE_CHECKING:
    from torch import Tensor

AXES = "HWD"
T = TypeVar("T")


class Inference(Strict):
    """The sliding window of a model; the defaults are those of the VAFA and SA2 papers.

    Attributes:
        overlap: share of a window, along each axis, that the next one covers again, in [0, 1).
        weighting: `constant`: all voxels of a window count alike; `gaussian`: voxels near its centre count more
            (MONAI's importance map with sigmas of an eighth of the window, as in nnU-Net).
        mirror: axes of the volume, some of `HWD`, over which each window is also mirrored: `HWD` makes eight passes of
            every window. For predictions only.
        average: the outputs that are averaged over mirror images and overlapping windows: `logits`, as MONAI and
            nnU-Net v2 do (Isensee et al., Nature Methods 2021, arXiv:1904.08128), or `probabilities`, as nnU-Net v1,
            nnFormer and UNETR++ do.

    **Differs from nnU-Net:** windows start a step apart and the last is shifted back (there: spread evenly); weights
    are centred between the two middle voxels of an even axis (there: on the upper one), and at least 1e-3 of the
    largest.
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

Finite = Annotated[float, Field(allow_inf_nan=False)]


class InputAdapter(Strict):
    r"""Maps a volume to a network's input: `((low + (high - low) x) - mean) / std`, with axes in the network's order.

    Attributes:
        scale: low and high: the intensities, in the unit of `mean` and `std`, that 0 and 1 become.
        axes: the volume's axes H, W, D (right, anterior, superior) in the network's order; a minus before an axis
            reverses it: `DHW`, `D-W-H`.
        mean, std: one number, or one per channel.
    """

    scale: tuple[Finite, Finite] = (0.0, 1.0)
    axes: str = AXES
    mean: Finite | tuple[Finite, ...] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, ...] = 1.0

    @field_validator("scale")
    @classmethod
    def _keeps_differences(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] == scale[1]:
            raise ValueError(f"expected two different numbers, got {scale[0]:g} twice")
        return scale

    @field_validator("axes")
    @classmethod
    def _each_axis_once(cls, axes: str) -> str:
        letters = axes.replace("-", "")
        if sorted(letters) != sorted(AXES) or "--" in axes or axes.endswith("-"):
            raise ValueError(f"expected each of H, W and D once, a minus before what is turned round, got {axes!r}")
        return axes

    def in_network_order(self, shape: Shape) -> Shape:
        """Returns the lengths of the volume's axes H, W, D in the network's order."""
        return triple(shape[axis] for axis in self._order)

    def in_volume_order(self, values: tuple[T, T, T]) -> tuple[T, T, T]:
        """Returns values of the network's axes (lengths, spacing) in the volume's order H, W, D."""
        return triple(values[self._order.index(axis)] for axis in range(3))

    def to_network(self, images: "Tensor") -> "Tensor":
        """Returns the network's input for images `[B, C, h, w, d]` in [0, 1]."""
        low, high = self.scale
        # Defaults compute nothing, so that a plain network gets the volume to the bit.
        if (low, high) != (0.0, 1.0):
            images = low + (high - low) * images
        if self.mean != 0.0:
            images = images - self._per_channel(self.mean, images)
        if self.std != 1.0:
            images = images / self._per_channel(self.std, images)
        return self.to_network_axes(images)

    def to_network_axes(self, volumes: "Tensor") -> "Tensor":
        """Returns volumes `[B, C, h, w, d]` in the network's axes, with unchanged values."""
        turned = volumes.flip([2 + axis for axis in self._turned]) if self._turned else volumes
        return turned.permute(0, 1, *(2 + axis for axis in self._order))

    def from_network(self, logits: "Tensor") -> "Tensor":
        """Returns the network's logits in the volume's axes."""
        back = logits.permute(0, 1, *(2 + self._order.index(axis) for axis in range(3)))
        return back.flip([2 + axis for axis in self._turned]) if self._turned else back

    @property
    def _order(self) -> tuple[int, ...]:
        return tuple(AXES.index(letter) for letter in self.axes.replace("-", ""))

    @property
    def _turned(self) -> tuple[int, ...]:
        return tuple(i for i, letter in enumerate(AXES) if f"-{letter}" in self.axes)

    @staticmethod
    def _per_channel(value: float | tuple[float, ...], images: "Tensor") -> "Tensor":
        return images.new_tensor(value).reshape(1, -1, 1, 1, 1)


DEFAULT_INPUT = InputAdapter()
