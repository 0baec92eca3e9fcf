"""Cases and networks of regions that overlap, in Python."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from models import nnunet_folder
from torch import nn

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.ops.regions import numbers_of
from freqbench.reporting.figures import cases

ROI = (8, 8, 8)
REGIONS = {"whole": [1, 2], "core": [2]}


def network(outputs: str = "sigmoid", count: int = 2) -> fb.Model:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return fb.load_model(nn.Conv3d(1, count, 3, padding=1), roi=ROI, outputs=outputs)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(1)
    label = np.zeros((8, 8, 8), np.uint8)
    label[1:7, 1:7, 1:7] = 1
    label[3:6, 3:6, 3:6] = 2
    paths = [str(tmp_path / "image.nii.gz"), str(tmp_path / "label.nii.gz")]
    nibabel.save(nibabel.Nifti1Image(rng.random(label.shape, np.float32), np.eye(4)), paths[0])
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), paths[1])
    return paths


def test_a_case_of_regions_is_attacked_and_scored_by_region(files: list[str]) -> None:
    model = network()
    case = fb.Case.from_file(*files, regions=REGIONS, crop_foreground=False)
    assert (model.spec.num_classes, model.spec.num_outputs, case.class_names) == (3, 2, ("background", *REGIONS))
    assert "regions whole, core" in repr(case)
    assert case.label is not None
    assert case.label.unique().tolist() == [0, 1, 3]
    record = fb.evaluate(model, case, fb.attack(model, case, "fgsm", eps="8/255"), metrics=["dsc"])
    inside = model.network(case.image[None])[0] > 0
    label = torch.stack([case.label[0] & 1 == 1, case.label[0] & 2 == 2])
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(inside, label, strict=True)]
    assert record["dsc_foreground_clean"] == pytest.approx(float(sum(dice) / 2))
    assert [row["class_name"] for row in record.classes] == ["background", *REGIONS]


def test_a_figure_of_a_result_has_every_region_of_its_maps(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(cases, "draw_case", lambda saved, *_: shown.append(saved) or Figure())
    model = network()
    case = fb.Case.from_file(*files, regions=REGIONS, crop_foreground=False)
    result = fb.attack(model, case, "fgsm", eps="8/255")
    result.figure()
    ((_, prediction),) = shown[0].predictions.values()
    for labels, codes in ((shown[0].label, result.label[0]), (prediction, result.prediction)):
        pairs = {*zip(labels.ravel().tolist(), codes.ravel().tolist(), strict=True)}
        assert all(shown[0].regions[label] == numbers_of(code) for label, code in pairs)
        assert (2, 3) in pairs


def test_certificates_are_of_the_scores_of_regions(files: list[str]) -> None:
    """Next to no change: every draw has the scores of the clean prediction."""
    model = network()
    case = fb.Case.from_file(*files, regions=REGIONS, crop_foreground=False)
    record = fb.evaluate(model, case, fb.attack(model, case, "fgsm", eps="1/255"), metrics=["dsc"])
    scores = fb.certify(model, case, "bias_field", sigma=1e-9, draws=3).scores
    expected = {f"dsc_{row['class_index']}": row["dsc_clean"] for row in record.classes}
    expected["dsc_foreground"] = record["dsc_foreground_clean"]
    assert {name: scores[name] for name in expected} == {
        name: pytest.approx([value] * 3, abs=1e-6) for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("outputs", "regions", "line"),
    [
        ("softmax", REGIONS, "expected cases of exclusive classes, as its outputs are softmax, got others in image: "),
        ("sigmoid", None, "expected cases of regions, by the key regions of .*, as its outputs are sigmoid, got oth"),
    ],
)
def test_other_kind_is_refused(files: list[str], outputs: str, regions: dict[str, list[int]] | None, line: str) -> None:
    case = fb.Case.from_file(*files, labels=3, regions=regions)
    with pytest.raises(UserError, match=line):
        fb.attack(network(outputs, 3), case, "fgsm", eps="8/255")


def test_one_region_is_enough() -> None:
    assert network(count=1).spec.num_classes == 2
    with pytest.raises(UserError, match="expected 2 output classes, got 1: leave num_classes out"):
        fb.load_model(nn.Conv3d(1, 1, 3, padding=1), roi=ROI, outputs="sigmoid", num_classes=3)


def test_a_folder_of_nnunet_with_regions_has_one_output_a_region(tmp_path: Path) -> None:
    written = nnunet_folder.write(
        tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres",
        lambda _, dataset, __: dataset.update(labels={"background": 0, **REGIONS}, regions_class_order=[1, 2]),
        network=nnunet_folder.direct("PlainConvUNet", classes=2),
    )
    with pytest.warns(UserWarning, match="look untrained"):
        model = fb.load_model(written)
    spec = model.spec
    assert (spec.head, spec.num_classes, spec.num_outputs) == ("sigmoid", 3, 2)
    assert model.class_names == ("background", *REGIONS)


@pytest.mark.parametrize("name", ["unet", "segresnet"])
def test_weights_show_the_channels_of_a_packaged_network(name: str) -> None:
    assert fb.load_model(f"zoo://lesions/{name}").spec.num_channels == 4
