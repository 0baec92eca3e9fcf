"""Exported volumes against their files, regions to and from other tools, and volumes that others made."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from data.conftest import Folder
from exchange.elsewhere import AFFINE, SHAPE, case, folder, put, voxels_of
from rich.console import Console
from tiny_job import ARGS, JOB, class_rows, execute, expanded, job, rows, small

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.data.loaders.phantom import Phantom
from freqbench.engine import run
from freqbench.exchange import adversarial_volumes, export, predictions
from freqbench.exchange.adversarial_volumes import Imported
from freqbench.exchange.export import stated_regions
from freqbench.job.grid import further_targets
from freqbench.reporting.report import report
from freqbench.results import Store, index_keys

ONE = {"attacks": [{"name": "gn", "std": 0.1}], "metrics": ["dsc"], "save_adversarial": "nifti"}


def exported(content: dict[str, Any], tmp_path: Path) -> tuple[Path, dict[str, dict[str, Any]], str]:
    said = io.StringIO()
    if not (tmp_path / "out").exists():
        execute(content, tmp_path / "out")
    export.export(expanded(content)[1], str(tmp_path / "out"), str(tmp_path / "to"), Console(file=said))
    manifest = json.loads((tmp_path / "to" / "manifest.json").read_text())
    return tmp_path / "to", {each["path"]: each for each in manifest["files"]}, said.getvalue()


def test_the_perturbation_is_in_the_data_s_unit_and_rounded(tmp_path: Path) -> None:
    """The phantom's window is [-175, 250] HU on the grid that it is drawn on: x HU = 425 a - 175 inside of it."""
    content = small(**ONE)
    to, manifest, said = exported(content, tmp_path)
    (saved,) = (tmp_path / "out").glob("volumes/*/*/adversarial.nii.gz")
    name = f"{saved.parent.parent.name}/phantom_2000.nii.gz"
    image = nibabel.load(to / name)
    _, grid = expanded(content)
    native = grid.cells[0].dataset.native(grid.cases["phantom"][0])
    assert image.get_data_dtype() == np.int16
    assert np.allclose(image.affine, native.affine, rtol=1e-6)
    hu = native.image[0].numpy()
    inside = (hu > -175) & (hu < 250)
    assert inside.sum() > 1000
    assert np.abs(voxels_of(to / name) - (425 * voxels_of(saved).astype(np.float64) - 175))[inside].max() <= 0.5 + 1e-3
    assert np.array_equal(voxels_of(to / "clean" / "phantom_2000.nii.gz"), np.rint(hu).astype(np.int16))
    lost = np.abs(hu - np.rint(hu)).astype(np.float64)
    row = manifest["clean/phantom_2000.nii.gz"]
    assert row["rounding_max"] == pytest.approx(lost.max(), rel=1e-6)
    assert row["rounding_rms"] == pytest.approx(np.sqrt((lost**2).mean()), rel=1e-6)
    assert (row["cell_id"], row["attack"], row["dtype"]) == (None, None, "int16")
    assert manifest[name]["cell_id"] == grid.cells[0].cell_id
    assert manifest[name]["resampling_error"] < 1e-6
    assert json.loads(manifest[name]["params"])["std"] == 0.1
    assert said.startswith("1 adversarial and 1 clean volumes are in ")


@pytest.mark.parametrize("channels", [1, 2])
def test_files_keep_their_grid_and_their_channels(tmp_path: Path, channels: int) -> None:
    """Another orientation and spacing than the attack's; the box that the image is 0 around is not attacked away."""
    to, manifest, _ = exported(small(**ONE, datasets=[folder(tmp_path / "data", channels=channels)]), tmp_path)
    image, _ = case(channels=channels)
    shape = SHAPE if channels == 1 else (*SHAPE, 2)
    paths = [path for path in manifest if path.startswith("gn-a-")]
    assert len(paths) == 1
    for path in ("clean/x.nii.gz", *paths):
        file = nibabel.load(to / path)
        assert (file.shape, file.get_data_dtype()) == (shape, np.int16)
        assert np.array_equal(file.affine, AFFINE)
    assert np.array_equal(voxels_of(to / "clean" / "x.nii.gz"), np.rint(image))
    moved = np.abs(voxels_of(to / paths[0]) - image)
    assert 10 < np.sqrt((moved[3:9, 2:8, 2:6] ** 2).mean()) < 200  # 0.1 of about 1000, smoothed on its way
    assert manifest[paths[0]]["resampling_error"] > 1e-4


def test_a_case_s_name_in_two_folders_is_two_files(tmp_path: Path) -> None:
    """Datasets that differ in files alone share the cell, and so its folder."""
    content = small(**ONE, datasets=[folder(tmp_path / "a"), {**folder(tmp_path / "b", top=900), "name": "other"}])
    to, manifest, _ = exported(content, tmp_path)
    assert len(manifest) == len(list(to.glob("*/*.nii.gz"))) == 4


def test_data_that_int16_would_spoil_stay_floats(tmp_path: Path) -> None:
    to, manifest, _ = exported(small(**ONE, datasets=[folder(tmp_path / "data", top=1.0)]), tmp_path)
    assert {row["dtype"] for row in manifest.values()} == {"float32"}
    assert {row["rounding_max"] for row in manifest.values()} == {0.0}
    assert np.array_equal(voxels_of(to / "clean" / "x.nii.gz"), case(top=1.0)[0])


def test_an_export_without_saved_volumes_is_one_line(tmp_path: Path) -> None:
    content = small(**{**ONE, "save_adversarial": "none"})
    with pytest.raises(UserError, match="expected saved volumes of this job, found none: run it with save_adversarial"):
        exported(content, tmp_path)


REGIONS = {"core": [2], "whole": [1, 2]}
NETWORK = {**JOB["models"][0], "outputs": "sigmoid"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The export of a job on two nested regions, and maps of a tool that misses the core after the attack."""
    place = tmp_path_factory.mktemp("made")
    content = small(
        attacks=[{"name": "gn", "std": 0.1}],
        metrics=["dsc"],
        save_adversarial="nifti",
        datasets=[{**folder(place / "data"), "regions": REGIONS}],
        models=[NETWORK],
    )
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


SCORED = job(attacks=[{"name": "gn", "std": 0.1}], metrics=["dsc", "psnr"], resources={"workers": 1, "threads": 1})


def prepared(number: int = 0) -> npt.NDArray[np.float32]:
    _, grid = expanded(SCORED)
    return grid.cells[0].dataset.load(grid.cases["phantom"][number]).image[0].numpy()


def released(shift: float = 8 / 255) -> npt.NDArray[np.uint8]:
    """A volume as the papers' code saves it: 255 times it, cut off."""
    return (255 * np.clip(prepared() + np.float32(shift), 0, 1)).astype(np.uint8)


def bring(place: Path, source: str = "a", content: dict[str, Any] | None = None) -> tuple[run.Summary, str]:
    grid, console = expanded(content or SCORED)[1], Console(file=(said := io.StringIO()))
    volumes = str(place / "imagesTsAdv")
    out = str(place / "out")
    return adversarial_volumes.bring_in(grid, out, volumes, source, "vafa-released", console), said.getvalue()


def records(place: Path) -> list[dict[str, Any]]:
    return Store(str(place / "out")).records().to_pylist()


def test_uint8_volumes_are_scored_on_all_targets(tmp_path: Path) -> None:
    put(tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz", released())
    summary, said = bring(tmp_path)
    assert (summary.num_new, summary.num_failed) == (2, 0)
    assert "1 cases without a file are left out: phantom_2001\n" in said
    error = np.mean((prepared().astype(np.float64) - released() / 255) ** 2)
    for row in records(tmp_path):
        assert row["psnr"] == pytest.approx(10 * np.log10(1 / error), abs=1e-3)
        assert (row["attack"], row["threat_model"], row["budget"]) == ("imported", "none", None)
        assert row["num_forwards"] is row["num_windows"] is row["attack_seconds"] is None
        assert (row["source_model"], row["case_id"], row["status"]) == ("a", "phantom_2000", "ok")
    assert {row["target_model"] for row in records(tmp_path)} == {"a", "b"}
    store = Store(str(tmp_path / "out"))
    assert index_keys(store.job()["index"]) == set(rows(tmp_path / "out"))
    assert "imported label=vafa-released " in report([store], index_keys(store.job()["index"]))
    assert bring(tmp_path)[0].num_new == 0


def test_floats_score_as_the_run_that_saved_them(tmp_path: Path) -> None:
    execute({**SCORED, "models": SCORED["models"][:1], "save_adversarial": "nifti"}, tmp_path / "run")
    for number, path in enumerate(sorted((tmp_path / "run").glob("volumes/gn-a-*/*/adversarial.nii.gz"))):
        put(tmp_path / "imagesTsAdv" / f"phantom_{2000 + number}.nii.gz", voxels_of(path))
    bring(tmp_path, content={**SCORED, "models": SCORED["models"][:1]})
    ran, scored = (
        {(row["case_id"], row["target_model"]): (row["dsc"], row["dsc_clean"], row["psnr"]) for row in rows}
        for rows in (Store(str(tmp_path / "run")).records().to_pylist(), records(tmp_path))
    )
    assert ran == scored


def test_bytes_that_a_slope_turns_into_floats_are_floats(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(released() / np.float32(255), np.eye(4))
    image.set_data_dtype(np.uint8)
    (tmp_path / "imagesTsAdv").mkdir()
    nibabel.save(image, tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz")
    bring(tmp_path)
    assert {round(255 * row["linf"]) for row in records(tmp_path)} == {8}


def test_other_volumes_are_another_cell_and_all_stay_in_report(tmp_path: Path) -> None:
    path = tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz"
    for shift in (8 / 255, 4 / 255):
        put(path, released(shift))
        bring(tmp_path)
    execute(SCORED, tmp_path / "out")
    keys = index_keys(Store(str(tmp_path / "out")).job()["index"])
    assert (keys, len(keys)) == (set(rows(tmp_path / "out")), 2 + 2 + 2 * 2 * 2)
    assert len({row["cell_id"] for row in records(tmp_path) if row["attack"] == "imported"}) == 2


def test_imported_volumes_are_exported_and_scored_on(tmp_path: Path) -> None:
    put(tmp_path / "imagesTsAdv" / "adv_phantom_2000.nii.gz", released())
    only = {**SCORED, "targets": "source"}
    bring(tmp_path, content=only)
    out = str(tmp_path / "out")
    grid = further_targets(expanded(only)[0], ["b"])
    summary = run.rescore(adversarial_volumes.join_imported(grid, out), out, Console(file=io.StringIO()))
    assert (summary.num_new, len(records(tmp_path)), index_keys(Store(out).job()["index"])) == (1, 2, set(rows(out)))
    joined = adversarial_volumes.join_imported(expanded(only)[1], out)
    written = export.export(joined, out, str(tmp_path / "to"), Console(file=io.StringIO()))
    assert [each.attack for each in written] == [None, "imported"]


@pytest.mark.parametrize(
    ("spoil", "source", "expected"),
    [
        (
            lambda voxels: voxels[:-1],
            "a",
            r"2001.nii.gz: expected the shape of .*\(1, 24, 20, 16\) .*\(1, 23, 20, 16\)",
        ),
        (lambda voxels: voxels.astype(np.float32), "a", r"expected uint8 0..255 or floats in \[0, 1\], got 8 to 255"),
        (np.asarray, "c", "--source: unknown model 'c'. Known: a, b"),
        (None, "a", "such as adv_phantom_2000.nii.gz, got adv_img0035.nii.gz: rename them"),
    ],
)
def test_wrong_volume_or_source_is_refused_unstored(
    tmp_path: Path, spoil: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]] | None, source: str, expected: str
) -> None:
    folder = tmp_path / "imagesTsAdv"
    put(folder / ("adv_phantom_2000.nii.gz" if spoil else "adv_img0035.nii.gz"), released())
    if spoil:
        put(folder / "adv_phantom_2001.nii.gz", spoil(released()))
    with pytest.raises(UserError, match=expected):
        bring(tmp_path, source)
    assert not (tmp_path / "out").exists()


def test_an_import_makes_no_volumes() -> None:
    net = models.build("unet", 6, (16, 16, 16), ARGS, seed=0)
    volume = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="vafa: expected the volumes that were brought in, found none"):
        Imported(label="vafa", content="0")(net, volume, torch.zeros_like(volume, dtype=torch.int64))
