"""Checkpoints: what released files look like is read, everything else is one clear line."""

import argparse
import gzip
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from freqbench.audit.diagnosis import diagnose
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.plugins import trusting
from freqbench.models import ModelEntry, SegmentationModel, load, packaged, predict, resolve, save_checkpoint
from freqbench.models.checkpoints import files
from freqbench.models.checkpoints.files import Placed, read_placed

from .conftest import TINY_ARGS as ARGS
from .conftest import TINY_ROI as ROI
from .conftest import weights_of

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


def placed(folder: Path, content: dict[str, Any], wanted: tuple[str, ...] = ("a.w", "b.w"), **more: Any) -> Placed:
    torch.save(content, folder / "m.pt")
    return read_placed(str(folder / "m.pt"), {key: torch.ones(2) for key in wanted}, **more)


PREFIXES = ("", "module.", "model.", "net._orig_mod.", "model._orig_mod.module.", "ema_model.", "student.backbone.")


@pytest.mark.parametrize("wanted", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [None, "state_dict", "ema", "generator"])
def test_weights_are_found_anywhere(tmp_path: Path, key: str | None, prefix: str, wanted: tuple[str, ...]) -> None:
    weights = {prefix + name: torch.full([2], float(i)) for i, name in enumerate(wanted)}
    chosen = placed(tmp_path, {"epoch": 3, key: weights} if key else weights, wanted)
    assert same(chosen.weights, {name: torch.full([2], float(i)) for i, name in enumerate(wanted)})
    assert chosen.beside == ()


WEIGHTS = {"a.w": torch.ones(2), "b.w": torch.zeros(2)}


def behind(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


BEHIND = behind("net.", WEIGHTS)
WRAPPED = {"net.a._orig_mod.w": "a.w", "net.b._fsdp_wrapped_module._checkpoint_wrapped_module.w": "b.w"}
WHOLE = {
    "two equal sets are one": {"state_dict": BEHIND, "ema": WEIGHTS},
    "wrappers of parts are taken off": {name: WEIGHTS[key] for name, key in WRAPPED.items()},
}


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_sets_that_say_the_same_are_one_network(tmp_path: Path, content: dict[str, Any]) -> None:
    assert same(placed(tmp_path, content).weights, WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "beside", "prefix"),
    [
        pytest.param(WEIGHTS, {"criterion.weight": torch.ones(3)}, "", id="a loss beside a bare network"),
        pytest.param(BEHIND, {"val_metrics.confmat": torch.ones(3, 3)}, "net.", id="a metric's state"),
        pytest.param(BEHIND, {"net.loss.weight": torch.ones(3)}, "net.", id="a loss within the module"),
        pytest.param(WEIGHTS, {"n_averaged": torch.tensor(3)}, "", id="a counter"),
        pytest.param(BEHIND, {"projector.0.weight": torch.ones(4, 4)}, "net.", id="another network"),
        pytest.param(WEIGHTS, {"teacher.a.w": torch.zeros(2)}, "", id="half a copy"),
    ],
)
def test_tensors_beside_the_network_are_left_out_and_noted(
    tmp_path: Path, weights: dict[str, Tensor], beside: dict[str, Tensor], prefix: str
) -> None:
    chosen = placed(tmp_path, {"state_dict": {**beside, **weights}})
    assert same(chosen.weights, WEIGHTS)
    assert (chosen.prefix, chosen.beside) == (prefix, tuple(beside))
    assert f"1 tensors beside the network left out (first: {next(iter(beside))})" in str(chosen.note)


@pytest.mark.parametrize("name", ["b.bias", "refine.w", "a.c.w"])
def test_a_part_that_the_network_lacks_is_not_left_out(tmp_path: Path, name: str) -> None:
    """The file is of a larger network: without this part it would predict something else."""
    assert name in placed(tmp_path, {**WEIGHTS, name: torch.ones(2, 2)}).weights


OTHER = {key: value + 1 for key, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        pytest.param(
            {"state_dict": behind("model.", WEIGHTS) | behind("ema_model.", OTHER)},
            "model.",
            "ema_model.",
            id="behind two prefixes",
        ),
        pytest.param({"state_dict": WEIGHTS | behind("ema.", OTHER)}, "", "ema.", id="beside a bare network"),
        pytest.param({"model": WEIGHTS, "ema": OTHER}, "model.", "ema.", id="under two keys"),
    ],
)
def test_two_fitting_sets_need_a_choice(tmp_path: Path, content: dict[str, Any], first: str, second: str) -> None:
    with pytest.raises(CheckpointError, match=f"got 2 that differ .*: state prefix: {first!r} or prefix: {second!r}"):
        placed(tmp_path, content)
    assert same(placed(tmp_path, content, prefix=first).weights, WEIGHTS)
    assert same(placed(tmp_path, content, prefix=second).weights, OTHER)


def test_absent_prefix_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"prefix: expected one that names of the network have, got 'x.': 'net.'"):
        placed(tmp_path, BEHIND, prefix="x.")


def test_the_chosen_set_is_part_of_the_identity(tmp_path: Path, tiny_unet: nn.Module) -> None:
    weights = tiny_unet.state_dict()
    others = {key: value + 1 for key, value in weights.items()}
    torch.save(behind("s.", weights) | behind("t.", others), tmp_path / "m.pt")
    specs = [resolve(entry(tmp_path / "m.pt", prefix=prefix), 3) for prefix in ("s.", "t.")]
    assert specs[0].model_id != specs[1].model_id
    assert same(load(specs[1], CPU).net.state_dict(), others)


@pytest.mark.parametrize("core", ["_core", "core"])
def test_numpy_scalars_are_read_and_arrays_passed_over(tmp_path: Path, tiny_unet: nn.Module, core: str) -> None:
    """Arrays hold numpy's random state, Dice by class, strings; under numpy 1 the pickle names another module."""
    path = tmp_path / "m.pt"
    text = np.array(["a", "b"], dtype=object)
    beside = {"rng": np.random.RandomState(0).get_state(), "dice": np.ones(2), "text": text, "acc": np.float64(0.5)}
    beside["args"] = argparse.Namespace(lr=0.1, gpu_ids=[0])
    torch.save({"state_dict": tiny_unet.state_dict(), **beside}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", f"cnumpy.{core}.multiarray\n".encode()))
    assert same(loaded(path), tiny_unet.state_dict())
    content = files.read_content(str(path))
    assert content["acc"] == 0.5
    assert not isinstance(content["dice"], np.ndarray), "bytes of a stranger make no array"
    assert not isinstance(content["args"], argparse.Namespace)


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
    (tmp_path / "zoo" / "phantom").mkdir(parents=True)
    metadata = {"arch": "unet", "args": ARGS, "roi": ROI, "num_classes": 3}
    save_checkpoint(tmp_path / "zoo" / "phantom" / "unet.safetensors", tiny_unet.state_dict(), metadata, half=True)
    monkeypatch.setattr(packaged, "_FOLDER", tmp_path / "zoo")


@pytest.mark.usefixtures("zoo")
def test_zoo_name_needs_nothing_else() -> None:
    spec = resolve(ModelEntry(name="m", checkpoint="zoo://phantom/unet"), 3)
    assert (spec.arch, spec.checkpoint, load(spec, CPU).roi) == ("unet", "zoo://phantom/unet", ROI)


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
    return str(caught.value)


@pytest.mark.parametrize("make", [None, os.mkfifo, Path.mkdir], ids=["nothing", "a pipe", "a folder"])
@pytest.mark.parametrize("name", ["no.pt", "no.safetensors"])
def test_missing_file_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None] | None) -> None:
    if make:
        make(tmp_path / name)
    advice = ", but a folder: name the file in it" if make is Path.mkdir else ": check the path"
    assert refused(tmp_path / name).endswith(f"{name}: expected a file, found none{advice}")


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
    text = "m: checkpoint has 3 output classes, dataset wants 14: choose the classes that it knows by the dataset's"
    assert refused(tmp_path / "m.pt", 14).startswith(text)


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


def test_digest_is_of_names_types_shapes_and_values_alone(tmp_path: Path) -> None:
    def digest(record: str = "a", half: bool = False, **weights: Tensor) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_checkpoint(path, {"w": torch.arange(6.0), "s": torch.tensor(3), **weights}, {"x": record}, half)
        return files.weights_sha256(str(path))

    assert digest() == digest(record="b")
    others = [digest(w=w) for w in (torch.arange(6.0).reshape(2, 3), torch.arange(6), -torch.arange(6.0))]
    others += [digest(s=torch.tensor(4)), digest(more=torch.zeros(1)), digest(half=True)]
    assert len({digest(), *others}) == 7


FIRST = "model.0.conv.unit0.conv.weight"


@pytest.mark.filterwarnings("ignore")  # torch, of quantised tensors
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        pytest.param(
            lambda w: w.clone().index_fill_(0, torch.tensor(1), torch.nan),
            "27 of 216 values that are NaN, infinite",
            id="NaN",
        ),
        pytest.param(lambda w: (w * 1e9).half(), "values that are NaN, infinite or beyond float32", id="infinite half"),
        pytest.param(
            lambda w: w.double() * 1e300, "values that are NaN, infinite or beyond float32", id="beyond float32"
        ),
        pytest.param(lambda w: w.to(torch.complex64), "a complex one (torch.complex64)", id="complex"),
        pytest.param(lambda w: (100 * w).to(torch.int8), "a quantised one (torch.int8)", id="int8"),
        pytest.param(lambda w: w.to_sparse(), "a sparse or nested one (torch.sparse_coo)", id="sparse"),
        pytest.param(lambda w: w.to("meta"), "one without values (meta)", id="meta"),
        pytest.param(lambda w: w.to(torch.uint8).view(torch.bits8), "a quantised one (torch.bits8)", id="bits"),
        pytest.param(
            lambda w: w[0, 0, 0, 0, 0].expand(10**15),
            "one of 4,000,000,000,000,000 bytes that repeats the 864",
            id="repeated",
        ),
        pytest.param(
            lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "a quantised one (torch.qint8)", id="quantised"
        ),
    ],
)
def test_tensor_is_refused(tmp_path: Path, tiny_unet: nn.Module, spoil: Callable[[Tensor], Tensor], text: str) -> None:
    """The job and `doctor --checkpoint`, which has no network to compare with, both refuse it."""
    weights = tiny_unet.state_dict()
    torch.save({**weights, FIRST: spoil(weights[FIRST])}, tmp_path / "m.pt")
    for read in (
        lambda: resolve(entry(tmp_path / "m.pt"), 3),
        lambda: [*diagnose(None, str(tmp_path / "m.pt"), None, "job.yaml")[0]],
    ):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert f"m.pt: {FIRST}: expected a dense tensor of finite numbers, got " in str(caught.value)
        assert text in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_in_place_of_floats_are_refused(tmp_path: Path, tiny_unet: nn.Module, dtype: torch.dtype) -> None:
    weights = tiny_unet.state_dict()
    save_file({**weights, FIRST: weights[FIRST].to(dtype)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"{FIRST}: expected torch.float32, got {dtype}: save float32 weights"):
        resolve(entry(tmp_path / "m.safetensors"), 3)


def test_integer_buffers_are_sound(tmp_path: Path) -> None:
    weights = nn.BatchNorm3d(2).state_dict()
    save_file(weights, tmp_path / "m.safetensors")
    assert files.read_state_dict(str(tmp_path / "m.safetensors")).keys() == weights.keys()


def _safetensors(folder: Path, net: nn.Module) -> Any:
    save_file(net.state_dict(), folder / "m.safetensors")
    return files.read_state_dict(str(folder / "m.safetensors"))


def _wrapped(folder: Path, net: nn.Module) -> Any:
    torch.save({"state_dict": behind("module.", net.state_dict())}, folder / "m.pth")
    return files.read_state_dict(str(folder / "m.pth"))


def _bundle(folder: Path, net: nn.Module) -> Any:
    for name in ("configs", "models"):
        (folder / name).mkdir()
    (folder / "configs" / "inference.json").write_text("{}")
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return weights_of("bundle", str(folder))


def _nnunet(folder: Path, net: nn.Module) -> Any:
    (folder / "fold_0").mkdir()
    (folder / "plans.json").write_text("{}")
    torch.save({"network_weights": net.state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
    return weights_of("nnunet", str(folder))


WAYS: Mapping[str, Callable[[Path, nn.Module], Any]] = {
    "safetensors": _safetensors,
    "wrapped": _wrapped,
    "bundle": _bundle,
    "nnunet": _nnunet,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_refuses_nan(tmp_path: Path, way: str) -> None:
    """The first two read a job's file, a zoo's and the start of a training."""
    read = WAYS[way]
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1)).eval()
    with trusting(True):
        (tmp_path / "sound").mkdir()
        assert read(tmp_path / "sound", net)
        nn.init.constant_(net[1].bias, torch.nan)
        with pytest.raises(CheckpointError, match=r"1\.bias: expected a dense tensor of finite numbers, got 2 of 2"):
            read(tmp_path, net)


@pytest.mark.parametrize(("variance", "bias"), [(-1.0, 0.0), (1.0, 3e38)])
def test_overflowing_network_gives_no_prediction(variance: float, bias: float) -> None:
    """A negative running variance and the largest of numbers are finite; what is computed with them is not."""
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Conv3d(2, 2, 1))
    net[1].running_var.fill_(variance)  # type: ignore[union-attr]
    nn.init.constant_(net[1].bias, bias)
    nn.init.constant_(net[2].weight, 9.0)
    with pytest.raises(UserError, match="Sequential: expected finite logits of the network, got NaN or infinities"):
        predict(SegmentationModel(net.eval(), (4, 4, 4)).eval(), torch.rand(1, 6, 6, 6))


def test_safetensors_are_known_by_their_content(tmp_path: Path, tiny_unet: nn.Module) -> None:
    save_checkpoint(tmp_path / "m.safetensors", tiny_unet.state_dict(), {"arch": "unet"}, half=False)
    path = (tmp_path / "m.safetensors").rename(tmp_path / "m.pth")
    assert files.read_content(str(path)).keys() == tiny_unet.state_dict().keys()
    assert files.read_metadata(str(path)) == {"arch": "unet"}
    torch.save(tiny_unet.state_dict(), tmp_path / "torch.safetensors")
    assert files.read_content(str(tmp_path / "torch.safetensors")).keys() == tiny_unet.state_dict().keys()
    assert files.read_metadata(str(tmp_path / "torch.safetensors")) == {}


def _zipped(path: Path, inside: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pt", inside)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path, inside: path.write_bytes(gzip.compress(inside)), "got a gzip file: unpack it, and give the file"),
        (_zipped, "got a ZIP archive of 1 files (first: weights.pt): unpack it, and give the file inside"),
        (lambda path, inside: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "got an HDF5 file"),
        (lambda path, inside: path.write_text('{"format": "layers-model"}'), "got JSON: give arch: meshnet if"),
        (lambda path, inside: path.write_bytes(b"\x08\x08\x12\x07pytorch"), "what may be an ONNX file: give arch: onn"),
    ],
)
def test_files_of_other_formats_are_named(
    tmp_path: Path, tiny_unet: nn.Module, write: Callable[[Path, bytes], object], text: str
) -> None:
    torch.save(tiny_unet.state_dict(), tmp_path / "inside.pt")
    write(tmp_path / "m.pth", (tmp_path / "inside.pt").read_bytes())
    assert text in refused(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("weights", "fresh"),
    [
        ({"norm.weight": torch.ones(4), "norm.bias": torch.zeros(4), "act.weight": torch.full((1,), 0.25)}, True),
        ({"norm.weight": torch.tensor([1.0, 1.0, 0.999]), "act.weight": torch.full((1,), 0.25)}, False),
        ({"norm.weight": torch.ones(4), "act.weight": torch.full((1,), 0.31)}, False),
        ({"conv.weight": torch.rand(2, 1, 3, 3, 3), "conv.bias": torch.zeros(2)}, False),
    ],
)
def test_weights_look_untrained_if_scales_are_fresh(weights: dict[str, torch.Tensor], fresh: bool) -> None:
    assert files.look_untrained(weights) is fresh
