"""Stored scores and those of other libraries agree; altered numbers are named, and what is not saved is left out."""

import json
import shutil
from collections import ChainMap
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from alterations import Rows, alter
from command_line import Bench
from tiny_job import ARGS, ROI, SHAPE, execute, job

from freqbench import metrics
from freqbench.audit import reference
from freqbench.audit.reference import Comparison, compare, image_scores, label_scores
from freqbench.core.errors import UserError
from freqbench.core.types import IGNORED
from freqbench.engine import saved_volumes
from freqbench.engine.scoring import score_prediction
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.results import KEY, Store
from freqbench.results.store import row_id

OF_CLASSES = {
    ("dsc", "medpy"),
    ("dsc", "monai"),
    ("hd95", "monai"),
    ("hd95_mm", "monai"),
    ("hd95_medpy_mm", "medpy"),
    ("assd_mm", "medpy"),
}
CLASSES = [[0, IGNORED], [1], [2], [3], [4], [5]]
OF_RECORDS = {("dsc_foreground", "medpy"), ("dsc_foreground", "monai")}
OF_IMAGES = {("ssim", "scikit-image"), ("ssim_body", "scikit-image")}


def and_clean(sources: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return sources | {(f"{column}_clean", library) for column, library in sources if column != "hd95_medpy_mm"}


def beyond(comparison: Comparison) -> dict[tuple[str, str, str], tuple[int, str]]:
    """The numbers beyond tolerance, and the row with the largest difference, by table, column and library."""
    return {source: (each.beyond, each.of_row) for source, each in comparison.agreements.items() if each.beyond}


def test_saved_rows_agree_with_every_library(grid_store: Path) -> None:
    comparison = compare(Store(str(grid_store)), 4)
    assert (comparison.rows, comparison.saved, comparison.left_out) == (4, 16, {})
    expected = {("records", *source): 4 for source in and_clean(OF_CLASSES | OF_RECORDS) | OF_IMAGES}
    expected |= {("class_records", *source): 24 for source in and_clean(OF_CLASSES)}
    assert {source: each.rows for source, each in comparison.agreements.items()} == expected
    assert not beyond(comparison)
    assert max(each.largest for (*_, library), each in comparison.agreements.items() if library == "medpy") < 1e-5


def test_altered_numbers_are_found_with_their_row(grid_copy: Path) -> None:
    """Two rows have volumes, those of one cell and case."""
    folder, *others = (path.parent for path in grid_copy.glob("volumes/*/*/attack.json"))
    for other in others:
        shutil.rmtree(other)
    case_key = folder.name.rpartition("-")[2]
    cell_id = folder.parent.name.rpartition("-")[2]
    altered = {("records", "dsc_foreground"): 0.987, ("records", "ssim"): 0.987}
    altered |= {("class_records", "assd_mm"): 9.87, ("class_records", "hd95_mm_clean"): np.nan}
    expected: dict[tuple[str, str, str], tuple[int, str]] = {}

    def change(kind: str, rows: Rows) -> None:
        kept = [row for row in rows if (row["cell_id"], row["case_key"]) == (cell_id, case_key)]
        for (_, column), value in ((place, value) for place, value in altered.items() if place[0] == kind):
            row = next(row for row in kept if row.get("class_index", 1) and np.isfinite(row[column]))
            row[column] = value
            libraries = [library for name, library in and_clean(OF_CLASSES | OF_RECORDS | OF_IMAGES) if name == column]
            of_row = row_id(*(row[name] for name in KEY))
            expected.update({(kind, column, library): (1, of_row) for library in libraries})

    for kind in ("records", "class_records"):
        alter(grid_copy, kind, partial(change, kind))
    comparison = compare(Store(str(grid_copy)), 99)
    assert (comparison.rows, len(expected)) == (2, 5)
    assert beyond(comparison) == expected


def test_the_command_fails_for_an_altered_row_alone(grid_copy: Path, bench: Bench) -> None:
    code, out, _ = bench("audit", str(grid_copy), "--files", "--reference", "1")
    assert code == 0
    assert "largest differences of 1 of 16 saved rows from other libraries" in " ".join(out.split())
    alter(grid_copy, "records", lambda rows: [row.update(ssim=0.987) for row in rows])
    code, out, _ = bench("audit", str(grid_copy), "--files", "--reference", "1")
    assert (code, out.count("wrong")) == (1, 1)


def test_rows_are_chosen_evenly_and_the_same_each_time(grid_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(reference, "_compare_row", lambda row, *_: chosen.append(row))
    for count in (4, 4, 8):
        compare(Store(str(grid_store)), count)
    once = chosen[:4]
    again = chosen[4:8]
    more = chosen[8:]
    assert once == again
    assert len({row["cell_id"] for row in once}) == 4
    assert {len({row[name] for row in more}) for name in ("cell_id", "case_key", "target_model")} == {4, 2}


def test_a_store_without_volumes_says_how_to_save_them(grid_copy: Path) -> None:
    (grid_copy / "volumes").rename(grid_copy.parent / "elsewhere")
    with pytest.raises(UserError, match="found none: run the job again with `save_adversarial: nifti`"):
        compare(Store(str(grid_copy)), 1)


def on_another_grid(store: Path) -> None:
    for path in store.glob("volumes/*/*/label.nii.gz"):
        saved_volumes.write(str(path), torch.zeros(16, 16, 16, dtype=torch.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))


def scored_in_files(store: Path) -> None:
    alter(store, "records", lambda rows: [row.update(scored_on="file") for row in rows])


def without_predictions(store: Path) -> None:
    for path in store.glob("volumes/*/*/prediction_clean-*"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (on_another_grid, reference.NOT_SAVED),
        (scored_in_files, reference.NOT_SAVED),
        (without_predictions, reference.NOT_SAVED),
    ],
)
def test_unsaved_label_maps_are_left_out(grid_copy: Path, change: Any, reason: str) -> None:
    change(grid_copy)
    comparison = compare(Store(str(grid_copy)), 4)
    assert comparison.left_out == {reason: 4}
    assert {column for _, column, _ in comparison.agreements} == {"ssim", "ssim_body"}


def test_maps_that_are_not_saved_fail_the_command(grid_copy: Path, bench: Bench) -> None:
    scored_in_files(grid_copy)
    code, out, _ = bench("audit", str(grid_copy), "--files", "--reference", "1")
    assert (code, out.count(f"1 rows without their {reference.NOT_SAVED}"), out.count(" wrong")) == (1, 1, 0)


@pytest.fixture(scope="module")
def file_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows on the grid of anisotropic files in LAS, of a network on a coarser grid and of one that resamples anew."""
    root = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(7)
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    label = np.zeros((20, 18, 14), np.uint8)
    label[4:11, 3:12, 3:10] = 1
    label[12:17, 8:15, 4:11] = 2
    image = (100 * label + draw.normal(0, 20, label.shape)).astype(np.float32)
    for name, voxels in (("image", image), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), root / f"{name}.nii.gz")
    listed = {"labels": {"0": "none", "1": "a", "2": "b"}, "test": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}
    (root / "dataset.json").write_text(json.dumps(listed))
    data = {"name": "d", "loader": "decathlon", "root": str(root), "spacing": [2, 2, 2]}
    entry = {"arch": "unet", "args": ARGS, "checkpoint": "random", "roi": ROI}
    models = [{"name": "a", **entry}, {"name": "b", **entry, "preprocess": {"spacing": [2.5, 2.5, 2.5]}}]
    changes = {"datasets": [data], "models": models, "targets": "all", "save_adversarial": "nifti", "score_on": "file"}
    execute(job(**changes, attacks=[{"name": "fgsm", "eps": "64/255"}], metrics=["dsc", "hd95", "assd"]), root / "out")
    return root / "out"


def test_rows_on_the_grid_of_the_file_agree_with_every_library(file_store: Path) -> None:
    comparison = compare(Store(str(file_store)), 99)
    assert (comparison.rows, comparison.left_out) == (4, {})
    expected = {("records", *source): 4 for source in and_clean(OF_CLASSES | OF_RECORDS)}
    expected |= {("class_records", *source): 12 for source in and_clean(OF_CLASSES)}
    assert {source: each.rows for source, each in comparison.agreements.items()} == expected
    assert not beyond(comparison)


def test_the_maps_that_were_scored_are_on_the_grid_of_the_file(file_store: Path) -> None:
    """The label is the file's own, voxel by voxel, with its sides."""
    paths = [*file_store.glob("volumes/*/*/scored-*.nii.gz")]
    assert {path.name for path in paths} == {"scored-a.nii.gz", "scored-b.nii.gz"}
    label = nibabel.load(file_store.parent / "label.nii.gz")
    for saved in map(nibabel.load, paths):
        assert np.array_equal(saved.get_fdata()[..., 0], label.get_fdata())
        assert np.array_equal(saved.affine, label.affine)


def test_altered_dice_of_row_on_grid_of_file_is_found(file_store: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(file_store, tmp_path / "out"))
    alter(out, "records", lambda rows: rows[0].update(dsc_foreground=0.987))
    altered = {source: number for source, (number, _) in beyond(compare(Store(str(out)), 99)).items()}
    assert altered == {("records", "dsc_foreground", library): 1 for library in ("medpy", "monai")}


def test_targets_are_held_to_their_own_predictions(tmp_path: Path) -> None:
    data = [{"name": "phantom", "shape": SHAPE, "cases": 1, "reference": "prediction"}]
    attack = {"name": "fgsm", "eps": "64/255"}
    execute(job(datasets=data, attacks=[attack], metrics=["dsc", "assd"], save_adversarial="nifti"), tmp_path / "out")
    comparison = compare(Store(str(tmp_path / "out")), 99)
    assert comparison.agreements["records", "dsc", "medpy"].rows == 4
    assert not beyond(comparison)


def test_a_moved_label_is_the_truth_of_attacked_volumes_alone(grid_copy: Path) -> None:
    for path in grid_copy.glob("volumes/*/*/prediction_adversarial-a.nii.gz"):
        shutil.copy(path, path.with_name("label_adversarial.nii.gz"))
    columns = {column for _, column, _ in beyond(compare(Store(str(grid_copy)), 2))}
    assert {column for column, _ in OF_CLASSES | OF_RECORDS} == columns


@pytest.mark.parametrize("ignored", [False, True])
def test_label_scores_have_the_columns_conventions(ignored: bool) -> None:
    """Class 3 is predicted and not in the label, class 4 the other way round, class 5 is nowhere."""
    draw = np.random.default_rng(3)
    spacing = (0.7, 1.9, 3.3)
    label = np.repeat(np.repeat(draw.integers(0, 3, (4, 4, 3)), 4, 0), 4, 1).astype(np.uint8)
    pred = np.where(draw.random(label.shape) < 0.2, draw.integers(0, 4, label.shape), label).astype(np.uint8)
    label[:3, :2, 0] = 4
    if ignored:
        label[5:9] = IGNORED
    scores = label_scores(pred, label, spacing, CLASSES, {"dsc", "hd95", "assd"})
    surfaces = metrics.surface_scores(pred, label, 6, spacing)
    dice = metrics.dice(pred, label, 6)
    means = metrics.assd(pred, label, 6, spacing)
    assert np.isnan(dice).tolist() == [False, False, False, True, False, True]
    for (column, library), values in scores.items():
        expected = {"dsc": dice, "assd_mm": means, **surfaces}[column]
        np.testing.assert_allclose(values, expected, rtol=5e-5 if library == "monai" else 1e-12, err_msg=column)


def test_label_scores_of_regions_are_those_of_the_rows() -> None:
    """Three regions that cross, in a map of codes; region 3 is in no label, and some voxels do not count."""
    draw = np.random.default_rng(3)
    label = np.repeat(np.repeat(draw.integers(0, 4, (4, 4, 3)), 4, 0), 4, 1).astype(np.uint8)
    pred = np.where(draw.random(label.shape) < 0.2, draw.integers(0, 8, label.shape), label).astype(np.uint8)
    label[5:9] = IGNORED
    spacing = (0.7, 1.9, 3.3)
    wanted = ("dsc", "hd95", "assd")
    classes = Classes(names=("none", "a", "b", "c"), overlap=True, tolerances_mm=(1.0,) * 3)
    maps = LabelMaps(pred=torch.from_numpy(pred), label=torch.from_numpy(label), classes=classes, spacing=spacing)
    parts = [each.classes for each in score_prediction(maps, wanted)]
    rows = [dict(ChainMap(*map(dict, of_class))) for of_class in zip(*parts, strict=True)]
    scores = label_scores(pred, label, spacing, [[0], [1, 3, 5, 7], [2, 3, 6, 7], [4, 5, 6, 7]], wanted)
    assert len(scores) == 6
    for (column, library), values in scores.items():
        expected = [row[column] for row in rows]
        assert np.isnan(expected).tolist() == [column == "assd_mm", False, False, True]
        np.testing.assert_allclose(values, expected, rtol=5e-5 if library == "monai" else 1e-12, err_msg=column)


def test_image_scores_are_those_of_the_columns() -> None:
    draw = np.random.default_rng(4)
    clean = draw.random((2, 34, 20, 3), np.float32)
    clean[:, :9] = 0  # air
    adversarial = (clean + 0.1 * draw.random(clean.shape, np.float32)).clip(0, 1)
    expected = {**metrics.image_scores(clean, adversarial).values}
    names = ["ssim", "psnr"]
    try:
        expected |= metrics.lpips_scores(clean, adversarial).values
        names.append("lpips")
    except metrics.LpipsUnavailable:
        pass
    scores = image_scores(clean, adversarial, names)
    columns = {column for name in names for column in metrics.METRICS[name].columns}
    assert {column for column, _ in scores} == columns
    assert {column: value for (column, _), value in scores.items()} == pytest.approx(
        {column: expected[column] for column in columns}, abs=1e-6
    )
    assert image_scores(clean, clean, ["psnr"]) == {("psnr", "scikit-image"): np.inf}
    assert not image_scores(clean[:, :5], adversarial[:, :5], ["ssim"])
