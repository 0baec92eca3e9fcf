"""LPIPS against the stored golden values, the package's own spatial pass and what it must do by definition."""

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.core.torchvision_import import import_torchvision
from freqbench.metrics import LpipsUnavailable, lpips, lpips_scores, perceptual, weights

pytestmark = pytest.mark.usefixtures("real_weights")


@pytest.fixture(scope="module")
def real_weights() -> weights.Weights:
    """The real network, from the cache or fetched into it once."""
    try:
        return weights.trunk()
    except LpipsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def packages_network() -> Any:
    """The network of the package lpips, its random trunk replaced by the real one."""
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of an argument that the package still passes
        from lpips import LPIPS

        network = LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    trunk = weights.trunk()
    network.net.load_state_dict({key: trunk[f"features.{key.partition('.')[2]}"] for key in network.net.state_dict()})
    return network.eval()


@pytest.fixture
def volumes() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    clean = torch.rand(40, 36, 3, generator=rng)
    clean[:8] = 0  # air
    return clean, (clean + 0.2 * torch.randn(clean.shape, generator=rng)).clamp(0, 1)


@pytest.mark.parametrize("pair", ["lp0", "lp1", "lp2", "int0", "int1", "int2"])
def test_each_slice_is_the_stored_value(arrays: Path, pair: str) -> None:
    with np.load(arrays / "models" / "metrics.npz") as stored:
        clean, adversarial = ((stored[f"{pair}__{side}"] / 255).astype(np.float32) for side in ("real", "fake"))
        expected = stored[f"{pair}__lpips_per_slice"]
    slices = range(0, clean.shape[2], max(clean.shape[2] // 6, 1))
    distances = [lpips(clean[..., k : k + 1], adversarial[..., k : k + 1]) for k in slices]
    np.testing.assert_allclose(distances, expected[list(slices)], atol=2e-7)
    assert lpips(clean, adversarial) == pytest.approx(expected.mean(), abs=2e-7)


@pytest.mark.integration
def test_score_takes_neither_package_nor_torchvision_along() -> None:
    code = "import sys; from freqbench.metrics import perceptual; perceptual.alexnet('cpu')"
    code += "; print({'lpips', 'torchvision'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_body_value_is_the_packages_spatial_map_averaged_there(volumes: Any, packages_network: Any) -> None:
    packages_network.spatial = True
    body = np.zeros((40, 36, 3), bool)
    body[10:30, 5:20, 1:] = True
    images = [(2 * volume.movedim(-1, 0)[:, None] - 1).repeat(1, 3, 1, 1) for volume in volumes]
    with torch.no_grad():
        spatial = packages_network(*images)[:, 0].movedim(0, -1).numpy()
        packages_network.spatial = False
        whole = packages_network(*images).mean()
    scores = lpips_scores(*volumes, body=body).values
    assert scores["lpips_body"] == pytest.approx(spatial[body].mean(), rel=1e-5)
    assert scores["lpips_distance"] == pytest.approx(float(whole), rel=1e-5)
    assert scores["lpips_similarity"] == 1 - scores["lpips_distance"]


def test_small_slices_are_padded_with_their_edge(volumes: Any) -> None:
    small = [volume[8:28, :25].numpy() for volume in volumes]
    padded = [np.pad(volume, ((0, 12), (0, 7), (0, 0)), mode="edge") for volume in small]
    assert lpips(*small) == lpips(*padded)
    inside = np.zeros(padded[0].shape, bool)
    inside[:20, :25] = True
    expected = lpips_scores(*padded, body=inside).values["lpips_body"]
    assert lpips_scores(*small).values["lpips_body"] == pytest.approx(expected, rel=1e-6)


def test_channels_are_images_of_their_own(volumes: Any) -> None:
    clean, adversarial = volumes
    both = torch.stack([clean, clean]), torch.stack([adversarial, (clean + adversarial) / 2])
    first, second = (lpips_scores(*pair).values for pair in zip(*both, strict=True))
    expected = {column: (first[column] + second[column]) / 2 for column in first}
    assert first["lpips_distance"] > 1.5 * second["lpips_distance"]
    assert lpips_scores(*both).values == pytest.approx(expected)
    assert lpips(*both) == pytest.approx(expected["lpips_distance"])


def test_batches_of_slices_do_not_change_the_value(volumes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = lpips_scores(*volumes).values
    monkeypatch.setattr(perceptual, "SLICES_AT_ONCE", 2)
    assert lpips_scores(*volumes).values == pytest.approx(together, rel=1e-5)


def test_a_volume_without_a_body_is_nan_with_a_reason(volumes: Any) -> None:
    scores = lpips_scores(torch.zeros_like(volumes[0]), volumes[1])
    assert math.isnan(scores.values["lpips_body"])
    assert scores.reasons == {"lpips_body": "no body: the clean volume has no intensity above 0"}
    assert scores.values["lpips_distance"] > 0
