"""What TensorBoard is told of a store."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from reporting.conftest import Row
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from freqbench.core.errors import UserError
from freqbench.reporting import tracker
from freqbench.results import CLASS_RECORDS, RECORDS, Store, to_table
from freqbench.results.writer import commit


def test_each_cell_and_target_has_its_means_over_the_cases_that_were_scored(row: Row, tmp_path: Path) -> None:
    """Three of four cases, of which two have a defined HD95; a cell that failed has no run."""
    rows: list[dict[str, Any]] = []
    for target in ("unet", "other"):
        hd95 = (2.0, 4.0, float("nan"))
        rows += [row(target=target, case=i, dsc=0.5 + i / 10, hd95=hd95[i], cell_id="c" * 16) for i in range(3)]
    failed = {"status": "failed", "error": "as asked", "dsc": None}
    rows += [row(case=3, cell_id="c" * 16) | failed, row("gn", cell_id="d" * 16) | failed]
    commit(str(tmp_path), "r-000000.parquet", to_table(RECORDS, rows), to_table(CLASS_RECORDS, []))
    cells = [
        {"cell_id": "c" * 16, "dataset": "phantom", "targets": ["id_unet", "id_other"]},
        {"cell_id": "d" * 16, "dataset": "phantom", "targets": ["id_unet"]},
    ]
    index = {"cells": cells, "cases": {"phantom": [f"case{i}" for i in range(4)]}}
    Store(str(tmp_path)).write_job({"spec": {}, "index": index})
    folder = Path(tracker.log(str(tmp_path)))
    assert folder == tmp_path / "tensorboard"
    names = {f"pgd-unet-{target}-{'c' * 16}" for target in ("unet", "other")}
    assert {path.name for path in folder.iterdir()} == names
    for name in names:
        events = EventAccumulator(str(folder / name)).Reload()
        for column, mean in (("dsc", 0.6), ("hd95", 3.0)):
            (event,) = events.Scalars(column)
            assert (event.step, event.value) == (3, pytest.approx(mean))
        settings = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        assert b"linf" in settings
        assert b"source_model" in settings


@pytest.mark.parametrize(
    ("out", "found", "line"),
    [
        ("s3://lab/out", object(), "expected --out as a folder of this machine, got s3://lab/out"),
        ("out", None, "expected the package tensorboard, got none: pip install"),
    ],
)
def test_what_cannot_be_logged_is_refused_before_it_is_computed(
    out: str, found: object, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UserError, match=line):
        tracker.require(out)
