"""What VAFA and SA2 share, in 3D and 2D: bounds, null rows, windows that blocks do not tile, the early stop."""

import re
from typing import Any

import pytest
import torch
from attacks.small import ALL_FOUR, BOTH, Fixed, Net, attack, layout, run, volumes
from torch import Tensor

from freqbench.attacks import ATTACKS, make
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.ops import ssim
from freqbench.ops.blocks import Block, split

# State and bounds


@ALL_FOUR
def test_state_comes_in_blocked_layout_inside_its_bounds(name: str) -> None:
    state = run(name).state
    assert state is not None
    assert state.shape == (2, *layout(name))
    low, high = attack(name).bounds
    assert low - 1e-6 <= float(state.min())
    assert float(state.max()) <= high + 1e-6


@pytest.mark.parametrize(("name", "bad"), [("vafa", 20.5), ("vafa_2d", 4.5), ("sa2", 1.5), ("sa2_2d", 0.5)])
def test_leaving_the_bounds_raises(name: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ATTACKS[name], "step", lambda self, state, direction: torch.full_like(state, bad))
    with pytest.raises(ThreatModelError, match=f"{name}: dct-.* bound exceeded by 0"):
        run(name)


@pytest.mark.parametrize(("name", "budget"), [("vafa", {"q_max": 61.9}), ("sa2", {"rho": 0.7})])
def test_a_bound_that_float32_rounds_up_is_kept(name: str, budget: dict[str, float]) -> None:
    """61.9 is 61.9000015 in float32, and 1 + 0.7 is 1.70000005."""
    state = run(name, **budget).state
    assert state is not None
    assert float(state.max()) > attack(name, **budget).bounds[1]


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


# Null rows


@ALL_FOUR
@pytest.mark.parametrize("control", ["uniform", "random"])
def test_a_null_row_asks_the_model_nothing(name: str, control: str) -> None:
    result = run(name, control=control)
    assert (result.num_forwards, result.num_backwards) == attack(name, control=control).passes == (0, 0)
    assert result.state is not None


@pytest.mark.parametrize("name", ["vafa", "vafa_2d"])
def test_null_rows_of_vafa(name: str) -> None:
    uniform, random = run(name, control="uniform").state, run(name, control="random").state
    assert uniform is not None
    assert random is not None
    assert torch.equal(uniform, torch.full_like(uniform, 20.0))
    assert 5 <= float(random.min()) < 6
    assert 19 < float(random.max()) <= 20
    assert float(random.mean()) == pytest.approx(12.5, abs=1)


@pytest.mark.parametrize(("name", "block"), [("sa2", (4, 4, 4)), ("sa2_2d", (4, 4, 1))])
def test_null_rows_of_sa2(name: str, block: Block) -> None:
    """`random` is the very start of the attack; `uniform` damps what deviates from a block's mean."""
    images, _ = volumes()
    uniform, random, optimised = (run(name, control=c) for c in ("uniform", "random", "none"))
    one = run(name, steps=1)
    assert torch.equal(one.adversarial, random.adversarial)
    assert not torch.equal(optimised.adversarial, random.adversarial)
    blocks = split(images, block)
    means = blocks.mean(dim=(3, 4, 5), keepdim=True)
    assert torch.allclose(split(uniform.adversarial, block), means + 0.6 * (blocks - means), atol=1e-6)


@pytest.mark.parametrize(("control", "draws"), [("none", True), ("random", True), ("uniform", False)])
def test_who_draws(control: str, draws: bool) -> None:
    for dimensions in ("", "_2d"):
        assert attack(f"sa2{dimensions}", control=control).is_stochastic == draws
        assert attack(f"vafa{dimensions}", control=control).is_stochastic == (control == "random")


# Windows


@ALL_FOUR
@pytest.mark.parametrize("shape", [(9, 6, 4), (5, 8, 3), (4, 4, 1)])
def test_windows_that_blocks_do_not_tile(name: str, shape: tuple[int, int, int]) -> None:
    images, labels = volumes(shape=shape)
    result = attack(name)(Net(), images, labels)
    assert result.adversarial.shape == images.shape
    assert result.state is not None
    assert result.state.shape == (2, *layout(name, shape))


@ALL_FOUR
def test_a_block_longer_than_the_window_is_cut(name: str) -> None:
    images, labels = volumes(shape=(6, 4, 5))
    sides = (6, 4) if name.endswith("_2d") else (6, 4, 5)
    cut, fitting = (attack(name, block=block)(Net(), images, labels) for block in (32, sides))
    assert torch.equal(cut.adversarial, fitting.adversarial)


@pytest.mark.parametrize("name", ["vafa_2d", "sa2_2d", "dfb_2d"])
def test_in_2d_every_slice_is_by_itself(name: str) -> None:
    """Another slice 1 changes the volume in slice 1 alone."""
    images, labels = volumes()
    planar = make(name, band="middle", block=4) if name == "dfb_2d" else attack(name, control="random")
    other = images.clone()
    other[..., 1] = 1 - other[..., 1]
    one, two = (planar(Net(), x, labels).adversarial for x in (images, other))
    moved = (one != two).any(dim=3).any(dim=2)
    assert moved.tolist() == [[[False, True, False, False]]] * 2


@ALL_FOUR
def test_the_start_comes_in_blocked_layout(name: str) -> None:
    images, labels = volumes()
    drawn = run(name, control="random")
    again = attack(name, control="random")(Net(), images, labels, start=drawn.state)
    assert torch.equal(again.adversarial, drawn.adversarial)
    with pytest.raises(UserError, match=re.escape(f"expected a start of shape {(2, *layout(name))}, got")):
        attack(name, control="random")(Net(), images, labels, start=images)
    assert drawn.state is not None
    with pytest.raises(UserError, match=rf"{name}: expected a start in \[.*\], got"):
        attack(name, control="random")(Net(), images, labels, start=drawn.state * 3)


# Early stop


@pytest.mark.parametrize(("targeted", "labels_are"), [(False, 0), (True, 1)])
@ALL_FOUR
def test_a_sample_that_is_entirely_reached_stops(name: str, targeted: bool, labels_are: int) -> None:
    """The network always says 1. The second sample is never reached and goes on."""
    images, labels = volumes()
    labels[0] = labels_are
    labels[1] = torch.tensor([0, 1]).repeat(128).reshape(labels[1].shape)
    options = {"targeted": targeted} | ({} if name == "vafa_2d" else {"ssim_weight": 0.0})
    long, short = (attack(name, steps=steps, **options)(Fixed(1, 0.1), images, labels) for steps in (4, 1))
    assert long.state is not None
    assert short.state is not None
    assert torch.equal(long.adversarial[0], short.adversarial[0])
    assert torch.equal(long.state[0], short.state[0])
    assert not torch.equal(long.adversarial[1], short.adversarial[1])


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
