"""Rows are computed again from what a store says of them, MedPy scores them too, and what differs is said."""

import io
import re
from collections import ChainMap
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alterations import alter, alter_json, first, holds, run_file, set_first
from rich.console import Console
from tiny_job import GRID, JOB, execute, expanded, job, save_weights

from freqbench import metrics
from freqbench.audit import reproduce
from freqbench.audit.reproduce import Reproducer, Reproduction, compare, differing, facts, medpy_scores
from freqbench.core.errors import UserError
from freqbench.core.machine import versions
from freqbench.core.types import IGNORED
from freqbench.engine import provenance
from freqbench.engine import run as runner
from freqbench.engine.scoring import score_prediction
from freqbench.exchange import predictions
from freqbench.job.grid import further_targets
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.results import KEY, RECORDS, Store
from freqbench.results.store import row_id, sample_rows

SHAPE = [16, 16, 16]
WEIGHTS = "weights.safetensors"
DATASETS = [{"name": "phantom", "shape": SHAPE, "cases": 1}]
OLD = {"freqbench": "0.1", "monai": "1.0", "torch": "1.0"}
ATTACK = {"name": "pgd", "eps": "8/255", "steps": 2}


def all_of(store: Path, job: object = None) -> list[Reproduction]:
    opened = Store(str(store))
    return list(Reproducer(opened, job).each(sample_rows(opened, 1000, 0)))  # type: ignore[arg-type]


def said(store: Path, row: str) -> tuple[bool, str]:
    text = io.StringIO()
    counts = reproduce.reproduce(str(store), row, 0, None, Console(file=text, width=200))
    return not counts["different"], text.getvalue()


def first_id(store: Path, **where: str) -> str:
    """The id of the first row with these values, by the names of records."""
    row = first(Store(str(store)).records().to_pylist(), **where)
    return row_id(*(row[name] for name in KEY))


def row_classes(store: Path, key: dict[str, str]) -> list[dict[str, Any]]:
    rows = Store(str(store)).class_records().to_pylist()
    return [row for row in rows if holds(row, key)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_row_is_equal_to_bit_and_store_is_left_alone(grid_store: Path) -> None:
    before = contents(grid_store)
    reports = all_of(grid_store)
    assert [each.verdict for each in reports] == ["equal"] * 16
    assert all(each.comparison and each.comparison.compared > 100 for each in reports)
    assert contents(grid_store) == before


def test_values_that_were_changed_are_named_with_their_columns(grid_copy: Path) -> None:
    row = next(row for row in Store(str(grid_copy)).records().to_pylist() if row["attack"] == "fgsm")
    key = {name: row[name] for name in KEY}
    changes = {"dsc": 0.1, "hd95_mm": 1e-12, "ssim": 1e-9, "voxel_success": 0.25, "num_forwards": 1}
    set_first(grid_copy, "records", key, **{column: row[column] + by for column, by in changes.items()})
    is_equal, text = said(grid_copy, row_id(*key.values()))
    assert not is_equal
    assert "DIFFERENT" in text
    assert re.findall(r"(?m)^│ (\w+)", text) == [*changes, "dsc"]
    assert "dsc by MedPy" in text
    assert reproduce.ALL_THE_SAME in text or "differs: code" in text


@pytest.mark.integration
def test_class_s_value_changed_and_class_gone_are_named(grid_copy: Path) -> None:

    def change(rows: list[dict[str, object]]) -> None:
        rows[8]["label_voxels"] = 7  # of the second record: six classes each
        del rows[0]

    alter(grid_copy, "class_records", change)
    columns_of = [r.comparison.differences for r in all_of(grid_copy) if r.verdict == "different" and r.comparison]
    by_column = {each.column.rpartition(": ")[2]: each for each in chain(*columns_of)}
    assert (len(columns_of), sorted(by_column)) == (2, ["label_voxels", "rows of classes"])
    changed = by_column["label_voxels"]
    assert (changed.stored, changed.gap) == (7, changed.found - 7)


def test_medpy_s_scores_stand_beside_every_row(grid_store: Path) -> None:
    """Three means and two numbers of each class, on the attacked label maps."""
    (report, *_) = all_of(grid_store)
    columns = {f"{name} by MedPy" for name in ("dsc", "dsc_foreground", "hd95_medpy_mm")}
    columns |= {f"class {k}: {name} by MedPy" for k, name in product(range(6), ("dsc", "hd95_medpy_mm"))}
    assert {each.column for each in report.by_medpy} == columns
    held = [each for each in report.by_medpy if not np.isnan(each.stored)]
    assert len(held) > len(columns) / 2
    assert all(each.found == pytest.approx(each.stored, rel=1e-12) for each in held)
    assert all(np.isnan(each.found) for each in report.by_medpy if each not in held)
    _, text = said(grid_store, report.row_id)
    assert re.search(r"(?m)^  dsc by MedPy (\S+) beside \1, .*hd95_medpy_mm by MedPy (\S+) beside \2$", text)


def test_an_altered_dice_or_distance_is_not_medpy_s(grid_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found although the package's own number is taken for equal, as if the two erred alike."""
    row = next(row for row in Store(str(grid_copy)).records().to_pylist() if np.isfinite(row["hd95_medpy_mm"]))
    key = {name: row[name] for name in KEY}
    number = next(each["class_index"] for each in row_classes(grid_copy, key) if np.isfinite(each["hd95_medpy_mm"]))
    set_first(grid_copy, "records", key, dsc_foreground=row["dsc_foreground"] + 0.001, hd95_medpy_mm=np.nan)
    set_first(grid_copy, "class_records", key | {"class_index": number}, dsc=0.987, hd95_medpy_mm=98.7)
    equal = reproduce.RowComparison(compared=1, differences=(), skipped={})
    monkeypatch.setattr(reproduce, "compare", lambda *rows: equal)
    beyond = [f"{name} by MedPy" for name in ("dsc_foreground", "hd95_medpy_mm")]
    beyond += [f"class {number}: {name} by MedPy" for name in ("dsc", "hd95_medpy_mm")]
    for report in all_of(grid_copy):
        is_altered = report.row_id == row_id(*key.values())
        assert report.verdict == ("different" if is_altered else "equal")
        wrong = [each.column for each in report.by_medpy if not each.is_tolerated]
        assert sorted(wrong) == (sorted(beyond) if is_altered else [])


def test_rows_without_surfaces_and_of_own_predictions_have_medpy_s_dice(tmp_path: Path) -> None:
    data = [{**DATASETS[0], "reference": "prediction"}]
    execute(job(datasets=data, attacks=[ATTACK], metrics=["dsc"]), tmp_path / "out")
    reports = all_of(tmp_path / "out")
    assert {each.verdict for each in reports} == {"equal"}
    scores = chain.from_iterable(report.by_medpy for report in reports)
    columns = {each.column.rpartition(": ")[2] for each in scores}
    assert columns == {"dsc by MedPy", "dsc_foreground by MedPy"}


@pytest.mark.parametrize("ignored", [False, True])
def test_medpy_s_scores_have_the_columns_conventions(ignored: bool) -> None:
    """Class 3 is predicted and not in the label, class 4 the other way round, class 5 is nowhere."""
    draw = np.random.default_rng(3)
    spacing = (0.7, 1.9, 3.3)
    label = np.repeat(np.repeat(draw.integers(0, 3, (4, 4, 3)), 4, 0), 4, 1).astype(np.uint8)
    pred = np.where(draw.random(label.shape) < 0.2, draw.integers(0, 4, label.shape), label).astype(np.uint8)
    label[:3, :2, 0] = 4
    if ignored:
        label[5:9] = IGNORED
    classes = Classes(names=("none", *"abcde"))
    maps = LabelMaps(pred=torch.from_numpy(pred), label=torch.from_numpy(label), classes=classes, spacing=spacing)
    scores = medpy_scores(maps)
    dice = metrics.dice(pred, label, 6)
    assert np.isnan(dice).tolist() == [False, False, False, True, False, True]
    distances = metrics.surface_scores(pred, label, 6, spacing)["hd95_medpy_mm"]
    for name, expected in (("dsc", dice), ("hd95_medpy_mm", distances)):
        np.testing.assert_allclose(scores[name], expected, rtol=1e-12, err_msg=name)


def test_medpy_s_scores_of_regions_are_those_of_the_rows() -> None:
    """Three regions that cross, in a map of codes; region 3 is in no label, and some voxels do not count."""
    draw = np.random.default_rng(3)
    label = np.repeat(np.repeat(draw.integers(0, 4, (4, 4, 3)), 4, 0), 4, 1).astype(np.uint8)
    pred = np.where(draw.random(label.shape) < 0.2, draw.integers(0, 8, label.shape), label).astype(np.uint8)
    label[5:9] = IGNORED
    classes = Classes(names=("none", "a", "b", "c"), overlap=True, tolerances_mm=(1.0,) * 3)
    spacing = (0.7, 1.9, 3.3)
    maps = LabelMaps(pred=torch.from_numpy(pred), label=torch.from_numpy(label), classes=classes, spacing=spacing)
    parts = [each.classes for each in score_prediction(maps, ("dsc", "hd95"))]
    rows = [dict(ChainMap(*map(dict, of_class))) for of_class in zip(*parts, strict=True)]
    for name, values in medpy_scores(maps).items():
        expected = [row[name] for row in rows]
        assert np.isnan(expected).tolist() == [False, False, False, True]
        np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=name)


def test_missing_or_impossible_columns_are_skipped() -> None:
    nothing = {column.name: None for column in RECORDS} | {"params": "{}"}
    has = nothing | {"psnr": 30.0}
    lacks = nothing | {"null_reasons": '{"psnr": "no network"}'}
    former = compare(lacks, (), has, ())
    missing = compare(has, (), lacks, ())
    assert former.skipped == {"psnr": "was not computed then: no network"}
    assert missing.skipped == {"psnr": "cannot be computed here: no network"}
    assert former.differences == missing.differences == ()
    (unexplained,) = compare(nothing, (), has, ()).differences
    assert (unexplained.column, unexplained.gap) == ("psnr", None)


def test_resampling_error_left_out_earlier_is_skipped() -> None:
    nothing = {column.name: None for column in RECORDS} | {"params": "{}"}
    has = nothing | {"resampling_error": 0.01}
    assert [*compare(nothing, (), has, ()).skipped] == ["resampling_error"]
    assert compare(has, (), nothing, ()).differences


def test_other_versions_excuse_what_is_within_tolerance(grid_copy: Path) -> None:
    row = Store(str(grid_copy)).records().to_pylist()[0]
    key = {name: row[name] for name in KEY}
    for package, by, verdict in (
        ("ray", 1e-9, "DIFFERENT"),
        ("torch", 0.001, "within the tolerances"),
        ("torch", 0.3, "DIFFERENT"),
    ):
        alter_json(run_file(grid_copy), lambda run, package=package: run["versions"].update({package: "1.0"}))
        set_first(grid_copy, "records", key, dsc=row["dsc"] + by, releases=f"{package} 1.0")
        is_equal, text = said(grid_copy, row_id(*key.values()))
        assert verdict in text
        assert is_equal == (verdict != "DIFFERENT")
        assert f"{package}: 1.0 then, {versions()[package]} now" in text
    assert "(beyond)" in text


def test_a_row_of_another_release_says_so_even_where_it_is_equal(grid_copy: Path) -> None:
    set_first(grid_copy, "records", releases="freqbench 0.1, monai 1.0, torch 1.0")
    row = next(row for row in Store(str(grid_copy)).records().to_pylist() if row["releases"][:13] == "freqbench 0.1")
    is_equal, text = said(grid_copy, row_id(*(row[name] for name in KEY)))
    assert is_equal
    assert "equal to the bit" in text
    assert all(f"{name}: {then} then, {versions()[name]} now" in text for name, then in OLD.items())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"device": "NVIDIA H200"}, "device: NVIDIA H200 then, cpu now"),
        ({"processor": "arm64 DEFAULT"}, "processor: arm64 DEFAULT then, "),
        ({"processor": "x86_64 AVX512"}, "processor: x86_64 AVX512 then, "),
        ({"processor": None}, "processor: none then, "),
    ],
)
def test_another_machine_is_said(change: dict[str, str], text: str) -> None:
    stored = {"device": "cpu", "threads": 1, "window_batch": 1}
    run = {"versions": versions(), "processor": provenance.processor(), "code": provenance.git_state()}
    said = differing(facts(run | change, stored | change), facts(run, stored))
    assert [*said] == [*change]
    assert said[next(iter(change))].startswith(text)
    assert not said.keys() & reproduce.SETTLED


@pytest.mark.integration
def test_rows_are_computed_with_threads_and_windows_of_their_run(tmp_path: Path) -> None:
    one = [{**JOB["datasets"][0], "cases": 1}]
    content = job(models=JOB["models"][:1], datasets=one, attacks=[ATTACK], resources={"threads": 2}, window_batch=3)
    execute(content, tmp_path / "out")
    reports = all_of(tmp_path / "out")
    assert {each.verdict for each in reports} == {"equal"}
    assert not re.search("threads|window", str([each.facts for each in reports]))


def test_a_checkpoint_that_is_another_elsewhere_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / WEIGHTS, seed=1)
    entry = {**JOB["models"][0], "checkpoint": WEIGHTS}
    execute(job(models=[entry], attacks=[ATTACK], datasets=DATASETS), tmp_path / "out")
    assert {each.verdict for each in all_of(tmp_path / "out")} == {"equal"}
    (tmp_path / WEIGHTS).rename("elsewhere.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors"):
        all_of(tmp_path / "out")
    moved = job(models=[{**entry, "checkpoint": "elsewhere.safetensors"}], attacks=[ATTACK], datasets=DATASETS)
    assert {each.verdict for each in all_of(tmp_path / "out", expanded(moved)[0])} == {"equal"}
    save_weights(tmp_path / WEIGHTS, seed=2)
    (report,) = all_of(tmp_path / "out")
    assert (report.verdict, report.comparison) == ("different", None)
    assert re.search(r"checkpoint of a: \w{40} then, \w{40} now; model a: \w+ then, \w+ now", report.reason)


def test_a_surrogate_that_is_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / WEIGHTS, seed=1)
    models = [{**JOB["models"][0], "name": "other", "checkpoint": WEIGHTS}, JOB["models"][1]]
    attack = {"name": "bases", "eps": 0.1, "queries": 1, "steps": 1, "surrogates": [["other"]], "sources": "b"}
    execute(job(models=models, attacks=[attack], datasets=DATASETS, targets="source"), tmp_path / "out")
    assert {each.verdict for each in all_of(tmp_path / "out")} == {"equal"}
    save_weights(tmp_path / WEIGHTS, seed=2)
    (report,) = all_of(tmp_path / "out")
    assert re.search(r"checkpoint of other: \w{40} then, \w{40} now", report.reason)


def test_data_of_another_recipe_are_named(grid_store: Path) -> None:
    spec, _ = expanded({**GRID, "datasets": [{"name": "phantom", "shape": [20, 20, 16], "cases": 2}]})
    (reason,) = {each.reason for each in all_of(grid_store, spec)}
    assert reason == f"recipe of phantom: shape: {GRID['datasets'][0]['shape']} then, [20, 20, 16] now"


@pytest.mark.integration
def test_a_failed_row_is_told_and_never_drawn(grid_copy: Path) -> None:
    set_first(grid_copy, "records", status="failed", error="out of memory")
    row = first_id(grid_copy, status="failed")
    with pytest.raises(UserError, match=r"a failed row holds no result \(out of memory\): `run` tries it again"):
        said(grid_copy, row)
    assert len(all_of(grid_copy)) == 15


@pytest.mark.integration
def test_row_of_further_targets_is_scored_from_its_volume(grid_copy: Path, tmp_path: Path) -> None:
    spec, _ = expanded({**GRID, "resources": {"workers": 1, "threads": 1}})
    save_weights(tmp_path / WEIGHTS, seed=3)
    runner.rescore(further_targets(spec, [f"c={tmp_path / WEIGHTS}"]), str(grid_copy), Console(file=io.StringIO()))
    before = contents(grid_copy)
    reports = [each for each in all_of(grid_copy) if "scored on c" in each.label]
    assert [each.verdict for each in reports] == ["equal"] * 8
    assert contents(grid_copy) == before


def test_a_row_whose_volume_is_gone_says_so(grid_copy: Path) -> None:
    alter_json(run_file(grid_copy), lambda run: run.update(reuse=True))
    for path in (grid_copy / "volumes").rglob("adversarial.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"expected the saved volume that the row was scored from, found no"):
        all_of(grid_copy)


def test_a_row_of_a_tool_is_told_in_one_line(grid_copy: Path) -> None:
    tool = predictions.tool("tool", None, 6).model_id

    def change(rows: list[dict[str, object]]) -> None:
        rows[0] |= {"target_model": "tool", "target_model_id": tool}

    alter(grid_copy, "records", change)
    facts_of = {"name": "tool", "checkpoint": "", "sha256": "tool", "migration": None}
    alter_json(run_file(grid_copy), lambda run: run["models"].update({tool: facts_of}))
    with pytest.raises(UserError, match="its label maps are those of a tool: have tool predict again"):
        said(grid_copy, first_id(grid_copy, target_model="tool"))


def test_a_store_cannot_have_its_code_run(grid_copy: Path) -> None:

    def change(run: dict[str, dict[str, object]]) -> None:
        run["job"] |= {"trust_code": True, "attacks": [{"name": "toy.attack:Walk", "eps": "8/255"}]}

    alter_json(run_file(grid_copy), change)
    with pytest.raises(UserError, match="needs --trust-code"):
        all_of(grid_copy)


def test_rows_of_the_stored_example_are_computed_again() -> None:
    """To the bit on the processor that made them; other processors come close."""
    reports = all_of(Path(__file__).parents[1] / "results" / "example")
    assert len(reports) == 4
    assert {each.verdict for each in reports} <= {"equal", "close"}


@pytest.mark.integration
def test_a_number_of_rows_ends_with_a_count(grid_copy: Path) -> None:
    text = io.StringIO()
    set_first(grid_copy, "records", linf=0.5)
    assert reproduce.reproduce(str(grid_copy), "99", 0, None, Console(file=text, width=200))["different"]
    assert text.getvalue().endswith("16 rows: 15 equal to the bit, 1 DIFFERENT\n")


def test_two_models_of_one_name_are_two_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last bits may differ although both are an `AMD EPYC` with AVX512."""
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    processors = [provenance.processor()]
    for model in (1, 17):
        facts = f"vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n"
        provenance.CPUINFO.write_text(f"processor\t: 0\n{facts}\nprocessor\t: 1\n{facts}")
        processors.append(provenance.processor())
    assert processors[1:] == [f"{processors[0]} AuthenticAMD 25 {model}" for model in (1, 17)]
