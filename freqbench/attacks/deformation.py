"""Smooth deformations of the anatomy, the label moving with it.  After Xiao et al., ICLR 2018, arXiv:1801.02612."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.acquisition import AcquisitionAttack
from freqbench.attacks.core.base import Attack
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.task import Task
from freqbench.core.types import Spacing, triple
from freqbench.ops.blocks import along_axes
from freqbench.ops.losses import Scope
from freqbench.ops.resampling import CUBIC, cubic_spline_matrix, cubic_spline_slopes, linear_at, nearest_at

HALVINGS = 10  # of the interval in which a field's share is sought
ROUNDING = 1e-5  # of a determinant


@dataclass(frozen=True, kw_only=True)
class Deformation(AcquisitionAttack):
    r"""The smooth displacement that hurts most: other anatomy, within millimetres, and its label with it.

    With uniform cubic B-splines B_n over the volume and a vector c_n of millimetres for each control point:

    .. math:: a(r) = x(r + u(r)), \qquad u(r) = \sum_n c_n B_n(r), \qquad |c_n| \le max\_mm, \qquad
              \det\Bigl(I + \frac{\partial u}{\partial r}\Bigr) \ge min\_jacobian

    x is read linearly between voxels, and beyond its border the outermost voxel is held. **The label moves too**: read
    at the nearest voxel of r + u(r), it is what the loss, and the row's scores, hold the prediction against. Distances
    of intensities (`linf`, `ssim`, ...) compare voxels that no longer show the same tissue: they say how much the
    volume changed, and bound nothing.

    As B-splines are not negative and add up to 1, no voxel moves further than max_mm. The determinant, of the spline
    itself, is bounded at every voxel's middle; where a field would fall below, the whole field of the case is shrunk
    until it does not. That is in the set, though not its nearest point. Auto-PGD steps along the gradient of each
    control point at unit length. All channels share one field.

    Windows that are moved one by one would tear label and anatomy where they meet: there is `scope: volume` alone. So
    would channels that stay, or a part of the change: all channels move, and there is no `filter`.

    Args:
        max_mm: largest displacement, in millimetres.
        min_jacobian: least determinant, above 0 (no folding) and below 1; 0.5: tissue grows to twice its volume at
            most.
        knot_mm: least distance of the spline's knots, in millimetres: they part each axis evenly, at least a voxel and
            at most the axis apart.
        spacing: millimetres a voxel; None: the case's, in a call without a case 1.

    `start` and `state`: c in parts of max_mm, `[B, 3, n_h, n_w, n_d]`, three more than pieces on each axis.

    **Differs from the paper**, whose flow moves each pixel of a photograph by itself, held smooth by a penalty: a
    bounded spline (Rueckert et al., IEEE TMI 1999), and a segmentation, whose label moves.
    """

    name: ClassVar[str] = "deformation"
    threat_model: ClassVar[str] = "deformation"
    budget_name: ClassVar[str] = "max_mm"
    scopes: ClassVar[tuple[str, ...]] = ("volume",)
    moves_labels: ClassVar[bool] = True

    max_mm: float
    min_jacobian: float = 0.5
    knot_mm: float = 16.0
    spacing: Spacing | None = None
    scope: str = "volume"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filter is not None:
            self.refuse("filter", f"expected none, got {self.filter!r}: the label moves with all of the change")

    def check_channels(self, num_channels: int) -> None:
        """All of them are moved, as the label is."""
        super().check_channels(num_channels)
        if self.channels is not None and len(self.channels) < num_channels:
            got = f"{num_channels}, got {list(self.channels)}"
            self.refuse("channels", f"expected all {got}: the label moves, and the anatomy of the others would not")

    def on_grid(self, spacing: Sequence[float]) -> Attack:
        """With the case's spacing, where none was given."""
        return self if self.spacing else replace(self, spacing=triple(spacing))

    def space(self, clean: Tensor) -> Space:
        """A ball for each control point, as far as nothing is squeezed too much."""
        field = self.field(clean)
        return Space(
            centre=clean.new_zeros(len(clean), 3, *(matrix.shape[1] for matrix in field.values)),
            radius=clean.new_ones(()),
            project=lambda c: self._project(c, field),
            render=lambda c: _read(clean, field.places(c)),
            towards=partial(F.normalize, dim=1, eps=torch.finfo(clean.dtype).tiny),  # of each control point
        )

    def field(self, clean: Tensor) -> "Field":
        """The fields of volumes like `clean`."""
        sides = triple(zip(clean.shape[2:], self.spacing or (1.0, 1.0, 1.0), strict=True))
        pieces = [max(1, min(int(size * step / self.knot_mm), size)) for size, step in sides]
        axes = list(zip((count + CUBIC - 1 for count in pieces), sides, strict=True))
        lines = [torch.arange(size, dtype=clean.dtype, device=clean.device) for size, _ in sides]
        return Field(
            values=triple(cubic_spline_matrix(points, size).to(clean) for points, (size, _) in axes),
            slopes=triple(
                (self.max_mm / step * cubic_spline_slopes(points, size)).to(clean) for points, (size, step) in axes
            ),
            still=torch.stack(torch.meshgrid(*lines, indexing="ij")),
            voxels=self.max_mm / clean.new_tensor([step for _, step in sides]).reshape(3, 1, 1, 1),
        )

    def perturb(self, task: Task) -> Tensor:
        """As the others; labels move with the volumes that are looked at."""
        field = self.field(task.clean)
        task.objective = moving = MovingObjective(**vars(task.objective))

        def render(c: Tensor) -> Tensor:
            moving.places = field.places(c)
            return _read(task.clean, moving.places)

        return self.search(task, replace(self.space(task.clean), render=render))

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Also how far the least determinant falls below its bound."""
        outside = super().excess(clean, adversarial, state)
        return outside if state is None else max(outside, self.min_jacobian - self.least_jacobian(clean, state))

    def displacement(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """Mean and largest displacement of the voxels in millimetres, and the least determinant."""
        if state is None:
            return {}
        lengths = self.max_mm * along_axes(state, self.field(clean).values).norm(dim=1)
        return {
            "displacement_mean_mm": float(lengths.mean()),
            "displacement_max_mm": float(lengths.max()),
            "jacobian_min": self.least_jacobian(clean, state),
        }

    def beyond(self, state: Tensor) -> float:
        """By how much the longest displacement exceeds max_mm, in parts of it."""
        return float(state.norm(dim=1).max()) - 1

    def least_jacobian(self, clean: Tensor, state: Tensor) -> float:
        """The least determinant that a state makes at the voxels of volumes like `clean`."""
        trace, minors, determinant = self.field(clean).invariants(state)
        return float((1 + trace + minors + determinant).min())

    def _project(self, c: Tensor, field: "Field") -> Tensor:
        """Control points cut to their ball, then the field of each sample to the share whose determinants are enough.

        That of t times a field is 1 + t trace + t^2 minors + t^3 determinant.
        """
        c = c / c.norm(dim=1, keepdim=True).clamp(min=1)
        trace, minors, determinant = (each.flatten(1) for each in field.invariants(c))

        def is_enough(share: Tensor) -> Tensor:
            t = share[:, None]
            least = (1 + t * (trace + t * (minors + t * determinant))).amin(dim=1)
            return least >= self.min_jacobian + ROUNDING

        high = torch.ones_like(trace[:, 0])
        low = is_enough(high).to(high)  # all of it, where that is enough
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = is_enough(middle)
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        return c * low.reshape(-1, 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Field:
    """What displacements control points c make, `[B, 3, n_h, n_w, n_d]` in parts of max_mm.

    Attributes:
        values: of the spline along each axis, `[size, n]`.
        slopes: likewise, in max_mm a millimetre.
        still: the voxels' own places, `[3, H, W, D]`.
        voxels: on each axis in max_mm, `[3, 1, 1, 1]`.
    """

    values: tuple[Tensor, Tensor, Tensor]
    slopes: tuple[Tensor, Tensor, Tensor]
    still: Tensor
    voxels: Tensor

    def places(self, c: Tensor) -> Tensor:
        """Where each voxel is read, `[B, 3, H, W, D]`, in voxels."""
        return self.still + self.voxels * along_axes(c, self.values)

    def invariants(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the derivative at each voxel: trace, sum of principal minors, determinant, each `[B, H, W, D]`."""
        h, w, d = (
            along_axes(c, [(self.slopes if i == axis else self.values)[i] for i in range(3)]) for axis in range(3)
        )  # by each axis, [B, 3, H, W, D]
        minors = (
            (h[:, 0] * w[:, 1] - h[:, 1] * w[:, 0])
            + (h[:, 0] * d[:, 2] - h[:, 2] * d[:, 0])
            + (w[:, 1] * d[:, 2] - w[:, 2] * d[:, 1])
        )
        return h[:, 0] + w[:, 1] + d[:, 2], minors, (torch.linalg.cross(h, w, dim=1) * d).sum(dim=1)


@dataclass(kw_only=True)
class MovingObjective(Objective):
    """An objective whose labels follow the anatomy."""

    places: Tensor | None = None  # where volumes are read, [B, 3, H, W, D]; None: nothing has moved yet

    def in_place(self, labels: Tensor) -> Tensor:
        """Labels or a mask, read at the nearest voxel."""
        return labels if self.places is None else nearest_at(labels, self.places.detach())

    def compared_with(self) -> tuple[Tensor, Scope]:
        """Both moved."""
        voxels, truth = (
            None if labels is None else self.in_place(labels) for labels in (self.scope.voxels, self.scope.truth)
        )
        return self.in_place(self.labels), replace(self.scope, voxels=voxels, truth=truth)

    def raised(self, logits: Tensor) -> Tensor:
        """The same, with the gradient of how the labels move."""
        return super().raised(logits if self.places is None else _followed(logits, self.places))


def _read(x: Tensor, places: Tensor) -> Tensor:
    return linear_at(x, places).clamp(0, 1)


class _Followed(torch.autograd.Function):
    """Logits as they are, with the gradient of the loss by the places where labels are read.

    A label at the nearest voxel has none of its own. To first order in the field, to read labels a bit further on
    changes the loss as to read the logits as far back.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        (logits,) = ctx.saved_tensors
        return upstream, -torch.stack([_uphill(logits, upstream, axis) for axis in (2, 3, 4)], dim=1)


def _followed(logits: Tensor, places: Tensor) -> Tensor:
    found: Tensor = _Followed.apply(logits, places)  # type: ignore[no-untyped-call]
    return found


def _uphill(logits: Tensor, upstream: Tensor, axis: int) -> Tensor:
    """The sum over classes of upstream times the logits' central difference along an axis; 0 at both ends."""
    found, size = torch.zeros_like(logits[:, 0]), logits.shape[axis]
    if size > 2:
        slopes = logits.narrow(axis, 2, size - 2) - logits.narrow(axis, 0, size - 2)
        inner = slopes.mul_(upstream.narrow(axis, 1, size - 2)).sum(dim=1)
        found.narrow(axis - 1, 1, size - 2).copy_(inner / 2)
    return found
