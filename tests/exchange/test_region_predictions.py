"""Label maps of others for a dataset of regions that overlap: read by the dataset's own labels, or refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange.elsewhere import AFFINE, case, folder, put
from rich.console import Console
from tiny_job import execute, expanded, small

from freqbench.core.errors import DataError, UserError
from freqbench.data.loaders.phantom import Phantom
from freqbench.exchange import export, predictions
from freqbench.results import Store

LABEL = case()[1]
PREDICTED = np.roll(LABEL, 1, axis=0)
REGIONS = {"both": [1, 2], "right": [2]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store of regions with one attacked case, and the label maps of a tool, with the values of the label files."""
    place = tmp_path_factory.mktemp("made")
    entry = {**folder(place / "data"), "regions": REGIONS}
    content = small(attacks=[{"name": "gn", "std": 0.05}], metrics=["dsc"], save_adversarial="nifti", datasets=[entry])
    for model in content["models"]:
        model["outputs"] = "sigmoid"
    execute(content, place / "out")
    for each in export.export(expanded(content)[1], str(place / "out"), str(place / "to"), Console(file=io.StringIO())):
        put(place / "tool" / each.path, PREDICTED if each.cell_id else LABEL, AFFINE)
    (place / "map.yaml").write_text("1: both\n")
    return place, content


def score(exported: tuple[Path, dict[str, Any]], label_map: str | None = None) -> list[dict[str, Any]]:
    place, content = exported
    predictions.score(
        expanded(content)[1], str(place / "out"), str(place / "tool"), "total", label_map, Console(file=io.StringIO())
    )
    records = Store(str(place / "out")).records().to_pylist()
    return [record for record in records if record["target_model"] == "total"]


def dice(pred: Any, label: Any) -> float:
    return float(2 * (pred & label).sum() / (pred.sum() + label.sum()))


def test_a_tools_labels_are_in_the_regions_that_the_dataset_puts_them_in(
    exported: tuple[Path, dict[str, Any]],
) -> None:
    (record,) = score(exported)
    by_hand = [dice(np.isin(PREDICTED, values), np.isin(LABEL, values)) for values in REGIONS.values()]
    assert record["dsc_foreground"] == pytest.approx(np.mean(by_hand))
    assert record["dsc_foreground_clean"] == 1.0
    assert record["voxel_success"] == (PREDICTED != LABEL).mean()


def test_a_label_map_of_the_tool_is_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"--label-map: expected none, as small has regions that overlap, got .*"):
        score(exported, str(exported[0] / "map.yaml"))


def test_a_label_that_no_file_of_the_dataset_has_is_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    (path,) = (exported[0] / "tool").glob("gn-*/x.nii.gz")
    put(path, 3 * LABEL, AFFINE)
    with pytest.raises(DataError, match="expected labels 0, 1, 2 of the files of small, got 3: write regions as"):
        score(exported)


def test_a_dataset_without_label_files_is_refused() -> None:
    with pytest.raises(UserError, match=r"label files .*, got lesions \(loader: phantom\): take a folder"):
        predictions._require_labels_of_the_files(Phantom(name="lesions", regions=True), None)
