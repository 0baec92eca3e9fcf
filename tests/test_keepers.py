"""The table of what is kept: a line for each dependency of each `Kept`, with a way to change it; one left out fails."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data.conftest import Folder
from data.downloads import volume
from engine.cases import units_of
from tiny_job import ARGS, JOB, SHAPE, small

import freqbench
from freqbench import models
from freqbench.core.files import kept as module
from freqbench.core.files.kept import OUTSIDE, Kept
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, ScoredOn
from freqbench.data.cache import VOLUMES
from freqbench.engine.learning import TENSORS
from freqbench.engine.worker import BATCHES, CASES, CLEAN, FILES, NETWORKS, SPLITS, Worker, WorkerSpec
from freqbench.job import costs
from freqbench.job.cells import Cell
from freqbench.job.costs import PACES
from freqbench.models import ModelEntry, facts_of, loading, resolve
from freqbench.models.examination import EXAMINATIONS
from freqbench.models.resolving import _examine_spec
from freqbench.models.sources import checkpoint
from freqbench.models.sources.checkpoint import COSTS, FITS
from freqbench.models.sources.source import Metadata

Change = Mapping[str, Any]
NOTHING: Change = {}
MODEL = {"expected_dice": 0.01, **JOB["models"][0]}
NORM = {"norm": ["batch", {"track_running_stats": False}]}
UNIVERSAL = {"name": "universal", "eps": "8/255", "learn_cases": 1, "steps": 1}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Subjects of every question: a worker, a folder of files, and a network that resolves without a change."""

    worker: Worker
    folder: Folder
    patch: pytest.MonkeyPatch


def volumes(at: Place, other: bool = False, **change: Any) -> None:
    at.folder.put("imagesTr/a.nii.gz", volume(9 if other else 8)[0])
    dataset = at.folder.dataset()
    dataset.load(dataset.refs()[0], **change)


def of_cell(ask: Callable[[Worker, Cell, CaseRef], object], **usual: Any) -> Callable[..., None]:
    """Asks about the tiny job's first unit, with keys of the job, fields of its cell or the metrics changed."""

    def of_changed(at: Place, metrics: tuple[str, ...] = ("dsc",), cell: Change = NOTHING, **keys: Any) -> None:
        (unit, *_) = units_of(small(**{**usual, **keys}))
        at.worker.spec = replace(at.worker.spec, metrics=metrics)
        ask(at.worker, replace(unit.cell, **cell), unit.ref)

    return of_changed


def clean(worker: Worker, cell: Cell, ref: CaseRef) -> None:
    worker._clean_prediction(worker._model(cell.source, cell), cell.source, cell, cell.dataset.load(ref))


def paces(at: Place, on_gpu: bool = False, **keys: Any) -> None:
    at.patch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    units = units_of(small(**keys))[:1]
    costs.estimate_costs(units, ("dsc",), None)
    spent = costs.Spent()
    facts = {"attack": "fgsm", "attack_seconds": 1.0, "num_forwards": 1, "metrics": "dsc", "status": "ok"}
    ids = {f"{role}_model_id": units[0].cell.source.model_id for role in ("source", "target")}
    spent.add({**facts, **ids, "device": "H200" if on_gpu else "cpu"})
    spent.remember()


def examinations(at: Place, **entry: Any) -> None:
    spec = resolve(ModelEntry(**{**MODEL, "args": {**ARGS, **NORM}, **entry}), 3)
    _examine_spec(spec)


def fits(
    at: Place,
    entry: Change = NOTHING,
    facts: Change = NOTHING,
    stated: Change = NOTHING,
    num_classes: int = 3,
    num_channels: int = 1,
    **draft: Any,
) -> None:
    """Asks about a network of an entry, of which the draft, the file's facts or the job's words are then changed."""
    asked = ModelEntry(**{**MODEL, **entry})
    spec = replace(resolve(asked, num_classes, num_channels), **draft)
    words = asked.model_copy(update={**stated})
    checkpoint.fit(models.sources.source_of(spec.arch), spec, replace(facts_of(asked), **facts), words)


def pass_costs(at: Place, **change: Any) -> None:
    """The fits of the node's disk would answer before."""
    at.patch.setenv("FREQBENCH_CACHE_GB", "0")
    fits(at, **change)


PHANTOM = {"name": "phantom", "shape": SHAPE, "cases": 1}
IN_FILE: Change = {"scored_on": ScoredOn.FILE}
OTHER = {"models": [{**MODEL, "checkpoint": "random:1"}]}
CASE = {"datasets": [{**PHANTOM, "shape": [16, 16, 16]}]}
SPACE = Preprocess(intensity="minmax")
HOW: Change = {"precision": {"cell": {"precision": "bf16"}}, "compile": {"cell": {"compile": True}}}
NETWORK: Change = {
    "arch": {"entry": {"arch": "segresnet", "args": {"init_filters": 8}}},
    "args": {"entry": {"args": {**ARGS, "num_res_units": 1}}},
    "roi": {"entry": {"roi": [32, 16, 16]}},
    "num_channels": {"num_channels": 2},
    "num_outputs": {"num_classes": 4},
}
TABLE: Mapping[Kept[Any], tuple[Callable[..., None], Change]] = {
    VOLUMES: (volumes, {"case": {"other": True}, "space": {"space": SPACE}}),
    NETWORKS: (of_cell(lambda worker, cell, _: worker._model(cell.source, cell)), {"model": OTHER, **HOW}),
    CASES: (
        of_cell(lambda worker, cell, ref: worker._case(cell.dataset, ref, cell.source.space)),
        {"case": CASE, "space": {"models": [{**MODEL, "preprocess": {"intensity": "minmax"}, "input": {}}]}},
    ),
    CLEAN: (
        of_cell(clean),
        {"case": CASE, "model": OTHER, "scored_on": {"cell": IN_FILE}, "metrics": {"metrics": ("hd95",)}} | HOW,
    ),
    FILES: (of_cell(lambda worker, cell, ref: clean(worker, replace(cell, **IN_FILE), ref)), {"case": CASE}),
    SPLITS: (
        of_cell(lambda worker, cell, ref: worker._reference(cell, ref)),
        {"recipe": CASE, "settings": {"datasets": [{**PHANTOM, "split": "train"}]}},
    ),
    BATCHES: (
        of_cell(lambda worker, cell, ref: worker.attack(cell, cell.dataset.load(ref))),
        {"model": OTHER, "attack": {"attacks": [{"name": "gn", "std": 0.1}]}, **HOW},
    ),
    TENSORS: (
        of_cell(lambda worker, cell, ref: worker.learned_tensor(cell, cell.dataset.load(ref)), attacks=[UNIVERSAL]),
        {"cell": {"attacks": [{**UNIVERSAL, "steps": 2}]}},
    ),
    PACES: (paces, {"model": OTHER, "on_gpu": {"on_gpu": True}}),
    EXAMINATIONS: (examinations, {"model": {"checkpoint": "random:1"}}),
    FITS: (
        fits,
        {
            **NETWORK,
            "head": {"head": "sigmoid"},
            "prefix": {"prefix": "net."},
            "checkpoint_sha256": {"checkpoint_sha256": "0"},
            "notes": {"notes": ("said before",)},
            "trained": {"facts": {"metadata": Metadata(args=ARGS)}},
            "migration": {"stated": {"migration": "none"}},
            "is_own": {"facts": {"is_own": True}},
            "input": {"entry": {"input": {"axes": "DHW"}}},
        },
    ),
    COSTS: (pass_costs, {**NETWORK, "migration": {"migration": "none"}}),
}
ENTRIES = [(kept, dependency) for kept in TABLE for dependency in kept.depends]


@pytest.fixture
def at(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Networks are never compiled, which takes a minute and is none of a keeper's business."""
    monkeypatch.setattr(costs, "_speed", lambda: (1e9, 1.0))
    real = models.load
    monkeypatch.setattr(loading, "load", lambda spec, device, precision, compile: real(spec, device, precision))
    COSTS._values.clear()
    worker = Worker(WorkerSpec(run_id="", metrics=("dsc",), learned=str(tmp_path / "out" / "learned")))
    (tmp_path / "data").mkdir()
    return Place(worker=worker, folder=Folder(tmp_path / "data"), patch=monkeypatch)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names = list[str]()
    real = Kept.get

    def get(self: Kept[Any], make: Callable[[], Any], *more: Any, **asked: Any) -> Any:
        return real(self, lambda: names.append(self.name) or make(), *more, **asked)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Kept, "get", get)
    return names


@pytest.mark.parametrize(("kept", "dependency"), ENTRIES, ids=[f"{kept.name}: {name}" for kept, name in ENTRIES])
def test_a_value_is_made_anew_when_what_it_depends_on_changes(
    kept: Kept[Any], dependency: str, at: Place, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, changes = TABLE[kept]
    for _ in range(2):
        made.clear()
        ask(at)
    assert kept.name not in made
    if dependency in OUTSIDE:
        at.worker.learned = at.worker.learned.anew(at.worker.spec.learned)
        monkeypatch.setattr(module, "OUTSIDE", {**OUTSIDE, dependency: lambda: "another"})
    ask(at, **changes.get(dependency, {}))
    assert kept.name in made


def keepers() -> Iterator[Kept[Any]]:
    for each in pkgutil.walk_packages(freqbench.__path__, "freqbench."):
        if not each.name.endswith("__main__"):
            yield from (kept for kept in vars(importlib.import_module(each.name)).values() if isinstance(kept, Kept))


def test_table_has_a_line_for_each_dependency() -> None:
    table = {kept: {*changes} | (OUTSIDE.keys() & kept.depends) for kept, (_, changes) in TABLE.items()}
    assert {kept.name: {*kept.depends} for kept in keepers()} == {kept.name: names for kept, names in table.items()}
    assert {*keepers()} == {*TABLE}
