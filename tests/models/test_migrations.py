"""Checkpoints of older MONAI releases: each gives the outputs of the release that wrote it, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.types import Shape
from freqbench.models import ModelEntry, build, load, resolve
from freqbench.models.checkpoints.migrations import MIGRATIONS, choose, recognise
from freqbench.models.networks.construction import skeleton

NETS: dict[str, tuple[Shape, dict[str, Any]]] = {
    "unet": ((32, 32, 32), {"channels": [4, 8, 16, 32, 64], "strides": [2, 2, 2, 2], "num_res_units": 2}),
    "unetr": ((32, 32, 32), {"feature_size": 4, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    "swin_unetr": ((64, 64, 64), {"feature_size": 12}),
}
Weights = dict[str, Tensor]
Legacy = Callable[[str], dict[str, npt.NDArray[Any]]]


@pytest.fixture(scope="module")
def legacy(arrays: Path) -> Legacy:
    """Reads an archive of an old release: its weights, and its outputs between underscores."""
    return lambda name: dict(np.load(arrays / "models" / "legacy" / f"{name}.npz"))


def weights_in(archive: dict[str, npt.NDArray[Any]]) -> Weights:
    return {key: torch.from_numpy(value) for key, value in archive.items() if not key.startswith("__")}


def golden_input(size: Shape) -> Tensor:
    d, h, w = np.meshgrid(*[np.arange(float(length)) for length in size], indexing="ij")
    phase = 0.31 * d + 0.17 * h + 0.23 * w + 0.02 * d * h + 0.013 * h * w + 0.3
    return torch.from_numpy(0.5 + 0.5 * np.sin(phase)).float()[None, None]


def assert_same(logits: Tensor, archive: dict[str, npt.NDArray[Any]]) -> None:
    np.testing.assert_allclose(logits[:, ::4, ::4, ::4], archive["__output__"], rtol=0, atol=2e-5)
    whole = [logits.mean(), logits.std(correction=0), logits.min(), logits.max()]
    np.testing.assert_allclose(whole, archive["__stats__"], rtol=0, atol=2e-5)
    # Of 262,144 voxels some lie between two classes to the last bit, which depends on the processor.
    counts = torch.bincount(logits.argmax(0).flatten(), minlength=4)
    np.testing.assert_allclose(counts, archive["__argmax_hist__"], rtol=0, atol=3)


@pytest.fixture(scope="module")
def wanted() -> Weights:
    """Keys and shapes of UNETR today."""
    roi, args = NETS["unetr"]
    weights: Weights = skeleton("unetr", 4, roi, args).state_dict()
    return weights


def of_0_7(weights: Weights) -> Weights:
    """The file of 0.9.1 to 1.3 with what 0.7 and 0.8 held besides."""
    unused = {
        f"{block}.conv3.conv.weight": torch.ones(width, width, 1, 1, 1)
        for block, width in {"encoder2.blocks.0.1": 8, "encoder2.blocks.1.1": 8, "encoder3.blocks.0.1": 16}.items()
    }
    return {**weights, "vit.patch_embedding.cls_token": torch.ones(1, 1, 48), **unused}


@pytest.fixture(scope="module")
def unetr_files(legacy: Legacy) -> dict[str, Weights]:
    """Weights of UNETR by the migration that suits them."""
    return {
        "monai-0.7": of_0_7(weights_in(legacy("unetr_monai1.0.1"))),
        "monai-1.3": weights_in(legacy("unetr_monai1.3.2")),
        "monai-1.4": weights_in(legacy("unetr_monai1.4.0")),
    }


def test_unetr_of_monai_0_7_gives_its_outputs(legacy: Legacy, unetr_files: dict[str, Weights]) -> None:
    roi, args = NETS["unetr"]
    net = build("unetr", 4, roi, args).eval()
    net.load_state_dict(MIGRATIONS["unetr"]["monai-0.7"].convert(unetr_files["monai-0.7"], net.state_dict()))
    with torch.no_grad():
        assert_same(net(golden_input(roi))[0], legacy("unetr_monai1.0.1"))


@pytest.mark.parametrize("migration", MIGRATIONS["unetr"])
def test_age_of_unetr_is_recognised_from_keys(unetr_files: dict[str, Weights], wanted: Weights, migration: str) -> None:
    """The age is recognised with other classes too, so that the complaint is about the classes."""
    roi, args = NETS["unetr"]
    for each in (wanted, skeleton("unetr", 7, roi, args).state_dict()):
        assert recognise("unetr", unetr_files[migration], each) == migration
        assert choose("m", "unetr", None, unetr_files[migration], each) == migration


def test_weights_of_today_need_no_migration(wanted: Weights) -> None:
    assert recognise("unetr", wanted, wanted) is None
    assert choose("m", "unetr", None, wanted, wanted) == "none"


@pytest.mark.parametrize("change", ["a key more", "a key less"])
def test_migration_hides_no_other_difference(unetr_files: dict[str, Weights], wanted: Weights, change: str) -> None:
    for weights in unetr_files.values():
        damaged = {**weights, "vit.extra": torch.ones(1)} if change == "a key more" else dict(weights)
        if change == "a key less":
            del damaged["vit.norm.weight"]
        assert recognise("unetr", damaged, wanted) is None


def test_old_merging_pads_odd_sizes_with_zeros() -> None:
    merging = MIGRATIONS["swin_unetr"]["monai-1.4"].extra["downsample"](2)
    x = torch.rand(1, 3, 4, 5, 2)
    by_hand = torch.zeros(1, 4, 4, 6, 2)
    by_hand[:, :3, :, :5] = x
    assert torch.equal(merging(x), merging(by_hand))


def test_argument_that_the_migration_gives_is_refused_in_args() -> None:
    roi, args = NETS["swin_unetr"]
    extra = MIGRATIONS["swin_unetr"]["monai-1.4"].extra
    with pytest.raises(UserError, match=r"swin_unetr: args.downsample is what the checkpoint's migration gives"):
        build("swin_unetr", 4, roi, args | {"downsample": "mergingv2"}, extra=extra)


def test_the_age_of_a_swin_unetr_is_to_be_stated(legacy: Legacy, tmp_path: Path) -> None:
    torch.save(weights_in(legacy("swinunetr_monai1.3.2")), tmp_path / "old.pt")
    roi, args = NETS["swin_unetr"]
    entry = ModelEntry(name="m", arch="swin_unetr", checkpoint=str(tmp_path / "old.pt"), args=args, roi=roi)
    with pytest.raises(CheckpointError, match=r"state migration: monai-1\.4 or migration: none"):
        resolve(entry, 4)


def test_unknown_migration_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: unknown migration of unetr 'monai-13'\. Did you mean 'monai-1.3'\?"):
        choose("m", "unetr", "monai-13", {}, {})


@pytest.mark.parametrize(
    ("arch", "release", "stated", "migration", "alike"),
    [
        ("unet", "unet_monai1.0.1", None, None, ()),
        ("unet", "unet_monai1.4.0", None, None, ()),
        ("unetr", "unetr_monai1.3.2", None, "monai-1.3", ()),
        ("unetr", "unetr_monai1.4.0", None, "monai-1.4", ()),
        *(
            pytest.param("swin_unetr", "swinunetr_monai1.3.2", stated, migration, alike, marks=mark)
            for stated, migration, alike, mark in (
                ("monai-1.4", "monai-1.4", ("1.0.1_output_only", "1.4.0_output_only"), pytest.mark.integration),
                ("none", None, ("1.5.0_output_only",), pytest.mark.slow),
            )
        ),
    ],
)
def test_released_file_is_loaded_and_gives_its_outputs(
    legacy: Legacy,
    tmp_path: Path,
    arch: str,
    release: str,
    stated: str | None,
    migration: str | None,
    alike: tuple[str, ...],
) -> None:
    """Weights of SwinUNETR give the outputs of MONAI 1.0 to 1.4 or those of 1.5, as the job states."""
    archive = legacy(release)
    torch.save(weights_in(archive), tmp_path / "old.pt")
    roi, args = NETS[arch]
    entry = {"name": "m", "arch": arch, "checkpoint": str(tmp_path / "old.pt"), "args": args, "roi": roi}
    spec = resolve(ModelEntry(**entry, migration=stated), 4)
    assert spec.migration == migration
    with torch.no_grad():
        logits = load(spec, torch.device("cpu"))(golden_input(roi))[0]
    if stated != "none":
        np.testing.assert_allclose(logits[:, ::4, ::4, ::4], archive["__output__"], rtol=0, atol=2e-5)
    for each in alike:
        assert_same(logits, legacy(f"swinunetr_monai{each}"))
