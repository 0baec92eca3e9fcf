"""nnU-Net's folders against nnunetv2's own preprocessor, predictor and export, in twenty configurations."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from pipelines.plans import PLANS, Plan, as_codes, by_freqbench, by_nnunetv2, in_file, wanted, written

from freqbench import load_dataset, load_model
from freqbench.data import witnesses
from freqbench.engine import witness

pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")

QUICK = ("nested regions of four channels",)
CASES = [pytest.param(p, id=p.name, marks=[] if p.name in QUICK else pytest.mark.integration) for p in PLANS]


@pytest.mark.parametrize("plan", CASES)
def test_the_map_of_the_file_is_that_of_nnunets_own_predictor(plan: Plan, tmp_path: Path) -> None:
    """Input, label map of the grid, logits, and the restored map: all voxels but ties of rounding."""
    folder, raw = written(plan, tmp_path)
    theirs = by_nnunetv2(folder, raw, plan.folds)
    ours = by_freqbench(folder, raw)
    np.testing.assert_allclose(ours.in_their_axes(ours.seen), theirs.data, atol=1e-5)
    label = theirs.seg.clip(0).astype(np.uint8)
    label = as_codes(plan, label) if plan.has_regions else label
    np.testing.assert_array_equal(ours.in_their_axes(ours.case.label), label)
    assert 0 <= float(ours.case.image.min()) <= float(ours.case.image.max()) <= 1
    exact, _, ties = wanted(plan, theirs)
    assert len(np.unique(exact)) > 2
    assert ties.mean() < 0.01
    np.testing.assert_array_equal(ours.labels[~ties], exact[~ties])


@pytest.mark.integration
@pytest.mark.parametrize("name", ["CT", "nested regions of four channels", "regions that are not nested"])
def test_a_label_map_that_nnunet_wrote_is_proven(name: str, tmp_path: Path) -> None:
    """Sums in float16 and regions drawn over each other are nnU-Net's own: nothing is set otherwise."""
    plan = next(each for each in PLANS if each.name == name)
    folder, raw = written(plan, tmp_path)
    theirs = by_nnunetv2(folder, raw, plan.folds)
    grid = nibabel.load(raw / "labelsTr/a.nii.gz").affine
    (tmp_path / "own").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(in_file(plan, theirs.in_float16).astype(np.uint8), grid), tmp_path / "own/a.nii.gz"
    )
    model, dataset = load_model(folder), load_dataset("nnunet_raw", root=str(raw), split="training").dataset
    own = witnesses.find(str(tmp_path / "own"), dataset, "n")
    held = witness.hold(model.network, model.spec, dataset, own.refs[0], own.files["a"])
    assert held.is_proven, witness.verdict("n", [held])
