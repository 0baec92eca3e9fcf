"""Gradients that say nothing of a model: refused where they are no numbers, said where they are 0."""

import io
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, every_attack, example, generators, volumes
from tiny_job import ARGS, ROI, execute, small

from freqbench import models
from freqbench.audit.checks import audited, gathered
from freqbench.core.errors import UserError
from freqbench.engine.attacking import caution_of
from freqbench.results import Store

ZERO, USEFUL, PARTLY, NONE = (torch.tensor([f]) for f in ([False, True], [True, True], [True, False], [False, False]))


def scaled(folder: Path, scale: float) -> list[dict[str, Any]]:
    """The entry of an untrained network whose weights are all so many times as large."""
    weights = {key: scale * w for key, w in models.build("unet", 6, (16, 16, 16), ARGS, seed=0).state_dict().items()}
    metadata = {"arch": "unet", "args": ARGS, "roi": ROI, "num_classes": 6}
    models.save_checkpoint(str(folder / "h.safetensors"), weights, metadata, half=False)
    return [{"name": "huge", "checkpoint": str(folder / "h.safetensors")}]


def test_gradients_of_nan_fail_the_row(tmp_path: Path) -> None:
    summary = execute(small(models=scaled(tmp_path, 1e18)), tmp_path / "out")
    (row,) = Store(str(tmp_path / "out")).records().to_pylist()
    assert (summary.num_failed, row["status"]) == (1, "failed")
    assert row["error"].startswith("huge: expected finite gradients of the network, got NaN or infinities")


@pytest.mark.parametrize("scope", ["window", "volume"])
def test_gradients_of_zero_are_said_in_row_run_and_audit(tmp_path: Path, scope: str) -> None:
    """Weights are so large that a Dice over probabilities of 0 and 1 is flat, as that of a masked network."""
    said, out = io.StringIO(), tmp_path / "out"
    attacks = [{"name": name, "eps": "8/255", "loss": "dice", "scope": scope} for name in ("fgsm", "pgd")]
    execute(small(models=scaled(tmp_path, 1e10), attacks=attacks, metrics=["dsc"]), out, said)
    rows = Store(str(out)).records().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert {row["caution"] for row in rows} == {"every gradient was 0: the attack had nothing to follow"}
    warned = " ".join(said.getvalue().split())
    assert warned.count("2 records say little about their model, most of them of pgd on huge: every gradient") == 1
    assert any("say little about their model" in path.read_text() for path in out.glob("runs/*.json"))
    (finding,) = [each for each in audited(gathered([Store(str(out))])) if each.check == "zero_gradients"]
    assert finding.verdict == "violated"
    assert finding.sentence.startswith("100.0 % of the rows of fgsm")


@pytest.mark.parametrize(
    ("gradients", "caution"),
    [([USEFUL, ZERO], None), ([ZERO, ZERO], "every gradient was 0: the attack had nothing to follow"),
     ([ZERO, PARTLY], "some gradients had NaN or infinities: the attack took these voxels for settled")],
)  # fmt: skip
def test_one_gradient_of_use_is_enough(gradients: list[torch.Tensor], caution: str | None) -> None:
    assert caution_of("m", gradients) == caution


def test_no_gradient_of_use_and_one_of_nan_is_refused() -> None:
    with pytest.raises(UserError, match="m: expected finite gradients"):
        caution_of("m", [ZERO, NONE])


@pytest.mark.parametrize(("tile", "caution"), [(1.0, None), (0.0, "every gradient was 0: the attack learned nothing")])
def test_an_attack_that_learned_nothing_says_so(tile: float, caution: str | None) -> None:
    assert caution_of("m", [USEFUL[:0]], torch.full((1, 2, 2, 2), tile)) == caution


@every_attack
def test_an_attack_tells_of_each_gradient_that_it_follows(name: str) -> None:
    images, labels = volumes()
    result = example(name)(SmallNet(), images, labels, generator=generators(1, 2))
    assert caution_of("m", [result.gradients]) is None
    assert bool(len(result.gradients)) == bool(result.num_backwards or name == "bases")  # whose are of surrogates


def test_reason_in_files_is_no_masked_gradient(tmp_path: Path) -> None:
    """HU + 1024 in the window of HU: every labelled voxel is clipped to 1."""
    rng, image = np.random.default_rng(0), np.zeros((20, 18, 16), np.float32)
    image[3:17, 3:15, 2:14] = 1060 + rng.normal(0, 8, (14, 12, 12))
    label = np.zeros(image.shape, np.uint8)
    label[6:12, 6:12, 4:10] = 1
    for name, voxels in (("i", image), ("l", label)):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    listed = {"labels": {"0": "air", "1": "organ"}, "test": [{"image": "i.nii.gz", "label": "l.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    window = {"intensity": {"window": [-175, 250]}, "crop_foreground": False}
    data, said = {"name": "d", "loader": "decathlon", "root": str(tmp_path), **window}, io.StringIO()
    execute(small(datasets=[data], metrics=["dsc"]), tmp_path / "out", said)
    (row,) = Store(str(tmp_path / "out")).records(("caution",)).to_pylist()
    assert row["caution"].startswith("i.nii.gz: expected intensities on the scale of the window [-175, 250]")
    assert "100% of labelled voxels clipped to 1" in row["caution"]
    warned = " ".join(said.getvalue().split())
    assert warned.count("subtract 1024") == 1
    assert "say little about their model" not in warned
    (finding,) = [each for each in audited(gathered([Store(str(tmp_path / "out"))])) if each.check == "zero_gradients"]
    assert finding.verdict == "not checked"
