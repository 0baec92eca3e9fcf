"""Pictures of regions that overlap: their names, the innermost one's colour, outlines around outlines."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from tiny_job import JOB, execute, small

from freqbench.analysis import tables
from freqbench.data.loaders.anatomy import REGIONS
from freqbench.ops.regions import members, numbers_of
from freqbench.reporting.contents import regions_of
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES, cases
from freqbench.reporting.page.manifest import write_volumes
from freqbench.reporting.report import report
from freqbench.results import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("out")
    content = small(
        datasets=[{"name": "lesions", "loader": "phantom", "regions": True, "shape": [24, 20, 16], "cases": 1}],
        models=[{**JOB["models"][0], "outputs": "sigmoid"}],
        attacks=[{"name": "fgsm", "eps": "8/255"}],
        metrics=["dsc"],
        save_adversarial="nifti",
    )
    execute(content, out)
    return Store(str(out))


def test_a_figure_names_every_region_and_no_other_number(store: Store) -> None:
    rows = shown_rows(store.records().to_pandas())
    material = Material(rows, store.class_records().to_pandas(), f"{store.root}/volumes")
    figure = dict(FIGURES["case"](material))["lesions", "a"]
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{k} {name}" for k, name in enumerate(REGIONS, 1)]


def test_the_viewer_names_every_region(store: Store, tmp_path: Path) -> None:
    rows = tables.current(store.records().to_pandas()), store.class_records().to_pandas()
    manifest = write_volumes(*rows, [store.root], str(tmp_path), regions_of(store.runs()))
    (case,) = manifest["cases"]
    assert case["class_names"] == ["background", *REGIONS]
    assert manifest["regions"][case["dataset"]][:4] == [[], [1], [1, 2], [1, 2, 3]]


def test_tables_of_regions_speak_of_regions(store: Store) -> None:
    text = report([store], table="organs")
    assert "drop of each region of a" in text
    assert not re.search(r"organ|class(?!_)", text)


def test_outline_of_a_region_runs_around_inner_ones() -> None:
    """Lines between the labels of a shown map are the outlines of the regions."""
    codes = torch.zeros(12, 12, dtype=torch.uint8)
    codes[1:11, 1:11], codes[3:9, 3:8], codes[5:7, 5:7] = 1, 3, 7
    codes[8:10, 3:10] |= 4
    axis, regions = Figure().subplots(), Figure().subplots()
    cases._show(axis, np.zeros((12, 12)), 1.0, codes.numpy(), regions=[numbers_of(code) for code in range(8)])
    for region in (1, 2, 3):
        regions.contour(members(codes, region).numpy(), levels=[0.5])
    points = [
        {tuple(point) for each in drawn.findobj(QuadContourSet) for path in each.get_paths() for point in path.vertices}
        for drawn in (axis, regions)
    ]
    assert points[0] == points[1]
    assert len(points[0]) > 40
