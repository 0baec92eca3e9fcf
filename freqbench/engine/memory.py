"""Fits as many windows as possible into a device's memory, and fewer if it runs out after all."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.errors import UserError
from freqbench.core.types import Case, FileLabel, triple
from freqbench.data import Dataset
from freqbench.data.preprocess import way_to_file
from freqbench.engine import attacking, scoring
from freqbench.engine.attacking import AttackedVolume, Needs
from freqbench.job.cells import Cell
from freqbench.models import SegmentationModel, VolumePrediction, attack_windows
from freqbench.models.inference import LABELS, Wanted
from freqbench.ops import compiled
from freqbench.pipelines import AnySpace
from freqbench.results.tolerances import COMPILED

logger = logging.getLogger(__name__)

MOST_WINDOWS = 32  # at 96^3 and 64 channels, more windows make feature maps above 2^31 numbers, which kernels refuse
INFERENCE_WINDOWS = 12
HEADROOM = 0.8  # of the free memory: the rest is for fragmentation and for tensors that an attack holds between steps
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")  # words of CUDA, its libraries and the CPU

V = TypeVar("V")


def fit_memory(action: Callable[[int], V], windows: int, hint: str = "", are_coupled: bool = False) -> tuple[V, int]:
    """Runs an action with `windows` windows at once, halved until they fit unless they `are_coupled`; returns its
    result and the final number. Raises UserError if coupled ones, or not even one of which there is a `hint`, fit."""
    while True:
        try:
            return action(windows), windows
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if are_coupled:
                raise UserError(
                    f"expected memory for {windows} windows at once, which this attack couples: set a smaller "
                    "window_batch (its volumes will differ) or take variant paper"
                ) from error
            if windows == 1:
                if hint:
                    raise UserError(f"expected memory for one window at once, got too little: {hint}") from error
                raise
            windows //= 2
            logger.warning("out of memory: %d windows at once from now on", windows)


def segment(
    model: SegmentationModel,
    case: Case,
    windows: int,
    wanted: Wanted = LABELS,
    tolerances: Sequence[float] | None = None,
    to: tuple[FileLabel, AnySpace] | None = None,
) -> tuple[VolumePrediction, int]:
    """Returns a model's prediction of a case's volume, and the number of windows at once that fit.

    Args:
        model: the network; draws of `smoothing` are judged by the case's label (`scoring.score_draw`).
        case: the volume, its label and its spacing.
        windows: windows at once, or fewer if these do not fit.
        wanted: what is computed beside labels, and the seed of draws.
        tolerances: mm for each foreground class, of the `nsd` of draws; None: without it.
        to: the label on a file's grid, to which the prediction goes too, and the space that it comes from; None: it
            stays.
    """
    prepared = model.for_case(case)
    label = case.label[0].to(torch.uint8)
    has_regions = not model.head.has_background
    judge = partial(scoring.score_draw, label, spacing=case.spacing, tolerances=tolerances, has_regions=has_regions)
    way = way_to_file(to[0], case, to[1], not model.gives_scores) if to else None
    judged = replace(wanted, judge=judge, file_grid=way)
    key = case.ref.fingerprint
    return fit_memory(lambda windows: models.prediction(prepared, case.image, windows, key, judged), windows)


def reference_case(case: Case, dataset: Dataset, model: SegmentationModel) -> Case:
    """Returns a case as a model is held to it: in a `dataset` of `reference: prediction`, labelled by the prediction
    without a draw."""
    if dataset.reference == "label":
        return case
    prediction, _ = segment(model.drop_defence() if model.clamps_last else model, case, INFERENCE_WINDOWS)
    return replace(case, label=prediction.labels[None])


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def attack_within(
    cell: Cell,
    model: SegmentationModel,
    case: Case,
    needs: Needs,
    windows: int | None,
    share: float,
    advance: Callable[[int], None],
) -> tuple[AttackedVolume, int, float]:
    """Attacks a case as its cell says; returns the volume, the windows at once and the seconds.

    Args:
        cell: attack, seed and precision.
        model: the attacked network, on its device.
        case: the clean volume as `model` sees it.
        needs: another case, a learned tensor or surrogates.
        windows: windows at once, if the attack couples none; None: as many as fit in `share`.
        share: part of a GPU's memory that this process may take, in (0, 1].
        advance: gets 0 at first, then the passes so far.

    Raises UserError if memory holds too few windows.
    """
    chosen = cell.attack
    kept = windows_in_graph(cell, next(model.parameters()).device, share)
    # An attack on the prediction of a volume has a shape of its own, which functions would be compiled for.
    steps = 0 if chosen.follows_prediction else chosen.passes[0]
    logits = steps * cell.source.num_outputs * case.label.numel()

    def attack(windows: int) -> AttackedVolume:
        with passes_told((model, *needs.surrogates), advance), compiled.compiling(logits, COMPILED):
            return attacking.attack_case(chosen, model, case, cell.seed, windows, needs, kept)

    wanted = cell.window_batch or windows or fitting_windows(chosen, model, case, share, needs.surrogates)
    started = time.perf_counter()
    advance(0)
    # An attack on a whole volume also keeps its logits.
    hint = "set scope: window (its volumes will differ)" if chosen.follows_prediction else ""
    attacked, fitted = fit_memory(attack, wanted, hint, are_coupled=cell.window_batch is not None)
    return attacked, fitted, time.perf_counter() - started


@contextmanager
def passes_told(networks: Sequence[SegmentationModel], advance: Callable[[int], None]) -> Iterator[None]:
    """Counts the passes of `networks` inside, one per window, two if a gradient is requested, and reports the sum so
    far to `advance`."""
    made = 0  # when they are queued, without waiting for the device

    def count(model: SegmentationModel, shown: tuple[Tensor, ...], logits: Tensor) -> None:
        nonlocal made
        made += len(logits) * model.passes * (2 if logits.requires_grad else 1)
        advance(made)

    hooks = [model.register_forward_hook(count) for model in networks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def fitting_windows(
    attack: Attack, model: SegmentationModel, case: Case, share: float, surrogates: Sequence[SegmentationModel] = ()
) -> int:
    """Returns the number of windows that an attack on a case may take at once: 1 on a CPU, which gains nothing from
    more. On a GPU the free memory, up to this process's `share` of the card, is divided by that of a first step on one
    window by `model` and `surrogates`."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 1
    allocated = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        first_step(attack, model, case, surrogates)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return 1
    taken = torch.cuda.max_memory_allocated(device) - allocated
    available = available_bytes(*torch.cuda.mem_get_info(device), torch.cuda.memory_reserved(device), allocated, share)
    return windows_within(available, taken)


def windows_in_graph(cell: Cell, device: torch.device, share: float) -> int:
    """Returns how many windows' graphs the attack of a cell on a volume keeps: on a GPU `device` in half of the free
    memory within this process's `share`, or in GRAPH_BYTES."""
    if not cell.attack.follows_prediction:
        return 0
    if device.type != "cuda":
        return models.windows_in_graph(cell.models)
    reserved = torch.cuda.memory_reserved(device)
    allocated = torch.cuda.memory_allocated(device)
    available = available_bytes(*torch.cuda.mem_get_info(device), reserved, allocated, share)
    return models.windows_in_graph(cell.models, max(available // 2, models.GRAPH_BYTES))


def available_bytes(free: int, total: int, reserved: int, allocated: int, share: float) -> int:
    """Returns the bytes left for this process by its `share` of `total`: `free` and `reserved`, but not `allocated`."""
    return max(0, min(free + reserved, int(share * total)) - allocated)


def windows_within(available: int, one_window: int) -> int:
    """Returns the number of windows of `one_window` bytes that fit into `available` bytes, at least 1 and at most
    MOST_WINDOWS.

    >>> windows_within(100 << 30, 4 << 30), windows_within(1 << 30, 4 << 30), windows_within(100 << 30, 0)
    (20, 1, 32)
    """
    return max(1, min(MOST_WINDOWS, int(HEADROOM * available / max(1, one_window))))


def first_step(
    attack: Attack, model: SegmentationModel, case: Case, surrogates: Sequence[SegmentationModel] = ()
) -> None:
    """Runs an attack, or its learning, on a case's first window until the model and each of `surrogates` made one
    step."""
    device = next(model.parameters()).device
    model, *surrogates = (network.for_case(case) for network in (model, *surrogates))
    first = attack_windows(triple(case.image.shape[1:]), model.roi)[0]
    window, label = (volume[None, :, *first].to(device) for volume in (case.image, case.label))
    model, *surrogates = (network.cut([first]) for network in (model, *surrogates))
    with suppress(_EnoughError):
        needs = attack.supplied(
            reference=lambda: window,
            learned=lambda: attack.learn(_UntilStep(model), [(window[0], label[0])], model.roi),
            surrogates=lambda: [_UntilStep(network) for network in surrogates],
        )
        if surrogates:
            with torch.no_grad():
                model(window)
        attack(_UntilStep(model, 3 + attack.num_corners), window, label, **needs)


class _EnoughError(Exception):
    """Signal that the step is done."""


class _UntilStep(nn.Module):
    """A model that answers until it has been called once with a gradient, or `most` times without."""

    def __init__(self, model: nn.Module, most: int = 3) -> None:
        super().__init__()
        self.model = model
        self._left = most

    def forward(self, images: Tensor) -> Tensor:
        if self._left == 0:
            raise _EnoughError
        self._left = 0 if torch.is_grad_enabled() and images.requires_grad else self._left - 1
        logits: Tensor = self.model(images)
        return logits
