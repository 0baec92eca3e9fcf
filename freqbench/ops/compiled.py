"""Runs functions of `ops` in the form that `torch.compile` makes of them, on a GPU and where an attack is long enough.

In PyTorch's operations a loss reads or writes its logits some thirty times a step, and memory is what a GPU waits for;
compiled, it does so a few times. A process compiles a function once for each shape, so that a number depends on no
shape that came before, and finds earlier work in the node's cache. Before it takes a form, it holds it against the
plain function, on arguments at which a rounding decides.

Forms differ in their last bits, and steps along signs amplify that: `sa2` with `ssim_maps` compiled for a CPU left
0.0004 less Dice on the phantom's UNet. `addcmul` rounds once in PyTorch, as a fused multiply-add; what inductor writes
for a CPU rounds the product too, and as variances are small differences, most of the derivatives move (written with two
roundings, the plain function is equal to the compiled one to the bit). So that form is left out on a CPU. For CUDA
inductor writes the fused operation, and OPTIONS leave all others as they are in PyTorch: products unfused, divisions to
the nearest, or `hard_error` would take another multiple where a coefficient lies halfway.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from freqbench.core.errors import one_line
from freqbench.core.files import node_cache
from freqbench.core.measures import Tolerance
from freqbench.ops.losses import Scope

KINDS = ["cuda"]  # of devices
WORTH = 24e9
"""Logits of all steps of an attack on a case from which it is compiled. An H100 took 1.1 ms in place of 3.2 for a loss
of 50 million (four windows of 96^3 voxels, 14 classes), which makes a second of these, and 17 s to compile it
(reports/speed/gpu.json): some cases pay for that, fewer where a process before has filled the node's cache."""
OPTIONS: Mapping[str, Any] = {  # settings of inductor, where a release has them
    "emulate_precision_casts": True,  # fuses no multiplication with an addition either
    "eager_numerics.division_rounding": True,
    "deterministic": True,  # chooses nothing by the clock
    "compile_threads": 1,  # a function is a few kernels: a pool of processes would take longer to start
}
SHAPES = 256  # of one function, beyond which PyTorch would not compile
FORMS: dict[str, str] = {}
"""The form that this process took of each function that it was asked for: `compiled`, or `plain` and why."""

SHAPE = 2, 1, 6, 5, 7  # of hard arguments
CLASSES = 4
Arguments = tuple[Any, ...]
F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger(__name__)
_within: list[Mapping[str, Tolerance]] = []  # not of a context, as a GPU's backward passes run in a thread of their own


@contextmanager
def compiling(logits: float, within: Mapping[str, Tolerance]) -> Iterator[None]:
    """Compiles functions inside for so many logits; those that leave the tolerance of a dtype, `within` by its name,
    stay plain."""
    _within[:] = [within] if logits >= WORTH else []
    try:
        yield
    finally:
        _within.clear()


def compiled(plain: F) -> F:
    """Returns a `plain` function of tensors that takes its compiled form where `compiling` allows it."""

    @wraps(plain)
    def chosen(first: Tensor, *given: Any, **named: Any) -> Any:
        is_plain = not _within or first.device.type not in KINDS
        return (plain if is_plain else form_of(plain, first.device))(first, *given, **named)

    return cast(F, chosen)


@cache
def form_of(plain: F, device: torch.device) -> F:
    """Returns the compiled form of a `plain` function on a `device`, or the function itself if the form cannot be made
    or differs."""
    name = f"{plain.__module__}.{plain.__name__}".removeprefix("freqbench.ops.")
    try:
        form = _compile(plain)
        reason = difference(plain, form, device)
    except Exception as error:  # noqa: BLE001 (it takes a C compiler and Python's headers, and raises anything without)
        reason = one_line(error)
    FORMS[name] = f"plain: {reason}" if reason else "compiled"
    if not reason:
        return form
    logger.warning("%s is not compiled here, which takes longer and changes no number: %s", name, reason)
    return plain


def _compile(plain: F) -> F:
    keeps = node_cache.limit() > 0
    if keeps:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(node_cache.part("inductor")))
    import torch._dynamo  # takes seconds, and reads the variable
    import torch._inductor

    known = torch._inductor.list_options()
    options = {name: value for name, value in {**OPTIONS, "fx_graph_cache": keeps}.items() if name in known}
    made = torch.compile(plain, dynamic=False, fullgraph=True, options=options)

    @wraps(plain)
    def form(*given: Any, **named: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=SHAPES):  # a thread's own setting
            return made(*given, **named)

    return cast(F, form)


def difference(plain: Callable[..., Any], form: Callable[..., Any], device: torch.device) -> str:
    """Returns how far a form leaves the `plain` function by more than the tolerance on hard arguments on a `device`;
    empty if it stays within."""
    for kind, tolerance in _within[-1].items():
        for given in hard_arguments(plain, getattr(torch, kind), device):
            for one, other in zip(*(_numbers(each, given) for each in (plain, form)), strict=True):
                largest = float(torch.where(one.isfinite(), one, 0).abs().max())
                off = float(torch.where(one == other, 0, one - other).abs().max())
                if not tolerance.allows(largest, largest + off):
                    return f"in {kind} a number is off by {off:.2g} where the largest is {largest:.2g}"
    return ""


def _numbers(form: Callable[..., Any], given: Arguments) -> list[Tensor]:
    """Returns what a function returns, and the gradients of its sum by the arguments that ask for one."""
    given = tuple(each.clone() if isinstance(each, Tensor) else each for each in given)  # some compute in place
    asking = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
    with torch.enable_grad():
        made: list[Tensor] = tree_leaves(form(*given))
    raised = [each.sum() for each in made if each.requires_grad]
    gradients = torch.autograd.grad(raised, asking, allow_unused=True, materialize_grads=True) if raised else ()
    return [each.detach().double() for each in (*made, *gradients)]


def hard_arguments(function: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> list[Arguments]:
    """Returns lists of arguments of a `dtype` on a `device` for a function, by its module and its name; those with a
    gradient ask for one."""
    module = function.__module__.rpartition(".")[2]
    name = function.__name__
    move = partial(_move, dtype=dtype, device=device)
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    if module not in ("losses", "region_losses"):
        return [move(given) for given in _draw_volumes(draw)[name]]
    logits = 6 * draw(2, CLASSES, *SHAPE[2:]) - 3
    logits[:, :, 0] *= 40  # a softmax of 1 and zeros
    logits[:, :, 1:3] = logits[:, :, 1:3].round()  # of equal logits the first class counts
    labels, truth = ((3 * draw(SHAPE)).long() for _ in range(2))  # of the last class no voxel
    some = draw(SHAPE) < 0.6
    classes = torch.tensor([1, CLASSES - 1])
    z, y, of, voxels, of_classes = (move(each) for each in (logits.requires_grad_(), labels, truth, some, classes))
    if name == "is_as_labelled":
        return [(z, y)]
    if name == "mean_dice":
        return [(z, y), (z, y, (1, CLASSES - 1), voxels)]
    margins = [] if name != "margin_of" else [z if module == "region_losses" else z[:, :1]]
    every = Scope(truth=of if name == "dlr_targeted" else None)
    return [(z, y, scope, *margins) for scope in (every, Scope(voxels=voxels, classes=of_classes, truth=of))]


def _move(given: Any, dtype: torch.dtype, device: torch.device) -> Any:
    if isinstance(given, tuple):
        return tuple(_move(each, dtype, device) for each in given)
    if not isinstance(given, Tensor):
        return given
    asks = given.requires_grad
    return given.detach().to(device, dtype if given.is_floating_point() else given.dtype).requires_grad_(asks)


def _draw_volumes(draw: Callable[..., Tensor]) -> dict[str, list[Arguments]]:
    x = (255 * draw(SHAPE)).round()  # whole numbers, of which several are a slice's extremes
    x[..., 0] = 4
    ends = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    lines = ((*ends, 255.0, 0.0), (*ends, None, 1e-6))
    steps = (1 + 30 * draw(SHAPE)).floor()  # whose reciprocals are rounded
    halves = ((x / 2).floor() - 60.5) * steps
    first = (x, x + 2)
    away = x + torch.where(x > 100, torch.inf, 4)
    between = x + 3, first, (away, away + 2)  # as far from either interval, if there are two
    mean_x = draw(SHAPE)
    mean_y = draw(SHAPE)
    variance = 0.01 * draw(SHAPE)
    variance[..., 0] = 0
    moments = torch.cat([mean_y, mean_y.square() + variance, mean_x * mean_y + variance / 2], dim=1)
    stretched = [(x, *line) for line in lines]
    stretched_back = [(draw(SHAPE) - 0.5, x, *line) for line in lines]
    tables = (*between, halves, (x / 100).floor(), 0.5, 4.0)
    sizes = (x - 4) / 8
    return {
        "stretched": stretched,
        "stretched_back": stretched_back,
        "nearest_error": [between],
        "table_of": [tables],
        "reachable": [(sizes, 0.5, 4.0)],
        "hard_error": [(halves, steps)],
        "ssim_maps": [(moments, mean_x, variance)],
    }
