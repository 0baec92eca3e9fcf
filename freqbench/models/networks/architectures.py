"""Lists the architectures: MONAI's and our classes, with the papers' arguments as defaults."""

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from freqbench.core.documents import to_tuples
from freqbench.core.errors import UserError, unknown
from freqbench.core.types import Shape, triple
from freqbench.models.entry import AXES


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the table MODELS."""

    title: str  # its name; `(optional)` for one beside the core, see docs/not-supported.md
    citation: str
    target: str  # `module:Class`, imported on first use
    args: Mapping[str, Any] = field(default_factory=dict)  # where the attack papers differ from the class's defaults
    filled_in: tuple[str, ...] = ("in_channels", "out_channels")  # by freqbench; `spatial_dims` and `img_size` too
    multiple: Callable[[Mapping[str, Any]], tuple[int, ...]]  # that each axis of the ROI has to be of, by the arguments
    axes: str = AXES  # the axis order of its input, as in `InputAdapter`
    roi: Shape = (96, 96, 96)  # voxels of its window, in its own axis order, if a job gives none
    tuning: tuple[str, ...] = ()  # arguments that change memory and time only: in no identity and no checkpoint


_CHANNELS = ("spatial_dims", "in_channels", "out_channels")
_WINDOW = ("in_channels", "out_channels", "img_size")


def _stride_product(args: Mapping[str, Any]) -> tuple[int, ...]:
    strides = [np.broadcast_to(stride, args.get("spatial_dims", 3)) for stride in args["strides"]]
    return tuple(map(int, np.prod(strides, axis=0)))


def _repeat_axes(side: int, args: Mapping[str, Any]) -> tuple[int, ...]:
    return (side,) * args.get("spatial_dims", 3)


def require_positive(name: str, numbers: Sequence[int], length: int) -> None:
    """Raises ValueError unless there are `length` numbers from 1; `name` is the argument's, for messages."""
    if len(numbers) != length or min(numbers) < 1:
        raise ValueError(f"expected {name} of {length} positive integers, got {tuple(numbers)}")


def total_stride(stem: Sequence[int]) -> Shape:
    """Returns the multiple for each axis of a UNETR++ window: its stem, and 2 between each of four stages."""
    require_positive("stem", stem, 3)
    return triple(8 * side for side in stem)


def lattice_stride(strides: Sequence[Sequence[int]]) -> Shape:
    """Returns the multiple for each axis of a ROG window: three strides, and 2 twice in the lattice."""
    is_right = [len(stride) if isinstance(stride, Sequence) else 1 for stride in strides] == [3, 3, 3]
    if not is_right or min(map(min, strides)) < 1:
        raise ValueError(f"expected strides of three times 3 positive integers, got {strides}")
    return triple(4 * math.prod(axis) for axis in zip(*strides, strict=True))


def plane_axes(axis: int) -> tuple[int, ...]:
    """Returns the two axes of a slice, of three without `axis`; raises ValueError if `axis` is none of them."""
    if type(axis) is not int or axis not in range(3):
        raise ValueError(f"expected axis of 0, 1 or 2, got {axis!r}")
    return tuple(other for other in range(3) if other != axis)


def _slice_multiple(args: Mapping[str, Any]) -> Shape:
    """Returns the multiples of the 2D network in the plane; any number of slices."""
    sides = MODELS[args["network"]].multiple({**args, "spatial_dims": 2})
    per_axis = dict(zip(plane_axes(args["axis"]), sides, strict=True))
    return triple(per_axis.get(axis, 1) for axis in range(3))


MODELS: Mapping[str, Architecture] = {
    "unet": Architecture(
        title="UNet",
        citation="Kerfoot et al., STACOM 2018; after Cicek et al., MICCAI 2016, arXiv:1606.06650",
        target="monai.networks.nets.unet:UNet",
        filled_in=_CHANNELS,
        multiple=_stride_product,
        args={"channels": (32, 64, 128, 256, 512), "strides": (2, 2, 2, 2), "num_res_units": 2},
    ),
    "unetr": Architecture(
        title="UNETR",
        citation="Hatamizadeh et al., WACV 2022, arXiv:2103.10504",
        target="monai.networks.nets.unetr:UNETR",
        args={"proj_type": "perceptron"},
        filled_in=(*_CHANNELS, "img_size"),
        multiple=lambda args: _repeat_axes(16, args),
    ),
    "swin_unetr": Architecture(
        title="SwinUNETR",
        citation="Hatamizadeh et al., BrainLes 2021, arXiv:2201.01266",
        target="monai.networks.nets.swin_unetr:SwinUNETR",
        args={"feature_size": 48},
        filled_in=_CHANNELS,
        multiple=lambda args: _repeat_axes(args.get("patch_size", 2) ** 5, args),
    ),
    "segresnet": Architecture(
        title="SegResNet",
        citation="Myronenko, BrainLes 2018, arXiv:1810.11654",
        target="monai.networks.nets.segresnet:SegResNet",
        args={"init_filters": 32},
        filled_in=_CHANNELS,
        multiple=lambda args: _repeat_axes(2 ** (len(args.get("blocks_down", (1, 2, 2, 4))) - 1), args),
    ),
    "unetr_pp": Architecture(
        title="UNETR++",
        citation="Shaker et al., IEEE TMI 2024, arXiv:2212.04497",
        target="freqbench.models.networks.unetr_pp:UNETRPP",
        args={"stem": (2, 4, 4)},
        filled_in=_WINDOW,
        multiple=lambda args: total_stride(args["stem"]),
        axes="DHW",
        roi=(64, 128, 128),
    ),
    "rog": Architecture(
        title="ROG (optional)",
        citation="Daza et al., MICCAI 2021, arXiv:2107.04263",
        target="freqbench.models.networks.rog:ROG",
        args={"strides": ((2, 2, 1), (2, 2, 1), (2, 2, 2))},
        multiple=lambda args: lattice_stride(args["strides"]),
        roi=(192, 192, 48),
    ),
    "slices": Architecture(
        title="a 2D network over slices (2D, 2.5D)",
        citation="stacks of slices as channels: Han, 2017, arXiv:1704.07239",
        target="freqbench.models.networks.slices:SliceNetwork",
        args={"network": "unet", "slices": 3, "axis": 2},
        filled_in=_WINDOW,
        multiple=_slice_multiple,
        tuning=("chunk",),
    ),
}
PLANAR = tuple(name for name, architecture in MODELS.items() if "spatial_dims" in architecture.filled_in)
"""Architectures that are 2D networks too."""


def complete_args(arch: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all arguments of `arch` that are not the class's own defaults: the table's, overlaid by `args`. Sequences
    become tuples. Naming a default changes nothing, identities included. Refuses arguments that are unknown, that
    freqbench fills in, or that equal a number without being one of its kind (true for 1, 1.0 for 1)."""
    if arch not in MODELS:
        raise UserError(unknown("architecture", arch, MODELS))
    stated = {name: to_tuples(value) for name, value in args.items()}
    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    filled_in: set[str] = set()
    for architecture in _parts(arch, stated):
        signature = inspect.signature(pkgutil.resolve_name(architecture.target)).parameters.values()
        parameters |= {entry.name: entry.default for entry in signature if entry.kind is not entry.VAR_KEYWORD}
        defaults |= architecture.args
        filled_in |= {*architecture.filled_in}
    for name, value in stated.items():
        if name in filled_in:
            raise UserError(f"{arch}: args.{name} follows from the dataset and the roi: leave it out")
        if name not in parameters:
            raise UserError(f"{arch}: {unknown('argument', name, parameters.keys() - filled_in)}")
        default = defaults.get(name, parameters[name])
        if (type(value) is bool and type(default) in (int, float)) or (type(value) is float and type(default) is int):
            kind = "a whole number" if type(default) is int else "a number"
            raise UserError(f"{arch}: args.{name}: expected {kind} such as {default}, got {value!r}: write a number")
    changed = {name: value for name, value in stated.items() if name in defaults or value != parameters[name]}
    return {**defaults, **changed}


def _parts(arch: str, args: Mapping[str, Any]) -> tuple[Architecture, ...]:
    """Returns the architectures whose arguments one takes: `slices` takes those of its 2D network too."""
    outer = MODELS[arch]
    if "network" not in outer.args:
        return (outer,)
    if (network := str(args.get("network", outer.args["network"]))) not in PLANAR:
        raise UserError(f"{arch}: args.network: {unknown('2D network', network, PLANAR)}")
    return MODELS[network], outer
