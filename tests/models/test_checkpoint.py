"""Checkpoints: what released files look like is read, everything else is one clear line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError
from freqbench.models import ModelEntry, load, resolve, save_checkpoint
from freqbench.models.checkpoints import files
from freqbench.models.checkpoints.files import strip_prefix

from .conftest import TINY_ARGS as ARGS
from .conftest import TINY_ROI as ROI

CPU = torch.device("cpu")


def entry(path: Path | str, **changes: Any) -> ModelEntry:
    return ModelEntry(**{"name": "m", "arch": "unet", "checkpoint": str(path), "args": ARGS, "roi": ROI, **changes})


def loaded(path: Path | str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load(resolve(entry(path), 3), CPU).net.state_dict()
    return weights


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("key", "prefix"),
    [("state_dict", "module."), *((key, "") for key in ("model_state_dict", "network_weights", "model", "net", None))],
)
def test_released_layouts_are_read(tmp_path: Path, tiny_unet: nn.Module, key: str | None, prefix: str) -> None:
    weights = {prefix + name: value + 1 for name, value in tiny_unet.state_dict().items()}
    optimizer = torch.optim.SGD(tiny_unet.parameters(), momentum=0.9).state_dict()
    beside = {"epoch": np.int64(7), "best_acc": np.float64(0.81), "f": np.float32(1), "optimizer": optimizer}
    torch.save({key: weights, **beside} if key else weights, tmp_path / "m.pth")
    assert same(loaded(tmp_path / "m.pth"), {name.removeprefix("module."): value for name, value in weights.items()})


# MONAI's UNet names all its weights `model....`, which no prefix of an author's may be taken for.
NAMES = {"unet": ("model.0.weight", "model.1.bias"), "others": ("encoder.weight", "decoder.bias")}


@pytest.mark.parametrize("wanted", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "net._orig_mod.", "network.model."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, wanted: tuple[str, ...]) -> None:
    found = {prefix + key: torch.ones(1) for key in wanted}
    assert tuple(strip_prefix(found, wanted)) == wanted


@pytest.mark.parametrize("found", [("model.a", "b"), ("student.a", "student.b"), ("model.c", "model.d"), ()])
def test_prefix_that_not_all_carry_or_that_is_unknown_or_that_frees_nothing_stays(found: tuple[str, ...]) -> None:
    assert tuple(strip_prefix({key: torch.ones(1) for key in found}, ("a", "b"))) == found


def test_numpy_scalars_written_under_numpy_1_are_read(tmp_path: Path, tiny_unet: nn.Module) -> None:
    """The same file with the module name of numpy 1 in its pickle; unzipped, as the name's length differs."""
    path = tmp_path / "m.pt"
    torch.save(
        {"state_dict": tiny_unet.state_dict(), "acc": np.float64(0.5)}, path, _use_new_zipfile_serialization=False
    )
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert same(loaded(path), tiny_unet.state_dict())


@pytest.mark.parametrize("core", ["_core", "core"])
def test_numpy_arrays_beside_weights_are_passed_over(tmp_path: Path, tiny_unet: nn.Module, core: str) -> None:
    """Those of numpy's random state, of the Dice of every class, of strings; under numpy 1's names too."""
    path, text = tmp_path / "m.pt", np.array(["a", "b"], dtype=object)
    beside = {"rng": np.random.RandomState(0).get_state(), "dice": np.ones(2), "text": text}
    torch.save({"state_dict": tiny_unet.state_dict(), **beside}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", f"cnumpy.{core}.multiarray\n".encode()))
    assert same(loaded(path), tiny_unet.state_dict())
    assert not isinstance(files.read_content(str(path))["dice"], np.ndarray), "bytes of a stranger make no array"


def test_options_beside_weights_are_passed_over(tmp_path: Path, tiny_unet: nn.Module) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model_state_dict": tiny_unet.state_dict(), "args": argparse.Namespace(lr=0.1, gpu_ids=[0])}, path)
    assert same(loaded(path), tiny_unet.state_dict())
    assert not isinstance(files.read_content(str(path))["args"], argparse.Namespace)


def test_half_stored_weights_come_back_as_float32(tmp_path: Path, tiny_unet: nn.Module) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, tiny_unet.state_dict(), {}, half=True)
    expected = {name: value.half().float() for name, value in tiny_unet.state_dict().items()}
    assert same(loaded(path), expected)
    assert path.stat().st_size < 0.55 * sum(4 * value.numel() for value in expected.values())


def test_weights_too_large_for_half_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected finite weights, but w is not: nothing was written"):
        save_checkpoint(tmp_path / "m.safetensors", {"w": torch.tensor([1e5])}, {}, half=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def zoo(tmp_path: Path, tiny_unet: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zoo of one checkpoint, `zoo://phantom/unet`."""
    (tmp_path / "zoo" / "phantom").mkdir(parents=True)
    metadata = {"arch": "unet", "args": ARGS, "roi": ROI, "num_classes": 3}
    save_checkpoint(tmp_path / "zoo" / "phantom" / "unet.safetensors", tiny_unet.state_dict(), metadata, half=True)
    monkeypatch.setattr(files, "_ZOO", tmp_path / "zoo")


@pytest.mark.usefixtures("zoo")
def test_zoo_name_needs_nothing_else() -> None:
    spec = resolve(ModelEntry(name="m", checkpoint="zoo://phantom/unet"), 3)
    assert (spec.arch, spec.checkpoint) == ("unet", "zoo://phantom/unet")
    assert load(spec, CPU).roi == ROI


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"checkpoint": "zoo://phantom/unett"}, "unknown zoo checkpoint 'phantom/unett'. Did you mean 'phantom/unet'?"),
        ({"arch": "unetr"}, "m: arch is unetr here, but zoo://phantom/unet was trained as unet: leave arch out"),
        ({"args": {"strides": [2, 2, 1]}}, r"m: args.strides is \[2, 2, 1\] here, but zoo://phantom/unet was trained "),
        ({"args": {"act": "RELU"}}, "m: args.act is 'RELU' here, but zoo://phantom/unet was trained otherwise"),
    ],
)
def test_entry_that_contradicts_the_zoo_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=text):
        resolve(ModelEntry(**{"name": "m", "checkpoint": "zoo://phantom/unet", **changes}), 3)


def refused(path: Path | str, num_classes: int = 3, **changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(entry(path, **changes), num_classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("make", [None, os.mkfifo, Path.mkdir], ids=["nothing", "a pipe", "a folder"])
@pytest.mark.parametrize("name", ["no.pt", "no.safetensors"])
def test_missing_file_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None] | None) -> None:
    if make:
        make(tmp_path / name)
    assert refused(tmp_path / name).endswith(f"{name}: expected a file, found none: check the path")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x80\x02}q\x00."])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    text = refused(tmp_path / name)
    assert "not a checkpoint, or a truncated one" in text or "expected a state dict" in text


@pytest.mark.parametrize(("zipped", "kept"), [(True, 0.1), (True, 0.999), (False, 0.5)])
def test_truncated_checkpoint_is_refused(tmp_path: Path, tiny_unet: nn.Module, zipped: bool, kept: float) -> None:
    path = tmp_path / "m.pt"
    torch.save(tiny_unet.state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert "not a checkpoint, or a truncated one" in refused(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {"a": 1}}, [1, 2], {}])
def test_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    assert (
        "expected a state dict, at the top or under state_dict, model_state_dict, network_weights, model or net, got "
    ) in refused(tmp_path / "m.pt")


def test_other_number_of_classes_is_named(tmp_path: Path, tiny_unet: nn.Module) -> None:
    torch.save(tiny_unet.state_dict(), tmp_path / "m.pt")
    assert refused(tmp_path / "m.pt", 14) == "m: checkpoint has 3 output classes, dataset wants 14"


def test_mismatch_counts_and_names_the_first_of_each_kind(tmp_path: Path, tiny_unet: nn.Module) -> None:
    weights = tiny_unet.state_dict()
    first, second, *_ = weights
    del weights[first]
    weights[second] = torch.zeros(5)
    weights["extra.a"] = weights["extra.b"] = torch.zeros(1)
    torch.save(weights, tmp_path / "m.pt")
    assert refused(tmp_path / "m.pt").endswith(
        "does not fit: 1 keys missing (first: model.0.conv.unit0.conv.weight), 2 unexpected (first: extra.a), "
        "1 of another shape (first: model.0.conv.unit0.conv.bias: (5,) for (8,)). Check arch, args and migration"
    )


def test_the_digest_of_weights_is_of_names_types_shapes_and_values_alone(tmp_path: Path) -> None:
    def digest(record: str = "a", half: bool = False, **weights: Tensor) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_checkpoint(path, {"w": torch.arange(6.0), "s": torch.tensor(3), **weights}, {"x": record}, half)
        return files.weights_sha256(str(path))

    assert digest() == digest(record="b")
    others = [digest(w=w) for w in (torch.arange(6.0).reshape(2, 3), torch.arange(6), -torch.arange(6.0))]
    others += [digest(s=torch.tensor(4)), digest(more=torch.zeros(1)), digest(half=True)]
    assert len({digest(), *others}) == 7
