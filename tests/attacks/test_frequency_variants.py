"""The formulas of VAFA, SA2 and DFB in 3D and 2D, their variants and their parameters."""

import json
import warnings
from typing import Any

import pytest
import scipy.fft
import torch
from attacks.small import Net, attack, run, volumes
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.core.errors import UserError
from freqbench.job.grid import attack_identity, attack_params
from freqbench.ops.bands import band_mask
from freqbench.ops.losses import dice, dice_ce
from freqbench.ops.quantisation import alpha_schedule, soft_round


def inner(dtype: torch.dtype = torch.float64) -> Any:
    """Volumes that no clamp touches."""
    images, labels = volumes(dtype=dtype)
    return 0.3 + 0.4 * images, labels


def spectrum(name: str, x: Tensor) -> Tensor:
    """scipy's DCT of every block of 4, laid out as the attack's state: of a volume 8x8x4, or of its slices."""
    blocks = x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).transpose(3, 4).flatten(2, 3)  # [B, 1, N, 4, 4, D]
    axes = [3, 4, 5]
    if name.endswith("_2d"):
        blocks, axes = blocks.movedim(5, 2), [4, 5]  # [B, 1, D, N, 4, 4]
    return torch.from_numpy(scipy.fft.dctn(blocks.numpy(), axes=axes, norm="ortho"))


def mask_of(name: str, band: str, with_dc: bool) -> Tensor:
    """Of a block of 4."""
    mask = band_mask(band, (4, 4, 1))[..., 0] if name.endswith("_2d") else band_mask(band, (4, 4, 4))
    mask[(0,) * mask.ndim] &= with_dc
    return mask


# Formulas


@pytest.mark.parametrize("name", ["vafa", "vafa_2d"])
def test_vafa_quantises_each_coefficient(name: str) -> None:
    """The spectrum of its volume, not stretched and in float64, is q phi(c / q)."""
    images, labels = inner()
    result = attack(name, renormalize=False, control="random")(Net().double(), images, labels)
    clean, adversarial = (spectrum(name, 255 * x - 128) for x in (images, result.adversarial))
    assert result.state is not None
    expected = result.state * soft_round(clean / result.state, alpha_schedule(4)[-1])[0]
    assert torch.allclose(adversarial, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["sa2", "sa2_2d"])
@pytest.mark.parametrize(("variant", "band"), [("released", "all"), ("released", "low"), ("paper", "low")])
def test_sa2_scales_the_bands_coefficients(name: str, variant: str, band: str) -> None:
    images, labels = inner()
    result = attack(name, control="random", band=band, variant=variant)(Net().double(), images, labels)
    clean, adversarial = (spectrum(name, x - 0.5) for x in (images, result.adversarial))
    mask = mask_of(name, band, with_dc=variant == "paper")  # DC is exempt in the released code only
    assert result.state is not None
    assert torch.allclose(adversarial, clean * torch.where(mask, result.state, 1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("band", ["low", "middle", "high"])
@pytest.mark.parametrize("name", ["dfb", "dfb_2d"])
def test_dfb_drops_the_band_but_dc(name: str, band: str) -> None:
    images, labels = inner()
    result = make(name, band=band, block=4)(Net().double(), images, labels)
    clean, adversarial = (spectrum(name, x - 0.5) for x in (images, result.adversarial))
    expected = torch.where(mask_of(name, band, with_dc=False), 0.0, clean)
    assert torch.allclose(adversarial, expected, rtol=0, atol=1e-12)
    assert result.state is None


@pytest.mark.parametrize(("name", "block"), [("dfb", (4, 4, 3)), ("dfb_2d", 4)])
def test_dfb_of_a_window_that_blocks_do_not_tile_is_that_of_the_reflected_one(name: str, block: Any) -> None:
    images, labels = volumes(shape=(6, 8, 3))
    whole = torch.nn.functional.pad(images, (0, 0, 0, 0, 0, 2), mode="reflect")
    drop = make(name, band="high", block=block)
    reflected = drop(Net(), whole, torch.zeros(whole.shape, dtype=torch.long)).adversarial
    assert torch.allclose(drop(Net(), images, labels).adversarial, reflected[:, :, :6], rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("targeted", [False, True])
def test_the_cosine_is_raised_beside_the_task_loss(targeted: bool) -> None:
    """Untargeted l L + 5.5 (1 - cos), targeted -1.5 l L (1 - cos), cos by torch."""
    images, labels = inner()
    model = Net().double()
    result = attack("sa2", steps=1, variant="released-cosine", ssim_weight=0.0, targeted=targeted)(
        model, images, labels
    )
    logits = model(result.adversarial)
    one_hot = nn.functional.one_hot(labels[:, 0], 3).permute(0, 4, 1, 2, 3).double()
    cosine = nn.functional.cosine_similarity(torch.softmax(logits, dim=1), one_hot, dim=1).flatten(1).mean(dim=1)
    loss, apart = 0.2 * dice_ce(logits, labels), 1 - cosine
    expected = -1.5 * loss * apart if targeted else loss + 5.5 * apart
    assert torch.allclose(result.losses[0], expected, rtol=1e-9)


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


@pytest.mark.parametrize("name", ["sa2", "sa2_2d"])
def test_paper_of_sa2_sets_what_lies_outside_the_band_to_one(name: str) -> None:
    mask = mask_of(name, "low", with_dc=True)
    paper, released = (run(name, band="low", variant=v).state for v in ("paper", "released"))
    assert paper is not None
    assert released is not None
    assert torch.equal(paper[..., ~mask], torch.ones_like(paper[..., ~mask]))
    assert not torch.equal(released[..., ~mask], torch.ones_like(released[..., ~mask]))


def test_the_released_ssim_in_2d_needs_a_cube() -> None:
    """It compares the volume with its clean self turned; the paper's does not."""
    images, labels = volumes(shape=(8, 6, 4))
    with pytest.raises(
        UserError, match=r"^sa2_2d: expected a cubic window[^\n]*, got 8x6x4: set ssim_weight to 0[^\n]*$"
    ):
        attack("sa2_2d", ssim_weight=0.75)(Net(), images, labels)
    attack("sa2_2d", ssim_weight=0.75, variant="paper")(Net(), images, labels)
    attack("sa2_2d", ssim_weight=0.75, control="random")(Net(), images, labels)


def test_the_paper_s_ssim_in_2d_is_that_of_the_window() -> None:
    """At rho 0 the volumes are alike: the loss of the task alone is left, where the released one adds a distance."""
    images, labels = volumes(shape=(8, 8, 8))
    one = {"rho": 0.0, "steps": 1, "variant": "paper"}
    with_ssim, without = (attack("sa2_2d", ssim_weight=w, **one)(Net(), images, labels).losses for w in (0.75, 0.0))
    assert torch.allclose(with_ssim, without, rtol=0, atol=1e-6)
    turned = attack("sa2_2d", ssim_weight=0.75, rho=0.0, steps=1)(Net(), images, labels).losses
    alone = attack("sa2_2d", rho=0.0, steps=1)(Net(), images, labels).losses
    assert bool((turned < alone - 0.5).all())


def test_defaults_of_the_variants() -> None:
    assert attack("vafa").bounds == (5.0, 20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert attack("vafa", variant="paper").bounds == (1.0, 20.0)
        assert attack("vafa", variant="paper", q_min=2).bounds == (2.0, 20.0)
    assert (make("vafa_2d").block, make("vafa_2d").steps, make("sa2_2d").block) == (8, 10, 16)  # type: ignore[attr-defined]
    assert (make("vafa").block, make("sa2").block, make("sa2").steps) == (32, 16, 10)  # type: ignore[attr-defined]


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


def test_one_attack_has_one_identity() -> None:
    one, other = make("vafa", q_max=30, block=8), make("vafa", q_max=30.0, block=[8, 8, 8])
    assert attack_identity(one) == attack_identity(other) == {"name": "vafa", "revision": 1, "q_max": 30.0, "block": 8}
    assert attack_params(one) == attack_params(other)
    assert json.loads(attack_params(make("vafa", block=[8, 16, 32])))["block"] == [8, 16, 32]
    assert attack_identity(make("vafa_2d", block=[16, 16])) == {"name": "vafa_2d", "revision": 1, "block": 16}
    assert attack_identity(make("dfb_2d", band="low", block=(4, 8))) == {
        **{"name": "dfb_2d", "revision": 1, "band": "low"},
        "block": (4, 8),
    }
