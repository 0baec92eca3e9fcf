"""The formulas of VAFA and SA2, their variants and their parameters."""

import json
import warnings
from typing import Any

import pytest
import torch
from attacks.small import Net, attack, run, volumes
from torch import nn

from freqbench.attacks import make
from freqbench.errors import ParameterError
from freqbench.grid import attack_identity, attack_params
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import split
from freqbench.ops.dct import dct, dct_matrices
from freqbench.ops.losses import dice, dice_ce
from freqbench.ops.rounding import alpha_schedule, soft_round

# Formulas


def test_vafa_quantises_each_coefficient() -> None:
    """The spectrum of its volume, not stretched and in float64, is q phi(c / q)."""
    images, labels = volumes(dtype=torch.float64)
    images = 0.3 + 0.4 * images
    result = attack("vafa", renormalize=False, control="random")(Net().double(), images, labels)
    matrices = dct_matrices((4, 4, 4), images)
    clean, adversarial = (split(dct(255 * x - 128, matrices), (4, 4, 4)) for x in (images, result.adversarial))
    assert result.state is not None
    expected = result.state * soft_round(clean / result.state, alpha_schedule(4)[-1])
    assert torch.allclose(adversarial, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("variant", "band"), [("released", "all"), ("released", "low"), ("paper", "low")])
def test_sa2_scales_the_bands_coefficients(variant: str, band: str) -> None:
    images, labels = volumes(dtype=torch.float64)
    images = 0.3 + 0.4 * images
    result = attack("sa2", control="random", band=band, variant=variant)(Net().double(), images, labels)
    matrices = dct_matrices((4, 4, 4), images)
    clean, adversarial = (split(dct(x - 0.5, matrices), (4, 4, 4)) for x in (images, result.adversarial))
    mask = band_mask(band, (4, 4, 4))
    mask[0, 0, 0] = variant == "paper"  # DC is exempt in the released code only
    assert result.state is not None
    assert torch.allclose(adversarial, clean * torch.where(mask, result.state, 1.0), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:vafa. from q_min")
@pytest.mark.parametrize(("name", "weight"), [("vafa", 1.0), ("sa2", 0.2)])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_objective_is_task_loss_less_ssim_loss(name: str, weight: float, variant: str) -> None:
    """The paper's task loss is Dice alone; the first volume is known from a run of one step."""
    _, labels = volumes()
    model, result = Net(), run(name, steps=1, variant=variant, ssim_weight=0.0)
    loss = dice if variant == "paper" else dice_ce
    expected = weight * loss(model(result.adversarial), labels)
    # SA2's network sees the volume before the clamp.
    assert torch.allclose(result.losses[0], expected, atol=0.02 if name == "sa2" else 1e-5)
    with_ssim = run(name, steps=1, variant=variant, ssim_weight=0.5).losses
    twice = run(name, steps=1, variant=variant, ssim_weight=1.0).losses
    assert bool((with_ssim < result.losses).all())
    assert torch.allclose(result.losses - twice, 2 * (result.losses - with_ssim), atol=1e-5)


def test_dice_is_the_dice_part_of_the_task_loss() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    cross_entropy = nn.functional.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(dim=1)
    assert torch.allclose(dice(logits, labels) + cross_entropy, dice_ce(logits, labels), rtol=1e-12)


# Variants


def test_paper_ascends_from_one_and_hardly_reaches_its_bound() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = run("vafa", variant="paper", steps=3).state
    assert state is not None
    assert float(state.min()) == 1.0
    assert float(state.max()) <= 4.0


def test_paper_warns_of_a_bound_out_of_reach() -> None:
    with pytest.warns(UserWarning, match="q_max = 30 has no effect"):
        attack("vafa", variant="paper", steps=20, q_max=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack("vafa", variant="paper", steps=19, q_max=20)
        attack("vafa", variant="released", steps=5, q_max=30)


def test_paper_of_sa2_sets_what_lies_outside_the_band_to_one() -> None:
    mask = band_mask("low", (4, 4, 4))
    paper, released = (run("sa2", band="low", variant=v).state for v in ("paper", "released"))
    assert paper is not None
    assert released is not None
    assert torch.equal(paper[..., ~mask], torch.ones_like(paper[..., ~mask]))
    assert not torch.equal(released[..., ~mask], torch.ones_like(released[..., ~mask]))


def test_defaults_of_the_variants() -> None:
    assert attack("vafa").bounds == (5.0, 20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert attack("vafa", variant="paper").bounds == (1.0, 20.0)
        assert attack("vafa", variant="paper", q_min=2).bounds == (2.0, 20.0)
    assert (make("vafa").block, make("sa2").block, make("sa2").steps) == (32, 16, 10)  # type: ignore[attr-defined]


def test_renormalising_gives_every_slice_the_full_range() -> None:
    stretched, plain = run("vafa").adversarial, run("vafa", renormalize=False).adversarial
    assert torch.equal(stretched.amin(dim=(2, 3)), torch.zeros(2, 1, 4))
    assert torch.equal(stretched.amax(dim=(2, 3)), torch.ones(2, 1, 4))
    assert float(plain.amin(dim=(2, 3)).max()) > 0


def test_a_constant_slice_keeps_its_reconstructed_value() -> None:
    """A volume of air, quantised evenly: nothing to stretch, where the released code divides 0 by 0."""
    images = torch.zeros(1, 1, 8, 8, 4)
    labels = torch.zeros(images.shape, dtype=torch.long)
    adversarial = attack("vafa", control="uniform")(Net(), images, labels).adversarial
    assert torch.allclose(adversarial, images, rtol=0, atol=0.01)


@pytest.mark.parametrize("block", [8, 16, 32])
def test_air_stays_finite_and_dark_in_float32(block: int) -> None:
    images = torch.zeros(1, 1, 32, 32, 32)
    images[:, :, :, :, :8] = torch.rand(1, 1, 32, 32, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(images.shape, dtype=torch.long)
    result = attack("vafa", block=block, control="uniform")(Net(), images, labels)
    assert bool(torch.isfinite(result.adversarial).all())
    if block == 8:  # Blocks of air alone: each slice reconstructs to one value.
        assert float(result.adversarial[..., 8:].max()) < 0.01


# Parameters


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("vafa", {"q_max": 3}, "vafa: q_max: expected at least q_min = 5, got 3"),
        ("vafa", {"q_max": 0}, "vafa: q_max: expected a number above 0"),
        ("vafa", {"q_min": -1}, "vafa: q_min: expected a number above 0"),
        ("vafa", {"q_max": "20"}, "vafa: q_max: expected a number above 0"),
        ("vafa", {"renormalize": 1}, "vafa: renormalize: expected true or false"),
        ("vafa", {"variant": "released-bmvc"}, "vafa: variant: expected released or released-saa or paper"),
        ("vafa", {"block": 0}, "vafa: block: expected a whole number of at least 1, or three of them, got 0"),
        ("vafa", {"block": 8.5}, "vafa: block: expected a whole number"),
        ("vafa", {"block": (8, 8)}, "vafa: block: expected a whole number"),
        ("vafa", {"block": (8, 8, 0)}, "vafa: block: expected a whole number"),
        ("vafa", {"block": True}, "vafa: block: expected a whole number"),
        ("vafa", {"ssim_weight": -1}, "vafa: ssim_weight: expected a number of at least 0, got -1"),
        ("vafa", {"control": "noise"}, "vafa: control: expected none, uniform or random, got 'noise'"),
        ("vafa", {"control": ["none"]}, "vafa: control: expected none, uniform or random"),
        ("sa2", {"rho": 1.0}, "sa2: rho: expected a number of at least 0 and below 1, got 1.0"),
        ("sa2", {"rho": -0.1}, "sa2: rho: expected a number of at least 0 and below 1"),
        ("sa2", {"step_size": 8}, "sa2: step_size: expected a number of at least 0 and below 1, got 8"),
        ("sa2", {"dice_weight": -0.5}, "sa2: dice_weight: expected a number of at least 0"),
        ("sa2", {"band": "top"}, "sa2: band: expected all, low, middle or high, got 'top'"),
        ("sa2", {"variant": "released-saa"}, "sa2: variant: expected released or paper"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(name: str, parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        make(name, **parameters)
    assert str(caught.value).startswith(expected)


def test_one_attack_has_one_identity() -> None:
    one, other = make("vafa", q_max=30, block=8), make("vafa", q_max=30.0, block=[8, 8, 8])
    assert attack_identity(one) == attack_identity(other) == {"name": "vafa", "revision": 1, "q_max": 30.0, "block": 8}
    assert attack_params(one) == attack_params(other)
    assert json.loads(attack_params(make("vafa", block=[8, 16, 32])))["block"] == [8, 16, 32]
