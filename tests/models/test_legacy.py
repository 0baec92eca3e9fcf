"""State dicts that older MONAI releases saved: those that fit give the same outputs, the others say what they are."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from freqbench.errors import CheckpointError
from freqbench.models import ModelEntry, load, resolve

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
    ("release", "text"),
    [
        ("1.3.2", "24 keys missing (first: vit.blocks.0.norm_cross_attn.weight), 0 unexpected, 0 of another shape"),
        ("1.4.0", "0 keys missing, 60 unexpected (first: vit.blocks.0.cross_attn.out_proj.weight), 0 of another shape"),
    ],
)
def test_unetr_of_older_monai_is_refused_by_name(shared: Path, tmp_path: Path, release: str, text: str) -> None:
    path, _ = stored(shared, f"unetr_monai{release}", tmp_path)
    entry = ModelEntry(name="unetr", arch="unetr", checkpoint=str(path), args=UNETR, roi=ROI)
    with pytest.raises(CheckpointError) as caught:
        resolve(entry, 4)
    assert text in str(caught.value)
    assert f"saved by MONAI {release[:3]} or" in str(caught.value)
