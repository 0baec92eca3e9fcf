"""The reconstruction of FAA: what it exchanges, what it learns on volumes where the right band is known."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, Threshold, volumes
from torch import Tensor

from freqbench.attacks import FAA, AttackResult, make
from freqbench.attacks.faa import amplitude_swap, fourier_bands
from freqbench.core.errors import ThreatModelError
from freqbench.ops.losses import dice_ce

BANDS = 8
SIDE = 32


def reference_of(images: Tensor) -> Tensor:
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(11)).to(images)


def run(images: Tensor, labels: Tensor, model: Any = None, **parameters: Any) -> AttackResult:
    attack = make("faa", **({"bands": BANDS, "portion": 0.5, "steps": 6} | parameters))
    return attack(model or SmallNet().to(images.dtype), images, labels, reference=reference_of(images))


def spectrum(x: Tensor) -> np.ndarray:
    return np.fft.rfftn(x.numpy(), axes=(2, 3, 4))


@pytest.mark.parametrize(("portion", "most"), [(0.0, 0), (0.1, 0), (0.13, 1), (0.5, 4), (1.0, 8)])
def test_open_bands_are_the_portion_at_most_rounded_down(portion: float, most: int) -> None:
    images, labels = volumes()
    assert FAA(portion=portion, bands=BANDS).max_open == most
    for control in ("none", "random"):
        state = run(images, labels, portion=portion, control=control).state
        assert (state.sum(1) <= most).all()
        assert set(state.flatten().tolist()) <= {0.0, 1.0}


def test_too_many_open_bands_raise_instead_of_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAA, "_gates", lambda self, scores: torch.ones_like(scores))
    with pytest.raises(ThreatModelError, match="faa: fourier-bands bound exceeded by 4"):
        run(*volumes())


def test_the_null_row_opens_the_highest_draws_above_a_half() -> None:
    images, labels = volumes()
    draws = torch.tensor([0.9, 0.2, 0.6, 0.8, 0.55, 0.1, 0.7, 0.95]).expand(2, 3, BANDS)
    attack = make("faa", bands=BANDS, portion=0.4, steps=3, control="random")
    result = attack(SmallNet(), images, labels, start=draws, reference=reference_of(images))
    assert result.state.tolist() == [[1, 0, 0, 1, 0, 0, 0, 1]] * 2
    assert (attack.passes, result.num_forwards, len(result.losses)) == ((0, 0), 0, 0)


def wave(band: int) -> tuple[Tensor, Tensor, Tensor]:
    """A wave in the middle of one band, labels by `Threshold`, and a reference that has no wave but other noise."""
    generator = torch.Generator().manual_seed(1)
    frequency = (band + 0.5) * SIDE / 2 / BANDS
    phase = 2 * np.pi * frequency * (torch.arange(SIDE) + 0.5) / SIDE
    noise, other = (0.01 * torch.rand(1, 1, SIDE, 8, 8, generator=generator) for _ in range(2))
    images = 0.49 + 0.2 * torch.cos(phase).reshape(1, 1, -1, 1, 1) + noise
    return images, (images > 0.5).long(), 0.49 + other


@pytest.mark.parametrize("band", [0, 1, 3, 4, 7])
def test_band_that_carries_prediction_opens_unless_it_is_held(band: int) -> None:
    """One of eight may be taken; numbers 1 to 3 begin between 1/16 and 1/2 of the highest frequency."""
    images, labels, reference = wave(band)
    free, held = (
        make("faa", bands=BANDS, portion=0.125, reconstruction_weight=w)(
            Threshold(), images, labels, reference=reference
        )
        for w in (0.0, 10.0)
    )
    assert free.state.tolist() == [[float(n == band) for n in range(BANDS)]]
    assert ((free.adversarial > 0.5).long() != labels).double().mean() > 0.3
    assert bool(held.state[0, band]) == (band not in (1, 2, 3))


def test_objective_is_loss_less_weighted_change_of_held_bands() -> None:
    """At the first step, with bands 2 and 6 open by the draws given."""
    images, labels = volumes()
    images = 0.45 + 0.1 * images.double()
    model = SmallNet().double().eval()
    reference = 0.45 + 0.1 * reference_of(images)
    draws = torch.full((2, 1, BANDS), 0.2)
    draws[:, :, [2, 6]] = 0.9
    attack = make("faa", bands=BANDS, portion=0.5, steps=1, reconstruction_weight=0.7)
    result = attack(model, images, labels, start=draws, reference=reference)

    bands = fourier_bands(images.shape[2:], BANDS).numpy()
    own = spectrum(images)
    other = np.abs(spectrum(reference))
    volume = np.where(np.isin(bands, [2, 6]), other * np.exp(1j * np.angle(own)), own)
    mixed = torch.from_numpy(np.fft.irfftn(volume, s=images.shape[2:], axes=(2, 3, 4)))
    change = np.abs(other - np.abs(own))[:, 0, bands == 2].sum(1)
    kept = np.abs(own)[:, 0, np.isin(bands, [1, 2, 3])].sum(1)
    with torch.no_grad():
        expected = dice_ce(model(mixed), labels) - 0.7 * torch.from_numpy(change / kept)
    assert torch.allclose(result.losses[0], expected, atol=1e-9)


def test_the_best_gates_of_all_steps_are_kept() -> None:
    """Scores that stay at 0 end with every gate closed: what was drawn before is stronger."""
    images, labels = volumes()
    model = SmallNet().eval()
    seen = list[Tensor]()
    model.register_forward_hook(lambda _, inputs, logits: seen.append(dice_ce(logits.detach(), labels)))
    result = run(images, labels, model, step_size=0, reconstruction_weight=0.0)
    losses = torch.stack(seen)
    assert len(losses) == 7
    assert (losses.argmax(0) < 6).all(), "the last gates are the best: nothing is tested"
    with torch.no_grad():
        assert torch.allclose(dice_ce(model(result.adversarial), labels), losses.amax(0), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 6, 4), (5, 7, 3), (96, 16, 2), (1, 1, 1)])
@pytest.mark.parametrize("count", [1, 5, 32])
def test_bands_part_the_largest_relative_frequency_evenly(shape: tuple[int, int, int], count: int) -> None:
    """Frequency k of a side n is the share 2 k / n of the highest, here in whole numbers."""
    numbers = fourier_bands(shape, count)
    h, w, d = shape
    for i, j, k in itertools.product(range(h), range(w), range(d // 2 + 1)):
        steps = ((min(i, h - i), h), (min(j, w - j), w), (k, d))
        assert numbers[i, j, k] == min(max(2 * step * count // side for step, side in steps), count - 1)


def test_frequencies_that_a_volume_lacks_stay_zero() -> None:
    """A constant volume has nothing but a mean."""
    reference = torch.rand(1, 1, 6, 5, 4)
    clean = torch.full_like(reference, 0.5, dtype=torch.float64)
    change, _ = amplitude_swap(clean, reference.double())
    swapped = clean + torch.fft.irfftn(change, s=(6, 5, 4), dim=(2, 3, 4))
    assert torch.allclose(swapped, reference.double().mean().expand_as(swapped))
