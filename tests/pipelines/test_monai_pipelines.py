"""Pipelines of MONAI's transforms against MONAI's own Compose, inferer and `Invertd`, in twelve ways."""

from pathlib import Path

import numpy as np
import pytest
from pipelines.bundles import PIPELINES, Words, by_freqbench, by_monai, written

from freqbench.core.plugins import trusting

QUICK = ("z-scores of voxels that are not 0, as `transforms:`", "range, spacing in SAR, Invertd")
CASES = [
    pytest.param(words, id=words.name, marks=[] if words.name in QUICK else pytest.mark.integration)
    for words in PIPELINES
]


@pytest.mark.parametrize("words", CASES)
def test_the_map_of_the_file_is_that_of_monais_own_steps(words: Words, tmp_path: Path) -> None:
    """Input, and the restored map: all voxels but ties of rounding."""
    bundle, data = written(words, tmp_path)
    with trusting("$" in str(words.steps)):
        theirs, ours = by_monai(words, data), by_freqbench(words, bundle, data)
    np.testing.assert_allclose(ours.seen, theirs.image, atol=1e-5)
    assert 0 <= float(ours.case.image.min()) <= float(ours.case.image.max()) <= 1
    assert len(np.unique(theirs.labels)) > 2
    assert theirs.ties.mean() < 0.01
    np.testing.assert_array_equal(ours.labels[~theirs.ties], theirs.labels[~theirs.ties])
