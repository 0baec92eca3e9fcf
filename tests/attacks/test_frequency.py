"""VAFA and SA2 beyond the contract of every attack: bounds, null rows, variants, windows that blocks do not tile."""

import json
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, AttackResult, make
from freqbench.attacks.frequency import FrequencyAttack
from freqbench.attacks.task import Task
from freqbench.errors import ParameterError, ThreatModelError, UserError
from freqbench.grid import attack_identity, attack_params
from freqbench.ops import ssim
from freqbench.ops.bands import band_mask
from freqbench.ops.blocks import split
from freqbench.ops.dct import dct, dct_matrices
from freqbench.ops.losses import dice, dice_ce
from freqbench.ops.rounding import alpha_schedule, soft_round

BOTH = pytest.mark.parametrize("name", ["vafa", "sa2"])


class Net(nn.Module):
    """Three classes from a small smooth network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first, self.last = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.first(x) * 4))
        return logits


class Fixed(nn.Module):
    """Logits that hardly depend on the input: no gradient to speak of, one class everywhere."""

    def __init__(self, predicted: int, slope: float = 0.0) -> None:
        super().__init__()
        self.predicted, self.slope = predicted, slope

    def forward(self, x: Tensor) -> Tensor:
        logits = x.repeat(1, 3, 1, 1, 1) * self.slope
        logits[:, self.predicted] += 1
        return logits


def volumes(batch: int = 2, shape: tuple[int, int, int] = (8, 8, 4), dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(9)
    images = torch.rand(batch, 1, *shape, generator=generator, dtype=dtype)
    return images, torch.randint(0, 3, images.shape, generator=generator)


def attack(name: str, **parameters: Any) -> FrequencyAttack:
    made = make(name, **({"steps": 4, "block": 4} | parameters))
    assert isinstance(made, FrequencyAttack)
    return made


def run(name: str, model: nn.Module | None = None, **parameters: Any) -> AttackResult:
    return attack(name, **parameters)(model or Net(), *volumes())


# State and bounds


@BOTH
def test_state_comes_in_blocked_layout_inside_its_bounds(name: str) -> None:
    state = run(name).state
    assert state is not None
    assert state.shape == (2, 1, 4, 4, 4, 4)
    low, high = attack(name).bounds
    assert low - 1e-6 <= float(state.min())
    assert float(state.max()) <= high + 1e-6


@pytest.mark.parametrize(("name", "bad"), [("vafa", 20.5), ("vafa", 4.5), ("sa2", 1.5), ("sa2", 0.5)])
def test_leaving_the_bounds_raises(name: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTACKS[name], "step", lambda self, state, direction: torch.full_like(state, bad))
    with pytest.raises(ThreatModelError, match=f"{name}: dct-.* bound exceeded by 0"):
        run(name)


def test_a_step_is_one_unit_inside_the_bounds() -> None:
    vafa, sa2 = attack("vafa"), attack("sa2", rho=0.25)
    direction = torch.tensor([1.0, -1.0, 0.0, -1.0])
    assert vafa.step(torch.tensor([20.0, 20.0, 7.0, 5.5]), direction).tolist() == [20.0, 19.0, 7.0, 5.0]
    stepped = sa2.step(torch.tensor([1.2, 1.0, 0.9, 0.8], dtype=torch.float64), direction)
    assert stepped.tolist() == pytest.approx([1.25, 0.9, 0.9, 0.75])


def test_volume_is_that_of_the_last_forward_pass_and_state_after_the_last_update() -> None:
    """One step of VAFA shows the table that it began with."""
    one, control = run("vafa", steps=1), run("vafa", steps=1, control="uniform")
    assert torch.equal(one.adversarial, control.adversarial)
    assert one.state is not None
    assert sorted(one.state.unique().tolist()) == [19.0, 20.0]


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


# Null rows


@BOTH
@pytest.mark.parametrize("control", ["uniform", "random"])
def test_a_null_row_asks_the_model_nothing(name: str, control: str) -> None:
    result = run(name, control=control)
    assert (result.num_forwards, result.num_backwards) == attack(name, control=control).passes == (0, 0)
    assert result.state is not None


def test_null_rows_of_vafa() -> None:
    uniform, random = run("vafa", control="uniform").state, run("vafa", control="random").state
    assert uniform is not None
    assert random is not None
    assert torch.equal(uniform, torch.full_like(uniform, 20.0))
    assert 5 <= float(random.min()) < 6
    assert 19 < float(random.max()) <= 20
    assert float(random.mean()) == pytest.approx(12.5, abs=1)


def test_null_rows_of_sa2() -> None:
    """`random` is the very start of the attack; `uniform` damps what deviates from a block's mean."""
    images, _ = volumes()
    uniform, random, optimised = (run("sa2", control=c) for c in ("uniform", "random", "none"))
    one = run("sa2", steps=1)
    assert torch.equal(one.adversarial, random.adversarial)
    assert not torch.equal(optimised.adversarial, random.adversarial)
    blocks = split(images, (4, 4, 4))
    means = blocks.mean(dim=(3, 4, 5), keepdim=True)
    assert torch.allclose(split(uniform.adversarial, (4, 4, 4)), means + 0.6 * (blocks - means), atol=1e-6)


@pytest.mark.parametrize(("control", "draws"), [("none", True), ("random", True), ("uniform", False)])
def test_who_draws(control: str, draws: bool) -> None:
    assert attack("sa2", control=control).is_stochastic == draws
    assert attack("vafa", control=control).is_stochastic == (control == "random")


def test_without_a_gradient_vafa_is_its_uniform_null_row() -> None:
    """What the attack does beyond it is the optimisation's."""
    images, labels = volumes()
    labels[:] = 1
    attacked = attack("vafa", ssim_weight=0.0)(Fixed(1), images, labels)
    control = attack("vafa", control="uniform")(Fixed(1), images, labels)
    assert torch.equal(attacked.adversarial, control.adversarial)


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


# Windows


@BOTH
@pytest.mark.parametrize("shape", [(9, 6, 4), (5, 8, 3), (4, 4, 1)])
def test_windows_that_blocks_do_not_tile(name: str, shape: tuple[int, int, int]) -> None:
    images, labels = volumes(shape=shape)
    result = attack(name)(Net(), images, labels)
    assert result.adversarial.shape == images.shape
    assert result.state is not None
    count = -(-shape[0] // 4) * -(-shape[1] // 4)
    assert result.state.shape == (2, 1, count, 4, 4, min(4, shape[2]))


@BOTH
def test_a_block_longer_than_the_window_is_cut(name: str) -> None:
    images, labels = volumes(shape=(6, 4, 5))
    cut, fitting = (attack(name, block=block)(Net(), images, labels) for block in (32, (6, 4, 5)))
    assert torch.equal(cut.adversarial, fitting.adversarial)


@BOTH
def test_the_start_comes_in_blocked_layout(name: str) -> None:
    images, labels = volumes()
    drawn = run(name, control="random")
    again = attack(name, control="random")(Net(), images, labels, start=drawn.state)
    assert torch.equal(again.adversarial, drawn.adversarial)
    with pytest.raises(UserError, match=r"expected a start of shape \(2, 1, 4, 4, 4, 4\)"):
        attack(name, control="random")(Net(), images, labels, start=images)
    assert drawn.state is not None
    with pytest.raises(UserError, match=rf"{name}: expected a start in \[.*\], got"):
        attack(name, control="random")(Net(), images, labels, start=drawn.state * 3)


# Early stop


@pytest.mark.parametrize(("targeted", "labels_are"), [(False, 0), (True, 1)])
@BOTH
def test_a_sample_that_is_entirely_reached_stops(name: str, targeted: bool, labels_are: int) -> None:
    """The network always says 1. The second sample is never reached and goes on."""
    images, labels = volumes()
    labels[0] = labels_are
    labels[1] = torch.tensor([0, 1]).repeat(128).reshape(labels[1].shape)
    options = {"targeted": targeted, "ssim_weight": 0.0}
    long, short = (attack(name, steps=steps, **options)(Fixed(1, 0.1), images, labels) for steps in (4, 1))
    assert long.state is not None
    assert short.state is not None
    assert torch.equal(long.adversarial[0], short.adversarial[0])
    assert torch.equal(long.state[0], short.state[0])
    assert not torch.equal(long.adversarial[1], short.adversarial[1])


def test_reached_means_no_voxel_as_labelled_or_all_at_the_target() -> None:
    images, labels = volumes(3)
    logits = nn.functional.one_hot(labels[:, 0], 3).permute(0, 4, 1, 2, 3).float()
    other = (labels + 1) % 3
    mixed = torch.cat([labels[:1], other[1:2], torch.where(images[2:] < 0.5, labels[2:], other[2:])])
    for targeted in (False, True):
        task = Task("vafa", Net(), images, mixed, targeted=targeted, generator=None, start=None)
        predicted = logits.argmax(dim=1, keepdim=True)
        hits = (predicted == mixed).flatten(1)
        expected = hits.all(dim=1) if targeted else ~hits.any(dim=1)
        assert torch.equal(task.is_reached(logits), expected)
        assert expected.tolist()[:2] == ([True, False] if targeted else [False, True])


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


# Order


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
