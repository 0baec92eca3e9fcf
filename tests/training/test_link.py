"""A benchmark job that trains its networks: from the command line, stopped, changed, and scored from its store."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_job
from command_line import bench
from rich.console import Console
from safetensors.torch import load_file
from tiny_training import benchmark, training, write

from freqbench import models
from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.engine import attacking
from freqbench.engine import run as runner
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec
from freqbench.models import ModelSpec
from freqbench.results import Shard
from freqbench.training import link, loop, plan, run

Said = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `adv.yaml`, which trains `net` and `other`, and `job.yaml`, which attacks `net`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "adv.yaml", training())
    write(tmp_path, "job.yaml", benchmark("train://net"))
    return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `run`, with saved volumes."""
    here = tmp_path_factory.mktemp("done")
    write(here, "adv.yaml", training())
    write(here, "job.yaml", benchmark("train://net", save_adversarial="nifti"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        spec = link.train_rest(config.load("job.yaml", JobSpec), print)
        runner.execute(expand(spec), "runs/tiny", Console(quiet=True), runner.RunOptions(engine="serial"))
    return here


@pytest.fixture
def trained_copy(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, as the current folder."""
    copy = shutil.copytree(done, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("computed")


def started(capsys: Said, *words: str, code: int = 0) -> str:
    """`bench.py run job.yaml`, in this process; what it says on stdout, or on stderr where it is refused."""
    status, out, err = bench(capsys, "run", "job.yaml", "--engine", "serial", *words)
    assert status == code, err
    return err if code == 2 else out


def model(where: str = "job.yaml") -> ModelSpec:
    """The source model of a job whose networks are trained."""
    return expand(link.present(config.load(where, JobSpec))).cells[0].source


def test_run_trains_attacks_and_repeats_nothing(folder: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    said = started(capsys)
    assert said.splitlines()[0] == "adv: training net first, into runs/adv (the same command goes on)"
    assert "1 of 1 records stored" in said
    assert [path.name for path in (folder / "runs" / "adv").iterdir()] == ["net"]
    (row,) = tiny_job.rows(folder / "runs" / "tiny").values()
    assert (row["target_model"], row["target_method"]) == ("'m0'", repr(model().method_id))
    monkeypatch.setattr(run, "fit", refuse)
    monkeypatch.setattr(attacking, "attack_case", refuse)
    again = started(capsys)
    assert "training" not in again
    assert "\n0 records in 0 s, 1 were there before" in again


def test_model_has_weights_and_training_in_its_identity(trained_copy: Path) -> None:
    spec = model()
    assert spec.training is not None
    ids = {replace(spec, **change).model_id for change in ({}, {"training": "0" * 16}, {"weights_sha256": "0" * 64})}
    assert (len(ids), replace(spec, checkpoint_sha256="0" * 64).model_id) == (3, spec.model_id)


@pytest.mark.integration
def test_ctrl_c_while_learning_is_130(folder: Path, done: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = loop.Trainer.step

    def stopped(trainer: loop.Trainer, batches: Any) -> None:
        step(trainer, batches)
        steps.append(trainer.state.step)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "step", stopped)
    assert started(capsys, code=130).splitlines()[-1] == (
        "stopped while networks were trained: results are kept, and the same command goes on"
    )
    assert not (folder / "runs" / "tiny").exists()
    started(capsys)
    assert steps == [1, 2, 3, 4]
    resumed = model()
    monkeypatch.chdir(done)
    uncut = model()
    assert resumed.model_id == uncut.model_id
    assert resumed.checkpoint_sha256 != uncut.checkpoint_sha256, "each file tells its own seconds"


def test_plan_counts_trained(folder: Path, trained_copy: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    _, after, _ = bench(capsys, "plan", "job.yaml")
    monkeypatch.chdir(folder)
    code, before, err = bench(capsys, "plan", "job.yaml")
    assert (code, err) == (0, "")
    table = [line for line in before.splitlines() if line.startswith("│")]
    assert table == [line for line in after.splitlines() if line.startswith("│")]
    assert "trained first: model m0: net, 4 steps of adv, into runs/adv\n" in before
    assert "records are in" not in before
    assert "trains nothing" not in before + after
    assert "1 of 1 record is in runs/tiny\n" in after
    assert not (folder / "runs").exists()


def test_a_rehearsal_trains_nothing(folder: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fit", refuse)
    started(capsys, "--dry-data", "phantom")
    assert [path.name for path in (folder / "runs").iterdir()] == ["tiny-dry"]


@pytest.mark.integration
def test_store_needs_no_training_job(trained_copy: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    (trained_copy / "adv.yaml").unlink()
    (trained_copy / "job.yaml").unlink()
    shutil.rmtree(trained_copy / "runs" / "tiny" / "records")
    monkeypatch.setattr(run, "fit", refuse)
    monkeypatch.setattr(plan, "job_lists", refuse)
    for words in (("score", "runs/tiny", "--targets", "m0"), ("export", "runs/tiny"), ("report", "runs/tiny")):
        code, _, err = bench(capsys, *words)
        assert (code, err) == (0, "")
    assert len(tiny_job.rows(trained_copy / "runs" / "tiny")) == 1


def test_weights_gone_or_others_than_store_s_are_refused(trained_copy: Path, capsys: Said) -> None:
    place = "error: runs/tiny: models[0]: m0: expected the weights of train://net"
    file = trained_copy / "runs" / "adv" / "net" / "best.safetensors"
    others = {name: 2 * weight for name, weight in load_file(file).items()}
    models.save_checkpoint(file, others, models.read_metadata(str(file)), half=False)
    code, _, err = bench(capsys, "export", "runs/tiny")
    assert (code, err.startswith(f"{place} that were planned with (sha256 "), err.count("\n")) == (2, True, 1)
    file.unlink()
    code, _, err = bench(capsys, "export", "runs/tiny")
    line = f"{place} at runs/adv/net/best.safetensors, found none: freqbench run JOB trains them again\n"
    assert (code, err) == (2, line)


def test_score_with_a_job_does_not_train(trained_copy: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fit", refuse)
    assert bench(capsys, "score", "runs/tiny", "--targets", "m0", "--job", "job.yaml")[0] == 0
    write(trained_copy, "adv.yaml", training(lr=2e-2))
    code, _, err = bench(capsys, "score", "runs/tiny", "--targets", "m0", "--job", "job.yaml")
    assert code == 2
    assert err == (
        "error: job.yaml: expected a trained network, got none of model m0: net, 4 steps of adv, into runs/adv: "
        "freqbench run job.yaml first\n"
    )


def test_first_shard_trains(folder: Path, done: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(capsys, "--shard", "2/2", code=2) == (
        "error: --shard 2/2: expected networks that are trained, got some that are not (net): shard 1 trains them; "
        "start the others once it attacks\n"
    )
    monkeypatch.setattr(link, "train", refuse)
    job = config.load("job.yaml", JobSpec)
    with pytest.raises(AssertionError, match="computed"):
        link.train_rest(job, print, Shard(number=1, count=2))
    monkeypatch.chdir(done)
    assert link.train_rest(job, refuse, Shard(number=2, count=2)).models[0].trained is not None


def test_trusted_foreign_data_are_trained_on(folder: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's trust is that of its training; the training job's own counts where it is run alone."""
    lines = (Path(__file__).parents[1] / "toy_package/toy/data.py").read_text()
    (folder / "balls_of_splits.py").write_text(lines.replace("ball_{", "{split or self.split}_{"))
    monkeypatch.syspath_prepend(folder)
    dataset = {"name": "balls", "loader": "balls_of_splits:Balls", "cases": 1}
    write(folder, "adv.yaml", training(dataset=dataset, trust_code=True))
    write(folder, "job.yaml", benchmark("train://net", datasets=[{**dataset, "split": "test"}]))
    assert "balls_of_splits:Balls: needs --trust-code" in started(capsys, code=2)
    assert bench(capsys, "plan", "job.yaml", "--trust-code")[0] == 0
    started(capsys, "--trust-code", "--no-page")
    assert bench(capsys, "run", "adv.yaml", "--only", "other")[0] == 0


def test_data_of_a_training_that_are_not_here_are_missing(folder: Path, capsys: Said) -> None:
    write(folder, "adv.yaml", training(dataset={"name": "ct", "loader": "decathlon", "root": "nowhere"}))
    code, out, _ = bench(capsys, "plan", "job.yaml")
    missing = "missing: model m0: expected the data of adv, which trains it: nowhere/dataset.json: expected"
    assert (code, missing in out) == (0, True)
    err = started(capsys, code=2)
    assert err.startswith(f"error: job.yaml: model m0: {missing.partition('m0: ')[2]}")
    assert err.endswith("; or give the trained file as its checkpoint\n")


@pytest.mark.parametrize(
    ("split", "told"), [("validation", "chose its weights (select)"), ("train", "taught it (train)"), ("test", None)]
)
def test_shaping_cases_are_reported_when_scored(trained_copy: Path, split: str, told: str | None) -> None:
    phantom = {"name": "phantom", "shape": [16, 16, 16], "split": split, "cases": 2}
    write(trained_copy, "job.yaml", benchmark("train://net", datasets=[phantom]))
    grid = expand(link.present(config.load("job.yaml", JobSpec)))
    said = f"m0: 2 of 2 cases of phantom {told}: scores on them are flattered"
    assert [text for text in grid.warnings if "flattered" in text] == ([said] if told else [])


def test_replicates_share_their_method_however_they_are_named(folder: Path) -> None:
    write(folder, "adv.yaml", training(replicates=2, steps=1, warmup_steps=0))
    entries = {"m": {"checkpoint": "train://net", "replicates": 2}, "o": {"checkpoint": "train://other"}}
    models = [{**entry, "name": name, "expected_dice": 0.01} for name, entry in entries.items()]
    job = config.validate(benchmark(models=models), JobSpec, "job.yaml")
    methods = {cell.source.name: cell.source.method_id for cell in expand(link.train_rest(job, print)).cells}
    assert methods["m"] == methods["m.1"] != methods["o"]
    assert len(methods) == 3
    (alone,) = tiny_job.expanded(benchmark("runs/adv/net.1/best.safetensors", training=[]))[1].cells
    assert alone.source.method_id == methods["m"]


def test_a_job_that_trains_nothing_stays_as_it_is() -> None:
    spec = config.validate(tiny_job.small(), JobSpec, "job.yaml")
    assert link.describe_job(spec) is link.present(spec) is link.train_rest(spec, print) is spec


def test_a_grid_without_the_training_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"models\[0\]: m0: expected the network of train://net to be trained before"):
        expand(config.load("job.yaml", JobSpec))
