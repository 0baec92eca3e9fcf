"""Intensities of a first job: the files, and the clean Dice of the first case, choose them."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from freqbench.audit.first_case import intensity_for, modality_of
from freqbench.core.input_space import parse_intensity
from freqbench.data.loaders.phantom import Phantom
from freqbench.models import ModelEntry

UNET = ModelEntry(name="unet", checkpoint="zoo://phantom/unet")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms in Hounsfield units, in a folder of the Decathlon whose list says CT."""
    root, phantom, lines = tmp_path_factory.mktemp("scans"), Phantom(name="phantom", shape=(64, 64, 32)), []
    for ref in phantom.refs()[:2]:
        native = phantom.native(ref)
        for folder, voxels in (("imagesTr", native.image[0].numpy().round()), ("labelsTr", native.label[0].numpy())):
            (root / folder).mkdir(exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(voxels.astype(np.int16), native.affine), root / folder / f"{ref.case_id}.nii.gz"
            )
        names = {
            kind: f"./{folder}/{ref.case_id}.nii.gz" for kind, folder in (("image", "imagesTr"), ("label", "labelsTr"))
        }
        lines.append(names)
    labels = {str(number): name for number, name in enumerate(phantom.class_names)}
    content = {"modality": {"0": "CT"}, "labels": labels, "training": lines, "test": []}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def entry(root: Path) -> dict[str, str]:
    return {"name": "scans", "root": str(root), "loader": "decathlon", "split": "training"}


def test_the_window_under_which_the_network_predicts_best_is_chosen(scans: Path) -> None:
    """Its training had the abdominal window; the default, each volume's range, loses much of the Dice."""
    choice = intensity_for(entry(scans), UNET, modality_of(str(scans)), is_trained=True)
    assert choice.intensity is not None
    scaling = parse_intensity(choice.intensity)
    assert (scaling.kind, scaling.low, scaling.high) == ("window", -175, 250)
    assert choice.reason.startswith(
        "CT (its list says CT): the papers' abdominal window; clean Dice of phantom_2000 by"
    )
    default = float(choice.reason.rpartition("default ")[2])
    assert default + 0.05 < float(choice.verdict.split(": ")[1].split()[0])


@pytest.mark.parametrize("modality", ["", "CT"])
def test_an_untrained_network_leaves_the_usual_window_of_ct_which_values_tell_too(scans: Path, modality: str) -> None:
    untrained = ModelEntry(name="unet", arch="unet", checkpoint="random")
    choice = intensity_for(entry(scans), untrained, modality, is_trained=False)
    assert choice.intensity == {"window": [-175.0, 250.0]}
    assert choice.verdict == "no clean Dice: the weights are untrained"


def test_mr_keeps_the_default_and_an_entry_s_own_intensity_stays(scans: Path) -> None:
    untrained = ModelEntry(name="unet", arch="unet", checkpoint="random")
    assert intensity_for(entry(scans), untrained, "MRI", is_trained=False).intensity is None
    stated = {**entry(scans), "intensity": "zscore"}
    assert intensity_for(stated, untrained, "CT", is_trained=False).intensity is None
