"""Lists the architectures and builds their networks: MONAI's classes with the papers' arguments as defaults."""

import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from freqbench.core import limits
from freqbench.core.errors import UserError, one_line, unknown
from freqbench.core.types import Shape, triple
from freqbench.models.settings import AXES

# What constructors and forward passes of third-party networks raise on arguments that do not suit them.
REFUSALS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One network of the table MODELS.

    Attributes:
        target: `module:Class`, imported on first use.
        args: the defaults where they are not the class's own: the values of the attack papers.
        filled_in: the arguments that freqbench fills in, of `spatial_dims`, `in_channels`, `out_channels`, `img_size`.
        multiple: from the arguments to what each axis of the ROI must be a multiple of.
        axes: the axis order of its input, as in `InputAdapter`.
        roi: voxels of its window, in its own axis order, where a job gives none.
        tuning: arguments that change memory and time alone: neither identity nor a checkpoint depends on them.
    """

    title: str
    citation: str
    target: str
    args: Mapping[str, Any]
    filled_in: tuple[str, ...]
    multiple: Callable[[Mapping[str, Any]], tuple[int, ...]]
    axes: str = AXES
    roi: Shape = (96, 96, 96)
    tuning: tuple[str, ...] = ()


_CHANNELS = ("spatial_dims", "in_channels", "out_channels")


def _stride_product(args: Mapping[str, Any]) -> tuple[int, ...]:
    dims = args.get("spatial_dims", 3)
    per_axis = np.prod([np.broadcast_to(stride, dims) for stride in args["strides"]], axis=0)
    return tuple(map(int, per_axis))


def _on_each_axis(side: int, args: Mapping[str, Any]) -> tuple[int, ...]:
    dims: int = args.get("spatial_dims", 3)
    return (side,) * dims


def total_stride(stem: Sequence[int]) -> Shape:
    """What each axis of a window of UNETR++ must be a multiple of: its stem, and 2 between each of four stages."""
    if len(stem) != 3 or min(stem) < 1:
        raise ValueError(f"expected stem of 3 positive integers, got {tuple(stem)}")
    return triple(8 * side for side in stem)


def lattice_stride(strides: Sequence[Sequence[int]]) -> Shape:
    """What each axis of a window of ROG must be a multiple of: three strides, and 2 twice in the lattice."""
    is_right = [len(each) if isinstance(each, Sequence) else 1 for each in strides] == [3, 3, 3]
    if not is_right or min(map(min, strides)) < 1:
        raise ValueError(f"expected strides of three times 3 positive integers, got {strides}")
    return triple(4 * math.prod(axis) for axis in zip(*strides, strict=True))


def in_plane(axis: int) -> tuple[int, ...]:
    """The two axes of a slice, of three without `axis`; a ValueError where that is none of them."""
    if type(axis) is not int or axis not in range(3):
        raise ValueError(f"expected axis of 0, 1 or 2, got {axis!r}")
    return tuple(each for each in range(3) if each != axis)


def _slice_multiple(args: Mapping[str, Any]) -> Shape:
    """That of the 2D network in the plane; any number of slices."""
    sides = MODELS[args["network"]].multiple({**args, "spatial_dims": 2})
    per_axis = dict(zip(in_plane(args["axis"]), sides, strict=True))
    return triple(per_axis.get(axis, 1) for axis in range(3))


MODELS: Mapping[str, Architecture] = {
    "unet": Architecture(
        title="UNet",
        citation="Kerfoot et al., STACOM 2018; after Cicek et al., MICCAI 2016, arXiv:1606.06650",
        target="monai.networks.nets.unet:UNet",
        args={"channels": (32, 64, 128, 256, 512), "strides": (2, 2, 2, 2), "num_res_units": 2},
        filled_in=_CHANNELS,
        multiple=_stride_product,
    ),
    "unetr": Architecture(
        title="UNETR",
        citation="Hatamizadeh et al., WACV 2022, arXiv:2103.10504",
        target="monai.networks.nets.unetr:UNETR",
        args={"proj_type": "perceptron"},
        filled_in=(*_CHANNELS, "img_size"),
        multiple=lambda args: _on_each_axis(16, args),
    ),
    "swin_unetr": Architecture(
        title="SwinUNETR",
        citation="Hatamizadeh et al., BrainLes 2021, arXiv:2201.01266",
        target="monai.networks.nets.swin_unetr:SwinUNETR",
        args={"feature_size": 48},
        filled_in=_CHANNELS,
        multiple=lambda args: _on_each_axis(args.get("patch_size", 2) ** 5, args),
    ),
    "segresnet": Architecture(
        title="SegResNet",
        citation="Myronenko, BrainLes 2018, arXiv:1810.11654",
        target="monai.networks.nets.segresnet:SegResNet",
        args={"init_filters": 32},
        filled_in=_CHANNELS,
        multiple=lambda args: _on_each_axis(2 ** (len(args.get("blocks_down", (1, 2, 2, 4))) - 1), args),
    ),
    "unetr_pp": Architecture(
        title="UNETR++",
        citation="Shaker et al., IEEE TMI 2024, arXiv:2212.04497",
        target="freqbench.models.networks.unetr_pp:UNETRPP",
        args={"stem": (2, 4, 4)},
        filled_in=("in_channels", "out_channels", "img_size"),
        multiple=lambda args: total_stride(args["stem"]),
        axes="DHW",
        roi=(64, 128, 128),
    ),
    "segmamba": Architecture(
        title="SegMamba",
        citation="Xing et al., MICCAI 2024, arXiv:2401.13560",
        target="freqbench.models.networks.segmamba:SegMamba",
        args={},
        filled_in=("in_channels", "out_channels"),
        multiple=lambda args: (16, 16, 16),
        axes="DHW",
        roi=(128, 128, 128),
    ),
    "rog": Architecture(
        title="ROG",
        citation="Daza et al., MICCAI 2021, arXiv:2107.04263",
        target="freqbench.models.networks.rog:ROG",
        args={"strides": ((2, 2, 1), (2, 2, 1), (2, 2, 2))},
        filled_in=("in_channels", "out_channels"),
        multiple=lambda args: lattice_stride(args["strides"]),
        roi=(192, 192, 48),
    ),
    "vista3d": Architecture(
        title="VISTA3D, prompted by classes or points",
        citation="He et al., CVPR 2025, arXiv:2406.05285",
        target="freqbench.models.networks.vista3d:VISTA3D",
        args={},
        filled_in=("in_channels", "out_channels"),
        multiple=lambda args: _on_each_axis(2 ** (len(args.get("blocks_down", (1, 2, 2, 4, 4))) - 1), args),
        roi=(128, 128, 128),
    ),
    "sam_med3d": Architecture(
        title="SAM-Med3D, prompted by points",
        citation="Wang et al., 2023, arXiv:2310.15161",
        target="freqbench.models.networks.sam_med3d:SAMMed3D",
        args={},
        filled_in=("in_channels", "out_channels", "img_size"),
        multiple=lambda args: (16, 16, 16),
        roi=(128, 128, 128),
    ),
    "slices": Architecture(
        title="a 2D network over slices (2D, 2.5D)",
        citation="stacks of slices as channels: Han, 2017, arXiv:1704.07239",
        target="freqbench.models.networks.slices:SliceNetwork",
        args={"network": "unet", "slices": 3, "axis": 2},
        filled_in=("in_channels", "out_channels", "img_size"),
        multiple=_slice_multiple,
        tuning=("chunk",),
    ),
}
PLANAR = tuple(name for name, architecture in MODELS.items() if "spatial_dims" in architecture.filled_in)
"""Those that are 2D networks too."""


def complete_args(arch: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a network that are not its class's own defaults: the table's, overlaid by the given ones.

    Sequences become tuples; naming a default changes nothing, identities included. Refuses arguments that are unknown
    or that freqbench fills in.
    """
    if arch not in MODELS:
        raise UserError(unknown("architecture", arch, MODELS))
    given = {name: as_tuples(value) for name, value in args.items()}
    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    filled_in: set[str] = set()
    for architecture in _parts(arch, given):
        signature = inspect.signature(pkgutil.resolve_name(architecture.target)).parameters.values()
        parameters |= {each.name: each.default for each in signature if each.kind is not each.VAR_KEYWORD}
        defaults |= architecture.args
        filled_in |= {*architecture.filled_in}
    for name in args:
        if name in filled_in:
            raise UserError(f"{arch}: args.{name} follows from the dataset and the roi: leave it out")
        if name not in parameters:
            raise UserError(f"{arch}: {unknown('argument', name, parameters.keys() - filled_in)}")
    own = {name: value for name, value in given.items() if name in defaults or value != parameters[name]}
    return {**defaults, **own}


def _parts(arch: str, args: Mapping[str, Any]) -> tuple[Architecture, ...]:
    """The architectures whose arguments one takes: of `slices`, its 2D network's too."""
    outer = MODELS[arch]
    if "network" not in outer.args:
        return (outer,)
    network = str(args.get("network", outer.args["network"]))
    if network not in PLANAR:
        raise UserError(f"{arch}: args.network: {unknown('2D network', network, PLANAR)}")
    return MODELS[network], outer


def build(
    arch: str,
    num_classes: int,
    roi: Shape,
    args: Mapping[str, Any],
    seed: int = 0,
    num_channels: int = 1,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """A network of MODELS with fresh weights on the CPU, in training mode.

    Args:
        num_classes, num_channels: of its output, background included, and of its input.
        roi: voxels of the window the network sees, in its own axis order.
        args: arguments of the network's class, over the table's defaults.
        seed: of the weights; the global random state is left as found, and the weights are those of any machine.
        extra: arguments of the network's class that a checkpoint's migration gives, on top of `args`.

    Raises UserError for an unknown architecture or argument, a value its class refuses, a ROI that it cannot take.
    """
    complete = complete_args(arch, args)
    for name in complete.keys() & extra.keys():
        raise UserError(f"{arch}: args.{name} is what the checkpoint's migration gives: leave out either of the two")
    architecture = MODELS[arch]
    with seeded(seed), refusing(f"{arch}: {architecture.target.partition(':')[2]} refuses its args"):
        if "img_size" in architecture.filled_in:
            _check_roi(arch, roi, architecture.multiple(complete))
        net = construct(arch, num_channels, num_classes, roi, {**complete, **extra})
        _check_roi(arch, roi, architecture.multiple(complete))
    return net


def construct(
    arch: str, in_channels: int, out_channels: int, img_size: Sequence[int], args: Mapping[str, Any]
) -> nn.Module:
    """A network of MODELS with these arguments and those that freqbench fills in; of as many axes as `img_size`."""
    known = {
        "spatial_dims": len(img_size),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "img_size": img_size,
    }
    fixed = {name: known[name] for name in MODELS[arch].filled_in}
    net: nn.Module = pkgutil.resolve_name(MODELS[arch].target)(**fixed, **args)
    return net


def skeleton(arch: str, num_classes: int, roi: Shape, args: Mapping[str, Any]) -> nn.Module:
    """The network of `build` on the meta device: shapes and keys without memory or computing."""
    with torch.device("meta"):
        return build(arch, num_classes, roi, args).eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, weights are drawn from a seed, also on the meta device; the global random state is left as found."""
    with torch.random.fork_rng(devices=[]), _SchedulesOnCPU():
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def counted() -> Iterator[None]:
    """Within, a network that grows beyond the limit is refused while it is made."""
    numbers = count(1)
    handle = register_module_module_registration_hook(
        lambda *_: limits.require(next(numbers), limits.MODULES, "modules of a network")
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def refusing(complaint: str, refusals: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """What a third-party class raises within becomes one line that begins with the complaint."""
    try:
        yield
    except UserError:
        raise
    except refusals as error:
        raise UserError(f"{complaint}: {one_line(error)}") from error


class _SchedulesOnCPU(TorchFunctionMode):
    """Keeps `torch.linspace` off the meta device: SwinUNETR's constructor reads its drop-path schedule as numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def _check_roi(arch: str, roi: Shape, multiple: tuple[int, ...]) -> None:
    if min(multiple) < 1:
        raise ValueError(f"expected strides and patches of at least 1, got a product of {min(multiple)}")
    fits = all(size > 0 and size % factor == 0 for size, factor in zip(roi, multiple, strict=True))
    if not fits:
        nearest = [max(1, math.ceil(size / factor)) * factor for size, factor in zip(roi, multiple, strict=True)]
        raise UserError(
            f"{arch}: expected a roi of multiples of {'x'.join(map(str, multiple))}, got {'x'.join(map(str, roi))}"
            f"{'' if MODELS[arch].axes == AXES else f' on its axes {MODELS[arch].axes}'}: "
            f"the next larger is {'x'.join(map(str, nearest))}"
        )


def as_tuples(value: Any) -> Any:
    """An argument with a tuple for every list: its one spelling."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
