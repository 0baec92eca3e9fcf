"""Builds the networks of MODELS with the same weights for a seed on any machine, and reports a class that refuses."""

import math
import pkgutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from freqbench.core import limits
from freqbench.core.errors import UserError, one_line
from freqbench.core.types import Shape
from freqbench.models.entry import AXES
from freqbench.models.networks.architectures import MODELS, complete_args

# Errors that constructors and forward passes of third-party networks raise on unsuitable arguments.
REFUSALS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError, AssertionError)
Args = Mapping[str, Any]  # of a network's class
NONE: Args = MappingProxyType({})


def build(
    arch: str, num_classes: int, roi: Shape, args: Args, seed: int = 0, num_channels: int = 1, extra: Args = NONE
) -> nn.Module:
    """Builds a network of MODELS with fresh weights on the CPU, in training mode, the same for a seed on any machine.

    Args:
        arch: a name of MODELS.
        num_classes: output classes, background included, or regions.
        roi: voxels of the window that the network sees, in its own axis order.
        args: arguments of the network's class, over the table's defaults.
        seed: seed of the weights; the global random state is left unchanged.
        num_channels: input channels.
        extra: arguments of the network's class that a checkpoint's migration gives, on top of `args`.

    Raises UserError for an unknown architecture or argument, a value that its class refuses, or a ROI that it cannot
    take.
    """
    complete = complete_args(arch, args)
    for name in complete.keys() & extra.keys():
        raise UserError(f"{arch}: args.{name} is what the checkpoint's migration gives: leave out either of the two")
    architecture = MODELS[arch]
    with seed_weights(seed), refusing(f"{arch}: {architecture.target.partition(':')[2]} refuses its args"):
        if "img_size" in architecture.filled_in:
            _check_roi(arch, roi, architecture.multiple(complete))
        net = construct(arch, num_channels, num_classes, roi, {**complete, **extra})
        _check_roi(arch, roi, architecture.multiple(complete))
    return net


def construct(arch: str, in_channels: int, out_channels: int, img_size: Sequence[int], args: Args) -> nn.Module:
    """Builds a network of MODELS from its class's arguments.

    Args:
        arch: a name of MODELS.
        in_channels: channels of its input.
        out_channels: channels of its output.
        img_size: voxels of its window on each axis; two axes make a 2D network.
        args: all others that are not the class's defaults.
    """
    values: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
    values |= {"spatial_dims": len(img_size), "img_size": img_size}
    fixed = {name: values[name] for name in MODELS[arch].filled_in}
    network = partial(pkgutil.resolve_name(MODELS[arch].target), **fixed, **args)
    if arch != "unetr":
        return network()
    # MONAI before 1.6 makes attention that UNETR never runs: without it, keys and draws are those of later releases.
    with mock.patch("monai.networks.blocks.transformerblock.CrossAttentionBlock", nn.Identity):
        return network()


def skeleton(arch: str, num_classes: int, roi: Shape, args: Mapping[str, Any]) -> nn.Module:
    """Returns the network that `build` makes of `arch`, `num_classes`, `roi` and `args`, on the meta device: shapes and
    keys without memory or computation."""
    with torch.device("meta"):
        return build(arch, num_classes, roi, args).eval()


@contextmanager
def seed_weights(seed: int) -> Iterator[None]:
    """Draws weights from a seed inside the block, also on the meta device; leaves the global random state unchanged."""
    with torch.random.fork_rng(devices=[]), _SchedulesOnCPU():
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def limit_modules() -> Iterator[None]:
    """Refuses, while it is made, a network that exceeds the limit of modules."""
    numbers = count(1)
    what = "modules of a network"
    handle = register_module_module_registration_hook(lambda *_: limits.require(next(numbers), limits.MODULES, what))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def refusing(complaint: str, refusals: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """Turns errors of a third-party class, those of `refusals`, into a UserError that begins with the complaint."""
    try:
        yield
    except UserError:
        raise
    except refusals as error:
        raise UserError(f"{complaint}: {one_line(error)}") from error


def sequence(**layers: nn.Module) -> nn.Sequential:
    """Returns layers one after another, under the names that checkpoints have for them."""
    return nn.Sequential(OrderedDict(layers))


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
    if any(size <= 0 or size % factor for size, factor in zip(roi, multiple, strict=True)):
        nearest = [max(1, math.ceil(size / factor)) * factor for size, factor in zip(roi, multiple, strict=True)]
        wanted, got, larger = ("x".join(map(str, sides)) for sides in (multiple, roi, nearest))
        axes = MODELS[arch].axes
        own = "" if axes == AXES else f" on its axes {axes}"
        raise UserError(f"{arch}: expected a roi of multiples of {wanted}, got {got}{own}: the next larger is {larger}")
