"""The first case of a job to be written: the files choose intensities, and the clean Dice fits none."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.networks.nets import SwinUNETR

from freqbench.audit.first_case import FirstCase, first_case, modality_of
from freqbench.data.loaders.phantom import Phantom
from freqbench.models import ModelEntry, load, resolve

UNTRAINED = {"name": "unet", "arch": "unet", "checkpoint": "random"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms in Hounsfield units, in a folder of the Decathlon whose list says CT."""
    root = tmp_path_factory.mktemp("scans")
    phantom = Phantom(name="phantom", shape=(64, 64, 32))
    lines = []
    for ref in phantom.refs()[:2]:
        native = phantom.native(ref)
        for folder, voxels in (("imagesTr", native.image[0].numpy().round()), ("labelsTr", native.label[0].numpy())):
            (root / folder).mkdir(exist_ok=True)
            scan = nibabel.Nifti1Image(voxels.astype(np.int16), native.affine)
            nibabel.save(scan, root / folder / f"{ref.case_id}.nii.gz")
        names = {k: f"./{folder}/{ref.case_id}.nii.gz" for k, folder in (("image", "imagesTr"), ("label", "labelsTr"))}
        lines.append(names)
    labels = {str(number): name for number, name in enumerate(phantom.class_names)}
    content = {"modality": {"0": "CT"}, "labels": labels, "training": lines, "test": []}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def described(root: Path, modality: dict[str, str]) -> dict[str, str]:
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "modality": modality}))
    return {"name": "scans", "root": str(root), "loader": "decathlon", "split": "training"}


def chosen(root: Path, modality: dict[str, str], **more: Any) -> FirstCase:
    return first_case({**described(root, modality), **more}, UNTRAINED, is_trained=False)


@pytest.mark.integration
def test_bare_network_keeps_the_usual_intensity(scans: Path, tmp_path: Path) -> None:
    """The zoo's network had a window of 64x64x32: in one of 96 it predicts worse, which no intensity may hide."""
    spec = resolve(ModelEntry(name="unet", checkpoint="zoo://phantom/unet"), 6)
    torch.save(load(spec, torch.device("cpu")).net.state_dict(), tmp_path / "bare.pt")
    args = {"channels": [8, 16, 32, 64], "strides": [2, 2, 2]}
    bare = {"name": "unet", "arch": "unet", "args": args, "checkpoint": str(tmp_path / "bare.pt")}
    first = first_case(described(scans, {"0": "CT"}), bare, is_trained=True)
    assert first.dataset["intensity"] == {"window": [-175.0, 250.0]}
    assert [line.partition("    # ")[0] for line in first.open["dataset"]] == ["spacing: null", "crop_foreground: true"]
    assert [line.partition("    # ")[0] for line in first.open["model"]] == [
        "roi: [96, 96, 96]",
        "input: {axes: HWD}",
        "input: {scale: [0.0, 1.0]}",
        "inference: {overlap: 0.5}",
        "inference: {weighting: constant}",
    ]
    assert "this is CT, as its list says CT" in first.beside["dataset"]["intensity"]
    assert first.verdict.startswith("clean Dice of phantom_2000: 0.")


def test_facts_of_the_data_stay_where_the_network_cannot_be_run(scans: Path) -> None:
    """A SwinUNETR asks for its age and for classes at once; the window of CT is not lost."""
    net = {"in_channels": 1, "out_channels": 4, "feature_size": 12, "depths": (1, 1, 1, 1)}
    torch.save(SwinUNETR(**net).state_dict(), scans / "swin.pt")
    model = {"name": "swin", "arch": "swin_unetr", "checkpoint": str(scans / "swin.pt")}
    first = first_case(described(scans, {"0": "CT"}), model, is_trained=True)
    assert first.dataset["intensity"] == {"window": [-175.0, 250.0]}
    asked = [line for line in first.open["model"] if "asked: " in line or line.startswith("#")]
    assert [line.partition(":")[0] for line in asked] == ["migration", "# 4 outputs for 6 classes"]
    assert first.verdict.startswith("no clean Dice of the first case: swin: ")


@pytest.mark.parametrize("modality", [{}, {"0": "CT"}])
def test_ct_gets_the_usual_window_which_values_tell_too(scans: Path, modality: dict[str, str]) -> None:
    choice = chosen(scans, modality)
    assert choice.dataset["intensity"] == {"window": [-175.0, 250.0]}
    assert choice.verdict == "no clean Dice: the weights are untrained"


def test_mr_keeps_the_default_and_an_entry_s_own_intensity_stays(scans: Path) -> None:
    assert "intensity" not in chosen(scans, {"0": "MRI"}).dataset
    assert chosen(scans, {"0": "CT"}, intensity="zscore").dataset["intensity"] == "zscore"
    assert modality_of(str(scans)) == "CT"
