"""UNETR++: the authors' keys and, under weights from a formula, the authors' outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from freqbench.core.types import Shape
from freqbench.models import ModelEntry, build
from freqbench.models.networks.construction import skeleton
from freqbench.models.networks.unetr_pp import UNETRPP

from .conftest import refused

ACDC = {"stem": [1, 4, 4], "tied_projections": False, "conv_blocks": 2, "attention_dropout": 0.1}
CONFIGURATIONS: dict[str, tuple[int, Shape, dict[str, Any]]] = {
    "synapse": (14, (64, 128, 128), {}),
    "acdc": (4, (16, 160, 160), ACDC),
}
TINY: dict[str, Any] = {
    "stem": [1, 2, 2], "feature_size": 4, "dims": [4, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_depth": 1,
    "num_heads": 2, "proj_sizes": [8, 8, 4, 2], "decoder_proj_size": 4,
}  # fmt: skip
TINY_ROI = (16, 16, 32)

DOWN = {f"down{i}": f"unetr_pp_encoder.downsample_layers.{i}" for i in range(4)}
STAGES = {f"stage{i}": f"unetr_pp_encoder.stages.{i}" for i in range(4)}
ENCODER = {
    **DOWN,
    **STAGES,
    "s0b0_norm": "unetr_pp_encoder.stages.0.0.norm",
    "s0b0_epa": "unetr_pp_encoder.stages.0.0.epa_block",
    "s0b0_block": "unetr_pp_encoder.stages.0.0",
}
DECODERS = [f"decoder{i}" for i in (5, 4, 3, 2)]
DECODER = dict(zip(DECODERS, DECODERS, strict=True)) | {f"{name}_transp": f"{name}.transp_conv" for name in DECODERS}
DECODER = {"encoder1": "encoder1", **DECODER}


def contents(arrays: Path, configuration: str) -> dict[str, Any]:
    text = (arrays / "models" / f"unetr_pp_{configuration}_state_dict.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def filled(index: int, key: str, shape: list[int], dtype: str) -> Tensor:
    """Entry number `index` of the state dict: a hash of its place, at a scale that suits its kind."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=torch.int64)
    z = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(2654435761) + np.uint32((index + 1) * 40503 % 2**32)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(2246822519)
    z = (z ^ (z >> np.uint32(13))) * np.uint32(3266489917)
    u = ((z ^ (z >> np.uint32(16))) / 2**31 - 1) * np.sqrt(3)
    base = 0.0
    scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
    if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
        base = 1.0
        scale = 0.05
    elif key.endswith("gamma"):
        base = 0.1
        scale = 0.01
    elif len(shape) == 1:
        scale = 0.02
    return torch.from_numpy((base + scale * u).astype(np.float32).reshape(shape))


def golden_input(size: Shape) -> Tensor:
    d, h, w = np.meshgrid(*[np.arange(float(length)) for length in size], indexing="ij")
    return torch.from_numpy(0.5 + 0.5 * np.sin(0.05 * d + 0.07 * h + 0.09 * w + 0.3)).float()[None, None]


def watched(net: nn.Module, places: dict[str, str]) -> dict[str, Tensor]:
    """Outputs of the modules at these places from now on, by name."""
    seen: dict[str, Tensor] = {}
    for name, place in places.items():
        net.get_submodule(place).register_forward_hook(lambda *io, name=name: seen.update({name: io[2]}))
    return seen


def summary(activation: Tensor) -> npt.NDArray[np.float64]:
    """Mean, standard deviation, least, greatest, and twelve values of the one sample of a batch."""
    values = activation[0].double().flatten()
    some = values[np.floor(np.linspace(0, values.numel() - 1, 12)).astype(int)]
    return torch.cat([torch.stack([values.mean(), values.std(correction=0), values.min(), values.max()]), some]).numpy()


@pytest.mark.parametrize(
    "configuration",
    [pytest.param("synapse", marks=pytest.mark.slow), pytest.param("acdc", marks=pytest.mark.integration)],
)
def test_intermediate_values_are_the_authors(arrays: Path, configuration: str) -> None:
    num_classes, size, args = CONFIGURATIONS[configuration]
    net = skeleton("unetr_pp", num_classes, size, args).to_empty(device="cpu")
    entries = contents(arrays, configuration)["entries"]
    net.load_state_dict({key: filled(i, key, shape, dtype) for i, (key, shape, dtype) in enumerate(entries)})
    assert isinstance(net, UNETRPP)
    seen = watched(net, ENCODER | DECODER)
    with torch.no_grad():
        heads = {"logits": net(golden_input(size))}
        heads |= {"ds2": net.out2(seen["decoder3"]), "ds3": net.out3(seen["decoder4"])}
    expected = dict(np.load(arrays / "models" / f"unetr_pp_{configuration}_hash.npz"))
    for name, activation in seen.items():
        np.testing.assert_allclose(summary(activation), expected[f"act_{name}"], rtol=1e-4, atol=3e-4, err_msg=name)
    for head, step, atol in (("logits", 8, 3e-4), ("ds2", 4, 1e-3), ("ds3", 4, 1e-3)):
        features = heads[head][0]
        np.testing.assert_allclose(features[:, ::step, ::step, ::step], expected[f"{head}_sub"], rtol=0, atol=atol)
        np.testing.assert_allclose(summary(features[None])[:4], expected[f"{head}_stats"], rtol=0, atol=atol)
        voxels = torch.bincount(features.argmax(0).flatten(), minlength=len(features)).numpy()
        assert np.abs(voxels - expected[f"{head}_argmax_hist"]).max() <= 20


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_keys_shapes_and_types_are_the_authors_in_their_order(arrays: Path, configuration: str) -> None:
    golden = contents(arrays, configuration)
    net = skeleton("unetr_pp", *CONFIGURATIONS[configuration])
    weights = net.state_dict(keep_vars=True)
    entries = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in weights.items()]
    assert entries == golden["entries"]
    assert sum(parameter.numel() for parameter in net.parameters()) == golden["n_parameters_unique"]
    tied = [[key, key.replace(".E.", ".F.")] for key in weights if ".E." in key]
    assert [pair for pair in tied if weights[pair[0]] is weights[pair[1]]] == golden["aliased_pairs"]


def tiny(**args: Any) -> ModelEntry:
    return ModelEntry(name="m", arch="unetr_pp", checkpoint="random", args=TINY | args, roi=TINY_ROI)


def test_fresh_weights_are_the_authors_choice() -> None:
    """Attention starts as good as absent, and linear layers of the encoder alone are drawn from N(0, 0.02^2)."""
    weights = build("unetr_pp", 3, TINY_ROI, TINY | {"dims": [16, 32, 64, 64]}).state_dict()
    assert weights["decoder3.decoder_block.0.0.gamma"].unique().tolist() == pytest.approx([1e-6])
    assert weights["decoder3.decoder_block.0.0.pos_embed"].count_nonzero() == 0
    block = "epa_block.qkvv.weight"
    assert float(weights[f"unetr_pp_encoder.stages.3.0.{block}"].std()) == pytest.approx(0.02, rel=0.03)
    # Torch's own choice is uniform up to 1 / sqrt(64), which has a deviation of that over sqrt(3).
    assert float(weights[f"decoder5.decoder_block.0.0.{block}"].std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.03)


@pytest.mark.parametrize(
    ("text", "args"),
    [
        (
            "expected a roi of multiples of 8x32x32, got 32x16x16 on its axes DHW: the next larger is 32x",
            {"stem": [1, 4, 4]},
        ),
        ("UNETRPP refuses its args: expected stem of 3 positive integers, got (2, 2)", {"stem": [2, 2]}),
        ("UNETRPP refuses its args: expected depths of 4 positive integers, got (3, 3, 3)", {"depths": [3, 3, 3]}),
        ("UNETRPP refuses its args: expected dims, each a multiple of the one", {"dims": [4, 8, 12, 16]}),
        ("UNETRPP refuses its args: expected even dims that num_heads divides, got (4, 8, 16, ", {"num_heads": 3}),
        ("UNETRPP refuses its args: expected conv_blocks of 1 or 2, got 3", {"conv_blocks": 3}),
        ("args.img_size follows from the dataset and the roi: leave it out", {"img_size": [16, 16, 16]}),
    ],
)
def test_refusal_is_one_clear_line(text: str, args: dict[str, Any]) -> None:
    refused(tiny(**args), f"unetr_pp: {text}")
