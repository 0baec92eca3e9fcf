"""Attacks on the acquisition against optima known in closed form, their sets, and their null rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, generators, of_class
from attacks.test_opt import Linear, drawn
from torch import Tensor

from freqbench.attacks import AttackResult, make
from freqbench.ops.resampling import cubic_spline_matrix
from freqbench.ops.tomography import ParallelBeam

NAMES = {  # with a budget at which no voxel between 0.45 and 0.55 reaches 0 or 1
    "kspace": {"eps_k": 0.02},
    "bias_field": {"log_amplitude": 0.2},
    "sinogram": {"eps_p": 0.02, "angles": 6},
    "intensity_curve": {"deviation": 0.04},
}
every_name = pytest.mark.parametrize("name", NAMES)
IMAGES = drawn(1, low=0.45, high=0.55)
WEIGHTS = drawn(2, low=-1)


def attacked(name: str, weights: Tensor = WEIGHTS, **changes: Any) -> AttackResult:
    attack = make(name, **({"loss": "ce", "steps": 20} | NAMES[name] | changes))
    return attack(Linear(weights), IMAGES, of_class(IMAGES), generator=generators(1))


def gained(result: AttackResult, weights: Tensor = WEIGHTS) -> float:
    """Rise of <w, x>; no clamp was in the way."""
    assert 0 < result.adversarial.min() < result.adversarial.max() < 1
    return float(((result.adversarial - IMAGES) * weights).sum())


AXES = {("2d", False): (2, 3), ("3d", False): (2, 3, 4), ("2d", True): (3,), ("3d", True): (3, 4)}


every_form = pytest.mark.parametrize(("form", "axes"), AXES.items(), ids=str)


@pytest.mark.parametrize("region", ["all", "centre", "periphery"])
@every_form
def test_points_of_k_space_turn_to_the_weights(form: tuple[str, bool], axes: tuple[int, ...], region: str) -> None:
    """The gain is <W, u K> / n: the best u has the size eps_k and the phase that makes each term real."""
    encoding, lines = form
    product = np.fft.fftn(IMAGES.numpy(), axes=axes) * np.fft.fftn(WEIGHTS.numpy(), axes=axes).conj()
    frequency = np.stack(np.broadcast_arrays(*np.ix_(*(np.abs(np.fft.fftfreq(side)) * 2 for side in IMAGES.shape[2:]))))
    inside = frequency[[axis - 2 for axis in axes]].max(0) <= 0.25
    product = product * {"all": 1.0, "centre": inside, "periphery": ~inside}[region]
    terms = product.sum(axis=2) if lines else product
    count = math.prod(IMAGES.shape[axis] for axis in axes)
    result = attacked("kspace", region=region, encoding=encoding, lines=lines)
    assert gained(result) == pytest.approx(0.02 * np.abs(terms).sum() / count, rel=1e-6)


@every_form
def test_k_space_volume_of_float32_equals_numpys(form: tuple[str, bool], axes: tuple[int, ...]) -> None:
    encoding, lines = form
    images = drawn(5, shape=(32, 24, 20)).float()
    attack = make("kspace", eps_k=0.05, encoding=encoding, lines=lines, steps=2)
    result = attack(SmallNet(), images, of_class(images), generator=generators(1))
    clean = images.double().numpy()
    u = result.state.numpy().astype(complex)
    volume = clean + np.fft.ifftn(u * np.fft.fftn(clean, axes=axes), axes=axes).real
    assert np.abs(np.clip(volume, 0, 1) - result.adversarial.double().numpy()).max() < 1e-6
    assert attack.excess(images, torch.from_numpy(np.clip(volume, 0, 1)), result.state) < 1e-8, "in float64"
    assert 1e-8 < attack.excess(images, result.adversarial, result.state) < 1e-6


@pytest.mark.parametrize("sign", [1, -1])
def test_bias_field_for_weights_of_one_sign_is_at_corner_of_box(sign: int) -> None:
    adversarial = attacked("bias_field", 0.05 * sign * WEIGHTS.abs()).adversarial
    assert torch.allclose(adversarial, IMAGES * math.exp(sign * 0.2), rtol=0, atol=1e-12)


def test_small_bias_field_pulls_each_control_point_to_an_end() -> None:
    """To first order in the amplitude the gain is that of the sum over points of |<w x, B>|."""
    h, w, d = (cubic_spline_matrix(4, side).numpy() for side in IMAGES.shape[2:])
    slopes = np.einsum("hwd,hi,wj,dk->ijk", (IMAGES * WEIGHTS)[0, 0].numpy(), h, w, d)
    assert slopes.min() < 0 < slopes.max()
    assert gained(attacked("bias_field", log_amplitude=1e-4)) == pytest.approx(1e-4 * np.abs(slopes).sum(), rel=1e-3)


def test_every_sinogram_reading_ends_at_bound_that_raises_loss() -> None:
    """The expected gain comes from reconstructing one reading after the other."""
    beam = ParallelBeam.of(IMAGES, 6)
    readings = beam.project(IMAGES)[0, 0]
    units = torch.eye(6 * beam.bins, dtype=torch.float64).reshape(-1, 1, 6, beam.bins, 1)
    single = beam.reconstruct(units)[:, 0, :, :, 0]  # [6 T, H, W]
    slopes = torch.einsum("nhw,hwd->nd", single, WEIGHTS[0, 0]).reshape(6, beam.bins, -1)
    assert gained(attacked("sinogram")) == pytest.approx(0.02 * float((slopes * readings).abs().sum()), rel=1e-9)


def test_every_knot_of_a_monotone_curve_ends_at_its_own_bound() -> None:
    """Knots 1/8 apart cannot meet within 0.04; numpy interpolates what each adds."""
    knots = np.linspace(0, 1, 9)
    x = IMAGES.numpy()
    hats = np.stack([np.interp(x, knots, hat) for hat in np.eye(9)])
    slopes = (hats * WEIGHTS.numpy()).sum(axis=(1, 2, 3, 4, 5))
    assert gained(attacked("intensity_curve")) == pytest.approx(0.04 * np.abs(slopes).sum(), rel=1e-9)


@every_name
def test_a_null_row_is_a_random_point_at_the_ends_of_the_set(name: str) -> None:
    null = attacked(name, control="random")
    best = attacked(name)
    assert (null.num_forwards, null.num_backwards) == (0, 0)
    size = null.state.abs()
    attack = make(name, **NAMES[name])
    assert (size > 0.99 * float(getattr(attack, attack.budget_name))).double().mean() > 0.7
    assert abs(gained(null)) < 0.7 * gained(best)


@every_name
def test_points_and_volumes_outside_the_set_are_an_excess(name: str) -> None:
    attack = make(name, **NAMES[name], steps=1)
    result = attacked(name)
    assert attack.excess(IMAGES, result.adversarial, result.state) <= 1e-9
    moved = result.adversarial.clone()
    moved[0, 0, 2, 2, 2] += 0.01
    assert attack.excess(IMAGES, moved, result.state) == pytest.approx(0.01)
    far = 1.5 * result.state
    made = attack.space(IMAGES).render(far)
    assert attack.excess(IMAGES, made, far) == pytest.approx(0.5 * getattr(attack, attack.budget_name))
    assert attack.excess(IMAGES, made, None) == math.inf


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("region", ["centre", "periphery"])
def test_a_change_of_k_space_outside_its_region_is_an_excess(region: str, lines: bool) -> None:
    attack = make("kspace", eps_k=0.1, region=region, lines=lines, encoding="3d")
    space = attack.space(IMAGES)
    everywhere = torch.full_like(space.centre, 0.05)
    assert attack.excess(IMAGES, space.render(everywhere), everywhere) == pytest.approx(0.05)
    inside = space.project(everywhere)
    assert attack.excess(IMAGES, space.render(inside), inside) <= 0


@pytest.mark.parametrize(("knot", "deviation", "excess"), [(5, 0.15, 0.05), (0, -0.1, 0.1), (10, 0.1, 0.1)])
def test_curve_that_falls_or_leaves_the_scale_is_an_excess(knot: int, deviation: float, excess: float) -> None:
    attack = make("intensity_curve", deviation=0.2, pieces=10)
    space = attack.space(IMAGES)
    beyond = torch.zeros(1, 1, 11, dtype=torch.float64)
    beyond[0, 0, knot] = deviation
    assert attack.excess(IMAGES, space.render(beyond), beyond) == pytest.approx(excess)
    assert attack.excess(IMAGES, space.render(space.project(beyond)), space.project(beyond)) <= 1e-12


@every_name
def test_a_start_takes_the_place_of_the_draw(name: str) -> None:
    model = SmallNet().double()
    labels = (IMAGES > 0.5).long()
    settings = {**NAMES[name], "keep": "last", "step_rule": "halving", "loss": "dice"}  # steps of equal size
    attack = make(name, **settings, steps=1)
    again = attack(model, IMAGES, labels, start=attack(model, IMAGES, labels).state)
    third = make(name, **settings, steps=2)(model, IMAGES, labels)
    assert again.losses[0] == pytest.approx(float(third.losses[1]), abs=1e-9)
