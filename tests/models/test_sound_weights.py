"""Weights that no network can compute with are refused by name, whatever file they come in."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from freqbench.audit.diagnosis import diagnose
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.plugins import trusting
from freqbench.models import SegmentationModel, predict, resolve
from freqbench.models.checkpoints import files
from freqbench.models.foreign import bundle, frozen, nnunet

from .test_checkpoint import entry

FIRST = "model.0.conv.unit0.conv.weight"

UNSOUND: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda w: w.clone().index_fill_(0, torch.tensor(1), torch.nan), "27 of 216 values that are NaN, infinite"),
    "infinite half": (lambda w: (w * 1e9).half(), "values that are NaN, infinite or beyond float32"),
    "beyond float32": (lambda w: w.double() * 1e300, "values that are NaN, infinite or beyond float32"),
    "complex": (lambda w: w.to(torch.complex64), "a complex one (torch.complex64)"),
    "int8": (lambda w: (100 * w).to(torch.int8), "a quantised one (torch.int8)"),
    "sparse": (lambda w: w.to_sparse(), "a sparse or nested one (torch.sparse_coo)"),
    "meta": (lambda w: w.to("meta"), "one without values (meta)"),
    "bits": (lambda w: w.to(torch.uint8).view(torch.bits8), "a quantised one (torch.bits8)"),
    "repeated": (lambda w: w[0, 0, 0, 0, 0].expand(10**15), "one of 4,000,000,000,000,000 bytes that repeats the 864"),
    "quantised": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "a quantised one (torch.qint8)"),
}


@pytest.mark.filterwarnings("ignore")  # torch, of quantised tensors
@pytest.mark.parametrize(("spoil", "text"), UNSOUND.values(), ids=UNSOUND)
def test_a_tensor_is_refused_by_name(
    tmp_path: Path, tiny_unet: nn.Module, spoil: Callable[[Tensor], Tensor], text: str
) -> None:
    """Of a job, and by `doctor --checkpoint`, which has no network to compare with."""
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
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, folder / "m.pth")
    return files.read_state_dict(str(folder / "m.pth"))


def _bundle(folder: Path, net: nn.Module) -> Any:
    (folder / "models").mkdir()
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return bundle.state_dict(str(folder), {})


def _nnunet(folder: Path, net: nn.Module) -> Any:
    (folder / "fold_0").mkdir()
    (folder / "plans.json").write_text("{}")
    torch.save({"network_weights": net.state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
    return nnunet.state_dict(str(folder), {})


def _script(folder: Path, net: nn.Module) -> Any:
    torch.jit.save(torch.jit.trace(net, torch.rand(1, 1, 4, 4, 4), check_trace=False), folder / "m.pt")
    return frozen.network(str(folder / "m.pt"), {})


def _export(folder: Path, net: nn.Module) -> Any:
    torch.export.save(torch.export.export(net, (torch.rand(1, 1, 4, 4, 4),)), folder / "m.pt2")
    return frozen.network(str(folder / "m.pt2"), {})


WAYS: Mapping[str, Callable[[Path, nn.Module], Any]] = {
    "safetensors": _safetensors,
    "wrapped": _wrapped,
    "bundle": _bundle,
    "nnunet": _nnunet,
    "script": _script,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", [*WAYS, pytest.param("export", marks=pytest.mark.integration)])
def test_every_way_in_refuses_nan(tmp_path: Path, way: str) -> None:
    """What a job gives, a zoo's file and the start of a training are read by the first two."""
    read = WAYS.get(way, _export)
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1)).eval()
    with trusting(True):
        (tmp_path / "sound").mkdir()
        assert read(tmp_path / "sound", net)
        nn.init.constant_(net[1].bias, torch.nan)
        with pytest.raises(CheckpointError, match=r"1\.bias: expected a dense tensor of finite numbers, got 2 of 2"):
            read(tmp_path, net)


@pytest.mark.parametrize(("variance", "bias"), [(-1.0, 0.0), (1.0, 3e38)])
def test_a_network_that_overflows_on_sound_weights_gives_no_prediction(variance: float, bias: float) -> None:
    """A negative running variance and the largest of numbers are finite; what is computed with them is not."""
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Conv3d(2, 2, 1))
    net[1].running_var.fill_(variance)  # type: ignore[union-attr]
    nn.init.constant_(net[1].bias, bias)
    nn.init.constant_(net[2].weight, 9.0)
    with pytest.raises(UserError, match="Sequential: expected finite logits of the network, got NaN or infinities"):
        predict(SegmentationModel(net.eval(), (4, 4, 4)).eval(), torch.rand(1, 6, 6, 6))
