"""What is known of a training before, and after, without training: which networks, which of them are there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from freqbench import models
from freqbench.core.errors import MissingDataError
from freqbench.training import TrainJob, finished, identities, run, train
from freqbench.training.lists import job_lists

MakeJob = Callable[..., TrainJob]
NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": [16, 16, 16]}
TWO = [{"name": "net", **NET}, {"name": "other", **NET, "steps": 3}]


def refuse(*arguments: object) -> None:
    raise AssertionError("trained")


@pytest.fixture(scope="module")
def out(tiny_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where `net` of two networks was trained, and nothing else."""
    folder = str(tmp_path_factory.mktemp("out"))
    (result,) = train(tiny_job(models=TWO), folder, progress=False, only=["net"])
    assert result.name == "net"
    return folder


def test_only_what_is_wanted_is_trained(out: str) -> None:
    assert [path.name for path in Path(out).iterdir()] == ["net"]


def test_what_is_finished_is_told_without_training(
    out: str, tiny_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "fit", refuse)
    found = finished(tiny_job(models=TWO), out)
    assert {name: result.path for name, result in found.items()} == {"net": f"{out}/net/best.safetensors"}


@pytest.mark.parametrize("changes", [{"lr": 2e-2}, {"seed": 1}, {"half": True}, {"max_minutes": 9}])
def test_what_another_job_left_is_not_finished(out: str, tiny_job: MakeJob, changes: dict[str, object]) -> None:
    assert finished(tiny_job(models=TWO, **changes), out) == {}


def test_weights_without_a_result_are_not_finished(tiny_job: MakeJob, tmp_path: Path) -> None:
    """So the best ones of a training that was stopped half-way lie there."""
    train(tiny_job(), str(tmp_path), progress=False)
    (tmp_path / "net" / "training.json").unlink()
    assert finished(tiny_job(), str(tmp_path)) == {}


def test_the_identity_of_a_network_stays(tiny_job: MakeJob) -> None:
    """Of the state before this was asked for: a change here trains all networks again."""
    assert identities(tiny_job()) == {"net": "b6b78d8b08286c3c"}


def test_a_network_s_identity_hangs_on_its_own_training_alone(tiny_job: MakeJob) -> None:
    both, first = identities(tiny_job(models=TWO)), identities(tiny_job(models=TWO[:1]))
    assert both["net"] == first["net"] != both["other"]
    assert identities(tiny_job(splits={"train": "train", "select": "test", "test": "validation"})) != first


def test_the_file_names_the_cases_that_shaped_it_and_no_others(out: str, tiny_job: MakeJob) -> None:
    lists = job_lists(tiny_job())
    expected = {role: [ref.fingerprint for ref in lists[role].refs()] for role in ("train", "select")}
    record = models.read_metadata(f"{out}/net/best.safetensors")["training"]
    assert record["fingerprints"] == expected
    assert not set(expected["train"]) & {ref.fingerprint for ref in lists["test"].refs()}


def test_data_that_are_not_here_are_said_to_be_missing(tiny_job: MakeJob) -> None:
    job = tiny_job(dataset={"name": "ct", "loader": "decathlon", "root": "nowhere"})
    for ask in (identities, finished):
        with pytest.raises(MissingDataError, match=r"nowhere/dataset\.json"):
            ask(job)
