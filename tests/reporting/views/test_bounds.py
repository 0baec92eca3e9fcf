"""Certified at least, attacked at most: the table, the figure, and the report in the repository."""

from pathlib import Path

import pandas as pd
import pytest

from freqbench.analysis import certificates
from freqbench.reporting import render
from freqbench.reporting.figures.curves import bounds_figure
from freqbench.reporting.render import Section
from freqbench.reporting.views.defences import shown_columns

REPORT = Path(__file__).parents[3] / "reports" / "bounds"
FILES = sorted(REPORT.glob("*.csv"))
ROW = {"dataset": "d", "target_model": "m", "threat_model": "l2", "kind": "voxels", "sigma": 1.0, "radius": 1.0}
ROW |= {"score": "dsc_foreground", "clean": 0.9, "attacked": 0.8, "draws": 100}


@pytest.fixture(scope="module")
def stored() -> pd.DataFrame:
    return pd.read_csv(REPORT / "bounds.csv")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_report_shows_its_files(path: Path) -> None:
    table = render.markdown([Section("", shown_columns(certificates.means(pd.read_csv(path))))])
    text = (REPORT / "README.md").read_text("utf-8")
    assert [line for line in table.splitlines() if line.startswith("|") and line not in text] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_bound_of_the_report_lies_above_its_attack(path: Path) -> None:
    stored = pd.read_csv(path)
    higher = stored[~stored["score"].isin(certificates.LOWER)]
    assert (higher["certified"] <= higher["attacked_high"]).all()
    assert (higher["certified"] <= higher["clean"]).all()


def test_figure_has_panel_for_each_kind_and_shades_between_ends(stored: pd.DataFrame) -> None:
    table = certificates.means(stored)
    axes = [axis for axis in bounds_figure(table).axes if axis.lines]
    assert len(axes) == len(table.groupby(certificates.PLACE))
    assert all(len(axis.lines) == 3 and len(axis.collections) == 1 for axis in axes)


def test_a_mean_lacks_its_bound_where_one_case_does() -> None:
    rows = pd.DataFrame([ROW | {"case_id": str(i), "certified": value} for i, value in enumerate((0.7, None))])
    assert certificates.means(rows)["certified"].isna().all()


def test_attack_that_leaves_more_than_no_change_counts_as_none() -> None:
    rows = pd.DataFrame([ROW | {"case_id": "0", "certified": 0.7, "clean": 0.75}])
    assert certificates.means(rows)["attacked"].tolist() == [75]
