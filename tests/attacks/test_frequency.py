"""VAFA, SA2 and DFB in 3D and 2D: bounds, null rows, windows, the early stop, and what no golden array holds."""

import json
import re
import warnings
from typing import Any

import pytest
import scipy.fft
import torch
from attacks.small import ALL_FOUR, BOTH, Fixed, Net, attack, layout, run, volumes
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.core.ascent import Ascent
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.job.attacks import attack_identity, attack_params
from freqbench.ops import ssim
from freqbench.ops.blocks import Block, split
from freqbench.ops.dct import band_mask
from freqbench.ops.losses import dice, dice_ce

# State and bounds


@pytest.mark.parametrize(("name", "bad"), [("vafa", 20.5), ("vafa_2d", 4.5), ("sa2", 1.5), ("sa2_2d", 0.5)])
def test_a_state_outside_its_bounds_raises(name: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ascent, "move", lambda self, state, moved: torch.full_like(state, bad))
    with pytest.raises(ThreatModelError, match=f"{name}: dct-.* bound exceeded by 0"):
        run(name)


@pytest.mark.parametrize(("name", "budget"), [("vafa", {"q_max": 61.9}), ("sa2", {"rho": 0.7})])
def test_state_at_a_bound_that_float32_rounds_up_is_accepted(name: str, budget: dict[str, float]) -> None:
    """61.9 is 61.9000015 in float32, and 1 + 0.7 is 1.70000005."""
    assert float(run(name, **budget).state.max()) > attack(name, **budget).bounds[1]


@pytest.mark.parametrize("name", ["vafa", "vafa_2d"])
def test_null_rows_of_vafa(name: str) -> None:
    rows = [run(name, control=control) for control in ("uniform", "random")]
    assert [(row.num_forwards, row.num_backwards) for row in rows] == [(0, 0)] * 2
    uniform, random = (row.state for row in rows)
    assert torch.equal(uniform, torch.full_like(uniform, 20.0))
    assert 5 <= random.min() < 6
    assert 19 < random.max() <= 20
    assert random.mean() == pytest.approx(12.5, abs=1)


@pytest.mark.parametrize(("name", "block"), [("sa2", (4, 4, 4)), ("sa2_2d", (4, 4, 1))])
def test_null_rows_of_sa2(name: str, block: Block) -> None:
    """`random` is the very start of the attack; `uniform` damps what deviates from a block's mean."""
    images, _ = volumes()
    uniform, random, optimised = (run(name, control=c) for c in ("uniform", "random", "none"))
    assert torch.equal(run(name, steps=1).adversarial, random.adversarial)
    assert not torch.equal(optimised.adversarial, random.adversarial)
    blocks = split(images, block)
    means = blocks.mean(dim=(3, 4, 5), keepdim=True)
    assert torch.allclose(split(uniform.adversarial, block), means + 0.6 * (blocks - means), atol=1e-6)


@pytest.mark.parametrize(("control", "draws"), [("none", True), ("random", True), ("uniform", False)])
def test_only_drawn_starts_are_stochastic(control: str, draws: bool) -> None:
    for dimensions in ("", "_2d"):
        assert attack(f"sa2{dimensions}", control=control).is_stochastic == draws
        assert attack(f"vafa{dimensions}", control=control).is_stochastic == (control == "random")


@ALL_FOUR
@pytest.mark.parametrize("shape", [(8, 8, 4), (9, 6, 4), (5, 8, 3), (4, 4, 1)])
def test_state_has_blocked_layout_and_keeps_its_bounds(name: str, shape: tuple[int, int, int]) -> None:
    """Some windows are not tiled by blocks."""
    images, labels = volumes(shape=shape)
    result = attack(name)(Net(), images, labels)
    assert result.adversarial.shape == images.shape
    assert result.state.shape == (2, *layout(name, shape))
    low, high = attack(name).bounds
    assert low - 1e-6 <= result.state.min() <= result.state.max() <= high + 1e-6


@ALL_FOUR
def test_a_block_longer_than_the_window_is_cut(name: str) -> None:
    images, labels = volumes(shape=(6, 4, 5))
    sides = (6, 4) if name.endswith("_2d") else (6, 4, 5)
    cut, fitting = (attack(name, block=block)(Net(), images, labels) for block in (32, sides))
    assert torch.equal(cut.adversarial, fitting.adversarial)


@ALL_FOUR
def test_start_has_blocked_layout_and_bounds(name: str) -> None:
    images, labels = volumes()
    drawn = run(name, control="random")
    again = attack(name, control="random")(Net(), images, labels, start=drawn.state)
    assert torch.equal(again.adversarial, drawn.adversarial)
    with pytest.raises(UserError, match=re.escape(f"expected a start of shape {(2, *layout(name))}, got")):
        attack(name, control="random")(Net(), images, labels, start=images)
    with pytest.raises(UserError, match=rf"{name}: expected a start in \[.*\], got"):
        attack(name, control="random")(Net(), images, labels, start=drawn.state * 3)


@pytest.mark.parametrize(("targeted", "labels_are"), [(False, 0), (True, 1)])
@ALL_FOUR
def test_a_sample_that_is_entirely_reached_stops(name: str, targeted: bool, labels_are: int) -> None:
    """The network always says 1. The second sample is never reached and goes on."""
    images, labels = volumes()
    labels[0] = labels_are
    labels[1] = torch.tensor([0, 1]).repeat(128).reshape(labels[1].shape)
    options = {"targeted": targeted} | ({} if name == "vafa_2d" else {"ssim_weight": 0.0})
    long, short = (attack(name, steps=steps, **options)(Fixed(1, 0.1), images, labels) for steps in (4, 1))
    assert torch.equal(long.adversarial[0], short.adversarial[0])
    assert torch.equal(long.state[0], short.state[0])
    assert not torch.equal(long.adversarial[1], short.adversarial[1])


@BOTH
def test_backward_of_ssim_runs_before_the_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network may switch its own backward to coarser arithmetic, from its logits to its input."""
    events: list[str] = []
    spread = ssim._spread

    def noted(*arguments: Any) -> Tensor:
        events.append("ssim")
        return spread(*arguments)

    class Hooked(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits.register_hook(lambda _: events.append("network"))
            return logits

    monkeypatch.setattr(ssim, "_spread", noted)
    run(name, Hooked(), steps=2)
    assert events == ["ssim", "network"] * 2


def inner(dtype: torch.dtype = torch.float64) -> Any:
    """Volumes that no clamp touches."""
    images, labels = volumes(dtype=dtype)
    return 0.3 + 0.4 * images, labels


def spectrum(name: str, x: Tensor) -> Tensor:
    """scipy's DCT of every block of 4, laid out as the attack's state: of a volume 8x8x4, or of its slices."""
    blocks = x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).transpose(3, 4).flatten(2, 3)  # [B, 1, N, 4, 4, D]
    axes = [3, 4, 5]
    if name.endswith("_2d"):
        blocks = blocks.movedim(5, 2)  # [B, 1, D, N, 4, 4]
        axes = [4, 5]
    return torch.from_numpy(scipy.fft.dctn(blocks.numpy(), axes=axes, norm="ortho"))


def mask_of(name: str, band: str, with_dc: bool) -> Tensor:
    mask = band_mask(band, (4, 4, 1))[..., 0] if name.endswith("_2d") else band_mask(band, (4, 4, 4))
    mask[(0,) * mask.ndim] &= with_dc
    return mask


both_forms_of_sa2 = pytest.mark.parametrize("name", ["sa2", "sa2_2d"])


@both_forms_of_sa2
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_sa2_scales_the_bands_coefficients(name: str, variant: str) -> None:
    images, labels = inner()
    result = attack(name, control="random", band="low", variant=variant)(Net().double(), images, labels)
    clean, adversarial = (spectrum(name, x - 0.5) for x in (images, result.adversarial))
    mask = mask_of(name, "low", with_dc=variant == "paper")  # DC is exempt in the released code only
    assert torch.allclose(adversarial, clean * torch.where(mask, result.state, 1.0), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:vafa. from q_min")
@pytest.mark.parametrize(("name", "weight"), [("vafa", 1.0), ("sa2", 0.2)])
def test_objective_of_the_paper_is_dice_loss_less_ssim_loss(name: str, weight: float) -> None:
    _, labels = volumes()
    model = Net()
    result = run(name, steps=1, variant="paper", ssim_weight=0.0)
    expected = weight * dice(model(result.adversarial), labels)
    # SA2's network sees the volume before the clamp.
    assert torch.allclose(result.losses[0], expected, atol=0.02 if name == "sa2" else 1e-5)
    with_ssim = run(name, steps=1, variant="paper", ssim_weight=0.5).losses
    twice = run(name, steps=1, variant="paper", ssim_weight=1.0).losses
    assert (with_ssim < result.losses).all()
    assert torch.allclose(result.losses - twice, 2 * (result.losses - with_ssim), atol=1e-5)


def test_cosine_multiplies_the_task_loss_towards_a_target() -> None:
    """-1.5 l L (1 - cos), cos by torch; away from the truth it is that of the authors' arrays."""
    images, labels = inner()
    model = Net().double()
    result = attack("sa2", steps=1, variant="released-cosine", ssim_weight=0.0, targeted=True)(model, images, labels)
    logits = model(result.adversarial)
    one_hot = nn.functional.one_hot(labels[:, 0], 3).permute(0, 4, 1, 2, 3).double()
    cosine = nn.functional.cosine_similarity(torch.softmax(logits, dim=1), one_hot, dim=1).flatten(1).mean(dim=1)
    assert torch.allclose(result.losses[0], -1.5 * 0.2 * dice_ce(logits, labels) * (1 - cosine), rtol=1e-9)


def test_vafa_paper_ascends_from_one_by_one_per_step() -> None:
    with pytest.warns(UserWarning, match="q_max = 20 has no effect"):
        state = run("vafa", variant="paper", steps=3).state
    assert state.min() == 1.0
    assert state.max() <= 4.0


def test_a_bound_within_reach_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack("vafa", variant="paper", steps=19, q_max=20)
        attack("vafa", variant="released", steps=5, q_max=30)


@both_forms_of_sa2
def test_sa2_paper_has_multipliers_of_one_outside_the_band(name: str) -> None:
    mask = mask_of(name, "low", with_dc=True)
    paper, released = (run(name, band="low", variant=v).state for v in ("paper", "released"))
    assert torch.equal(paper[..., ~mask], torch.ones_like(paper[..., ~mask]))
    assert not torch.equal(released[..., ~mask], torch.ones_like(released[..., ~mask]))


def test_the_released_ssim_in_2d_needs_a_cube() -> None:
    """The released SSIM compares a volume with its clean self turned; the paper's does not."""
    images, labels = volumes(shape=(8, 6, 4))
    with pytest.raises(UserError, match=r"^sa2_2d: expected a cubic[^\n]*, got 8x6x4: set ssim_weight to 0[^\n]*$"):
        attack("sa2_2d", ssim_weight=0.75)(Net(), images, labels)
    attack("sa2_2d", ssim_weight=0.75, variant="paper")(Net(), images, labels)
    attack("sa2_2d", ssim_weight=0.75, control="random")(Net(), images, labels)


def test_air_stays_finite_and_dark_in_float32() -> None:
    """Beside blocks of air alone, in which each slice reconstructs to one value."""
    images = torch.zeros(1, 1, 16, 16, 16)
    images[..., :8] = torch.rand(1, 1, 16, 16, 8)
    result = attack("vafa", block=8, control="uniform")(Net(), images, torch.zeros(images.shape, dtype=torch.long))
    assert torch.isfinite(result.adversarial).all()
    assert result.adversarial[..., 8:].max() < 0.01


def test_one_block_has_one_spelling() -> None:
    assert attack_identity(make("vafa", block=[8, 8, 8])) == {"name": "vafa", "revision": 1, "block": 8}
    assert make("vafa", loss="dicece") == make("vafa"), "the loss of the variant"
    assert json.loads(attack_params(make("vafa", block=[8, 16, 32])))["block"] == [8, 16, 32]
    identity = {"name": "dfb_2d", "revision": 1, "band": "low", "block": (4, 8)}
    assert attack_identity(make("dfb_2d", band="low", block=(4, 8))) == identity
