"""Deformations: fields known in closed form, bounds in millimetres, and labels that stay with their anatomy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, Threshold, generators
from attacks.test_opt import Linear, drawn
from torch import Tensor, nn

from freqbench.attacks import AttackResult, make
from freqbench.attacks.apgd import Space
from freqbench.attacks.core.task import Task
from freqbench.attacks.deformation import Deformation
from freqbench.ops.resampling import cubic_spline_matrix

SHAPE = (14, 12, 10)
SPACING = (1.0, 2.0, 3.0)
IMAGES = drawn(1, low=0.2, high=0.8, shape=SHAPE)
WEIGHTS = drawn(2, low=-1, shape=SHAPE)
INSIDE = (0, 0, slice(2, -2), slice(2, -2), slice(2, -2))


def deformation(**parameters: Any) -> Deformation:
    return make("deformation", **({"max_mm": 2.0, "knot_mm": 7.0, "spacing": SPACING} | parameters))


def everywhere(attack: Deformation, millimetres: tuple[float, float, float]) -> Tensor:
    centre = attack.space(IMAGES).centre
    return centre + torch.tensor(millimetres, dtype=centre.dtype).reshape(1, 3, 1, 1, 1) / attack.max_mm


def at(state: Tensor, attack: Deformation, monkeypatch: pytest.MonkeyPatch, labels: Tensor) -> AttackResult:
    monkeypatch.setattr("freqbench.attacks.core.searched.search", lambda *_: state)
    return replace(attack, keep="last")(SmallNet().double(), IMAGES, labels)


def ball() -> tuple[Tensor, Tensor]:
    """A bright ball in a dark volume, smooth at its border, and its label."""
    axes = torch.meshgrid(*[torch.arange(24, dtype=torch.float64) - 11.5] * 3, indexing="ij")
    radius = torch.stack(axes).norm(dim=0)[None, None]
    return torch.sigmoid((7 - radius) / 1.5), (radius < 7).long()


def test_zero_displacement_leaves_the_volume_to_the_bit() -> None:
    attack = deformation(control="random", max_mm=0.0)
    labels = torch.randint(0, 3, IMAGES.shape, generator=generators(1)[0])
    for images in (IMAGES, IMAGES.float()):
        result = attack(SmallNet().to(images), images, labels)
        assert torch.equal(result.adversarial, images)
        assert torch.equal(result.labels, labels)


@pytest.mark.parametrize(("axis", "millimetres"), [(2, (1.0, 0.0, 0.0)), (3, (0.0, 2.0, 0.0)), (4, (0.0, 0.0, -3.0))])
def test_shift_by_the_width_of_a_voxel_is_a_roll(
    axis: int, millimetres: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = deformation(max_mm=4.0)
    labels = (IMAGES > 0.5).long()
    result = at(everywhere(attack, millimetres), attack, monkeypatch, labels)
    step = -int(np.sign(sum(millimetres)))
    assert torch.allclose(result.adversarial[INSIDE], IMAGES.roll(step, axis)[INSIDE], rtol=0, atol=1e-12)
    assert torch.equal(result.labels[INSIDE], labels.roll(step, axis)[INSIDE])


def test_random_field_moves_volumes_and_labels_as_scipy_does() -> None:
    from scipy.ndimage import map_coordinates

    result = attacked(deformation(control="random"))
    matrices = [cubic_spline_matrix(n, size).numpy() for n, size in zip(result.state.shape[2:], SHAPE, strict=True)]
    field = 2.0 * np.einsum("cijk,hi,wj,dk->chwd", result.state[0].numpy(), *matrices)
    places = np.indices(SHAPE) + field / np.array(SPACING).reshape(3, 1, 1, 1)
    expected = map_coordinates(IMAGES[0, 0].numpy(), places, order=1, mode="nearest")
    assert np.allclose(result.adversarial[0, 0].numpy(), expected, rtol=0, atol=1e-12)
    labels = map_coordinates(LABELS[0, 0].numpy(), np.floor(places + 0.5), order=0, mode="nearest")
    assert np.array_equal(result.labels[0, 0].numpy(), labels)


LABELS = torch.randint(0, 3, IMAGES.shape, generator=torch.Generator().manual_seed(4))


def attacked(attack: Deformation, model: nn.Module | None = None, **options: Any) -> AttackResult:
    return attack(model or SmallNet().double(), IMAGES, LABELS, generator=generators(1), **options)


def test_displacement_of_a_stretch_has_its_determinant() -> None:
    """Control points on a ramp make a linear field, r -> r + a r on each axis, whose determinant is the product."""
    attack = deformation(max_mm=30.0)
    values = attack.field(IMAGES).values
    rates = (0.1, -0.2, 0.3)
    state = torch.zeros_like(attack.space(IMAGES).centre)
    moved = []
    for axis, (rate, matrix, size, step) in enumerate(zip(rates, values, SHAPE, SPACING, strict=True)):
        pieces = matrix.shape[1] - 3
        knot = size * step / pieces
        ramp = torch.arange(pieces + 3, dtype=torch.float64) * knot * rate / 30.0
        state[:, axis] = ramp.reshape([-1 if i == axis else 1 for i in range(3)])
        moved.append(rate * ((np.arange(size) + 0.5) * step + knot))
    lengths = np.linalg.norm(np.meshgrid(*moved, indexing="ij"), axis=0)
    assert attack.measured(IMAGES, state) == {
        "displacement_mean_mm": pytest.approx(lengths.mean(), abs=1e-12),
        "displacement_max_mm": pytest.approx(lengths.max(), abs=1e-12),
        "jacobian_min": pytest.approx(1.1 * 0.8 * 1.3, abs=1e-12),
    }


def test_nothing_is_told_without_a_state() -> None:
    assert deformation().measured(IMAGES, None) == {} == make("pgd", eps=0.1).measured(IMAGES, IMAGES)


def test_least_determinant_equals_that_of_differences_of_field() -> None:
    """The voxels' places a thousandth of a voxel further on, along each axis: of splines read at so many rows."""
    attack = deformation(knot_mm=10.0, min_jacobian=0.3, max_mm=20.0, control="random")
    state = attacked(attack).state
    rows = [cubic_spline_matrix(n, 1001 * size).numpy() for n, size in zip(state.shape[2:], SHAPE, strict=True)]
    here = [matrix[500::1001] for matrix in rows]

    def field(matrices: list[Any]) -> Any:
        return 20.0 * np.einsum("cijk,hi,wj,dk->chwd", state[0].numpy(), *matrices)

    columns = []
    for axis in range(3):
        ahead = [*here[:axis], rows[axis][501::1001], *here[axis + 1 :]]
        columns.append((field(ahead) - field(here)) * 1001 / SPACING[axis])
    derivative = np.moveaxis(np.stack(columns), (0, 1), (-1, -2)) + np.eye(3)
    least = attack.least_jacobian(IMAGES, state)
    assert least == pytest.approx(np.linalg.det(derivative).min(), abs=1e-3)
    assert 0.3 <= least < 0.3 + 1e-3, "a null row is at the end of the set"


@pytest.mark.parametrize("control", ["none", "random"])
def test_no_voxel_moves_further_than_its_millimetres(control: str) -> None:
    attack = deformation(max_mm=2.0, control=control, steps=10, keep="last")
    result = attacked(attack)
    places = attack.field(IMAGES).places(result.state)
    moved = (places - attack.field(IMAGES).still)[0] * torch.tensor(SPACING).reshape(3, 1, 1, 1)
    assert 0.5 < moved.norm(dim=0).max() <= 2.0
    assert attack.least_jacobian(IMAGES, result.state) >= 0.5


def test_control_points_move_along_their_gradient_to_the_bound() -> None:
    """To first order in the bound the gain of <w, a> on a ramp is the sum over points of its gradient's length."""
    i, j, k = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij")
    ramp = (0.2 + 0.01 * i + 0.02 * j + 0.01 * k)[None, None]
    weights = WEIGHTS.clone()
    weights[..., [0, -1]] = weights[..., [0, -1], :] = weights[..., [0, -1], :, :] = 0
    attack = deformation(max_mm=0.5, loss="ce", steps=30, min_jacobian=0.01)
    result = attack(Linear(weights), ramp, torch.zeros_like(LABELS), generator=generators(1))
    matrices = [matrix.numpy() for matrix in attack.field(ramp).values]
    sums = np.einsum("hwd,hi,wj,dk->ijk", weights[0, 0].numpy(), *matrices)
    slopes = np.array([0.01, 0.02, 0.01]) / np.array(SPACING)
    expected = 0.5 * np.abs(sums).sum() * np.linalg.norm(slopes)
    assert ((result.adversarial - ramp) * weights).sum() == pytest.approx(expected, rel=1e-3)


def test_gradient_includes_the_motion_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that follows any deformation has hardly any gradient; if labels stayed, it would be large."""
    image, label = ball()
    attack = deformation(spacing=(1, 1, 1), max_mm=1.0, keep="last", loss="ce")
    gradients: list[Tensor] = []

    def search(task: Task, space: Space, *_: Any) -> Tensor:
        gradients.append(task.gradient_and_value(space.centre, space.render)[0])
        return space.centre

    monkeypatch.setattr("freqbench.attacks.core.searched.search", search)
    attack(Threshold(8), image, label.roll(2, 2))
    monkeypatch.setattr("freqbench.attacks.deformation._Followed.apply", lambda logits, places: logits)
    attack(Threshold(8), image, label.roll(2, 2))
    following, still = (float(gradient.norm()) for gradient in gradients)
    assert following < 0.15 * still


def test_organs_and_target_maps_move_with_the_volume() -> None:
    way = {"loss": "dice", "step_rule": "halving", "keep": "last", "random_start": False}
    attack = deformation(control="none", steps=1, **way, organs=(1,), target="next-class")
    state = everywhere(attack, (2.0, 0.0, 0.0))
    first = attacked(attack, start=state)
    model = SmallNet().double()
    moved = attack.space(IMAGES).render(state)
    still = make("pgd", eps=0.0, steps=1, loss="dice", organs=(1,), target="next-class", random_start=False)
    labels = torch.cat([LABELS[:, :, 2:], LABELS[:, :, -1:], LABELS[:, :, -1:]], dim=2)
    assert first.losses[0] == pytest.approx(float(still(model, moved, labels).losses[0]), abs=1e-9)


def test_a_field_outside_the_set_is_an_excess() -> None:
    attack = deformation(steps=1)
    result = attacked(attack)
    assert attack.excess(IMAGES, result.adversarial, result.state) <= 1e-12
    assert attack.excess(IMAGES, result.adversarial, None) == float("inf")
    far = everywhere(attack, (3.0, 0.0, 0.0))
    assert attack.excess(IMAGES, attack.space(IMAGES).render(far), far) == pytest.approx(0.5)
    folded = torch.zeros_like(far)
    folded[0, 0, ::2] = 20
    least = deformation(max_mm=0.4).least_jacobian(IMAGES, folded / 20)
    tight = deformation(max_mm=0.4, min_jacobian=min(0.99, least + 0.1))
    made = tight.space(IMAGES).render(folded / 20)
    assert tight.excess(IMAGES, made, folded / 20) == pytest.approx(tight.min_jacobian - least)


def test_given_spacing_overrides_that_of_the_case() -> None:
    attack = make("deformation", max_mm=2.0)
    assert attack.on_grid((1.0, 2.0, 3.0)) == make("deformation", max_mm=2.0, spacing=(1, 2, 3))
    given = deformation()
    assert given.on_grid((5.0, 5.0, 5.0)) is given
    assert make("pgd", eps=0.1).on_grid((5.0, 5.0, 5.0)) == make("pgd", eps=0.1)


def test_knots_keep_their_least_distance() -> None:
    """14, 24 and 30 mm in pieces of 7 mm at least; and where an axis is shorter, or a voxel longer, than that."""
    assert deformation().space(IMAGES).centre.shape == (1, 3, 2 + 3, 3 + 3, 4 + 3)
    assert deformation(knot_mm=100.0).space(IMAGES).centre.shape == (1, 3, 4, 4, 4)
    assert deformation(knot_mm=1e-9).space(IMAGES).centre.shape == (1, 3, *(size + 3 for size in SHAPE))
