import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.core.errors import UserError
from freqbench.core.types import Case
from freqbench.training import TrainJob, loop
from freqbench.training.lists import ROLES, job_lists
from freqbench.training.loop import fit, learning_rate
from freqbench.training.plan import trainings_of
from freqbench.training.recipe import Schedule
from freqbench.training.state import State
from freqbench.training.validation import mean_foreground

Train = Callable[..., State]


def ignore(state: State) -> None:
    """Nothing to show."""


@pytest.fixture(scope="module")
def train_tiny(tiny_job: Callable[..., TrainJob]) -> Train:
    """Train the tiny network in a folder; keywords change the job."""
    cases: dict[str, list[Case]] = {}

    def train(folder: Path, seen: Callable[[State], None] = ignore, **changes: Any) -> State:
        job = tiny_job(**{"loaders": 0} | changes)
        lists = job_lists(job)
        refs = {role: lists[role].refs() for role in ROLES}
        if not cases:
            cases.update({role: [lists[role].load(ref) for ref in refs[role]] for role in ROLES})
        training = trainings_of(job, str(folder), lists["train"], refs)[0]
        return fit(training, cases["train"], cases["select"], str(folder), seen)

    return train


def stop_at(step: int) -> Callable[[State], None]:
    """Ctrl-C during that step."""

    def seen(state: State) -> None:
        if state.step == step:
            signal.raise_signal(signal.SIGINT)

    return seen


def weights(state: State) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in state.net.state_dict().values())


def test_the_loss_falls(train_tiny: Train, tmp_path: Path) -> None:
    state = train_tiny(tmp_path, steps=24, validate_every=8)
    losses = [row.loss for row in state.log]
    assert losses[-1] < 0.75 * losses[0]


def test_equal_seeds_give_equal_weights(train_tiny: Train, tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "a")
    again = train_tiny(tmp_path / "b")
    other = train_tiny(tmp_path / "c", seed=1)
    assert weights(first) == weights(again)
    assert weights(first) != weights(other)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_interrupted_and_resumed_ends_as_uninterrupted(train_tiny: Train, tmp_path: Path, step: int) -> None:
    whole = train_tiny(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "cut", stop_at(step))
    resumed = train_tiny(tmp_path / "cut")
    assert weights(resumed) == weights(whole)
    for name in ("best.safetensors", "log.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_dropout_is_resumed_too(train_tiny: Train, tmp_path: Path) -> None:
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 1, "dropout": 0.3}
    models = [{"name": "net", "arch": "unet", "args": args, "roi": [16, 16, 16]}]
    whole = train_tiny(tmp_path / "whole", models=models)
    torch.rand(7)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "cut", stop_at(3), models=models)
    assert weights(train_tiny(tmp_path / "cut", models=models)) == weights(whole)


def test_global_random_state_is_left_alone(train_tiny: Train, tmp_path: Path) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_tiny(tmp_path)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_ctrl_c_ends_the_step_and_saves_it(train_tiny: Train, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path, stop_at(3))
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_state_of_another_content_is_not_resumed(train_tiny: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "cut", stop_at(3))
    steps: list[int] = []
    train_tiny(tmp_path / "cut", lambda state: steps.append(state.step), lr=2e-2)
    assert steps[0] == 1


def test_the_log_has_a_row_a_validation(train_tiny: Train, tmp_path: Path) -> None:
    state = train_tiny(tmp_path, steps=7, validate_every=3)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,lr,loss,loss_clean,loss_attacked,loss_consistency,dice_select,dice_attacked,dice_worst"
    assert [int(row.split(",")[0]) for row in rows] == [3, 6, 7]
    assert max(float(row.split(",")[6]) for row in rows) == pytest.approx(state.dice_select, rel=1e-5)
    assert {row.split(",")[4] for row in rows} == {""}  # nothing was attacked


def test_the_best_weights_are_kept_not_the_last(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.1])
    monkeypatch.setattr(loop, "mean_foreground", lambda *arguments: next(scores))
    seen: dict[int, bytes] = {}
    state = train_tiny(tmp_path, lambda state: seen.update({state.step: weights(state)}))
    assert b"".join(tensor.numpy().tobytes() for tensor in state.best.values()) == seen[4]
    assert state.dice_select == 0.9


def test_a_time_limit_stops_after_a_validation_and_can_be_raised(train_tiny: Train, tmp_path: Path) -> None:
    whole = train_tiny(tmp_path / "whole")
    cut = train_tiny(tmp_path / "cut", max_minutes=1e-9)
    assert cut.step == 1
    assert [row.step for row in cut.log] == [1]
    steps: list[int] = []
    resumed = train_tiny(tmp_path / "cut", lambda state: steps.append(state.step))
    assert steps == [2, 3, 4, 5, 6]
    assert weights(resumed) == weights(whole)


def test_a_full_disk_leaves_the_state_before(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path, stop_at(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train_tiny(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(train_tiny: Train, tmp_path: Path) -> None:
    """A rate at which weights overflow: the loss after the step is no number."""
    message = (
        r"net: the (loss|gradient's norm) is (nan|inf) at step \d: lower lr or set clip_norm; nothing was kept yet"
    )
    with pytest.raises(UserError, match=message):
        train_tiny(tmp_path / "at_once", lr=1e30, warmup_steps=0, validate_every=6)
    good = train_tiny(tmp_path / "later", max_minutes=1e-9)
    poisoned = torch.load(tmp_path / "later" / "last.pt", weights_only=True)
    first = next(iter(poisoned["net"]))
    poisoned["net"][first].fill_(math.nan)
    torch.save(poisoned, tmp_path / "later" / "last.pt")
    before = {path.name: path.read_bytes() for path in (tmp_path / "later").iterdir()}
    with pytest.raises(UserError, match=rf"at step 2: .*; the state of step {good.step} is kept in {tmp_path}/later"):
        train_tiny(tmp_path / "later")
    assert {path.name: path.read_bytes() for path in (tmp_path / "later").iterdir()} == before


def test_the_learning_rate_rises_and_follows_half_a_cosine() -> None:
    schedule = Schedule(steps=110, warmup_steps=10, lr=2.0)
    assert [learning_rate(step, schedule) for step in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert learning_rate(60, schedule) == pytest.approx(1.0)
    assert learning_rate(85, schedule) == pytest.approx(1 + math.cos(0.75 * math.pi))
    assert learning_rate(109, schedule) == pytest.approx(0, abs=1e-3)


def test_mean_foreground_counts_cases_not_classes() -> None:
    scores = np.array([[0.9, 0.2, 0.4], [0.9, np.nan, 0.7], [1.0, np.nan, np.nan]])
    assert mean_foreground(scores) == pytest.approx((0.3 + 0.7) / 2)
    assert mean_foreground(scores[2:]) == 0
