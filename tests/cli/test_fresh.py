"""`freqbench run JOB --fresh`: all is made anew and nothing is read that earlier runs kept."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Bench, done, refused
from data.conftest import Folder
from safetensors.torch import load_file, save_file
from tiny_job import execute, fail_below, job, noted, rows, small, write
from tiny_training import TRAINING

from freqbench.attacks.universal import Universal
from freqbench.core.files import node_cache
from freqbench.engine import run
from freqbench.engine.ray.ray_cluster import environment
from freqbench.results import Store

UNIVERSAL = {"name": "universal", "eps": "8/255", "learn_cases": 2, "steps": 2}
L2 = {"metric": "l2_body", "value": 1.5, "cases": 1}


def runs_of(out: Path) -> set[str]:
    return set(Store(str(out)).records(("run_id",))["run_id"].to_pylist())


@pytest.fixture
def kept(own_cache: Path) -> Iterator[Path]:
    """A cache of a node that keeps volumes."""
    yield own_cache
    assert os.environ["FREQBENCH_CACHE_GB"] == "1"


def on_disk(tmp_path: Path) -> dict[str, Any]:
    """A job on volumes of files, which a node's cache keeps; unlike phantoms."""
    (tmp_path / "data").mkdir()
    root = str(Folder(tmp_path / "data").root)
    entry = {"name": "small", "loader": "decathlon", "root": root, "split": "validation", "cases": 1}
    return small(datasets=[entry], metrics=["dsc"])


def made_at(cache: Path) -> dict[str, float]:
    """Times at which files of a cache were last written or read."""
    paths = [path for path in cache.rglob("*") if path.is_file() and path.name != node_cache.MARKER]
    return {str(path.relative_to(cache)): path.stat().st_mtime for path in paths}


def test_rows_that_are_there_are_computed_anew_and_superseded(tmp_path: Path) -> None:
    first = execute(job(), tmp_path)
    before = rows(tmp_path)
    again = execute(job(), tmp_path, fresh=True)
    assert (again.num_done, again.num_new) == (0, first.num_new)
    assert runs_of(tmp_path) == {again.run_id}
    assert (rows(tmp_path), execute(job(), tmp_path).num_new) == (before, 0)


def test_rows_made_anew_keep_metrics_that_the_job_lacks(tmp_path: Path) -> None:
    execute(small(metrics=["dsc", "hd95"]), tmp_path)
    execute(small(metrics=["dsc"]), tmp_path, fresh=True)
    assert Store(str(tmp_path)).records(("metrics",))["metrics"].to_pylist() == ["dsc,hd95"]


def test_row_that_fails_anew_leaves_former_and_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run merges the files meanwhile, so that this one counts what is there."""
    first = execute(small(), tmp_path)
    real = run.Recorder.take
    fail_below(monkeypatch, 1.0)
    monkeypatch.setattr(run, "COMMIT_EVERY_S", 0.0)
    merge = Store(str(tmp_path)).compact
    monkeypatch.setattr(run.Recorder, "take", lambda *given: (real(*given), merge()))
    assert execute(small(), tmp_path, fresh=True).num_failed == 1
    assert runs_of(tmp_path) == {first.run_id}


def test_learned_tensors_and_pictures_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small(attacks=[UNIVERSAL])
    execute(content, tmp_path)
    (tile,), (picture,) = tmp_path.glob("learned/*"), tmp_path.glob("glimpses/*")
    before = load_file(tile)["learned"]
    picture.rename(picture.with_name(f"{picture.name[:33]}_99.00.json"))
    save_file({"learned": torch.zeros_like(before)}, tile)
    learned = noted(monkeypatch, Universal, "learn", lambda *_: 1)
    execute(content, tmp_path, fresh=True)
    assert len(learned) == 1
    assert load_file(tile)["learned"].equal(before)
    assert list(tmp_path.glob("glimpses/*")) == [picture]
    execute(small(attacks=[{**UNIVERSAL, "eps": "4/255"}]), tmp_path, fresh=True)
    assert tile.exists(), "another cell's stays"


def test_matched_budgets_are_sought_anew(tmp_path: Path, bench: Bench) -> None:
    path = write(tmp_path, small(attacks=[{"name": "fgsm", "match": L2}], metrics=["dsc"]))
    command = ("run", path, "--out", str(tmp_path / "out"), "--engine", "serial", "--no-page")
    said = [bench(*command, *more)[1] for more in ((), (), ("--fresh",))]
    assert [text.count("fgsm on a, phantom: eps=") for text in said] == [1, 0, 1]
    assert len(json.loads((tmp_path / "out" / "match.json").read_text())) == 1


def test_nodes_cache_is_not_used(tmp_path: Path, kept: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, on_disk(tmp_path))
    out = str(tmp_path / "out")
    command = ("run", path, "--out", out, "--engine", "serial", "--no-page")
    done(bench, *command)
    for name in made_at(kept):
        os.utime(kept / name, (0, 0))
    then = made_at(kept)
    assert {name.partition("/")[0] for name in then} == {"volumes", "networks"}
    parts = noted(monkeypatch, node_cache, "part", lambda name: name)
    code, said, _ = bench(*command, "--fresh")
    assert (code, "1 record in" in said, made_at(kept)) == (0, True, then)
    assert set(parts) == {"volumes"}, "a run looks whether it could be used"
    bench(*command[:3], str(tmp_path / "other"), *command[4:])
    assert any(made_at(kept)[name] for name in then if name.startswith("volumes"))
    assert "networks" in parts


def test_interrupt_says_that_old_rows_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    first = execute(small(), tmp_path / "out")
    path = write(tmp_path, small())
    monkeypatch.setattr("freqbench.engine.attacking.attack_case", interrupt)
    code, said, _ = bench("run", path, "--out", str(tmp_path / "out"), "--engine", "serial", "--fresh")
    assert (code, "the rest are rows of earlier runs, which a run without --fresh keeps" in said) == (130, True)
    assert runs_of(tmp_path / "out") == {first.run_id}


@pytest.mark.slow  # Ray starts twice
def test_workers_of_ray_read_nothing_from_their_node(tmp_path: Path, kept: Path) -> None:
    content = {**on_disk(tmp_path), "resources": {"workers": 1, "threads": 1}}
    with environment({node_cache.LIMIT: "0"}):
        execute(content, tmp_path / "out")
    assert made_at(kept) == {}
    execute(content, tmp_path / "out", engine="ray", fresh=True)
    assert not list(kept.glob("volumes/*"))
    execute({**content, "seeds": [1], "precision": "bf16"}, tmp_path / "out", engine="ray")
    assert len(list(kept.glob("volumes/*"))) == 1


def test_a_training_job_refuses_it(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(TRAINING))
    said = refused(bench, "run", str(path), "--fresh")
    assert said == f"error: {path}: --fresh: expected a job with attacks, got a training job: leave it out\n"
