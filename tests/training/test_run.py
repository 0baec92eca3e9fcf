import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.models.checkpoints import files
from freqbench.training import TrainJob, run, train
from freqbench.training.lists import job_lists
from freqbench.training.validation import case_dice, mean_foreground

MakeJob = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def trained(tiny_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, str]:
    job = tiny_job(half=True)
    out = str(tmp_path_factory.mktemp("out"))
    train(job, out, progress=False)
    return job, out


def test_the_test_figure_is_that_of_the_stored_weights(trained: tuple[TrainJob, str]) -> None:
    """Measured again through the public path, with Dice written out."""
    job, out = trained
    [result] = train(job, out, progress=False)
    dataset = job_lists(job)["test"]
    entry = models.ModelEntry(name="net", checkpoint=result.path)
    model = models.load(models.resolve(entry, dataset.num_classes), torch.device("cpu"))
    per_case = []
    for ref in dataset.refs():
        case = dataset.load(ref)
        pred, label = models.predict(model, case.image).numpy(), case.label[0].numpy()
        classes = [number for number in range(1, dataset.num_classes) if (label == number).any()]
        per_case.append(
            np.mean(
                [2 * ((pred == n) & (label == n)).sum() / ((pred == n).sum() + (label == n).sum()) for n in classes]
            )
        )
    assert result.dice_test == pytest.approx(np.mean(per_case), abs=1e-12)


def test_the_stored_file_says_how_it_was_made(trained: tuple[TrainJob, str]) -> None:
    _, out = trained
    metadata = models.read_metadata(f"{out}/net/best.safetensors")
    assert metadata["arch"] == "unet"
    assert metadata["roi"] == [16, 16, 16]
    record = metadata["training"]
    assert record["splits"] == {"train": "train", "select": "validation", "test": "test"}
    assert record["seed"] == 0
    assert record["steps"] == record["schedule"]["steps"] == 6
    assert set(record["dice_test_classes"]) == set(record["class_names"])
    assert 0 <= record["dice_select"] <= 1


def test_half_precision_halves_the_file(trained: tuple[TrainJob, str], tiny_job: MakeJob, tmp_path: Path) -> None:
    _, out = trained
    train(tiny_job(steps=3), str(tmp_path), progress=False)
    stored = [files.read_state_dict(f"{folder}/net/best.safetensors") for folder in (out, tmp_path)]
    assert {tensor.dtype for tensor in stored[0].values()} == {torch.float16}
    assert {tensor.dtype for tensor in stored[1].values()} == {torch.float32}


def test_a_finished_model_is_skipped(trained: tuple[TrainJob, str], monkeypatch: pytest.MonkeyPatch) -> None:
    job, out = trained
    before = (Path(out) / "net" / "best.safetensors").stat().st_mtime_ns

    def refuse(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "fit", refuse)
    [result] = train(job, out, progress=False)
    assert result.steps == 6
    assert (Path(out) / "net" / "best.safetensors").stat().st_mtime_ns == before


def test_a_result_is_found_where_the_folder_was_moved(trained: tuple[TrainJob, str], tmp_path: Path) -> None:
    job, out = trained
    moved = tmp_path / "moved"
    Path(out).rename(moved)
    [result] = train(job, str(moved), progress=False)
    moved.rename(out)
    assert result.path == f"{moved}/net/best.safetensors"


@pytest.mark.parametrize("change", [{"lr": 2e-2}, {"seed": 1}, {"half": True}, {"augmentation": {"flip": 0}}])
def test_a_changed_job_is_trained_again(tiny_job: MakeJob, tmp_path: Path, change: dict[str, object]) -> None:
    first = tiny_job(steps=3)
    train(first, str(tmp_path), progress=False)
    before = json.loads((tmp_path / "net" / "training.json").read_text())
    train(tiny_job(steps=3, **change), str(tmp_path), progress=False)
    after = json.loads((tmp_path / "net" / "training.json").read_text())
    assert after["key"] != before["key"]
    assert after["sha256"] != before["sha256"]


def test_a_checkpoint_that_was_replaced_is_not_taken_for_the_result(tiny_job: MakeJob, tmp_path: Path) -> None:
    job = tiny_job(steps=3)
    [result] = train(job, str(tmp_path), progress=False)
    good = Path(result.path).read_bytes()
    Path(result.path).write_bytes(b"broken")
    train(job, str(tmp_path), progress=False)
    assert Path(result.path).read_bytes() == good


def test_lists_that_share_cases_are_refused(tiny_job: MakeJob) -> None:
    job = tiny_job(splits={"train": "train", "select": "test", "test": "test"})
    with pytest.raises(UserError, match=r"got 4 in select and test \(first: phantom_2000\)"):
        train(job, progress=False)


def test_a_split_beside_the_lists_is_ignored(tiny_job: MakeJob) -> None:
    job = tiny_job(dataset={"name": "phantom", "split": "validation"})
    assert [dataset.split for dataset in job_lists(job).values()] == ["train", "validation", "test"]


def test_an_unknown_loader_is_answered_with_the_known(tiny_job: MakeJob) -> None:
    with pytest.raises(UserError, match=r"unknown loader 'fantom'\. Did you mean 'phantom'"):
        train(tiny_job(dataset={"name": "fantom"}), progress=False)


def test_the_second_network_is_checked_before_the_first_is_trained(tiny_job: MakeJob, tmp_path: Path) -> None:
    models_given = [model.model_dump(exclude_none=True) for model in tiny_job().models]
    bad = models_given[0] | {"name": "bad", "roi": [15, 16, 16]}
    with pytest.raises(UserError, match="multiples of 2x2x2"):
        train(tiny_job(models=[*models_given, bad]), str(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())


def test_plain_lines_where_there_is_no_terminal(
    tiny_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_job(steps=4), str(tmp_path), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:-1]] == ["net: step 2/4", "net: step 4/4"]
    assert re.match(r"net: 4 steps in \d+ s", lines[-1])


def test_nothing_is_said_without_progress(
    tiny_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_job(steps=3), str(tmp_path), progress=False)
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_a_network_of_another_axis_order_is_selected_as_it_is_tested(tiny_job: MakeJob, tmp_path: Path) -> None:
    """On the same cases, the Dice that chose the weights is that of the model that the stored file resolves to."""
    small = {"feature_size": 4, "dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "stem": [1, 2, 2]}
    job = tiny_job(
        models=[{"name": "net", "arch": "unetr_pp", "args": small, "roi": [32, 32, 16]}],
        dataset={"name": "phantom", "shape": [32, 32, 16], "cases": 4},
    )
    [result] = train(job, str(tmp_path), progress=False)
    lists = job_lists(job)["select"]
    spec = models.resolve(models.ModelEntry(name="net", checkpoint=result.path), lists.num_classes)
    model = models.load(spec, torch.device("cpu"))
    scores = case_dice(model, [(i, lists.load(ref)) for i, ref in enumerate(lists.refs())], lists.num_classes)
    assert mean_foreground(np.stack(list(scores.values()))) == pytest.approx(result.dice_select, abs=1e-6)
