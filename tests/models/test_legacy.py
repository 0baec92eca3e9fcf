"""State dicts that older MONAI releases saved: those that fit give the same outputs, the others say what they are."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from freqbench.core.errors import CheckpointError
from freqbench.models import ModelEntry, ModelSpec, load, resolve

ROI = (32, 32, 32)
UNET = {"channels": [4, 8, 16, 32, 64], "strides": [2, 2, 2, 2], "num_res_units": 2}
UNETR = {"feature_size": 4, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}


def golden_input() -> torch.Tensor:
    d, h, w = np.meshgrid(*[np.arange(32.0)] * 3, indexing="ij")
    phase = 0.31 * d + 0.17 * h + 0.23 * w + 0.02 * d * h + 0.013 * h * w + 0.3
    return torch.from_numpy(0.5 + 0.5 * np.sin(phase)).float()[None, None]


def stored(shared: Path, name: str, folder: Path) -> tuple[Path, dict[str, npt.NDArray[Any]]]:
    """A checkpoint file with the archive's weights, and its reference outputs."""
    archive = dict(np.load(shared / "golden" / "models" / "legacy" / f"{name}.npz"))
    outputs = {key: archive.pop(key) for key in list(archive) if key.startswith("__")}
    torch.save({key: torch.from_numpy(value) for key, value in archive.items()}, folder / "old.pt")
    return folder / "old.pt", outputs


@pytest.mark.parametrize("release", ["1.0.1", "1.3.2", "1.4.0"])
def test_unet_of_older_monai_gives_its_outputs(shared: Path, tmp_path: Path, release: str) -> None:
    path, expected = stored(shared, f"unet_monai{release}", tmp_path)
    entry = ModelEntry(name="unet", arch="unet", checkpoint=str(path), args=UNET, roi=ROI)
    with torch.no_grad():
        logits = load(resolve(entry, 4), torch.device("cpu"))(golden_input())[0]
    np.testing.assert_allclose(logits[:, ::4, ::4, ::4], expected["__output__"], rtol=0, atol=2e-5)
    whole = [logits.mean(), logits.std(), logits.min(), logits.max()]
    np.testing.assert_allclose(whole, expected["__stats__"], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("release", "migration"), [("1.0.1", "monai-1.3"), ("1.3.2", "monai-1.3"), ("1.4.0", "monai-1.4")]
)
def test_unetr_of_older_monai_is_migrated_by_name_and_gives_its_outputs(
    shared: Path, tmp_path: Path, release: str, migration: str
) -> None:
    path, expected = stored(shared, f"unetr_monai{release}", tmp_path)
    spec = resolve(ModelEntry(name="unetr", arch="unetr", checkpoint=str(path), args=UNETR, roi=ROI), 4)
    assert spec.migration == migration
    with torch.no_grad():
        logits = load(spec, torch.device("cpu"))(golden_input())[0]
    np.testing.assert_allclose(logits[:, ::4, ::4, ::4], expected["__output__"], rtol=0, atol=2e-5)


def swin(path: Path, **changes: str) -> ModelSpec:
    entry = ModelEntry(
        name="swin", arch="swin_unetr", checkpoint=str(path), args={"feature_size": 12}, roi=(64, 64, 64), **changes
    )
    return resolve(entry, 4)


def test_swin_unetr_of_unknown_age_is_refused_until_its_migration_is_stated(shared: Path, tmp_path: Path) -> None:
    path, _ = stored(shared, "swinunetr_monai1.3.2", tmp_path)
    with pytest.raises(CheckpointError, match=r"state migration: monai-1\.4 or migration: none"):
        swin(path)
    assert swin(path, migration="monai-1.4").migration == "monai-1.4"
    assert swin(path, migration="none").migration is None


def test_swin_unetr_of_two_ages_are_two_models(shared: Path, tmp_path: Path) -> None:
    path, _ = stored(shared, "swinunetr_monai1.3.2", tmp_path)
    assert swin(path, migration="monai-1.4").model_id != swin(path, migration="none").model_id
