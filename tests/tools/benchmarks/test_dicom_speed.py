"""A series of 200 slices of 512 x 512 int16 with a slope, as a ratio to SimpleITK's own reader, by wall-clock seconds.

Both sort the slices by position and scale them, with the files in the system's cache, in turns; the median ratio
counts. The whole loader also looks for patients' fields in names and hashes all files. `--fast`: 20 slices; no bound is
held.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from data.conftest import made
from data.dicom_files import put_series

from freqbench.data import dicom, image_files

TURNS, MOST = 5, 2.0
NAMES = ("SimpleITK", "here", "the whole loader")


def seconds(read: Callable[[], object]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_series_reads_as_simpleitk(
    tmp_path: Path, measured: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    fast = request.config.getoption("--fast")
    slices = 20 if fast else 200
    voxels = np.random.default_rng(0).integers(-1000, 2000, (512, 512, slices)).astype(np.float32)
    put_series(tmp_path / "images/a", voxels, scale=(1.0, -1024.0))

    def by_itk() -> Any:
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "images/a"))
        return SimpleITK.ReadImage(names, SimpleITK.sitkFloat32)

    def here() -> Any:
        dicom.series._series.cache_clear()
        return image_files.read_image(dicom.read_series(sorted((tmp_path / "images/a").iterdir()), tmp_path))

    def loaded() -> Any:
        dicom.series._series.cache_clear()
        dataset = made("dicom", root=str(tmp_path), reference="prediction", labels=2)
        return dataset.native(dataset.refs()[0])

    np.testing.assert_array_equal(here()[0].T, SimpleITK.GetArrayFromImage(by_itk()))
    turns = [(seconds(by_itk), seconds(here), seconds(loaded)) for _ in range(1 if fast else TURNS)]
    ratio, of_loader = (statistics.median(turn[k] / turn[0] for turn in turns) for k in (1, 2))
    measured.append(
        {
            "what": f"a series of {slices} slices of 512 x 512 int16",
            **{f"{name}, s": statistics.median(turn[k] for turn in turns) for k, name in enumerate(NAMES)},
            "ratio to SimpleITK": ratio,
            "ratio of the whole loader": of_loader,
        }
    )
    assert fast or ratio <= MOST
