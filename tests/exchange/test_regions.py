"""Regions that overlap, to and from third-party tools: what an export states, and scores of maps that follow."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from data.conftest import Folder
from exchange.elsewhere import AFFINE, case, folder, put
from rich.console import Console
from tiny_job import JOB, class_rows, execute, expanded, rows, small

from freqbench.core.errors import UserError
from freqbench.data.loaders.phantom import Phantom
from freqbench.exchange import export, predictions
from freqbench.exchange.export import stated_regions

REGIONS = {"core": [2], "whole": [1, 2]}
NETWORK = {**JOB["models"][0], "outputs": "sigmoid"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The export of a job on two nested regions, and maps of a tool that misses the core after the attack."""
    place = tmp_path_factory.mktemp("made")
    content = small(
        attacks=[{"name": "gn", "std": 0.1}], metrics=["dsc"], save_adversarial="nifti",
        datasets=[{**folder(place / "data"), "regions": REGIONS}], models=[NETWORK],
    )  # fmt: skip
    execute(content, place / "out")
    label = case()[1]
    for each in export.export(expanded(content)[1], str(place / "out"), str(place / "to"), Console(file=io.StringIO())):
        put(place / "tool" / each.path, np.minimum(label, 1) if each.cell_id else label, AFFINE)
    return place, content


def score(made: tuple[Path, dict[str, Any]], name: str, label_map: str | None = None) -> None:
    (place, content), console = made, Console(file=io.StringIO())
    predictions.score(expanded(content)[1], str(place / "out"), str(place / "tool"), name, label_map, console)


def test_dataset_json_of_an_export_states_regions_as_nnunet_does(made: tuple[Path, dict[str, Any]]) -> None:
    """The larger region first, as nnU-Net draws later ones over earlier ones."""
    stated = json.loads((made[0] / "to" / "dataset.json").read_text())
    assert [*stated["labels"]] == ["background", "whole", "core"]
    assert stated == {
        "channel_names": {"0": "channel 0"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "file_ending": ".nii.gz",
    }


def test_each_of_several_datasets_has_a_file_of_its_own(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    place, content = made
    (entry,) = content["datasets"]
    both = {**content, "datasets": [entry, {**entry, "name": "other", "regions": {"right": [2], "any": [1, 2]}}]}
    export.export(expanded(both)[1], str(place / "out"), str(tmp_path), Console(file=io.StringIO()))
    assert {path.name: [*json.loads(path.read_text())["labels"]] for path in tmp_path.glob("dataset*")} == {
        "dataset-small.json": ["background", "whole", "core"],
        "dataset-other.json": ["background", "any", "right"],
    }


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        ({"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}, [2, 1, 3]),
        ({"both": (1, 3), "left": (1,), "right": (3,)}, [1, 1, 3]),
    ],
)
def test_region_takes_its_last_label(tmp_path: Path, regions: dict[str, tuple[int, ...]], order: list[int]) -> None:
    dataset = Folder(tmp_path).dataset(labels=["background", "a", "b", "c"], regions=regions)
    assert stated_regions(dataset)["regions_class_order"] == order


def test_labels_are_those_of_the_files_before_a_label_map(tmp_path: Path) -> None:
    dataset = Folder(tmp_path).dataset(label_map={1: 1, 2: 1, 4: 2}, labels=3, regions={"all": (1, 2), "core": (2,)})
    assert stated_regions(dataset)["labels"] == {"background": 0, "all": [1, 2, 4], "core": [4]}


def test_labels_of_phantom_are_numbers_that_are_shown() -> None:
    phantom = Phantom(name="p", regions=True)
    assert list(stated_regions(phantom)["labels"].values()) == [0, [1, 2, 3], [2, 3], [3]]  # type: ignore[attr-defined]


def test_maps_of_a_tool_are_scored_by_region(made: tuple[Path, dict[str, Any]]) -> None:
    score(made, "tool")
    store = made[0] / "out"
    (own,) = (row["target_model_id"] for row in rows(store).values() if row["target_model"] == repr("tool"))
    dice = {
        row["class_name"].strip("'"): (float(row["dsc_clean"]), float(row["dsc"]))
        for row in class_rows(store).values()
        if row["target_model_id"] == own
    }
    assert (dice["whole"], dice["core"]) == ((1.0, 1.0), (1.0, 0.0))


def test_maps_with_other_labels_and_label_maps_are_refused(made: tuple[Path, dict[str, Any]]) -> None:
    place, _ = made
    (place / "map.yaml").write_text("1: whole")
    with pytest.raises(UserError, match=r"--label-map: expected none, as a label of small may lie in several regions"):
        score(made, "other", str(place / "map.yaml"))
    clean = place / "tool" / "clean" / "x.nii.gz"
    content = clean.read_bytes()
    put(clean, np.asanyarray(nibabel.load(clean).dataobj) * 2, AFFINE)
    with pytest.raises(UserError, match="expected labels 0, 1, 2 of small, got 4: give maps with the labels of the"):
        score(made, "other")
    clean.write_bytes(content)


def test_regions_without_labels_and_files_of_others_are_refused(
    made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (place, content), console = made, Console(file=io.StringIO())
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match=r"dataset.json: expected no file or one that freqbench wrote"):
        export.export(expanded(content)[1], str(place / "out"), str(tmp_path), console)
    monkeypatch.setattr(Phantom, "classes", replace(Phantom(name="p", regions=True).classes, stated={}))
    with pytest.raises(UserError, match="p: expected labels that make up the region whole lesion, got none"):
        stated_regions(Phantom(name="p", regions=True))
