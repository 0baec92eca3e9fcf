"""The loop of one network: its steps, what it keeps, and that an interrupted run ends as an uninterrupted one."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.core.types import Case
from freqbench.job.training import TrainingSchedule
from freqbench.training import loop
from freqbench.training.loop import fit, learning_rate
from freqbench.training.plan import prepare
from freqbench.training.state import State

from .conftest import AT, FGSM, NET, PGD, UNION, VAFT, job_of

CASES: dict[str, list[Case]] = {}
ARM = {**AT, **NET, "objective": "vaft", "attack": FGSM, "start": "scratch"}


def run(folder: Path, seen: Callable[[State], None] = lambda state: None, **changes: Any) -> State:
    """Train the first network of the tiny job in a folder; keywords change the job."""
    prepared = prepare(job_of(**changes), str(folder))
    for role in ("train", "select"):
        CASES.setdefault(role, prepared.cases(role))
    return fit(prepared.trainings[0], CASES["train"], CASES["select"], str(folder), seen)


def stop_at(step: int) -> Callable[[State], None]:
    """Ctrl-C during that step."""

    def seen(state: State) -> None:
        if state.step == step:
            signal.raise_signal(signal.SIGINT)

    return seen


def weights(state: State) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in state.net.state_dict().values())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = [row.loss for row in run(tmp_path, steps=24, validate_every=8).log]
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.integration
def test_equal_seeds_give_equal_weights(whole: tuple[State, Path], tmp_path: Path) -> None:
    torch.rand(7)
    torch_before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    assert weights(run(tmp_path)) == weights(whole[0])
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize("step", [1, 4])
def test_interrupted_and_resumed_ends_as_uninterrupted(whole: tuple[State, Path], tmp_path: Path, step: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at(step))
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == step
    assert signal.getsignal(signal.SIGINT) is handler
    assert weights(run(tmp_path)) == weights(whole[0])
    for name in ("best.safetensors", "log.csv"):
        assert (tmp_path / name).read_bytes() == (whole[1] / name).read_bytes()


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_damaged_state_says_what_to_delete_and_what_is_lost(tmp_path: Path, kept: float) -> None:
    """The log's last validation stands for the steps; without a validation nothing tells them."""
    logged = run(tmp_path).log[-1].step
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[: int(kept * last.stat().st_size)])
    damaged = f"{last}: expected the state of a training, got a damaged file: put back a copy, or delete it: then "
    anew = "the same command trains anew from step 0, and "
    with pytest.raises(UserError) as caught:
        run(tmp_path)
    assert str(caught.value) == damaged + anew + f"the {logged} steps that log.csv lists, and any since, are lost"
    (tmp_path / "log.csv").unlink()
    with pytest.raises(UserError) as caught:
        run(tmp_path)
    assert str(caught.value) == damaged + anew + "its steps are lost"
    last.unlink()
    assert run(tmp_path).log[-1].step == logged


def require_resumed(tmp_path: Path, **changes: Any) -> State:
    """Trains without a cut, and again with one after two steps, to the same bits; returns the first one's end."""
    uncut = run(tmp_path / "uncut", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at(2), **changes)
    assert weights(run(tmp_path / "cut", **changes)) == weights(uncut)
    for name in ("best.safetensors", "log.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "uncut" / name).read_bytes()
    return uncut


@pytest.mark.integration
def test_dropout_attacks_and_drawn_budgets_are_resumed_too(tmp_path: Path) -> None:
    model = {**VAFT, **NET, "start": "scratch", "random_budget": [6, 20], "args": {**NET["args"], "dropout": 0.3}}
    require_resumed(tmp_path, models=[model], validation={"attack": FGSM}, steps=3)


@pytest.mark.integration
def test_a_union_and_the_average_of_weights_are_resumed_too(tmp_path: Path) -> None:
    """The attack of each step is drawn."""
    union = {"mix": "random", "attacks": [PGD, FGSM]}
    require_resumed(tmp_path, models=[{**UNION, **NET, "start": "scratch", "ema": 0.7, "union": union}], steps=3)


@pytest.mark.integration
def test_noise_is_resumed_too(tmp_path: Path) -> None:
    changes = {"models": [{"name": "net", **NET, "noise": {"kind": "bias_field", "sigma": 0.5}}], "steps": 3}
    uncut = require_resumed(tmp_path, **changes)
    assert weights(run(tmp_path / "bare", **{**changes, "models": [{"name": "net", **NET}]})) != weights(uncut)


def test_the_moving_average_is_judged_and_kept(tmp_path: Path) -> None:
    steps: list[dict[str, Tensor]] = []
    judged = run(
        tmp_path,
        lambda state: steps.append({key: tensor.clone() for key, tensor in state.net.state_dict().items()}),
        models=[{"name": "net", **NET, "ema": 0.75}],
        steps=3,
        validate_every=3,
    ).best
    for key, kept in judged.items():
        first, second, third = (step[key] for step in steps)
        assert torch.allclose(kept, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third, atol=1e-6)


@pytest.mark.integration
def test_the_state_of_another_content_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at(3))
    steps: list[int] = []
    run(tmp_path, lambda state: steps.append(state.step), lr=2e-2)
    assert steps[0] == 1


def test_the_log_has_a_row_a_validation(tmp_path: Path) -> None:
    state = run(tmp_path, steps=5, validate_every=2)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,lr,loss,loss_clean,loss_attacked,loss_consistency,dice_select,dice_attacked,dice_worst"
    assert [int(row.split(",")[0]) for row in rows] == [2, 4, 5]
    assert max(float(row.split(",")[6]) for row in rows) == pytest.approx(state.dice_select, rel=1e-5)
    assert {row.split(",")[4] for row in rows} == {""}  # nothing was attacked


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(loop, "mean_foreground", lambda *arguments: next(scores))
    seen: dict[int, bytes] = {}
    state = run(tmp_path, lambda state: seen.update({state.step: weights(state)}))
    assert (b"".join(tensor.numpy().tobytes() for tensor in state.best.values()), state.dice_select) == (seen[4], 0.9)


def test_a_time_limit_stops_after_a_validation_and_can_be_raised(whole: tuple[State, Path], tmp_path: Path) -> None:
    cut = run(tmp_path, max_minutes=1e-9)
    assert cut.step == 1
    assert [row.step for row in cut.log] == [1]
    steps: list[int] = []
    resumed = run(tmp_path, lambda state: steps.append(state.step))
    assert (steps, weights(resumed)) == ([2, 3, 4, 5, 6], weights(whole[0]))


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at(2))
    before = files(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    assert files(tmp_path) == before


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(tmp_path: Path) -> None:
    """A rate at which weights overflow: the loss after the step is no number."""
    message = r"net: the (loss|gradient's norm) is (nan|inf) at step \d: "
    cure = "lower lr or set clip_norm; nothing was kept yet"
    with pytest.raises(UserError, match=message + cure):
        run(tmp_path / "at_once", lr=1e30, warmup_steps=0, validate_every=6)
    with pytest.raises(UserError, match=f"{message}say precision: fp32, {cure}"):
        run(tmp_path / "half", lr=1e30, warmup_steps=0, validate_every=6, precision="bf16")
    later = tmp_path / "later"
    good = run(later, max_minutes=1e-9)
    poisoned = torch.load(later / "last.pt", weights_only=True)
    poisoned["net"][next(iter(poisoned["net"]))].fill_(math.nan)
    torch.save(poisoned, later / "last.pt")
    before = files(later)
    with pytest.raises(UserError, match=rf"at step 2: .*; the state of step {good.step} is kept in {later}"):
        run(later)
    assert files(later) == before


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    of_steps: list[list[Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noted(parameters: Any, limit: float) -> Tensor:
        parameters = list(parameters)
        norm = clip(parameters, limit)
        of_steps.append([parameter.grad.clone() for parameter in parameters])
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    return of_steps


@pytest.mark.integration
def test_crops_in_parts_give_the_gradient_of_all(tmp_path: Path, gradients: list[list[Tensor]]) -> None:
    """Without the consistency, whose released form is a ratio over what goes through the network at once."""
    for name, accumulate in (("whole", 1), ("parts", 2)):
        run(tmp_path / name, models=[ARM], accumulate=accumulate, steps=1, warmup_steps=0)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_gradient_is_clipped_to_its_norm(tmp_path: Path, gradients: list[list[Tensor]]) -> None:
    run(tmp_path, clip_norm=0.01, steps=3)
    assert [float(torch.nn.utils.get_total_norm(each)) for each in gradients] == pytest.approx([0.01] * 3, rel=1e-3)


@pytest.mark.integration
def test_bf16_computes_in_it_and_keeps_float32_weights(tmp_path: Path) -> None:
    whole, half = (
        run(tmp_path / precision, models=[ARM], precision=precision, steps=1, warmup_steps=0).net.state_dict()
        for precision in ("fp32", "bf16")
    )
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    assert 1e-4 < max(float((whole[key] - half[key]).abs().max()) for key in whole) < 0.2


def test_the_learning_rate_rises_and_follows_half_a_cosine() -> None:
    schedule = TrainingSchedule(steps=110, warmup_steps=10, lr=2.0)
    assert [learning_rate(step, schedule) for step in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert learning_rate(60, schedule) == pytest.approx(1.0)
    assert learning_rate(85, schedule) == pytest.approx(1 + math.cos(0.75 * math.pi))
    assert learning_rate(109, schedule) == pytest.approx(0, abs=1e-3)
