"""Metrics of installed packages: in rows and all that reads them, by version, and refused in one line."""

import importlib
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from alterations import first, set_first
from command_line import Bench, refused
from engine.cases import grid_of, stored
from exchange.elsewhere import AFFINE, case, folder, put
from rich.console import Console
from third_party.packages import lay_out, on_path, renew
from tiny_job import execute, expanded, small, write

import freqbench as fb
from freqbench.audit import reproduce
from freqbench.audit.verify import verify
from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.types import IGNORED
from freqbench.engine import run
from freqbench.engine.scoring import score_shapes
from freqbench.exchange import export, predictions
from freqbench.job.grid import expand
from freqbench.job.plan import make_plan
from freqbench.job.rehearsal import shrink_job
from freqbench.job.schema import JobSpec
from freqbench.metrics import added
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.reporting import tracker
from freqbench.reporting.page import data_of
from freqbench.reporting.report import report
from freqbench.results import Shard, Store
from freqbench.testing import check_metric

PACKAGE = "own-metrics"
SHARE = '''
from freqbench.metrics import LabelMetric


class Share(LabelMetric):
    """Share of the volume that is predicted as the class."""

    title, unit, direction = "Share", "fraction", "higher"

    def score(self, pred, label, num_classes, spacing):
        shares = [float((pred == k).float().mean()) for k in range(num_classes)]
        pred[:] = label[:] = 0
        return [*shares[:-1], float("nan") if num_classes > 2 else shares[1]]
'''
CONTENT = small(metrics=["dsc", "share"], save_adversarial="nifti", resources={"workers": 1, "threads": 1})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path with version 1.0 of a package that adds the metric `share`."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "own_metrics.py").write_text(SHARE)
    lay_out(folder, PACKAGE, "1.0", {"metrics": "share = own_metrics:Share"})
    with on_path(folder, "own_metrics"):
        yield folder


@pytest.fixture
def changed(site: Path) -> Iterator[Path]:
    """The same folder, as it was again after the test."""
    yield site
    (site / "own_metrics.py").write_text(SHARE)
    lay_out(site, PACKAGE, "1.0", {"metrics": "share = own_metrics:Share"})


@pytest.fixture(scope="module")
def finished(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one record with the metric."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    execute(CONTENT, folder)
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def row_of(out: Path) -> dict[str, Any]:
    (row,) = stored(out)
    return row


def values(row: Mapping[str, Any]) -> dict[str, float | None]:
    by_name: dict[str, float | None] = json.loads(row["added_metrics"])
    return by_name


def left(store: Path, content: Mapping[str, Any] = CONTENT) -> int:
    return make_plan(grid_of(content), Store(str(store)).covered()).num_todo


def test_rows_hold_class_values_and_their_foreground_mean(finished: Path) -> None:
    classes = Store(str(finished)).class_records().sort_by("class_index").to_pylist()
    for suffix in ("", "_clean"):
        shares = [row[f"pred_voxels{suffix}"] / (24 * 20 * 16) for row in classes[:-1]]
        assert [values(row)[f"share{suffix}"] for row in classes] == [*map(pytest.approx, shares), None]
        assert values(row_of(finished))[f"share{suffix}"] == pytest.approx(np.mean(shares[1:]))


def test_rows_name_package_version_and_source(finished: Path) -> None:
    assert re.fullmatch(r"dsc,share@own-metrics 1\.0 [0-9a-f]{8}", row_of(finished)["metrics"])


def test_rows_without_such_a_metric_have_none_of_its_text(small_store: Path) -> None:
    assert row_of(small_store)["added_metrics"] is None


def test_each_region_is_scored_alone() -> None:
    pred = torch.zeros(4, 4, 4, dtype=torch.uint8)
    label = torch.zeros(4, 4, 4, dtype=torch.uint8)
    # a region of 32 voxels, and one of 16 in it; 4 of both do not count
    pred[0] = 1
    pred[1] = 3
    label[1, 0] = IGNORED
    three = Classes(names=("none", "large", "small"), tolerances_mm=(1.0, 1.0))
    maps = LabelMaps(pred=pred, label=label, classes=replace(three, overlap=True), spacing=(1.0, 1.0, 1.0))
    regions = score_shapes(maps, ["share@"])
    assert [row["share"] for row in regions.classes] == [pytest.approx(math.nan, nan_ok=True), 28 / 64, 12 / 64]
    assert regions.record == {"share": pytest.approx(20 / 64)}
    classes = score_shapes(replace(maps, pred=pred.clamp(max=1), classes=three), ["share@"])
    assert classes.classes[1] == {"share": 28 / 64}
    assert pred.sum() == 64, "the metric changed its own copies"


def test_python_scores_and_reads_the_values_by_the_metric_s_name(finished: Path) -> None:
    (entry,) = CONTENT["models"]
    roi = entry["roi"]
    args = entry["args"]
    checkpoint = entry["checkpoint"]
    model = fb.load_model(checkpoint, arch="unet", args=args, roi=roi, num_classes=6)
    volume = fb.load_dataset("phantom", shape=[24, 20, 16], cases=1)[0]
    record = fb.evaluate(model, volume, fb.attack(model, volume, "fgsm", eps=8 / 255), metrics=("dsc", "share"))
    (row,) = fb.load_results(finished).to_dict("records")
    for name, value in values(row_of(finished)).items():
        assert record[name] == row[name] == value
    assert {"share", "share_clean"} <= record.classes[0].keys()
    assert "Share (share@own-metrics 1.0" in record._table()["meaning"].iloc[-1]


@pytest.mark.integration
def test_scores_on_files_and_label_maps_of_tools_have_the_values(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    to = tmp_path / "to"
    data = folder(tmp_path / "data")
    grid = grid_of({**CONTENT, "datasets": [data], "score_on": "file"})
    quiet = Console(quiet=True)
    run.execute(grid, str(out), quiet, run.RunOptions(engine="serial"))
    for each in export.export(grid, str(out), str(to), quiet):
        if each.cell_id:  # none of the clean volume
            put(tmp_path / "tool" / each.path, case()[1], AFFINE)
    predictions.score(grid, str(out), str(tmp_path / "tool"), "tool", None, quiet)
    own, tool = sorted(stored(out), key=lambda row: row["target_model"])
    label = first(Store(str(out)).class_records().to_pylist(), target_model_id=own["target_model_id"], class_index=1)
    assert values(label)["share"] == pytest.approx(label["pred_voxels"] / case()[1].size)
    assert values(tool) == {"share": pytest.approx((case()[1] == 1).mean())}
    assert tool["metrics"] == own["metrics"]
    assert {check.verdict for check in verify(Store(str(out)))} == {"ok"}


def test_a_rehearsal_and_each_shard_have_the_metric(site: Path, tmp_path: Path) -> None:
    grid = expand(shrink_job(expanded(CONTENT)[0])).shard(Shard.parse("1/1"))
    quiet = Console(quiet=True)
    run.execute(grid, str(tmp_path / "out"), quiet, run.RunOptions(engine="serial"))
    assert values(row_of(tmp_path / "out")).keys() == {"share", "share_clean"}


def test_row_covers_a_metric_until_its_version_changes(store: Path, changed: Path) -> None:
    assert left(store) == 0
    lay_out(changed, PACKAGE, "1.1", {"metrics": "share = own_metrics:Share"})
    assert left(store) == 1
    execute(CONTENT, store)
    assert re.fullmatch(r"dsc,share@own-metrics 1\.1 \w+", row_of(store)["metrics"])
    assert left(store) == 0
    own_metrics = sys.modules["own_metrics"]
    (changed / "own_metrics.py").write_text(SHARE + "# edited\n")
    importlib.reload(own_metrics)
    assert left(store) == 0, "it does what it did"
    (changed / "own_metrics.py").write_text(SHARE.replace("float((pred == k)", "0.5 * float((pred == k)"))
    importlib.reload(own_metrics)
    assert left(store) == 1


def test_rows_computed_anew_keep_metric_no_longer_asked_for(store: Path, changed: Path) -> None:
    lay_out(changed, PACKAGE, "1.1", {"metrics": "share = own_metrics:Share"})
    plan = make_plan(grid_of({**CONTENT, "metrics": ["ssim"]}), Store(str(store)).covered())
    assert plan.metrics[:2] == ("ssim", "dsc")
    assert plan.metrics[2].startswith("share@own-metrics 1.1 ")


MISSING = "the metric share: expected the package own-metrics (1.0), which adds it, found none: pip install own-metrics"


def test_rows_of_missing_package_are_read_and_resume_names_it(store: Path, changed: Path, bench: Bench) -> None:
    with_it = report([Store(str(store))], table="clinical")
    (changed / "own_metrics-1.0.dist-info").rename(changed / "gone")
    renew()
    try:
        assert report([Store(str(store))], table="clinical") == with_it
        assert fb.load_results(store)["share"].notna().all()
        assert {check.verdict for check in verify(Store(str(store)))} == {"ok"}
        assert MISSING in refused(bench, "audit", str(store), "--rows", "1")
        with pytest.raises(UserError, match=re.escape(MISSING)):
            left(store, {**CONTENT, "metrics": ["ssim"]})
        message = refused(bench, "plan", write(store, CONTENT))
        assert "unknown metric 'share'" in message
        assert "; if a package adds it, install that" in message
    finally:
        (changed / "gone").rename(changed / "own_metrics-1.0.dist-info")


def test_a_stored_job_names_the_metric_in_a_form_that_jobs_take(finished: Path, tmp_path: Path) -> None:
    spec = Store(str(finished)).job()["spec"]
    assert spec["metrics"] == row_of(finished)["metrics"].split(",")
    assert config.validate(spec, JobSpec, "job").metrics == expanded(CONTENT)[0].metrics


BODY = "    def score(self, pred, label, num_classes, spacing):\n        "
NUMBERS = "expected 6 numbers, one a class, NaN where it has none, got"


def write_body(site: Path, body: str) -> None:
    (site / "own_metrics.py").write_text(SHARE.partition("    def score")[0] + BODY + body)
    sys.modules.pop("own_metrics", None)
    renew()


def test_a_metric_that_raises_fails_its_record_in_one_line(changed: Path, tmp_path: Path) -> None:
    write_body(changed, "raise ValueError('two\\nlines')")
    execute({**CONTENT, "save_adversarial": "none"}, tmp_path / "out")
    row = row_of(tmp_path / "out")
    assert (row["status"], row["metrics"], row["added_metrics"]) == ("failed", "", None)
    assert re.fullmatch(r"the metric share@own-metrics 1\.0 [0-9a-f]{8}: ValueError: two lines", row["error"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [0.5] * 5", f"{NUMBERS} float64 of shape (5,)"),
        ("return 0.5", f"{NUMBERS} float64 of shape ()"),
        ("return ['a'] * num_classes", f"{NUMBERS} <U1 of shape (6,)"),
        ("return [None] * num_classes", f"{NUMBERS} object of shape (6,)"),
        ("return [1 / 3] * 5 + [float('inf')]", f"{NUMBERS} an infinite one"),
    ],
)
def test_values_that_are_not_a_number_a_class_are_refused(body: str, message: str, changed: Path) -> None:
    write_body(changed, body)
    volume = torch.zeros(2, 2, 2, dtype=torch.uint8)
    with pytest.raises(UserError, match=f"^the metric share@own-metrics 1.0: {re.escape(message)}$"):
        added.added_scores("share@own-metrics 1.0", volume, volume, 6, (1, 1, 1))


@pytest.mark.parametrize(
    ("point", "text", "message"),
    [
        ("share = own_metrics:Nothing", SHARE, "a subclass of freqbench.metrics.added.LabelMetric, got no such"),
        ("share = own_metric:Share", SHARE, "own_metric:Share: expected a module that can be imported, got No module"),
        ("share = own_metrics:Share", SHARE.replace("score", "scores"), "with all that LabelMetric asks for, it lacks"),
        (
            "share = own_metrics:Share",
            SHARE.replace('"higher"', '"up"'),
            "the metric share of own-metrics 1.0: expected 'higher' or 'lower' as `direction`, got 'up'",
        ),
        ("linf_clean = own_metrics:Share", SHARE, "the metric linf_clean: expected a name of letters, digits and _"),
        ("case_id = own_metrics:Share", SHARE, "the metric case_id: expected a name of letters, digits and _"),
    ],
)
def test_wrong_class_refused(point: str, text: str, message: str, changed: Path, tmp_path: Path, bench: Bench) -> None:
    (changed / "own_metrics.py").write_text(text)
    lay_out(changed, PACKAGE, "1.0", {"metrics": point})
    with on_path(changed, "own_metrics"):
        assert message in refused(bench, "plan", write(tmp_path, {**CONTENT, "metrics": [point.partition(" ")[0]]}))


@pytest.mark.parametrize("name", ["case_id", "dsc", "hd95_clean"])
def test_a_name_of_a_column_is_refused_where_it_is_declared(name: str, changed: Path, bench: Bench) -> None:
    lay_out(changed, PACKAGE, "1.0", {"metrics": f"{name} = own_metrics:Share"})
    with on_path(changed, "own_metrics"):
        assert f"the metric {name}: expected a name of letters" in refused(bench, "list", "metrics", name)
        with pytest.raises(AssertionError, match=f"the metric {name}: .*: rename its entry point"):
            check_metric(importlib.import_module("own_metrics").Share())


def test_a_path_of_a_class_and_a_metric_named_twice_are_refused(site: Path) -> None:
    for metrics, message in (
        (["own_metrics:Share"], "unknown metric 'own_metrics:Share'"),
        (["share", added.resolved("share")], "expected each once, got 'share@own-metrics 1.0 [0-9a-f]{8}' 2 times"),
    ):
        with pytest.raises(UserError, match=message):
            config.validate({**CONTENT, "metrics": metrics}, JobSpec, "job")


@pytest.mark.integration
def test_reports_page_and_trackers_show_values_and_their_means(site: Path, tmp_path: Path) -> None:
    execute({**CONTENT, "datasets": [{**CONTENT["datasets"][0], "cases": 2}], "save_adversarial": "none"}, tmp_path)
    store = Store(str(tmp_path))
    of_cases = [values(row) for row in sorted(store.records().to_pylist(), key=lambda row: row["case_id"])]
    means = pd.DataFrame(of_cases).mean()
    header, *lines = report([store], format="csv", table="clinical").splitlines()
    assert header.endswith(",share,share_clean")
    for line, of_case in zip(lines, of_cases, strict=True):
        assert [float(text) for text in line.split(",")[-2:]] == [*of_case.values()]
    text = report([store], table="clinical")
    assert re.search(r"Of other\s+packages, in their own units: share@own-metrics", text)
    for name in ("share", "share_clean"):
        assert f"{means[name]:.3g}" in text
    header, clean, attacked = (line.split(",")[-1] for line in report([store], format="csv").splitlines())
    assert (header, float(clean), float(attacked)) == ("share", *map(pytest.approx, means[["share_clean", "share"]]))
    data = data_of([store])[1]
    assert data["scores"][-1]["heading"] == "share"
    assert data["summary"]["numbers"]["@share"] == [pytest.approx(means["share"], rel=1e-5)]
    assert data["cases"]["numbers"]["@share"] == [pytest.approx(each["share"], rel=1e-5) for each in of_cases]
    (cell,) = tracker._runs(Store(str(tmp_path)))
    assert {name: cell.means[name] for name in means.index} == pytest.approx(means.to_dict())


def reproduced(store: Path) -> str:
    said = io.StringIO()
    reproduce.reproduce(str(store), "1", 0, None, Console(file=said, width=200))
    return said.getvalue()


def test_reproduce_leaves_values_of_another_version_out(store: Path, changed: Path) -> None:
    assert "equal to the bit" in reproduced(store)
    set_first(store, "records", added_metrics=json.dumps(values(row_of(store)) | {"share": 2.0}))
    assert re.search(r"share .*2\.0", reproduced(store))
    lay_out(changed, PACKAGE, "1.1", {"metrics": "share = own_metrics:Share"})
    text = reproduced(store)
    assert "equal to the bit" in text
    assert "left out: share, share_clean: its package is here in another version" in text
