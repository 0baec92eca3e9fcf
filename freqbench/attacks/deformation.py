"""Smooth deformations of the anatomy and its label.  After Xiao et al., ICLR 2018, arXiv:1801.02612."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqbench.attacks.apgd import Space
from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.attacks.core.task import Task
from freqbench.core.types import Spacing, triple
from freqbench.ops.blocks import along_axes
from freqbench.ops.losses import Scope
from freqbench.ops.resampling import CUBIC, cubic_spline_matrix, cubic_spline_slopes, linear_at, nearest_at

HALVINGS = 10  # of the interval in which a field's share is sought
ROUNDING = 1e-5  # of a determinant


@dataclass(frozen=True, kw_only=True)
class Deformation(SearchedAttack):
    r"""The most harmful smooth displacement: it moves the anatomy within millimetres, and the label with it.

    With uniform cubic B-splines B_n over the volume and a vector c_n of millimetres for each control point:

    .. math:: a(r) = x(r + u(r)), \qquad u(r) = \sum_n c_n B_n(r), \qquad |c_n| \le max\_mm, \qquad
              \det\Bigl(I + \frac{\partial u}{\partial r}\Bigr) \ge min\_jacobian

    x is interpolated linearly between voxels; beyond its border the outermost voxel is repeated. **The label moves
    too**: it is read at the voxel nearest to r + u(r), and both the loss and the row's scores compare the prediction
    with it. Distances of intensities (`linf`, `ssim`, ...) compare voxels that no longer show the same tissue: they
    tell how much the volume changed, and bound nothing.

    B-splines are not negative and add up to 1, so no voxel moves further than max_mm. The determinant of the spline is
    bounded at the middle of every voxel; a field that falls below the bound is shrunk as a whole until it does not. The
    shrunk field is in the set, but is not its nearest point. Auto-PGD steps along the gradient of each control point,
    scaled to unit length. All channels share one field.

    Windows moved one by one would tear label and anatomy at their borders, so `scope: volume` is the only scope.
    Unmoved channels would tear them too, so all channels move.

    Args:
        max_mm: largest displacement, in millimetres.
        min_jacobian: least determinant, above 0 (no folding) and below 1; 0.5: tissue grows to twice its volume at
            most.
        knot_mm: least distance of the spline's knots, in millimetres: they divide each axis evenly, at least one voxel
            and at most the whole axis apart.
        spacing: millimetres per voxel; None: that of the case, or 1 in a call without a case.

    `start` and `state`: c in units of max_mm, `[B, 3, n_h, n_w, n_d]`; each axis has three more points than pieces.

    **Differs from the paper**, whose flow moves each pixel of a photograph separately, kept smooth by a penalty: here
    the field is a bounded spline (Rueckert et al., IEEE TMI 1999), and the task is a segmentation, whose label moves.
    """

    name = "deformation"
    threat_model = "deformation"
    budget_name = "max_mm"
    scopes = ("volume",)
    moves_labels = True

    num_corners = 7

    max_mm: float
    min_jacobian: float = 0.5
    knot_mm: float = 16.0
    spacing: Spacing | None = None
    scope: str = "volume"

    def check_channels(self, num_channels: int) -> None:
        """Checks that all channels move, because the label does."""
        super().check_channels(num_channels)
        if self.channels is not None and len(self.channels) < num_channels:
            got = f"{num_channels}, got {list(self.channels)}"
            self.refuse("channels", f"expected all {got}: the label moves, and the anatomy of the others would not")

    def on_grid(self, spacing: Sequence[float]) -> Attack:
        """Returns the attack with the case's spacing if it has none."""
        return self if self.spacing else replace(self, spacing=triple(spacing))

    def space(self, clean: Tensor) -> Space:
        """Returns a ball for each control point of `clean` volumes `[B, C, H, W, D]`, limited by the bound on the
        determinant."""
        field = self.field(clean)
        centre = clean.new_zeros(len(clean), 3, *(matrix.shape[1] for matrix in field.values))
        towards = partial(F.normalize, dim=1, eps=torch.finfo(clean.dtype).tiny)  # of each control point
        return Space(
            centre=centre,
            radius=clean.new_ones(()),
            project=lambda c: self._project(c, field),
            render=lambda c: _read(clean, field.places(c)),
            towards=towards,
        )

    def ways(self, clean: Tensor, space: Space) -> Iterator[Tensor]:
        """Yields a motion of the whole volume along each axis."""
        yield from torch.eye(3).to(clean)[:, :, None, None, None].expand(3, 3, *space.centre.shape[2:])

    def field(self, clean: Tensor) -> "Field":
        """Makes the Field for volumes like `clean`."""
        sides = triple(zip(clean.shape[2:], self.spacing or (1.0, 1.0, 1.0), strict=True))
        pieces = [max(1, min(int(size * step / self.knot_mm), size)) for size, step in sides]
        values: list[Tensor] = []
        slopes: list[Tensor] = []
        for count, (size, step) in zip(pieces, sides, strict=True):
            points = count + CUBIC - 1
            values.append(cubic_spline_matrix(points, size).to(clean))
            slopes.append((self.max_mm / step * cubic_spline_slopes(points, size)).to(clean))
        lines = [torch.arange(size, dtype=clean.dtype, device=clean.device) for size, _ in sides]
        still = torch.stack(torch.meshgrid(*lines, indexing="ij"))
        voxels = self.max_mm / clean.new_tensor([step for _, step in sides]).reshape(3, 1, 1, 1)
        return Field(values=triple(values), slopes=triple(slopes), still=still, voxels=voxels)

    def searched(self, task: Task) -> Space:
        """Returns the space; the task's labels move with the volumes that it renders."""
        field = self.field(task.clean)
        task.objective = moving = MovingObjective(**vars(task.objective))

        def render(c: Tensor) -> Tensor:
            moving.places = field.places(c)
            return _read(task.clean, moving.places)

        return replace(self.space(task.clean), render=render)

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the excess of the base class, or how far the least determinant falls below its bound, if larger."""
        outside = super().excess(clean, adversarial, state)
        return outside if state is None else max(outside, self.min_jacobian - self.least_jacobian(clean, state))

    def measured(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """Returns mean and largest displacement of the voxels of `clean` in millimetres, and the least determinant, by
        the `state`, displacements of the control points."""
        if state is None:
            return {}
        lengths = self.max_mm * along_axes(state, self.field(clean).values).norm(dim=1)
        return {
            "displacement_mean_mm": float(lengths.mean()),
            "displacement_max_mm": float(lengths.max()),
            "jacobian_min": self.least_jacobian(clean, state),
        }

    def beyond(self, state: Tensor) -> float:
        """Returns how far the longest displacement of a `state` exceeds max_mm, in units of max_mm."""
        return float(state.norm(dim=1).max()) - 1

    def least_jacobian(self, clean: Tensor, state: Tensor) -> float:
        """Returns the least determinant of a state at the voxels of volumes like `clean`."""
        trace, minors, determinant = self.field(clean).invariants(state)
        return float((1 + trace + minors + determinant).min())

    def _project(self, c: Tensor, field: "Field") -> Tensor:
        """Cuts control points to their ball, then shrinks each sample's field until its determinants meet the bound.

        The determinant for t times a field is 1 + t trace + t^2 minors + t^3 determinant.
        """
        c = c / c.norm(dim=1, keepdim=True).clamp(min=1)
        trace, minors, determinant = (values.flatten(1) for values in field.invariants(c))

        def is_enough(share: Tensor) -> Tensor:
            t = share[:, None]
            least = (1 + t * (trace + t * (minors + t * determinant))).amin(dim=1)
            return least >= self.min_jacobian + ROUNDING

        high = torch.ones_like(trace[:, 0])
        low = is_enough(high).to(high)  # the whole field, if that is enough
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = is_enough(middle)
            low = torch.where(enough, middle, low)
            high = torch.where(enough, high, middle)
        return c * low.reshape(-1, 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Field:
    """Displacements as a function of control points c, `[B, 3, n_h, n_w, n_d]` in units of max_mm.

    Attributes:
        values: values of the spline along each axis, `[size, n]`.
        slopes: slopes of the spline, likewise, in max_mm per millimetre.
        still: positions of the voxels before they move, `[3, H, W, D]`.
        voxels: number of voxels in max_mm on each axis, `[3, 1, 1, 1]`.
    """

    values: tuple[Tensor, Tensor, Tensor]
    slopes: tuple[Tensor, Tensor, Tensor]
    still: Tensor
    voxels: Tensor

    def places(self, c: Tensor) -> Tensor:
        """Returns the positions where voxels are read for displacements c of the control points, `[B, 3, H, W, D]`, in
        voxels."""
        return self.still + self.voxels * along_axes(c, self.values)

    def invariants(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns trace, sum of principal minors, determinant of the derivative at each voxel for displacements c of
        the control points: `[B, H, W, D]`."""
        by_h, by_w, by_d = (self._derivative(c, axis) for axis in range(3))
        hh, wh, dh = by_h.unbind(dim=1)
        hw, ww, dw = by_w.unbind(dim=1)
        hd, wd, dd = by_d.unbind(dim=1)
        in_hw = hh * ww - wh * hw
        in_hd = hh * dd - dh * hd
        in_wd = ww * dd - dw * wd
        determinant = (torch.linalg.cross(by_h, by_w, dim=1) * by_d).sum(dim=1)
        return hh + ww + dd, in_hw + in_hd + in_wd, determinant

    def _derivative(self, c: Tensor, axis: int) -> Tensor:
        """Returns the derivative of the displacements along an axis, `[B, 3, H, W, D]`."""
        matrices = [*self.values]
        matrices[axis] = self.slopes[axis]
        return along_axes(c, matrices)


@dataclass(kw_only=True)
class MovingObjective(Objective):
    """An objective whose labels follow the anatomy."""

    places: Tensor | None = None  # where volumes are read, [B, 3, H, W, D]; None: nothing has moved yet

    def in_place(self, labels: Tensor) -> Tensor:
        """Returns labels or a mask, read at the nearest voxel."""
        return labels if self.places is None else nearest_at(labels, self.places.detach())

    def compared_with(self) -> tuple[Tensor, Scope]:
        """Returns labels and scope, both moved."""
        voxels, truth = (
            None if labels is None else self.in_place(labels) for labels in (self.scope.voxels, self.scope.truth)
        )
        return self.in_place(self.labels), replace(self.scope, voxels=voxels, truth=truth)

    def raised(self, logits: Tensor) -> Tensor:
        """Returns the objective, with the gradient through the motion of the labels."""
        if self.places is not None:
            logits = _Followed.apply(logits, self.places)  # type: ignore[no-untyped-call]
        return super().raised(logits)


def _read(x: Tensor, places: Tensor) -> Tensor:
    return linear_at(x, places).clamp(0, 1)


class _Followed(torch.autograd.Function):
    """Passes logits through, and adds the gradient of the loss with respect to the places where labels are read.

    Reading a label at the nearest voxel has no gradient. To first order in the field, reading labels a step further
    changes the loss as much as reading the logits a step back.
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


def _uphill(logits: Tensor, upstream: Tensor, axis: int) -> Tensor:
    """Returns the sum over classes of upstream times the logits' central difference along an axis; 0 at both ends."""
    total = torch.zeros_like(logits[:, 0])
    size = logits.shape[axis]
    if size > 2:
        slopes = logits.narrow(axis, 2, size - 2) - logits.narrow(axis, 0, size - 2)
        inner = slopes.mul_(upstream.narrow(axis, 1, size - 2)).sum(dim=1)
        total.narrow(axis - 1, 1, size - 2).copy_(inner / 2)
    return total
