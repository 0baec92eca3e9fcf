"""nnU-Net's folders against nnunetv2's own preprocessor, predictor and export, in twenty configurations."""

from pathlib import Path

import numpy as np
import pytest
from pipelines.plans import PLANS, Plan, as_codes, by_freqbench, by_nnunetv2, wanted, written

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
