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
from freqbench.models.checkpoints.migrations import MIGRATIONS, choose, migrations_of, recognise
from freqbench.models.networks.architectures import skeleton

NETS: dict[str, tuple[Shape, dict[str, Any]]] = {
    "unet": ((32, 32, 32), {"channels": [4, 8, 16, 32, 64], "strides": [2, 2, 2, 2], "num_res_units": 2}),
    "unetr": ((32, 32, 32), {"feature_size": 4, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    "swin_unetr": ((64, 64, 64), {"feature_size": 12}),
}
Weights = dict[str, Tensor]
Legacy = Callable[[str], dict[str, npt.NDArray[Any]]]


@pytest.fixture(scope="module")
def legacy(shared: Path) -> Legacy:
    """Reads an archive of an old release: its weights, and its outputs between underscores."""
    return lambda name: dict(np.load(shared / "golden" / "models" / "legacy" / f"{name}.npz"))


def weights_in(archive: dict[str, npt.NDArray[Any]]) -> Weights:
    return {key: torch.from_numpy(value) for key, value in archive.items() if not key.startswith("__")}


def golden_input(size: Shape) -> Tensor:
    d, h, w = np.meshgrid(*[np.arange(float(length)) for length in size], indexing="ij")
    phase = 0.31 * d + 0.17 * h + 0.23 * w + 0.02 * d * h + 0.013 * h * w + 0.3
    return torch.from_numpy(0.5 + 0.5 * np.sin(phase)).float()[None, None]


def logits_of(arch: str, found: Weights, migration: str) -> Tensor:
    """Logits `[4, ...]` of the golden input after a strict load."""
    roi, args = NETS[arch]
    chosen = migrations_of(arch)[migration]
    net = build(arch, 4, roi, args, extra=chosen.extra).eval()
    net.load_state_dict(chosen.convert(found, net.state_dict()))
    with torch.no_grad():
        logits: Tensor = net(golden_input(roi))[0]
    return logits


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


def of_0_7(found: Weights) -> Weights:
    """The file of 0.9.1 to 1.3 with what 0.7 and 0.8 held besides."""
    unused = {
        f"{block}.conv3.conv.weight": torch.ones(width, width, 1, 1, 1)
        for block, width in {"encoder2.blocks.0.1": 8, "encoder2.blocks.1.1": 8, "encoder3.blocks.0.1": 16}.items()
    }
    return {**found, "vit.patch_embedding.cls_token": torch.ones(1, 1, 48), **unused}


@pytest.fixture(scope="module")
def unetr_files(legacy: Legacy) -> dict[str, Weights]:
    """Weights of UNETR by the migration that suits them."""
    return {
        "monai-0.7": of_0_7(weights_in(legacy("unetr_monai1.0.1"))),
        "monai-1.3": weights_in(legacy("unetr_monai1.3.2")),
        "monai-1.4": weights_in(legacy("unetr_monai1.4.0")),
    }


def test_unetr_of_monai_0_7_gives_its_outputs(legacy: Legacy, unetr_files: dict[str, Weights]) -> None:
    assert_same(logits_of("unetr", unetr_files["monai-0.7"], "monai-0.7"), legacy("unetr_monai1.0.1"))


@pytest.mark.parametrize("migration", MIGRATIONS["unetr"])
def test_age_of_unetr_is_recognised_from_the_keys(
    unetr_files: dict[str, Weights], wanted: Weights, migration: str
) -> None:
    assert recognise("unetr", unetr_files[migration], wanted) == migration
    assert choose("m", "unetr", None, unetr_files[migration], wanted) == migration


def test_age_of_unetr_is_recognised_with_other_classes_too(unetr_files: dict[str, Weights]) -> None:
    """So that the complaint is about the classes."""
    roi, args = NETS["unetr"]
    of_seven = skeleton("unetr", 7, roi, args).state_dict()
    assert recognise("unetr", unetr_files["monai-1.4"], of_seven) == "monai-1.4"


def test_weights_of_today_need_no_migration(wanted: Weights) -> None:
    assert recognise("unetr", wanted, wanted) is None
    assert choose("m", "unetr", None, wanted, wanted) == "none"


@pytest.mark.parametrize("change", ["a key more", "a key less"])
def test_migration_hides_no_other_difference(unetr_files: dict[str, Weights], wanted: Weights, change: str) -> None:
    for found in unetr_files.values():
        damaged = {**found, "vit.extra": torch.ones(1)} if change == "a key more" else dict(found)
        if change == "a key less":
            del damaged["vit.norm.weight"]
        assert recognise("unetr", damaged, wanted) is None


@pytest.fixture(scope="module")
def old_merging(legacy: Legacy) -> Tensor:
    return logits_of("swin_unetr", weights_in(legacy("swinunetr_monai1.3.2")), "monai-1.4")


@pytest.fixture(scope="module")
def as_is(legacy: Legacy) -> Tensor:
    return logits_of("swin_unetr", weights_in(legacy("swinunetr_monai1.3.2")), "none")


@pytest.mark.parametrize("archive", ["1.0.1_output_only", "1.3.2", "1.4.0_output_only"])
def test_swin_unetr_of_older_monai_gives_its_outputs(legacy: Legacy, old_merging: Tensor, archive: str) -> None:
    assert_same(old_merging, legacy(f"swinunetr_monai{archive}"))


def test_swin_unetr_of_newer_monai_gives_its_outputs_as_it_is(legacy: Legacy, as_is: Tensor) -> None:
    assert_same(as_is, legacy("swinunetr_monai1.5.0_output_only"))


def test_old_merging_pads_odd_sizes_with_zeros() -> None:
    merging = MIGRATIONS["swin_unetr"]["monai-1.4"].extra["downsample"](2)
    x = torch.rand(1, 3, 4, 5, 2)
    by_hand = torch.zeros(1, 4, 4, 6, 2)
    by_hand[:, :3, :, :5] = x
    assert torch.equal(merging(x), merging(by_hand))


@pytest.mark.parametrize("stated", ["monai-1.4", "none"])
def test_what_the_job_states_is_done(stated: str) -> None:
    assert choose("m", "swin_unetr", stated, {}, {}) == stated


def test_network_with_the_old_merging_is_made_on_the_meta_device_with_the_same_keys() -> None:
    roi, args = NETS["swin_unetr"]
    extra = MIGRATIONS["swin_unetr"]["monai-1.4"].extra
    now, then = (skeleton("swin_unetr", 4, roi, args, extra=given).state_dict() for given in ({}, extra))
    assert list(then) == list(now)


def test_argument_that_the_migration_gives_is_refused_in_args() -> None:
    roi, args = NETS["swin_unetr"]
    extra = MIGRATIONS["swin_unetr"]["monai-1.4"].extra
    with pytest.raises(UserError, match=r"swin_unetr: args.downsample is what the checkpoint's migration gives"):
        skeleton("swin_unetr", 4, roi, args | {"downsample": "mergingv2"}, extra=extra)


def test_unknown_migration_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: unknown migration of unetr 'monai-13'\. Did you mean 'monai-1.3'\?"):
        choose("m", "unetr", "monai-13", {}, {})


@pytest.mark.parametrize(
    ("arch", "release", "stated", "migration"),
    [
        ("unet", "unet_monai1.0.1", None, None),
        ("unet", "unet_monai1.4.0", None, None),
        ("unetr", "unetr_monai1.3.2", None, "monai-1.3"),
        ("unetr", "unetr_monai1.4.0", None, "monai-1.4"),
        ("swin_unetr", "swinunetr_monai1.3.2", "monai-1.4", "monai-1.4"),
    ],
)
def test_a_file_of_a_release_is_resolved_and_loaded(
    legacy: Legacy, tmp_path: Path, arch: str, release: str, stated: str | None, migration: str | None
) -> None:
    archive = legacy(release)
    torch.save(weights_in(archive), tmp_path / "old.pt")
    roi, args = NETS[arch]
    entry = {"name": "m", "arch": arch, "checkpoint": str(tmp_path / "old.pt"), "args": args, "roi": roi}
    if stated:
        with pytest.raises(CheckpointError, match=r"state migration: monai-1\.4 or migration: none"):
            resolve(ModelEntry(**entry), 4)
    spec = resolve(ModelEntry(**entry, migration=stated), 4)
    assert spec.migration == migration
    with torch.no_grad():
        logits = load(spec, torch.device("cpu"))(golden_input(roi))[0]
    np.testing.assert_allclose(logits[:, ::4, ::4, ::4], archive["__output__"], rtol=0, atol=2e-5)
