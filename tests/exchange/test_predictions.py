"""Label maps of others: scored on the files' own grid, kept apart by name and map, refused by file."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from exchange.elsewhere import AFFINE, case, folder, put
from rich.console import Console
from tiny_job import class_rows, execute, expanded, rows, small

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.exchange import export, predictions
from freqbench.exchange.predictions import LabelMap, tool
from freqbench.results import Store, index_keys

LABEL = case()[1]
PREDICTED = np.roll(LABEL, 1, axis=0)  # by 3 mm


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store with one attacked case, its export, and the label maps of a tool that is right on the clean volume."""
    place = tmp_path_factory.mktemp("made")
    metrics = ["dsc", "hd95", "psnr"]
    attacks = [{"name": "gn", "std": [0.05, 0.1]}]
    datasets = [folder(place / "data")]
    content = small(attacks=attacks, metrics=metrics, save_adversarial="nifti", datasets=datasets)
    execute(content, place / "out")
    for each in export.export(expanded(content)[1], str(place / "out"), str(place / "to"), Console(file=io.StringIO())):
        put(place / "tool" / each.path, 10 * (PREDICTED if each.cell_id else LABEL), AFFINE)
    (place / "map.yaml").write_text("10: left\n20: 2\n")
    return place, content


@pytest.fixture
def place(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(exported[0], tmp_path / "copy")


@pytest.fixture
def content(exported: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return exported[1]


def score(place: Path, content: dict[str, Any], label_map: str | None = "map.yaml", name: str = "total") -> str:
    grid = expanded(content)[1]
    said = io.StringIO()
    path = label_map and str(place / label_map)
    predictions.score(grid, str(place / "out"), str(place / "tool"), name, path, Console(file=said))
    return said.getvalue()


def of_tool(place: Path, name: str = "total") -> list[dict[str, Any]]:
    return [row for row in Store(str(place / "out")).records().to_pylist() if row["target_model"] == name]


def dice(pred: npt.NDArray[Any], label: npt.NDArray[Any], k: int) -> float:
    return float(2 * ((pred == k) & (label == k)).sum() / ((pred == k).sum() + (label == k).sum()))


def attacked(place: Path) -> list[Path]:
    return sorted((place / "tool").glob("gn-*/x.nii.gz"))


def test_scores_are_those_of_the_label_maps_on_the_native_grid(place: Path, content: dict[str, Any]) -> None:
    score(place, content)
    own = {row["cell_id"]: row for row in Store(str(place / "out")).records().to_pylist() if row["target_model"] == "a"}
    for row in of_tool(place):
        assert row["dsc"] == pytest.approx(np.mean([dice(PREDICTED, LABEL, k) for k in range(3)]))
        assert row["dsc_foreground"] == pytest.approx(0.5)  # half of two slices
        assert row["dsc_clean"] == row["dsc_foreground_clean"] == 1.0
        assert row["hd95_mm_clean"] == 0.0
        assert row["hd95_mm"] == pytest.approx(3.0)  # one voxel on an axis of 3 mm; the attack's grid has 1.5 mm
        assert row["voxel_success"] == (PREDICTED != LABEL).mean()
        for column in ("psnr", "linf", "l2", "energy_low", "eps_native", "num_windows", "attack_seconds"):
            assert row[column] == own[row["cell_id"]][column] is not None
        assert row["metrics"] == "dsc,hd95,psnr"
        assert (row["attack"], row["source_model"], row["status"]) == ("gn", "a", "ok")
    assert len(of_tool(place)) == 2
    classes = [row for row in class_rows(place / "out").values() if row["class_name"] == "'left'"]
    shifted = dice(PREDICTED, LABEL, 1)
    assert sum(row["dsc"] == repr(shifted) for row in classes) == 2


def test_reports_know_the_tool_and_scoring_again_replaces(place: Path, content: dict[str, Any]) -> None:
    score(place, content)
    keys = index_keys(Store(str(place / "out")).job()["index"])
    assert (keys, len(keys), execute(content, place / "out").num_new) == (set(rows(place / "out")), 4, 0)
    assert index_keys(Store(str(place / "out")).job()["index"]) == keys
    for path in attacked(place):
        put(path, 10 * LABEL, AFFINE)
    score(place, content)
    assert [row["dsc"] for row in of_tool(place)] == [1.0, 1.0]


def test_labels_that_are_not_listed_are_background(place: Path, content: dict[str, Any]) -> None:
    (place / "map.yaml").write_text("10: left\n4: right\n")
    strange = 10 * LABEL.astype(np.float64)
    strange[0, 0, 0] = 1e30
    put(attacked(place)[0], strange, AFFINE)
    score(place, content)
    assert {row["missed_classes"] for row in of_tool(place)} == {1}


def test_labels_without_a_map_are_the_datasets(place: Path, content: dict[str, Any]) -> None:
    for path in (*attacked(place), place / "tool" / "clean" / "x.nii.gz"):
        put(path, LABEL, AFFINE)
    score(place, content, label_map=None)
    assert [row["dsc"] for row in of_tool(place)] == [1.0, 1.0]


def test_a_name_or_a_map_is_another_target() -> None:
    def identity(name: str, table: dict[int, int] | None) -> str:
        return tool(name, table, 3).model_id

    assert identity("t", {10: 1, 20: 2}) == identity("t", {20: 2, 10: 1})
    assert len({identity("t", {10: 1}), identity("u", {10: 1}), identity("t", {10: 2}), identity("t", None)}) == 4


def test_missing_predictions_are_said_and_the_rest_is_scored(place: Path, content: dict[str, Any]) -> None:
    gone = attacked(place)[0]
    gone.unlink()
    (place / "tool" / "clean" / "x.nii.gz").unlink()
    said = score(place, content)
    assert f"2 label maps are not there and left out: {gone.parent.name}/x.nii.gz, clean/x.nii.gz\n" in said
    (row,) = of_tool(place)
    assert row["dsc_foreground"] == pytest.approx(0.5)
    assert row["dsc_clean"] is row["voxel_success"] is None
    assert '"voxel_success": "no label map of the clean volume"' in row["null_reasons"]


def test_distances_without_a_record_have_a_reason(place: Path, content: dict[str, Any]) -> None:
    shutil.rmtree(place / "out" / "records")
    score(place, content)
    row = of_tool(place)[0]
    assert row["psnr"] is row["linf"] is None
    assert '"psnr": "no record of this cell and case to take it from"' in row["null_reasons"]
    assert row["dsc_clean"] == 1.0


def test_a_wrong_file_is_named_and_nothing_is_stored(place: Path, content: dict[str, Any]) -> None:
    path = attacked(place)[1]
    spoiled: list[tuple[npt.NDArray[Any], Any, str | None, str]] = [
        (10 * LABEL, np.diag([3.0, 2, 2.5, 1]), "map.yaml", "expected the orientation and origin of x.nii.gz"),
        (10 * LABEL[:-1], AFFINE, "map.yaml", r"expected the shape \(12, 10, 8\) of x.nii.gz, got \(11, 10, 8\)"),
    ]
    spoiled += [
        (LABEL + np.float32(0.5), AFFINE, "map.yaml", "expected integers from 0 as labels, got 0.5"),
        (10 * LABEL, AFFINE, None, "expected labels 0 to 2 of small, got 20: give --label-map"),
    ]
    for voxels, affine, label_map, text in spoiled:
        put(path, voxels, affine)
        wrong = str(path) if label_map else rf"{place}/tool/gn-a-\w+/x.nii.gz"  # whichever comes first
        with pytest.raises(UserError, match=f"^{wrong}: {text}"):
            score(place, content, label_map)
    assert of_tool(place) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: lef", "map.yaml: 1: small: unknown class 'lef'. Did you mean 'left'?"),
        ("1: 3", r"map.yaml: 1: small: expected a class 0..2, got 3"),
        ("left: 1", "map.yaml: expected the tool's label numbers with classes, such as `1: spleen`, got 'left'"),
        ("1: [2]", "map.yaml: .*got"),
        ("{}", "map.yaml: expected label numbers with classes, such as `1: spleen`, got none"),
    ],
)
def test_a_wrong_map_is_one_line(content: dict[str, Any], tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "map.yaml").write_text(text)
    _, grid = expanded(content)
    with pytest.raises(UserError, match=expected):
        config.load(str(tmp_path / "map.yaml"), LabelMap).table(grid.cells[0].dataset, "map.yaml")


def test_another_folder_or_a_model_s_name_is_one_line(place: Path, content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="'a' is a model of the job already"):
        score(place, content, name="a")
    shutil.rmtree(place / "tool")
    with pytest.raises(UserError, match=r"expected label maps under the names of `export`, such as gn-a-\w+/x.nii.gz"):
        score(place, content)
