"""Scores on the grid of the file: predictions go back through crop, size and resampling to the untouched label map."""

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from data.downloads import put
from engine.cases import grid_of, stored
from models import nifti_tool
from nibabel.processing import resample_from_to
from tiny_job import ARGS, ROI, execute, expanded, rows, small
from torch import Tensor, nn

import freqbench as fb
from freqbench.analysis.frames import found_records
from freqbench.audit.checks import audited, gathered
from freqbench.audit.reproduce import Reproducer
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, CaseRef, FileLabel
from freqbench.engine import memory
from freqbench.metrics import dice
from freqbench.models import SegmentationModel
from freqbench.results import Store

SHAPE = (26, 22, 12)
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.5, 0, -4], [0, 0, -2, 9], [0, 0, 0, 1]])
COLUMNS = ("dsc", "dsc_clean", "hd95_mm_clean", "missed_classes", "scored_on", "caution", "linf", "ssim")
GN = [{"name": "gn", "std": "8/255"}]
VOTES = "a: expected score_on: grid for a defence that votes"


def anatomy() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A body of two organs in air; a third class, filled with air, lies beside it."""
    rng = np.random.default_rng(0)
    image = np.full(SHAPE, -1000, np.float32)
    image[8:24, 3:20, 1:11] = rng.normal(0, 6, (16, 17, 10))
    label = np.zeros(SHAPE, np.uint8)
    label[10:15, 5:12, 3:8] = 1
    label[16:21, 10:16, 4:9] = 2
    image[label == 1] += 80
    image[label == 2] += 160
    label[1:5, 4:12, 3:9] = 3
    return image, label


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("data")
    for name, voxels in zip(("image", "label"), anatomy(), strict=True):
        put(root / f"{name}.nii.gz", voxels, AFFINE)
    labels = {"0": "background", "1": "left", "2": "right", "3": "gas"}
    (root / "dataset.json").write_text(
        json.dumps({"labels": labels, "test": [{"image": "image.nii.gz", "label": "label.nii.gz"}]})
    )
    return {"name": "d", "loader": "decathlon", "root": str(root), "intensity": {"window": [-175, 250]}}


def job_of(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return small(**{"datasets": [data], "attacks": GN, "metrics": ["dsc", "hd95", "ssim"], **changes})


def row_of(out: Path | str) -> dict[str, Any]:
    (row,) = stored(out, COLUMNS)
    return row


@pytest.fixture(scope="module")
def both(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of two stores, `grid` and `file`, and what was said of the first."""
    folder = tmp_path_factory.mktemp("both")
    said = {"grid": io.StringIO(), "file": io.StringIO()}
    for score_on, text in said.items():
        execute(job_of(data, score_on=score_on), folder / score_on, text)
    return folder, said["grid"].getvalue()


class Organs(nn.Module):
    """A network that is right wherever the grid has the file's voxels: each class by its intensity."""

    def __init__(self) -> None:
        super().__init__()
        self.middles = nn.Parameter(torch.tensor([0.0, 80, 160]))

    def forward(self, x: Tensor) -> Tensor:
        hu = 425 * x - 175
        near = -(hu - self.middles[:, None, None, None]).square()
        return torch.cat([near, torch.full_like(hu, -1e9)], dim=1) / 100


def test_labels_of_the_grid_go_back_to_the_files_voxels(data: dict[str, Any], tmp_path: Path) -> None:
    """Without resampling: the saved prediction, put into the file's grid by nibabel, has the Dice of the row."""
    execute(job_of(data, score_on="file", save_adversarial="nifti"), tmp_path)
    saved = {path.name.split("-")[0]: path for path in tmp_path.rglob("prediction_*")}
    file = nibabel.Nifti1Image(anatomy()[1], AFFINE)
    scores = {}
    for name, path in saved.items():
        back = resample_from_to(nibabel.load(path), file, order=0, cval=0).get_fdata().astype(np.uint8)
        scores[name] = dice(torch.from_numpy(back), torch.from_numpy(anatomy()[1]), 4).mean()
    row = row_of(tmp_path)
    assert row["dsc_clean"] == pytest.approx(float(scores["prediction_clean"]), abs=1e-6)
    assert row["dsc"] == pytest.approx(float(scores["prediction_adversarial"]), abs=1e-6)


def test_maps_that_were_scored_are_saved_on_the_files_grid(data: dict[str, Any], tmp_path: Path) -> None:
    """Label and clean prediction, then those of the attacked volume; labels voxel by voxel, with their sides."""
    execute(job_of({**data, "spacing": [2.5, 2.5, 2.5]}, score_on="file", save_adversarial="nifti"), tmp_path)
    (path,) = tmp_path.glob("volumes/*/*/scored-*.nii.gz")
    saved = nibabel.load(path)
    row = row_of(tmp_path)
    label, clean, again, attacked = np.moveaxis(saved.get_fdata().astype(np.uint8), -1, 0)
    assert np.array_equal(saved.affine, AFFINE)
    assert np.array_equal(label, anatomy()[1])
    assert np.array_equal(again, label)
    assert row["dsc_clean"] == pytest.approx(float(np.nanmean(dice(clean, label, 4))), abs=1e-6)
    assert row["dsc"] == pytest.approx(float(np.nanmean(dice(attacked, label, 4))), abs=1e-6)


def test_rows_on_the_grid_of_the_file_have_medpy_s_scores(both: tuple[Path, str]) -> None:
    store = Store(str(both[0] / "file"))
    (report,) = Reproducer(store, None).each([*store.covered()])
    assert report.verdict == "equal"
    assert len(report.by_medpy) == 3 + 2 * 4
    assert any(each.column.startswith("class") and each.found > 0 for each in report.by_medpy)


def test_classes_are_those_of_the_untouched_label_map(data: dict[str, Any], tmp_path: Path) -> None:
    execute(job_of({**data, "spacing": [2.5, 2.5, 2.5], "pad_to": [16, 16, 16]}, score_on="file"), tmp_path)
    stored = Store(str(tmp_path)).class_records(("class_index", "label_voxels")).to_pylist()
    counts = {row["class_index"]: row["label_voxels"] for row in stored}
    assert counts == dict(enumerate(np.bincount(anatomy()[1].ravel()).tolist()))


def test_class_lost_on_the_grid_is_missed_in_the_file(both: tuple[Path, str]) -> None:
    out, said = both
    on_grid = row_of(out / "grid")
    in_file = row_of(out / "file")
    lost = "label voxels are lost: 192 of 192 voxels of `gas` lie outside the crop to intensities above the lower bound"
    assert (on_grid["caution"], in_file["caution"]) == (lost, None)
    classes = Store(str(out / "file")).class_records(("class_index", "dsc_clean")).to_pylist()
    assert [row["dsc_clean"] for row in classes if row["class_index"] == 3] == [0]
    assert lost in " ".join(said.split())
    (finding,) = [each for each in audited(gathered([Store(str(out / "grid"))])) if each.check == "organs"]
    assert (finding.verdict, "the label lacks" in finding.sentence) == ("violated", False)
    assert "192 of 192 voxels of `gas` lie outside the crop" in finding.sentence
    (finding,) = [each for each in audited(gathered([Store(str(out / "file"))])) if each.check == "organs"]
    assert finding.verdict == "holds"


def test_distances_between_volumes_stay_on_grid_that_is_attacked(both: tuple[Path, str]) -> None:
    on_grid, in_file = (row_of(both[0] / name) for name in ("grid", "file"))
    expected = [on_grid[name] for name in ("linf", "ssim")]
    assert [in_file[name] for name in ("linf", "ssim")] == expected
    assert in_file["dsc"] != on_grid["dsc"]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("score_on", ["grid", "file"])
def test_perfect_network_scores_one_on_both(tmp_path: Path, score_on: str, flips: tuple[int, int, int]) -> None:
    image, label = anatomy()
    label[label == 3] = 0
    for name, voxels in (("image", np.where(label == 0, np.minimum(image, 30), image)), ("label", label)):
        put(tmp_path / f"{name}.nii.gz", voxels, AFFINE @ np.diag([*flips, 1]))
    window = {"intensity": {"window": [-175, 250]}}
    case = fb.Case.from_file(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", labels=4, **window)
    record = fb.evaluate(fb.load_model(Organs(), roi=(16,) * 3), case, case.image, metrics=["dsc"], score_on=score_on)
    assert (record["dsc_clean"], record["dsc"], record["scored_on"]) == (1, 1, score_on)
    shape = SHAPE if score_on == "file" else tuple(case.image.shape[1:])
    assert sum(row["label_voxels"] for row in record.classes) == np.prod(shape)


def test_distances_in_millimetres_are_those_of_the_files_voxels(tmp_path: Path) -> None:
    """The label is two voxels longer than the organ, along the axis of 2 mm."""
    image, label = anatomy()
    label[label == 3] = 0
    label[10:15, 5:12, 8:10] = 1
    for name, voxels in (("image", image), ("label", label)):
        put(tmp_path / f"{name}.nii.gz", voxels, AFFINE)
    case = fb.Case.from_file(
        tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", labels=4, intensity={"window": [-175, 250]}
    )
    model = fb.load_model(Organs(), roi=(16, 16, 16))
    assert fb.evaluate(model, case, case.image, metrics=["hd95"], score_on="file").classes[1]["hd95_mm_clean"] == 4


def test_python_scores_as_a_run_does(data: dict[str, Any], tmp_path: Path) -> None:
    weights = {"arch": "unet", "args": ARGS, "roi": ROI, "num_classes": 4}
    execute(job_of(data, score_on="file", attacks=[{"name": "fgsm", "eps": "8/255"}]), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        case = fb.load_dataset(**{key: value for key, value in data.items() if key != "name"})[0]
    model = fb.load_model("random", **weights)
    result = fb.attack(model, case, "fgsm", eps="8/255")
    record = fb.evaluate(model, case, result, metrics=["dsc", "hd95"], score_on="file")
    row = row_of(tmp_path)
    expected = pytest.approx([row[name] for name in ("dsc", "dsc_clean", "hd95_mm_clean")], nan_ok=True)
    assert [record[name] for name in ("dsc", "dsc_clean", "hd95_mm_clean")] == expected


def test_clean_prediction_agrees_with_itself_in_the_file(data: dict[str, Any], tmp_path: Path) -> None:
    execute(job_of({**data, "reference": "prediction"}, score_on="file"), tmp_path)
    row = row_of(tmp_path)
    assert (row["dsc_clean"], row["caution"]) == (1, None)
    assert row["dsc"] < 1


def test_a_phantom_has_no_grid_beside_its_own(tmp_path: Path) -> None:
    for score_on in ("grid", "file"):
        execute(small(score_on=score_on), tmp_path / score_on)
    on_grid = [{**row, "scored_on": "", "cell_id": ""} for row in rows(tmp_path / "grid").values()]
    assert on_grid == [{**row, "scored_on": "", "cell_id": ""} for row in rows(tmp_path / "file").values()]


def test_a_cell_scored_in_the_file_marks_its_dataset(data: dict[str, Any]) -> None:
    (cell,) = grid_of(job_of(data, score_on="file")).cells
    assert cell.dataset_shown == "d (file grid)"


class Bright(nn.Module):
    """Says labels of whole volumes alone, as a command does: 1 where a voxel is bright."""

    takes_volumes = True

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(0))

    def forward(self, images: Tensor, *_: object) -> Tensor:
        return 20 * torch.cat([images < 0.5, images >= 0.5], dim=1).float()


def test_labels_alone_go_to_the_nearest_voxels_of_a_file() -> None:
    """A lone voxel fills its whole block of the finer file, of which interpolated scores would leave the middle."""
    image = torch.zeros(1, 4, 4, 4)
    affine = np.diag([2.0, 2, 2, 1])
    image[0, 1, 2, 1] = 1
    affine[:3, 3] = 0.5
    about: dict[str, Any] = {"spacing": (2.0,) * 3, "original_spacing": (1.0,) * 3, "native_ranges": ((0.0, 1.0),)}
    ref = CaseRef(case_id="a", patient_id="a", fingerprint="0", shape=(4, 4, 4))
    case = Case(ref=ref, image=image, label=torch.zeros(1, 4, 4, 4, dtype=torch.uint8), affine=affine, **about)
    file = FileLabel(label=torch.zeros(1, 8, 8, 8, dtype=torch.uint8), affine=np.eye(4), spacing=(1.0,) * 3)
    space = Preprocess(spacing=None, intensity="minmax", crop_foreground=False)
    made, _ = memory.segment(SegmentationModel(Bright(), (4, 4, 4)), case, 1, to=(file, space))
    wanted = image[0].repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(made.scored.labels, wanted.to(torch.uint8))


def test_no_mean_holds_scores_of_both_grids(both: tuple[Path, str]) -> None:
    _, records = found_records([Store(str(both[0] / name)) for name in ("grid", "file")], None)
    assert sorted(records["dataset"].unique()) == ["d", "d (file grid)"]
    assert set(fb.load_results(both[0] / "file")["dataset"]) == {"d"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attacks": [{"name": "deformation", "max_mm": 2}]}, "deformation: expected score_on: grid, as its labels"),
        ({"defence": {"name": "smoothing", "kind": "voxels", "sigma": 0.1}}, VOTES),
        ({"defence": {"name": "randomized_smoothing", "sigma": 0.1}}, VOTES),
        ({"score_on": "native"}, "score_on: "),
    ],
)
def test_scoreless_in_the_file_are_refused(data: dict[str, Any], changes: dict[str, Any], text: str) -> None:
    content = job_of(data, score_on="file")
    content["models"][0] |= {key: value for key, value in changes.items() if key == "defence"}
    content |= {key: value for key, value in changes.items() if key != "defence"}
    with pytest.raises(UserError, match=re.escape(text)):
        expanded(content)


def test_labels_of_command_go_to_nearest_voxels_and_plan_says_so(data: dict[str, Any], tmp_path: Path) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text(nifti_tool.script("value > 50"))
    command = {
        "name": "tool",
        "command": ["python", str(tool), "{image}", "{labels}"],
        "preprocess": {"spacing": [2, 3, 4], "crop_foreground": False, "intensity": "minmax"},
    }
    content = job_of(data, models=[command], score_on="file", trust_code=True)
    assert any("tool: says labels alone: score_on: file" in line for line in grid_of(content).warnings)
