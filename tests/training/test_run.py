"""A training job from its file to stored weights: where networks begin, what is stored, said, skipped, made again."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny_training
import torch
from command_line import bench
from engine.cases import case_of, network_of
from models.test_checkpoint import same
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from freqbench import models
from freqbench.core.config import load
from freqbench.core.files import downloads
from freqbench.training import TrainJob, TrainResult, finished_result, loop, run, train
from freqbench.training.loop import case_dice, mean_foreground
from freqbench.training.plan import job_lists, prepare
from freqbench.training.run import StepsLeft
from freqbench.training.state import Row, read_log

from .conftest import AT, FGSM, NET, VAFT, identities, job_of

Trained = tuple[TrainJob, Path]


def weights(folder: Path, name: str = "net") -> dict[str, Tensor]:
    return load_file(folder / name / "best.safetensors")


def done(job: TrainJob, out: Path) -> dict[str, TrainResult]:
    """Networks that `train` would skip."""
    results = {each.model.name: finished_result(each, str(out)) for each in prepare(job).trainings}
    return {name: result for name, result in results.items() if result}


@pytest.mark.integration
def test_adversarial_training_begins_at_the_clean_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, dict[str, Tensor]] = {}
    step = loop.Trainer.step

    def watched(trainer: loop.Trainer, batches: Any) -> None:
        state = trainer.state.net.state_dict()
        begun.setdefault(trainer.training.model.name, {key: value.clone() for key, value in state.items()})
        step(trainer, batches)

    monkeypatch.setattr(loop.Trainer, "step", watched)
    job = job_of(AT, VAFT, steps=1, warmup_steps=0, replicates=2)
    assert [result.name for result in train(job, str(tmp_path), progress=False, only=["at.1"])] == ["net.1", "at.1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at.1", "net.1"]
    assert same(begun["at.1"], weights(tmp_path, "net.1"))
    assert not same(begun["at.1"], begun["net.1"])
    assert models.read_metadata(str(tmp_path / "at.1" / "best.safetensors"))["training"]["seed"] == 1


def test_the_test_figure_is_that_of_the_stored_weights(trained: Trained) -> None:
    job, out = trained
    result = done(job, out)["net"]
    dataset = job_lists(job)["test"]
    entry = models.ModelEntry(name="net", checkpoint=result.path)
    model = network_of(models.resolve(entry, len(dataset.classes)))
    per_case = []
    for ref in dataset.refs():
        case = dataset.load(ref)
        pred = models.predict(model, case.image).numpy()
        label = case.label[0].numpy()
        classes = [number for number in range(1, len(dataset.classes)) if (label == number).any()]
        dice = [2 * ((pred == n) & (label == n)).sum() / ((pred == n).sum() + (label == n).sum()) for n in classes]
        per_case.append(np.mean(dice))
    assert result.dice_test == pytest.approx(np.mean(per_case), abs=1e-12)


def test_weights_are_chosen_by_what_the_job_says(trained: Trained) -> None:
    _, out = trained
    best = max(read_log(str(out / "vaft")), key=lambda row: row.dice_worst)
    assert 0 < best.dice_worst <= best.dice_attacked
    result = json.loads((out / "vaft" / "training.json").read_text())["result"]
    stored = models.read_metadata(str(out / "vaft" / "best.safetensors"))["training"]
    for name in ("dice_select", "dice_attacked", "dice_worst"):
        assert result[name] == stored[name] == pytest.approx(getattr(best, name), rel=1e-5)


def test_the_stored_file_says_all_that_a_benchmark_wants(trained: Trained) -> None:
    job, out = trained
    metadata = models.read_metadata(str(out / "vaft" / "best.safetensors"))
    lists = job_lists(job)
    assert (metadata["arch"], metadata["roi"], metadata["args"]) == ("unet", [16, 16, 16], NET["args"])
    assert metadata["class_names"] == list(lists["train"].class_names)
    assert metadata["preprocess"] == lists["train"].space.model_dump(mode="json")
    assert "phantom" in metadata["licence"]
    record = metadata["training"]
    assert (record["objective"], record["attack"]["name"], record["seed"]) == ("vaft", "vafa", 0)
    assert record["start"]["identity"] == identities(job)["net"]
    assert record["splits"] == {"train": "train", "select": "validation", "test": "test", "selected_on_test": False}
    assert record["steps"] == record["schedule"]["steps"] == 4
    assert set(record["dice_test_classes"]) == set(record["class_names"])
    assert {*record["fingerprints"]} == {"train", "select"}
    for role, of_role in record["fingerprints"].items():
        assert of_role == [ref.fingerprint for ref in lists[role].refs()]


def test_training_json_says_what_made_the_weights(trained: Trained) -> None:
    job, out = trained
    content = json.loads((out / "vaft" / "training.json").read_text())
    assert (TrainJob.model_validate(content["job"]), content["identity"]) == (job, identities(job)["vaft"])
    assert torch.__version__.startswith(content["versions"]["torch"])  # a wheel of an index says "+cu130" there alone
    assert content["seconds"]["steps"] > content["seconds"]["waited_for_crops"] > 0
    assert content["seconds"]["gpu"] == 0 or torch.cuda.is_available()


def test_curves_are_drawn_where_tensorboard_is(trained: Trained) -> None:
    _, out = trained
    events = EventAccumulator(str(out / "vaft" / "tensorboard")).Reload()
    for event, row in zip(events.Scalars("dice_attacked"), read_log(str(out / "vaft")), strict=True):
        assert (event.step, event.value) == (row.step, pytest.approx(row.dice_attacked, rel=1e-5))


@pytest.mark.integration
def test_training_killed_at_any_write_ends_as_one_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -9` leaves the files from just before one gets its name, half-written ones of a dead process among it."""
    job = job_of(steps=2, warmup_steps=0, threads=1)
    left = list[Path]()
    dead = subprocess.Popen(["true"])
    dead.wait()

    def settle(temporary: Path, target: Path) -> None:
        out = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(len(left))))
        half = out / temporary.relative_to(tmp_path / "whole")
        half.rename(half.with_name(half.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")))
        left.append(out)
        settled(temporary, target)

    settled = downloads.settle
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "settle", settle)
        train(job, str(tmp_path / "whole"), progress=False)
    whole = tmp_path / "whole" / "net"
    for number, out in enumerate(left):
        train(job, str(out), progress=False)
        assert not list(out.rglob(".freqbench-*")), number
        assert (out / "net" / "log.csv").read_bytes() == (whole / "log.csv").read_bytes(), number
        assert same(weights(out), weights(whole.parent)), number
    assert len(left) == 6


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of three steps, each of which ends in a validation, clean and under an attack."""
    folder = tmp_path_factory.mktemp("uncut")
    job = tiny_training.training(models=[tiny_training.TRAINING["models"][0]], steps=3, validate_every=1)
    path = tiny_training.write(folder, "job.yaml", {**job, "validation": {"attack": FGSM}})
    train(load(path, TrainJob), str(folder), progress=False)
    return folder


@pytest.mark.integration
@pytest.mark.parametrize(
    ("sent", "during", "times", "kept"),
    [(signal.SIGINT, "clean", 1, 2), (signal.SIGTERM, "fgsm", 2, 1), (signal.SIGINT, "test", 1, 3)],
)
def test_signal_while_measuring_is_130_and_goes_on(
    uncut: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals,
    during: str,
    times: int,
    kept: int,
) -> None:
    """The first signal ends after the validation of step 2, the second within it, so that step 1 is kept."""
    measured = list[str]()
    command = ("run", str(uncut / "job.yaml"), "--out", str(tmp_path))

    def stopped(module: ModuleType, *arguments: Any) -> Any:
        attack = arguments[3] if len(arguments) > 3 else None
        measured.append("test" if module is run else attack.name if attack else "clean")
        if measured[-1] == during and (during == "test" or measured.count(during) == 2):
            for _ in range(times):
                signal.raise_signal(sent)
        return case_dice(*arguments)

    with monkeypatch.context() as patch:
        for module in (loop, run):
            patch.setattr(module, "case_dice", partial(stopped, module))
        code, said, _ = bench(capsys, *command)
    assert (code, said) == (130, "stopped: the same command goes on from here\n")
    assert torch.load(tmp_path / "net" / "last.pt", weights_only=True)["step"] == kept
    assert not list(tmp_path.rglob(".freqbench-*"))
    assert bench(capsys, *command)[0] == 0
    assert same(weights(tmp_path), weights(uncut))
    assert (tmp_path / "net" / "log.csv").read_bytes() == (uncut / "net" / "log.csv").read_bytes()


def test_curves_that_cannot_be_written_end_no_training(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tensorboard").write_text("in the way")
    assert train(job_of(steps=2, warmup_steps=0), str(tmp_path), progress=False)[0].steps == 2


def test_a_row_that_half_fits_on_the_disk_spoils_no_curve(tmp_path: Path) -> None:
    draw = run._curves(str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    draw(Row(2, *[0.5] * 8))
    [path] = (tmp_path / "tensorboard").iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        draw(Row(4, *[0.5] * 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    draw(Row(6, *[0.5] * 8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("dice_select")] == [2, 6]


def test_crops_cut_here_equal_those_of_processes(trained: Trained, tmp_path: Path) -> None:
    job, out = trained
    train(job.model_copy(update={"loaders": 0, "half": False}), str(tmp_path), progress=False, only=("net",))
    half = weights(out)
    whole = weights(tmp_path)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
    assert same(half, {key: tensor.half() for key, tensor in whole.items()})


def test_finished_networks_are_skipped_also_in_a_moved_folder(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, out = trained
    monkeypatch.setattr(run, "fit", lambda *_: pytest.fail("trained"))
    moved = out.rename(tmp_path / "moved")
    try:
        results = train(job, str(moved))
        former = done(job, moved)
    finally:
        moved.rename(out)
    expected = [f"{moved}/{name}/best.safetensors" for name in ("net", "vaft")]
    assert [result.path for result in results] == expected
    assert list(former.values()) == results
    assert capsys.readouterr().err.startswith("net: finished before, test Dice ")


@pytest.mark.parametrize("changes", [{"lr": 2e-2}, {"seed": 1}, {"half": False}, {"max_minutes": 9}])
def test_a_network_of_another_job_is_not_finished(trained: Trained, changes: dict[str, object]) -> None:
    job, out = trained
    assert done(job.model_copy(update=changes), out) == {}


def test_a_changed_or_broken_network_is_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "net" / "best.safetensors"
    job = job_of(steps=1, warmup_steps=0)
    train(job, str(tmp_path), progress=False)
    good = path.read_bytes()
    path.write_bytes(b"broken")
    train(job, str(tmp_path), progress=False)
    assert path.read_bytes() == good
    (tmp_path / "net" / "training.json").unlink()
    assert done(job, tmp_path) == {}, "weights of a training that was stopped half-way lie so"


def test_time_left_of_training_follows_pace_since_its_first_step() -> None:
    """A resumed training, heard of at step 40 after a minute of loading: 3 seconds a step, validations included."""
    left = StepsLeft(100, None)
    limited = StepsLeft(100, 2.0)
    for each in (left, limited):
        assert each.time_left(40, 60.0) is None
    assert [left.time_left(50, 90.0), left.time_left(100, 240.0)] == [150.0, 0.0]
    assert limited.time_left(50, 90.0) == 90.0, "half a minute of the two is over"


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(models=[{"name": "net", **NET, "roi": [16, 24, 16]}, AT], steps=3, warmup_steps=0, validate_every=1)
    train(job, str(tmp_path), progress=True)
    said = capsys.readouterr()
    lines = [*filter(None, said.err.splitlines())]  # rich before 14.3 adds an empty one
    assert said.out == ""
    smaller = "4 of 4 volumes are smaller than the crop 16x24x16 on some axis: padded with zeros"
    assert lines[0] == f"{smaller}. roi: [16, 20, 16] would fit all"
    expected = [f"net: step {step}/3" for step in (1, 2, 3)]
    assert [line.split(",")[0] for line in lines[1:4]] == expected
    assert [bool(re.search(r", about \d+ s left$", line)) for line in lines[1:4]] == [False, True, False]
    assert re.match(r"net: 3 steps in \d+ s, test Dice", lines[4])
    assert lines[5] == "at: weights are chosen by mean Dice, attacked by pgd"
    assert re.match(r"at: step 1/3, lr .*, loss .*, select Dice .*, attacked ", lines[6])
    train(job, str(tmp_path), progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("strides", "shapes", "hint"),
    [
        ([2], [(24, 20, 17), (23, 21, 18)], ". roi: [22, 20, 16] would fit all"),
        ([2, 2, 2], [(24, 20, 17), (23, 40, 40)], ". roi: [16, 16, 16] would fit all"),
        ([2, 2, 2], [(24, 20, 7)], ". The network takes no crop within [24, 20, 7]"),
        ([2], [(24, 20, 17), (48, 48, 48)], ""),
    ],
)
def test_unholdable_crop_is_reported(strides: list[int], shapes: list[tuple[int, ...]], hint: str) -> None:
    net = {**NET, "name": "net", "args": {"channels": [4, 8, 8, 8][: len(strides) + 1], "strides": strides}}
    [training] = prepare(job_of(models=[{**net, "roi": [48, 48, 48]}])).trainings
    said: list[str] = []
    cases = [case_of(torch.zeros(1, *shape), torch.zeros(1, *shape)) for shape in shapes]
    run._say_padded(cases, training, said.append)
    assert [line.partition("zeros")[2] for line in said] == [hint]


@pytest.mark.integration
def test_network_of_another_axis_order_is_selected_alike(tmp_path: Path) -> None:
    """On the same cases, the Dice that chose the weights is that of the model that the stored file resolves to."""
    small = {"feature_size": 4, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "stem": [1, 2, 2]}
    job = job_of(
        models=[{"name": "net", "arch": "unetr_pp", "args": small, "roi": [32, 32, 16]}],
        dataset={"name": "phantom", "shape": [32, 32, 16], "cases": 1},
        steps=1,
        warmup_steps=0,
        batch_size=1,
    )
    [result] = train(job, str(tmp_path), progress=False)
    lists = job_lists(job)["select"]
    spec = models.resolve(models.ModelEntry(name="net", checkpoint=result.path), len(lists.classes))
    model = network_of(spec)
    scores = case_dice(model, [(i, lists.load(ref)) for i, ref in enumerate(lists.refs())], len(lists.classes))
    assert mean_foreground(np.stack(list(scores.values()))) == pytest.approx(result.dice_select, abs=1e-6)


@pytest.mark.integration
def test_attack_that_mixes_with_another_case_has_next_of_list(tmp_path: Path) -> None:
    faa = {**AT, "attack": {"name": "faa", "portion": 0.2, "steps": 1}}
    assert train(job_of(faa, steps=1, warmup_steps=0), str(tmp_path), progress=False)[1].dice_attacked is not None
