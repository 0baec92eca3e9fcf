"""Pipelines of MONAI's transforms against MONAI's own Compose, inferer and `Invertd`, in nineteen ways."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import seeded
from pipelines.bundles import PIPELINES, Words, by_freqbench, by_monai, written

from freqbench.core.plugins import trusting
from freqbench.core.types import CaseRef, NativeCase
from freqbench.pipelines.monai import MonaiPipeline

QUICK = ("z-scores of voxels that are not 0, as `transforms:`", "range, spacing in SAR, Invertd")
CASES = [pytest.param(p, id=p.name, marks=[] if p.name in QUICK else pytest.mark.integration) for p in PIPELINES]


@pytest.mark.parametrize("words", CASES)
def test_the_map_of_the_file_is_that_of_monais_own_steps(words: Words, tmp_path: Path) -> None:
    """Input, and the restored map: all voxels but ties of rounding."""
    bundle, data = written(words, tmp_path)
    with trusting(words.needs_trust):
        theirs = by_monai(words, data)
        ours = by_freqbench(words, bundle, data)
    np.testing.assert_allclose(ours.in_their_axes(ours.seen), theirs.image, atol=1e-5)
    assert 0 <= float(ours.case.image.min()) <= float(ours.case.image.max()) <= 1
    assert len(np.unique(theirs.labels)) > 2
    assert theirs.ties.mean() < 0.01
    np.testing.assert_array_equal(ours.labels[~theirs.ties], theirs.labels[~theirs.ties])


@pytest.mark.parametrize("argmax", [{"argmax": True}, {"argmax": True, "to_onehot": 3}])
def test_confidences_are_probabilities_beside_classes(argmax: dict[str, Any]) -> None:
    """Without a change of the grid, they are the softmax itself, whatever the bundle makes of it."""
    before = {"_target_": "Compose", "transforms": [{"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}]}
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
        {"_target_": "AsDiscreted", "keys": "pred", **argmax},
    ]
    config = {"preprocessing": before, "postprocessing": {"_target_": "Compose", "transforms": steps}}
    pipeline = MonaiPipeline(release="0", config=config)
    image = torch.randn(1, 6, 5, 4, generator=seeded(0))
    ref = CaseRef(case_id="k", patient_id="k", fingerprint="0" * 16, shape=(6, 5, 4))
    label = torch.zeros(1, 6, 5, 4, dtype=torch.uint8)
    native = NativeCase(ref=ref, image=image, label=label, affine=np.eye(4), spacing=(1, 1, 1), source="k")
    logits = torch.randn(3, 6, 5, 4, generator=seeded(1))
    labels, probabilities = pipeline.restore(pipeline.prepare(native).facts, logits, "softmax", False, True)
    assert probabilities is not None
    torch.testing.assert_close(probabilities, logits.softmax(dim=0), rtol=0, atol=1e-6)
    assert torch.equal(labels.long(), logits.argmax(dim=0))
