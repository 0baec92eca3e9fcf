"""Reads a network's arguments off the keys and shapes of its weights, as far as these determine them.
MONAI's classes have other defaults than a training states, and a checkpoint rarely says which arguments it was made
with. What leaves no trace in weights (`UNTRACED`) is named, and where a default would be a guess, asked for."""

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from torch import Tensor

from freqbench.models.networks.architectures import MODELS

Weights = Mapping[str, Tensor]
UNTRACED: Mapping[str, tuple[str, ...]] = {  # arguments that change what a network computes, not its weights
    "unet": ("strides",),
    "unetr": ("num_heads",),
    "swin_unetr": ("normalize",),
    "segresnet": ("norm", "act"),
    "slices": ("axis",),
}
_BOUND: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "unetr": ("num_heads", ("hidden_size",)),
    "segresnet": ("norm", ("init_filters",)),
}
"""For an architecture, the untraced argument that goes with its sizes: beside other sizes its default is a guess."""


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """Facts that the weights of a network show."""

    args: Mapping[str, Any] = field(default_factory=dict)  # of the network's class
    in_channels: int | None = None  # of its first layer; None: not known
    out_channels: int | None = None  # of its last
    unclear: tuple[str, ...] = ()  # arguments that are not at their default and that the weights do not determine


def find_arch(weights: Weights) -> tuple[str, str | None, dict[str, Tensor]]:
    """Guesses the prefix of a file's first network, its architecture, and its weights without the prefix."""
    dims = {weight.ndim for weight in weights.values()}
    is_planar = 4 in dims and 5 not in dims  # convolutions of a 2D network
    for key in weights:
        for arch, (sign, _) in NETWORKS.items():
            start = 0 if key.startswith(sign) else f".{key}".find(f".{sign}")
            if start >= 0:
                prefix = key[:start]
                arch = "slices" if arch in MODELS and is_planar else arch
                bare = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
                return prefix, arch, bare
    return "", None, dict(weights)


def infer_args(arch: str, weights: Weights, num_channels: int = 1) -> Inferred:
    """Reads the arguments of an architecture, `arch`, off its weights, and `num_channels` for `slices`; empty for other
    keys."""
    if arch == "slices":
        network = next((name for name, (sign, read) in NETWORKS.items() if read and _keys(weights, sign)), None)
        if network is None:
            return Inferred()
        plain = infer_args(network, weights)
        slices = (plain.in_channels or 0) // num_channels
        odd = {"slices": slices} if slices % 2 and slices * num_channels == plain.in_channels else {}
        return replace(plain, args={"network": network, **odd, **plain.args}, in_channels=None)
    try:
        _, read = NETWORKS[arch]
        return read(weights) if read else Inferred()
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return Inferred()


def open_args(arch: str, args: Mapping[str, Any], found: Inferred) -> list[str]:
    """Returns the arguments of `arch` that a job has to state beside `args`, as their defaults would be guesses beside
    those `found` in the weights."""
    asked = [name for name in found.unclear if name not in args]
    name, sizes = _BOUND.get(arch, ("", ()))
    is_other = any(found.args.get(size, default) != default for size, default in defaults(arch, sizes).items())
    return [*asked, *([name] if name and is_other and name not in args and name not in asked else [])]


def defaults(arch: str, names: Iterable[str]) -> dict[str, Any]:
    """Returns the defaults of those arguments of `arch` that `names` lists: the table's, else those of the network's
    class."""
    parameters = inspect.signature(pkgutil.resolve_name(MODELS[arch].target)).parameters
    return {name: MODELS[arch].args.get(name, parameters[name].default) for name in names if name in parameters}


def _unet(weights: Weights) -> Inferred:
    """Follows MONAI's nested levels: `0` goes down, `1.submodule` is the next level, `2` comes up."""
    args: dict[str, Any] = {}
    place = "model."
    channels = list[int]()
    strides = list[int]()
    while f"{place}0.conv.weight" in weights or f"{place}0.conv.unit0.conv.weight" in weights:
        units = _count(weights, f"{place}0.conv.unit{{}}.conv.weight")
        weight = weights[f"{place}0.conv.unit0.conv.weight" if units else f"{place}0.conv.weight"]
        residual = weights.get(f"{place}0.residual.weight")
        channels.append(len(weight))
        # A residual of kernel 1 stands beside a stride of 1; any other stride looks alike.
        is_kept = units and (residual is None or (residual.shape[2:].numel() == 1 and weight.shape[2:].numel() > 1))
        strides.append(1 if is_kept else 2)
        args["num_res_units"] = units
        args["kernel_size"] = _side(weight)
        place += "1.submodule."
    unit = "conv.unit0." if args["num_res_units"] else ""
    channels.append(len(weights[f"{place}{unit}conv.weight"]))
    up = weights["model.2.0.conv.weight" if unit else "model.2.conv.weight"]
    first = f"model.0.{unit}"
    last = weights.get("model.2.1.conv.unit0.conv.weight")
    unclear = _norm(_keys(weights, f"{first}adn.N."), args, "norm")
    if f"{first}adn.A.weight" not in weights:
        unclear = (*unclear, "act")
    if f"{first}conv.bias" not in weights:
        args["bias"] = False
    args |= {"channels": tuple(channels), "strides": tuple(strides), "up_kernel_size": _side(up)}
    inputs = weights[f"{first}conv.weight"].shape[1]
    outputs = up.shape[1] if last is None else len(last)
    return Inferred(args=args, in_channels=inputs, out_channels=outputs, unclear=unclear)


def _unetr(weights: Weights) -> Inferred:
    first = weights["encoder1.layer.conv1.conv.weight"]
    mlp = weights["vit.blocks.0.mlp.linear1.weight"]
    args: dict[str, Any] = {"feature_size": len(first), "mlp_dim": mlp.shape[0], "hidden_size": mlp.shape[1]}
    args["proj_type"] = "conv" if "vit.patch_embedding.patch_embeddings.weight" in weights else "perceptron"
    args["qkv_bias"] = "vit.blocks.0.attn.qkv.bias" in weights
    args["conv_block"] = any(key.startswith("encoder2.blocks.0.1.") for key in weights)
    args["res_block"] = "decoder5.conv_block.conv3.conv.weight" in weights
    return _unetr_like(weights, first, args)


def _swin_unetr(weights: Weights) -> Inferred:
    first = weights["swinViT.patch_embed.proj.weight"]
    hidden = weights["swinViT.layers1.0.blocks.0.mlp.linear1.weight"]
    attention = "swinViT.layers{}.0.blocks.{}.attn."
    tables = [weights[attention.format(i, 0) + "relative_position_bias_table"] for i in range(1, 5)]
    args: dict[str, Any] = {"feature_size": len(first), "patch_size": first.shape[2]}
    args["depths"] = _depths(weights, attention + "qkv.weight", first=1)
    args["num_heads"] = tuple(table.shape[1] for table in tables)
    args["window_size"] = (round(tables[0].shape[0] ** (1 / (first.ndim - 2))) + 1) // 2
    args["qkv_bias"] = f"{attention.format(1, 0)}qkv.bias" in weights
    args["mlp_ratio"] = hidden.shape[0] / hidden.shape[1]
    args["use_v2"] = any(key.startswith("swinViT.layers1c.") for key in weights)
    args["patch_norm"] = "swinViT.patch_embed.norm.weight" in weights
    return _unetr_like(weights, first, args)


def _segresnet(weights: Weights) -> Inferred:
    first = weights["convInit.conv.weight"]
    last = weights.get("conv_final.2.conv.weight")
    args: dict[str, Any] = {"init_filters": len(first)}
    args["blocks_down"] = _depths(weights, "down_layers.{}.{}.conv1.conv.weight", start=1)
    args["blocks_up"] = _depths(weights, "up_layers.{}.{}.conv1.conv.weight")
    if "up_samples.0.1.deconv.weight" in weights:
        args["upsample_mode"] = "deconv"
    elif _keys(weights, "up_samples.0.1."):
        args["upsample_mode"] = "pixelshuffle"
    if last is None:
        args["use_conv_final"] = False
    norms = _keys(weights, "down_layers.0.1.norm1.")
    if "running_mean" in norms:
        args["norm"] = "batch"
    elif not norms:
        args["norm"] = "instance"
    return _read_channels(args, first, last)


def _unetr_pp(weights: Weights) -> Inferred:
    stages = "unetr_pp_encoder.stages.{}."
    finest = "unetr_pp_encoder.stages.0."
    block = "decoder5.decoder_block.0."
    first = weights["unetr_pp_encoder.downsample_layers.0.0.conv.weight"]
    stem = tuple(first.shape[2:])
    encoder = weights["encoder1.conv1.conv.weight"]
    dims = _lengths(weights, stages + "0.gamma")
    depths = _depths(weights, stages + "{}.gamma")
    decoder_depth = _count(weights, block + "{}.gamma")
    temperatures = weights[f"{finest}0.epa_block.temperature"]
    proj_sizes = _lengths(weights, stages + "0.epa_block.E.weight")
    projection = weights[f"{block}0.epa_block.E.weight"]
    args: dict[str, Any] = {
        "stem": stem,
        "feature_size": len(encoder),
        "dims": dims,
        "depths": depths,
        "decoder_depth": decoder_depth,
        "num_heads": len(temperatures),
        "proj_sizes": proj_sizes,
        "decoder_proj_size": len(projection),
        "conv_blocks": 2 if f"{finest}0.conv52.conv1.conv.weight" in weights else 1,
    }
    return _read_channels(args, first, weights["out1.conv.conv.weight"])


def _rog(weights: Weights) -> Inferred:
    cell = weights["backbone.0.cells.0.core.1.pointwise.weight"]
    return _read_channels({"channels": len(cell)}, weights["stem.0.0.pointwise.weight"], weights["final.1.weight"])


NETWORKS: Mapping[str, tuple[str, Callable[[Weights], Inferred] | None]] = {
    "unet": ("model.1.submodule.", _unet),
    "unetr": ("vit.blocks.", _unetr),
    "swin_unetr": ("swinViT.", _swin_unetr),
    "segresnet": ("convInit.", _segresnet),
    "unetr_pp": ("unetr_pp_encoder.", _unetr_pp),
    "rog": ("backbone.0.cells.", _rog),
    "nnunet": ("decoder.seg_layers.", None),
}
"""Beginning of a key of each network of any size, and the function that reads its arguments off its weights: of
nnU-Net's too, as its files are taken for checkpoints; its plans hold the arguments."""


def _read_channels(args: dict[str, Any], first: Tensor, last: Tensor | None, unclear: tuple[str, ...] = ()) -> Inferred:
    outputs = None if last is None else last.shape[0]
    return Inferred(args=args, in_channels=first.shape[1], out_channels=outputs, unclear=unclear)


def _unetr_like(weights: Weights, first: Tensor, args: dict[str, Any]) -> Inferred:
    unclear = _norm(_keys(weights, "encoder1.layer.norm1."), args, "norm_name")
    return _read_channels(args, first, weights["out.conv.conv.weight"], unclear)


def _norm(names: set[str], args: dict[str, Any], key: str) -> tuple[str, ...]:
    """Notes batch normalisation by its statistics; returns the key if weights without statistics leave it open."""
    if "running_mean" in names:
        args[key] = "batch"
    return (key,) if names and key not in args else ()


def _keys(weights: Weights, place: str) -> set[str]:
    return {key.removeprefix(place) for key in weights if key.startswith(place)}


def _count(weights: Weights, pattern: str, start: int = 0) -> int:
    """Returns how many numbers in a row, from `start`, make a key of the pattern."""
    return next(i for i in count(start) if pattern.format(i) not in weights) - start


def _depths(weights: Weights, pattern: str, first: int = 0, start: int = 0) -> tuple[int, ...]:
    """Returns how many blocks, from `start`, each stage has, from `first`, by the pattern of their keys."""
    stages = range(first, first + _count(weights, pattern.format("{}", start), first))
    return tuple(_count(weights, pattern.format(stage, "{}"), start) for stage in stages)


def _lengths(weights: Weights, pattern: str) -> tuple[int, ...]:
    """Returns the lengths of the weights whose keys a number in a row makes of the pattern."""
    return tuple(len(weights[pattern.format(i)]) for i in range(_count(weights, pattern)))


def _side(weight: Tensor) -> int | tuple[int, ...]:
    """Returns the length of a kernel: one number if all its axes have it."""
    sides = tuple(weight.shape[2:])
    return sides[0] if len(set(sides)) == 1 else sides
