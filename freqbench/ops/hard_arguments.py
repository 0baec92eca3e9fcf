"""Makes arguments of functions of `ops` at which the last bits decide: ties, halves, a sure softmax, what is empty."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from freqbench.ops.losses import Scope

SHAPE = 2, 1, 6, 5, 7
CLASSES = 4
Arguments = tuple[Any, ...]


def hard_arguments(function: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> list[Arguments]:
    """Returns lists of arguments for a function, by its module and its name; those with a gradient ask for one."""
    module, name = function.__module__.rpartition(".")[2], function.__name__
    move = partial(_moved, dtype=dtype, device=device)
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    if module not in ("losses", "region_losses"):
        return [move(given) for given in _of_volumes(draw)[name]]
    logits = 6 * draw(2, CLASSES, *SHAPE[2:]) - 3
    logits[:, :, 0] *= 40  # a softmax of 1 and zeros
    logits[:, :, 1:3] = logits[:, :, 1:3].round()  # of equal logits the first class counts
    labels, truth = ((3 * draw(SHAPE)).long() for _ in range(2))  # of the last class no voxel
    some, classes = draw(SHAPE) < 0.6, torch.tensor([1, CLASSES - 1])
    z, y, of, voxels, of_classes = (move(each) for each in (logits.requires_grad_(), labels, truth, some, classes))
    if name == "is_as_labelled":
        return [(z, y)]
    if name == "mean_dice":
        return [(z, y), (z, y, (1, CLASSES - 1), voxels)]
    margins = [] if name != "margin_of" else [z if module == "region_losses" else z[:, :1]]
    every = Scope(truth=of if name == "dlr_targeted" else None)
    return [(z, y, scope, *margins) for scope in (every, Scope(voxels=voxels, classes=of_classes, truth=of))]


def _moved(given: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(given, tuple):
        return tuple(_moved(each, dtype, device) for each in given)
    if not isinstance(given, Tensor):
        return given
    asks = given.requires_grad
    return given.detach().to(device, dtype if given.is_floating_point() else given.dtype).requires_grad_(asks)


def _of_volumes(draw: Callable[..., Tensor]) -> dict[str, list[Arguments]]:
    x = (255 * draw(SHAPE)).round()  # whole numbers, of which several are a slice's extremes
    x[..., 0] = 4
    ends = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    lines = ((*ends, 255.0, 0.0), (*ends, None, 1e-6))
    steps = (1 + 30 * draw(SHAPE)).floor()  # whose reciprocals are rounded
    halves = ((x / 2).floor() - 60.5) * steps
    first, away = (x, x + 2), x + torch.where(x > 100, torch.inf, 4)
    between = x + 3, first, (away, away + 2)  # as far from either interval, if there are two
    mean_x, mean_y, variance = draw(SHAPE), draw(SHAPE), 0.01 * draw(SHAPE)
    variance[..., 0] = 0
    moments = torch.cat([mean_y, mean_y.square() + variance, mean_x * mean_y + variance / 2], dim=1)
    return {
        "stretched": [(x, *line) for line in lines],
        "stretched_back": [(draw(SHAPE) - 0.5, x, *line) for line in lines],
        "nearest_error": [between],
        "table_of": [(*between, halves, (x / 100).floor(), 0.5, 4.0)],
        "reachable": [((x - 4) / 8, 0.5, 4.0)],
        "hard_error": [(halves, steps)],
        "ssim_maps": [(moments, mean_x, variance)],
    }
