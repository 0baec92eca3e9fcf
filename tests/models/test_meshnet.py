"""MeshNets in TensorFlow.js' layers format."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from draws import seeded
from models import meshnet_folder
from models.conftest import refused
from models.meshnet_folder import SIDE, layers_of, weights
from safetensors.numpy import save_file
from scipy.ndimage import correlate
from torch import nn

from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, load, resolve
from freqbench.models.sources.meshnet import Dilated

Volume = npt.NDArray[np.float64]
CPU = torch.device("cpu")


def entry(folder: str, **more: Any) -> ModelEntry:
    return ModelEntry(name="m", arch="meshnet", checkpoint=folder, **more)


def reference(volume: Volume, seed: int = 0) -> Volume:
    """The chain in float64 by scipy, `[d, h, w]` to `[K, d, h, w]`; zeros outside, as `same` pads."""
    arrays = weights(seed)

    def conv(x: Volume, name: str, dilation: int) -> Volume:
        kernel = arrays[f"{name}/kernel"].astype(np.float64)
        side = dilation * (kernel.shape[0] - 1) + 1
        wide = np.zeros((side, side, side, *kernel.shape[3:]))
        wide[::dilation, ::dilation, ::dilation] = kernel
        bias = arrays[f"{name}/bias"]
        return np.stack(
            [
                sum(correlate(x[i], wide[..., i, o], mode="constant") for i in range(len(x))) + bias[o]
                for o in range(kernel.shape[-1])
            ]
        )

    x = conv(volume[None], "conv3d_0", 1)
    x = np.where(x > 0, x, np.expm1(x))
    return conv(np.maximum(conv(x, "21", 2), 0), "output", 1)


def test_the_network_is_its_chain_on_the_arrays_of_an_lia_volume(tmp_path: Path) -> None:
    """nibabel reads the array of an LIA file with axes L, I, A: -H, -D and W of a volume in RAS."""
    spec = resolve(entry(meshnet_folder.write(tmp_path / "net")), num_classes=3)
    assert (spec.network_roi, spec.num_classes) == (SIDE, 3)
    x = torch.rand(1, 1, *spec.roi, generator=seeded(1))
    got = load(spec, CPU)(x)[0].detach().numpy()
    array = x[0, 0].double().numpy()[::-1, :, ::-1].transpose(0, 2, 1)
    np.testing.assert_allclose(got, reference(array).transpose(0, 1, 3, 2)[:, ::-1, :, ::-1], atol=1e-5)


def test_axes_of_the_job_replace_those_of_the_format(tmp_path: Path) -> None:
    spec = resolve(entry(meshnet_folder.write(tmp_path / "net"), input={"axes": "HWD"}), num_classes=3)
    x = torch.rand(1, 1, *SIDE, generator=seeded(1))
    np.testing.assert_allclose(load(spec, CPU)(x)[0].detach().numpy(), reference(x[0, 0].double().numpy()), atol=1e-5)


def test_file_and_folder_are_one_network(tmp_path: Path) -> None:
    folder = meshnet_folder.write(tmp_path / "net")
    assert resolve(entry(f"{folder}/model.json"), 3).model_id == resolve(entry(folder), 3).model_id

    def paths(model: dict[str, Any]) -> None:
        model["weightsManifest"][0]["paths"] = ["model.safetensors"]

    other = meshnet_folder.write(tmp_path / "other", paths)
    save_file(weights(), tmp_path / "other" / "model.safetensors")
    x = torch.rand(1, 1, 9, 7, 8)
    torch.testing.assert_close(*[load(resolve(entry(each), 3), CPU)(x) for each in (folder, other)], rtol=0, atol=0)


def at(number: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        layers_of(model)[number]["config"][key] = value

    return change


def kind(number: int, name: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        layers_of(model)[number]["class_name"] = name

    return change


def listed(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        model["weightsManifest"][0]["weights"][0][key] = value

    return change


def skip(model: dict[str, Any]) -> None:
    layers_of(model)[5]["inbound_nodes"] = [[["act_0", 0, 0, {}]]]


def graph(model: dict[str, Any]) -> None:
    model["modelTopology"] = {"node": []}


def gone(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["paths"] = ["other.bin"]


def outside(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["paths"] = ["../model.bin"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (kind(2, "BatchNormalization"), "layer act_0 (BatchNormalization): expected a chain of Conv3D and Activation"),
        (
            at(2, "activation", "gelu"),
            "layer act_0 (Activation): activation: Input should be 'linear', 'relu' or 'elu', got 'gelu'",
        ),
        (at(3, "padding", "valid"), "layer 21 (Conv3D): padding: Input should be 'same', got 'valid'"),
        (at(3, "strides", [2, 2, 2]), "layer 21 (Conv3D): strides[0]: Input should be 1, got 2"),
        (at(3, "kernel_size", [2, 2, 2]), "layer 21 (Conv3D): kernel_size: expected odd numbers"),
        (at(3, "data_format", "channels_first"), "layer 21 (Conv3D): data_format: Input should be 'channels_last'"),
        (skip, "layer output (Conv3D): expected a chain, in which each layer takes the one before"),
        (at(3, "filters", 5), "does not fit: 0 keys missing, 0 unexpected, 3 of another shape"),
        (listed("dtype", "float16"), "weightsManifest: weights[0].dtype: Input should be 'float32', got 'float16'"),
        (listed("quantization", {"dtype": "uint8"}), "weightsManifest: weights[0].quantization: Input should be None"),
        (listed("shape", [3, 3, 3, 1, 3]), "expected 2,144 bytes, as model.json lists, got 2,252"),
        (listed("name", "other/kernel"), "weightsManifest: expected conv3d_0/kernel, found none"),
        (gone, "other.bin: expected the weights that model.json names, found none"),
        (outside, "weightsManifest: paths[0]:"),
        (at(0, "batch_input_shape", 5), "expected an input [batch, d, h, w, channels], got 5"),
        (graph, "expected TensorFlow.js' layers format"),
    ],
)
def test_network_no_such_chain_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], text: str) -> None:
    folder = meshnet_folder.write(tmp_path / "net", change)
    with pytest.raises(UserError, match=re.escape(text)):
        resolve(entry(folder), 3)


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    folder = meshnet_folder.write(tmp_path / "net")
    stated = f"m: {folder} has 3 output classes, dataset wants 4: choose the classes that it knows by"
    refused(entry(folder), stated, num_classes=4)
    refused(entry(folder, args={"side": 3}), f"{folder}: unknown key 'side'")
    file = tmp_path / "net" / "model.bin"
    file.write_bytes(file.read_bytes()[:-4])
    refused(entry(folder), f"{file}: expected 2,")
    (tmp_path / "net" / "model.json").write_text(json.dumps({"layers": []})[:-3])
    refused(entry(folder), f"{folder}/model.json: ")
    refused(entry(str(tmp_path / "none")), f"{tmp_path}/none: expected a file, found none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dilation", "size"), [(4, (9, 16, 5)), (8, (17, 3, 8)), (16, (20, 33, 16))])
def test_wide_dilation_is_pytorchs(dilation: int, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Sizes are multiples of the dilation, and are not; gradients of weights and bias are long sums, and in float64."""
    generator = seeded(dilation)
    conv = Dilated(2, 3, 3, padding=dilation, dilation=dilation, dtype=dtype)
    plain = nn.Conv3d(2, 3, 3, padding=dilation, dilation=dilation, dtype=dtype)
    plain.load_state_dict(conv.state_dict())
    x, back = (torch.randn(2, channels, *size, generator=generator, dtype=dtype) for channels in (2, 3))
    x.requires_grad_()
    outcomes = []
    for module in (conv, plain):
        made = module(x)
        towards = [x, *module.parameters()] if dtype == torch.float64 else [x]
        outcomes.append([made, *torch.autograd.grad(made, towards, back)])
    torch.testing.assert_close(*outcomes, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)


def test_convolution_is_split_on_cpu_from_dilation_4_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = []
    monkeypatch.setattr(nn.Conv3d, "forward", lambda self, x: plain.append((self.dilation[0], x.device.type)))
    for dilation in (1, 2, 4):
        for device in ("cpu", "meta"):
            conv = Dilated(1, 1, 3, padding=dilation, dilation=dilation, device=device)
            conv(torch.zeros(1, 1, 5, 5, 5, device=device))
    assert plain == [(1, "cpu"), (1, "meta"), (2, "cpu"), (2, "meta"), (4, "meta")]
