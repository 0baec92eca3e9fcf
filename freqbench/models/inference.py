"""Slides windows over whole volumes: the tiling that is attacked, predictions slab by slab, logits with a gradient."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.conv import _ConvNd

from freqbench.core import limits
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef, Outputs, ScoredOn, Shape, triple
from freqbench.models.defences.base import FIXED, draw_seed
from freqbench.models.defences.randomized_smoothing import VolumePrediction, largest
from freqbench.models.defences.smoothing import Judge, Smoothing
from freqbench.models.entry import DEFAULT_INFERENCE
from freqbench.models.spec import ModelSpec
from freqbench.models.wrapper import SegmentationModel
from freqbench.ops.file_grid import FileGrid, Rows
from freqbench.ops.regions import codes_of

MOST_CLASSES = 256  # of a uint8 label map
VOTES_ON_GRID = (
    f"expected {ScoredOn.GRID.key} for a defence that votes, as its certificate is for voxels of the grid, got file: "
    "score it there, in a job of its own"
)

Window = tuple[slice, slice, slice]
Restore = Callable[[Tensor, Outputs, bool, bool], tuple[Tensor, Tensor | None]]
"""Restores logits in the network's axes: their head, if classes were merged, if probabilities are wanted."""


def attack_windows(shape: Shape, roi: Shape) -> tuple[Window, ...]:
    """Returns the windows of `roi` voxels that tile a volume of a `shape` for an attack: side by side, in raster order.

    The last window on an axis is shifted back inside, and its result overwrites the overlap. On an axis shorter than
    the ROI, the window is the whole axis.

    >>> attack_windows((10, 4, 4), (4, 4, 8))[-1]
    (slice(6, 10, None), slice(0, 4, None), slice(0, 4, None))
    """
    return sliding_windows(shape, roi, 0.0)


@lru_cache(maxsize=1024)  # a plan asks for each unit, and a grid has few shapes
def sliding_windows(
    shape: Shape,
    roi: Shape,
    overlap: float | tuple[float, ...] = DEFAULT_INFERENCE.overlap,
    even: bool = False,
    turned: tuple[int, ...] = (),
) -> tuple[Window, ...]:
    """Returns the windows of `roi` voxels that a prediction of a volume of this `shape` runs, MONAI's or nnU-Net's, in
    raster order.

    MONAI's are laid out as `attack_windows`, in steps of `int(roi * (1 - overlap))`, at least 1. With `even`, as few as
    have steps of at most `roi * (1 - overlap)` are spread evenly. On the axes `turned`, they start at the high end.

    >>> [h.start for h, _, _ in sliding_windows((10, 4, 4), (4, 4, 8))]
    [0, 2, 4, 6]
    >>> [h.start for h, _, _ in sliding_windows((11, 4, 4), (4, 4, 8), even=True)]
    [0, 2, 4, 5, 7]
    """
    axes = []
    overlaps = overlap if isinstance(overlap, tuple) else (overlap,) * 3
    for axis, (size, wanted, shared) in enumerate(zip(shape, roi, overlaps, strict=True)):
        length = min(size, wanted)
        last = size - length
        step = max(1, int(length * (1 - shared)))
        count = math.ceil(last / (length * (1 - shared))) + 1 if even else len(range(0, last + step, step))
        axes.append((count, last / max(1, count - 1) if even else step, last, length, axis in turned))
    count = math.prod(count for count, *_ in axes)
    part, whole = ("x".join(map(str, sides)) for sides in (roi, shape))
    limits.require(count, limits.WINDOWS, f"windows of {part} in a volume of {whole}")
    places = []  # of windows along each axis, of which the last starts at `last`
    for count, apart, last, length, is_turned in axes:
        starts = [min(round(i * apart), last) for i in range(count)]
        starts = [last - at for at in reversed(starts)] if is_turned else starts
        places.append([slice(at, at + length) for at in starts])
    rows, columns, slices = places
    return tuple(product(rows, columns, slices))


def num_windows(spec: ModelSpec, shape: Shape, ref: CaseRef) -> int:
    """Returns the number of windows that the model of `spec` runs in one prediction of the case `ref` of this shape."""
    first = spec.members[0] if spec.members else spec
    inference = spec.inference.turn_to_file(ref.axes) if first.input.is_of_file else spec.inference
    return len(sliding_windows(shape, spec.roi_of(ref, shape), inference.overlap, inference.windows == "even"))


def _windows_of(model: SegmentationModel, shape: Sequence[int]) -> tuple[Window, ...]:
    """Returns the windows that a model runs on a volume."""
    inference = model.inference
    return sliding_windows(triple(shape), model.roi, inference.overlap, inference.windows == "even", model.turned)


def window_weights(model: SegmentationModel, scores: Tensor) -> Tensor:
    """Returns the weight of each voxel where windows with scores `[B, K, h, w, d]` overlap. The weights `[h, w, d]`,
    set by `model.inference.weighting`, are positive and at most 1; a window shorter than the ROI has the weights of its
    place in it. Of nnU-Net's, those along an axis without overlap (slices) are alike."""
    inference = model.inference
    size = scores.shape[2:]
    if inference.weighting == "constant":
        return scores.new_ones(1).expand(size)
    kind: dict[str, Any] = {"device": scores.device, "dtype": scores.dtype}
    if inference.weighting == "nnunet":
        overlap = inference.overlap
        apart = [of_axis == 0 for of_axis in overlap] if isinstance(overlap, tuple) else [False] * 3
        sides = triple(1 if alone else side for alone, side in zip(apart, model.roi, strict=True))
        of_network = torch.from_numpy(_nnunet_weights(model.order.network_order(sides))).to(**kind)
        weights = model.order.from_network(of_network[None, None])[0, 0].expand(model.roi)
    else:
        from monai.data.utils import compute_importance_map

        weights = compute_importance_map(model.roi, mode="gaussian", sigma_scale=inference.sigma, **kind)
    return weights[model.window_place(size)]


@lru_cache(maxsize=16)
def _nnunet_weights(roi: Shape) -> npt.NDArray[np.float64]:
    """Returns nnU-Net's weights of a window in its network's axes: a tenth of those of its `compute_gaussian`."""
    from scipy.ndimage import gaussian_filter

    peak = np.zeros(roi)
    peak[triple(side // 2 for side in roi)] = 1
    weights: npt.NDArray[np.float64] = gaussian_filter(peak, [side / 8 for side in roi], 0, mode="constant", cval=0)
    # At a window's corners the rounding decides.
    weights = (weights * (10 / weights.max())).astype(np.float16).astype(np.float64)
    weights[weights == 0] = weights[weights > 0].min()
    return weights / 10


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Parts of a prediction beside labels; with a `file_grid`, `in_file`: logits (or what is averaged) interpolated on
    the grid of the case's file, or restored by the network's pipeline, become labels, background outside."""

    with_confidence: bool = False  # `confidence` too
    is_lead: bool = False  # it is how far the largest logit is ahead, as part of their mean size (1: so far or more)
    is_half: bool = False  # sums over windows are rounded to float16, as in nnU-Net, which weights up to 10
    judge: Judge | None = None  # scores each draw of the defence `smoothing`; other models ignore it
    seed: int = 0  # number of the set of draws of `smoothing`, of which a volume has many; other models ignore it
    file_grid: FileGrid | Restore | None = None


LABELS = Wanted()


def prediction(
    model: SegmentationModel, image: Tensor, window_batch: int = 12, case: str = "", wanted: Wanted = LABELS
) -> VolumePrediction:
    """Predicts a volume: by a sliding window, or with smoothing by many.

    Args:
        model: in eval mode.
        image: the volume, `[C, H, W, D]` or `[1, C, H, W, D]` in [0, 1].
        window_batch: windows of a forward pass.
        case: seeds the draws of a random defence, with the number of the window or of the vote's sample: the case's
            fingerprint, for example, which is the same for a clean and an adversarial volume.
        wanted: what is computed beside labels.

    Raises ValueError for more than one volume; UserError for more classes than a label map holds, a network that
    returns NaN, or a `file_grid` for a defence that votes: a certificate holds for the voxels that it counts.
    """
    volume = image[None] if image.dim() == 4 else image
    if volume.dim() != 5 or len(volume) != 1:
        raise ValueError(f"expected one volume [C, H, W, D] or [1, C, H, W, D], got {tuple(image.shape)}")
    smoothing = model.smoothing
    if smoothing is None:
        made = _stitch(model, [volume], window_batch, case, wanted)[0]
        if model.watch is None:
            return made
        with torch.no_grad():
            sliding = SlidingWindowModel(model, window_batch)
            volume = volume.to(next(model.parameters()).device)
            return replace(made, suspicion=float(model.watch.suspicion(volume, sliding.logits(volume), sliding)))
    if wanted.file_grid is not None:
        raise UserError(f"{model.name}: {VOTES_ON_GRID}")

    # Draws whose windows fill a batch.
    at_once = max(1, window_batch // len(_windows_of(model, volume.shape[2:]))) if model.is_parallel else 1

    def segment(draws: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the label map of each of the draws, changed volumes `[1, C, H, W, D]`."""
        queue = iter(draws)
        while some := list(islice(queue, at_once)):
            yield from (each.labels for each in _stitch(model, some, window_batch, case))

    key = draw_seed("prediction", case)
    if isinstance(smoothing, Smoothing):
        return smoothing.vote(segment, volume, key, wanted.judge, wanted.seed)
    return smoothing.vote(segment, volume, key)


def predict(model: SegmentationModel, image: Tensor, window_batch: int = 12, case: str = "") -> Tensor:
    r"""Returns the predicted label map of a volume: argmax over MONAI's sliding window with the model's `inference`.

    With C_w the cutting of window w, g the weights within a window and F the network's logits (or probabilities),
    averaged over mirror images where `inference.mirror` asks for them:

    .. math:: \arg\max_k \frac{\sum_w C_w^T \, g \odot F(C_w x)}{\sum_w C_w^T g}

    Sums are kept for the rows along the first axis that a window covers, and become labels as soon as no later window
    reaches them. They take `4 (K + 1) h W D` bytes for windows of h rows, on the device of `image`; windows run on the
    model's device. `model`, `image`, `window_batch` and `case`, and refusals, are those of `prediction`."""
    return prediction(model, image, window_batch, case).labels


def _stitch(
    model: SegmentationModel, volumes: Sequence[Tensor], window_batch: int, case: str, wanted: Wanted = LABELS
) -> list[VolumePrediction]:
    """Predicts volumes `[1, C, H, W, D]` of one shape and device."""
    shape = triple(volumes[0].shape[2:])
    device = volumes[0].device
    windows = _windows_of(model, shape)
    at_once = max(1, window_batch // len(volumes))
    # Created outside inference mode, as a mask may become the labels of a further attack.
    labels = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in volumes]
    confidences = [torch.empty(shape, device=device) if wanted.with_confidence else None for _ in volumes]
    way = wanted.file_grid
    files = [
        _InFile(way, model, wanted) if isinstance(way, FileGrid) else _Restored(way, model, wanted) if way else None
        for _ in volumes
    ]
    slabs = [_Slab(model, *maps) for maps in zip(labels, confidences, files, strict=True)]
    with torch.inference_mode():
        for first in range(0, len(windows), at_once):
            batch = windows[first : first + at_once]
            keys = [draw_seed("prediction", case, first + i) for i in range(len(batch))]
            _add_scores(slabs, model, volumes, batch, keys, wanted.is_half)
        for slab in slabs:
            slab.settle(shape[0])
    pairs = ((slab, slab.in_file.prediction() if slab.in_file else None) for slab in slabs)
    return [VolumePrediction(labels=s.label, confidence=s.confidence, in_file=in_file) for s, in_file in pairs]


def _add_scores(
    slabs: "Sequence[_Slab]",
    model: SegmentationModel,
    volumes: Sequence[Tensor],
    windows: Sequence[Window],
    keys: Sequence[int],
    is_half: bool,
) -> None:
    """Runs a batch of windows of every volume and frees all its tensors before the next batch runs."""
    crops = torch.cat([_cut(volume, windows) for volume in volumes])
    scores = model.cut([*windows] * len(slabs)).scores(
        crops.to(next(model.parameters()).device), model.inference.mirror, [*keys] * len(slabs)
    )
    weights = window_weights(model, scores)
    weights = (10 * weights).half() if is_half else weights
    weighted = scores if model.inference.weighting == "constant" else scores * weights
    for slab, parts in zip(slabs, weighted.chunk(len(slabs)), strict=True):
        for window, part in zip(windows, parts, strict=True):
            slab.add(window, part.to(slab.label.device), weights.to(slab.label.device))


class _Slab:
    """Label and confidence maps in progress, and the sums over the rows that later windows still reach."""

    def __init__(
        self, model: SegmentationModel, label: Tensor, confidence: Tensor | None, in_file: "_InFile | _Restored | None"
    ) -> None:
        self.label = label
        self.confidence = confidence
        self.in_file = in_file
        self._model = model
        self._start = self._reached = 0  # rows between the two have sums
        self._scores = self._weights = torch.zeros(0)

    def add(self, window: Window, scores: Tensor, weights: Tensor) -> None:
        """Adds the weighted scores `[K, h, w, d]` of the next window, and their weights `[h, w, d]`."""
        if len(scores) > MOST_CLASSES:
            raise UserError(
                f"expected a model of at most {MOST_CLASSES} classes, as label maps are uint8, got {len(scores)}: "
                "leave out or merge some of its outputs"
            )
        rows, w, d = window
        start = rows.start
        plane = self.label.shape[1:]
        if not len(self._scores):
            self._scores = weights.new_empty(*scores.shape[:2], *plane)
            self._weights = weights.new_empty(1, len(weights), *plane)
        self.settle(start)
        fresh = max(self._reached, start)
        for places, of_window in self._places(start, fresh):
            self._scores[:, places, w, d] += scores[:, of_window]
            self._weights[:, places, w, d] += weights[None, of_window]
        for places, of_window in self._places(fresh, rows.stop):
            if scores.shape[2:] != plane:
                self._scores[:, places] = self._weights[:, places] = 0
            self._scores[:, places, w, d] = scores[:, fresh - start :][:, of_window]
            self._weights[:, places, w, d] = weights[fresh - start :][of_window]
        self._reached = rows.stop

    def settle(self, row: int) -> None:
        """Turns the rows before `row` into labels, and moves the sums on to it."""
        for places, rows in self._places(self._start, row):
            # The largest sum belongs to the largest mean, but means round to ties, which later runs must break alike.
            means = self._scores[:, places].div_(self._weights[:, places]).float()
            if not math.isfinite(means.sum()) and not means.isfinite().all():  # a sum of finite numbers may overflow
                raise UserError(
                    f"{self._model.name}: expected finite logits of the network, got NaN or infinities: check its "
                    "checkpoint, input and precision"
                )
            self.label[self._start : row][rows] = _labels(self._model, means)
            if self.confidence is not None:
                self.confidence[self._start : row][rows] = _confidence(self._model, means)
            if self.in_file is not None:
                self.in_file.take(means)
        self._start = row

    def _places(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yields where the sums of these rows are, with the rows counted from `start`: row r is in place r modulo h."""
        done = 0
        height = self._scores.shape[1]
        while done < stop - start:
            place = (start + done) % height
            length = min(stop - start - done, height - place)
            yield slice(place, place + length), slice(done, done + length)
            done += length


class _InFile:
    """Label and confidence maps in progress on the grid of a file, from the means of a slab's rows."""

    def __init__(self, grid: FileGrid, model: SegmentationModel, wanted: Wanted) -> None:
        self._model = model
        self._is_lead = wanted.is_lead
        self._rows = Rows(grid)
        shape = [grid.shape[axis] for axis in grid.order]
        self._labels = torch.zeros(shape, dtype=torch.uint8)
        # A voxel outside the volume is background for sure: nothing was asked of the network there.
        self._confidence = torch.ones(shape) if wanted.with_confidence else None

    def take(self, means: Tensor) -> None:
        """Takes the mean scores of the next rows, `means` `[K, h, W, D]`."""
        _, w, d = (axis.inside for axis in self._rows.grid.axes)
        for row in means.unbind(1):
            for place, scores in self._rows.take(row.cpu()):
                self._labels[place, w, d] = _labels(self._model, scores)
                if self._confidence is not None:
                    self._confidence[place, w, d] = _confidence(self._model, scores, self._is_lead)

    def prediction(self) -> VolumePrediction:
        """Returns the maps in the file's own axes."""
        grid = self._rows.grid
        confidence = self._confidence
        sure = None if confidence is None else grid.in_file(confidence)
        return VolumePrediction(labels=grid.in_file(self._labels), confidence=sure)


class _Restored:
    """Takes the mean scores of a volume row by row, and restores all at once by the network's own pipeline."""

    def __init__(self, restore: "Restore", model: SegmentationModel, wanted: Wanted) -> None:
        self._restore = restore
        self._model = model
        self._wanted = wanted
        self._rows: list[Tensor] = []

    def take(self, means: Tensor) -> None:
        """Takes the mean scores of the next rows, `means` `[K, h, W, D]`."""
        self._rows.append(means.clone())

    def prediction(self) -> VolumePrediction:
        """Returns the maps in the file's own axes."""
        model = self._model
        scores = torch.cat(self._rows, dim=1).float().cpu()
        logits = model.head.logits_of(scores[None])[0] if model.averages_probabilities else scores
        merged = any(part.class_map is not None for part in model.parts)
        own = model.order.to_network_axes(logits[None])[0].contiguous()
        labels, probabilities = self._restore(own, model.head.name, merged, self._wanted.with_confidence)
        is_lead = self._wanted.is_lead
        sure = None if probabilities is None else _sureness(model, probabilities, is_lead).clamp(max=1)
        return VolumePrediction(labels=labels, confidence=sure)


def _labels(model: SegmentationModel, means: Tensor) -> Tensor:
    """Returns the classes, or the codes of regions above one half, of mean scores `[K, ...]`."""
    if model.head.has_background:
        return largest(means)
    return codes_of(means > (0.5 if model.averages_probabilities else 0.0))


def _confidence(model: SegmentationModel, means: Tensor, is_lead: bool = False) -> Tensor:
    """Returns the probability of the largest class, or of the least sure region's side, of mean scores `[K, ...]`, or
    how far its logit is ahead."""
    probabilities = means if model.averages_probabilities else model.head.probabilities(means[None])[0]
    sure = _sureness(model, probabilities, is_lead)
    return sure.clamp(max=1) if model.head.has_background else sure  # classes' may round above it


def _sureness(model: SegmentationModel, probabilities: Tensor, is_lead: bool) -> Tensor:
    """Returns the same of probabilities `[K, ...]`."""
    has_background = model.head.has_background
    if is_lead:
        logits = model.head.logits_of(probabilities)
        first, second = logits.topk(2, dim=0).values if has_background else (logits.abs().amin(dim=0), 0)
        return (first - second) / logits.abs().amax(dim=0).mean()
    if has_background:
        return probabilities.amax(dim=0)
    return torch.maximum(probabilities, 1 - probabilities).amin(dim=0)


class SlidingWindowModel(nn.Module):
    r"""Maps `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`, for volumes of any size: the logits of `predict`.

    With C_w the cutting of window w, f the network, g the weights of a window's voxels (1, or a Gaussian) and n their
    sums over the windows that hold a voxel:

    .. math:: s(x) = \frac{1}{n} \sum_w C_w^T \, g \odot f(C_w x), \qquad n = \sum_w C_w^T g, \qquad
              \frac{dL}{dx} = \sum_w C_w^T J_f(C_w x)^T \, g \odot C_w \frac{1}{n} \frac{dL}{ds}

    Overlap and weights are those of the model's `inference`. If it averages probabilities, f ends in a softmax and the
    logits are log s(x), of regions in sigmoids and the logits of s(x). Its mirroring is left out unless
    `inference.attack_mirrors` asks for it: an attack runs one pass of every window, not eight.

    The gradient is exact; none reaches the network's parameters. The forward pass keeps the graphs of the first `kept`
    windows; the backward pass runs the others forward once more, `window_batch` at once, with the same draws. A random
    defence draws anew for every window, `smoothing` for the whole volume; then logits are the mean over draws.
    `num_forwards` and `num_backwards` count passes of windows (`SegmentationModel.passes` each), repeated ones too."""

    def __init__(self, model: SegmentationModel, window_batch: int = 1, kept: int = 0) -> None:
        super().__init__()
        self.smoothing = model.defence if isinstance(model.defence, Smoothing) else None
        self._draws = model.draws if model.takes_keys else None
        self.model = model if self.smoothing is None else model.drop_defence()
        self.window_batch = window_batch
        self.kept = kept
        self.num_forwards = 0
        self.num_backwards = 0
        self.outputs: Outputs = model.outputs
        self._watch = model.watch if model.adaptive else None
        self._allowed: Tensor | None = None  # suspicion that an attacker may have
        self.excess: Tensor | None = None  # how much more the last pass had

    @property
    def steps_back(self) -> bool:
        """True if an attacker lowers the suspicion of its detector by steps of full length."""
        return self._watch is not None and self._watch.detector.steps_back

    @property
    def takes_keys(self) -> bool:
        """True if the model takes keys."""
        return self.model.takes_keys if self.smoothing is None else self._draws is not None

    @property
    def clamps_last(self) -> bool:
        """True if volumes need not lie in [0, 1], as for `SegmentationModel`."""
        return self.smoothing is not None

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Returns stitched logits; B images send B times as many windows at once; `keys` if the model `takes_keys`."""
        if self.smoothing is None:
            logits = self.logits(images, keys)
            if self._watch is not None:
                suspicion = self._watch.suspicion(images, logits, self)
                self.excess = None if self._allowed is None else suspicion - self._allowed
            return logits
        key = FIXED if keys is None else keys[0]
        seeds = [draw_seed(key, draw) for draw in range(self._draws or 1)]
        draws = [self.logits(self.smoothing.apply_draw(images, seed)) for seed in seeds]
        return self.model.head.mean_of_probabilities(draws)

    def allow(self, image: Tensor) -> None:
        """Lets an attacker look as suspicious to the network's detector, if it has one, as the volume `image`,
        `[C, H, W, D]`."""
        if self._watch is not None:
            with torch.no_grad():
                own = self._watch.suspicion(image[None], self.logits(image[None]), self)
                self._allowed = own.maximum(self._watch.usual)

    def logits(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Returns the stitched logits `[B, K, H, W, D]` of images `[B, C, H, W, D]`; `keys` seed the draws of a random
        defence, one per image."""
        stitched: Tensor = _Stitched.apply(images, self, keys)  # type: ignore[no-untyped-call]
        return self.model.head.logits_of(stitched) if self.model.averages_probabilities else stitched

    def foreground(self, logits: Tensor) -> Tensor:
        """Returns the probabilities of the foreground classes, or regions, of logits."""
        return self.model.head.probabilities(logits)[:, int(self.model.head.has_background) :]

    def activations(self, images: Tensor) -> list[Tensor]:
        """Returns the outputs `[W, F, ...]` of the network's convolutions for the W windows of a volume, `images`
        `[1, C, H, W, D]`, in order."""
        made: list[Tensor] = []
        convolutions = [module for module in self.model.net.modules() if isinstance(module, _ConvNd)]
        hooks = [module.register_forward_hook(lambda *of: made.append(of[2])) for module in convolutions]
        try:
            windows = self.windows(images)
            self.model.cut(windows)(_cut(images, windows))
        finally:
            for hook in hooks:
                hook.remove()
        self.num_forwards += len(windows)
        return made

    def windows(self, images: Tensor) -> tuple[Window, ...]:
        """Returns the windows of volumes of the shape of `images`, `[B, C, H, W, D]`."""
        return _windows_of(self.model, images.shape[2:])

    def batches(self, images: Tensor) -> Iterator[tuple[Window, ...]]:
        """Yields the windows of `images` in batches of `window_batch`."""
        windows = self.windows(images)
        for first in range(0, len(windows), self.window_batch):
            yield windows[first : first + self.window_batch]

    def scores(self, crops: Tensor, keys: Sequence[int] | None, windows: Sequence[Window]) -> Tensor:
        """Returns the logits or probabilities to average where windows overlap, of their `crops`, in the order of
        `_cut`; `keys` seed the draws of a random defence, one per volume."""
        seeds = None
        if keys is not None:
            pairs = product(windows, keys)
            seeds = [draw_seed(key, h.start, w.start, d.start) for (h, w, d), key in pairs]
        return self.model.averaged_form(self.model.cut(windows)(crops, seeds))


class JointModel(SlidingWindowModel):
    """Maps the windows of `attack_windows`, `[W, C, h, w, d]`, to the logits `[1, K, H, W, D]` of the volume they make.
    An attack on all windows of a volume at once follows the prediction as deployed, while each window keeps a state of
    its own (`scope: joint`). `tiles` are the windows, and arguments and passes those of SlidingWindowModel."""

    joins_windows = True

    def __init__(self, model: SegmentationModel, tiles: Sequence[Window], window_batch: int = 1, kept: int = 0) -> None:
        super().__init__(model, window_batch, kept)
        self.tiles = tiles

    @property
    def seen(self) -> Tensor:
        """Voxels of the windows that the volume is made of, bool `[W, 1, h, w, d]`: no later window overwrites them."""
        sides = [axis.stop - axis.start for axis in self.tiles[0]]
        numbers = torch.arange(len(self.tiles) * math.prod(sides)).reshape(-1, 1, *sides)
        return torch.isin(numbers, assemble(numbers, self.tiles), assume_unique=True)

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Returns the stitched logits `[1, K, H, W, D]` of the joined windows, `images` `[W, C, h, w, d]`; `keys` has
        one key, that of the volume."""
        return super().forward(assemble(images, self.tiles), keys)


def assemble(parts: Tensor, windows: Sequence[Window]) -> Tensor:
    """Returns the volume `[1, C, H, W, D]` of windows that tile it, whose content is `parts`, `[W, C, h, w, d]`; the
    later of two overwrites."""
    sides = []
    for axis, length in enumerate(parts.shape[2:]):
        starts = sorted({window[axis].start for window in windows})
        sides.append([after - start for start, after in pairwise(starts)] + [length])
    part = iter(parts[:, None])
    slabs = []
    for h in sides[0]:
        rows = []
        for w in sides[1]:
            row = [next(part)[:, :, :h, :w, :d] for d in sides[2]]
            rows.append(torch.cat(row, 4))
        slabs.append(torch.cat(rows, 3))
    return torch.cat(slabs, 2)


class _Stitched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, sliding: SlidingWindowModel, keys: Sequence[int] | None) -> Tensor:
        """Returns the stitched scores of images `[B, C, H, W, D]` by the model `sliding`, its draws seeded by `keys`;
        `ctx` keeps what the backward pass needs."""
        total = images.new_zeros(0)
        sums = torch.zeros_like(images[:1, :1])
        graphs: deque[tuple[Tensor, Tensor]] = deque()
        kept = sliding.kept // len(images) if ctx.needs_input_grad[0] else 0
        for windows in sliding.batches(images):
            kept -= len(windows)
            with torch.set_grad_enabled(kept >= 0):
                crops = _cut(images, windows).requires_grad_(kept >= 0)
                scores = sliding.scores(crops, keys, windows)
            if kept >= 0:
                graphs.append((crops, scores))
                scores = scores.detach()
            sliding.num_forwards += len(windows) * sliding.model.passes
            if not len(total):
                total = scores.new_zeros(len(images), scores.shape[1], *images.shape[2:])
            weights = window_weights(sliding.model, scores)
            _add(total, scores * weights, windows)
            _add(sums, weights.expand(len(windows), 1, *weights.shape), windows)
        ctx.save_for_backward(images, sums)
        ctx.sliding = sliding
        ctx.keys = keys
        ctx.graphs = graphs
        return total.div_(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Returns the gradient of the images for that of the scores, `upstream`; `ctx` is the forward pass's."""
        images, sums = ctx.saved_tensors
        sliding = ctx.sliding
        model = sliding.model
        upstream = upstream / sums
        gradient = torch.zeros_like(images)
        for windows in sliding.batches(images):
            passes = len(windows) * model.passes
            if ctx.graphs:
                crops, scores = ctx.graphs.popleft()
            else:
                crops = _cut(images, windows).requires_grad_()
                with torch.enable_grad():
                    scores = sliding.scores(crops, ctx.keys, windows)
                sliding.num_forwards += passes
            weights = window_weights(model, scores)
            (part,) = torch.autograd.grad(scores, crops, _cut(upstream, windows) * weights)
            sliding.num_backwards += passes
            _add(gradient, part, windows)
        return gradient, None, None


def _cut(volumes: Tensor, windows: Sequence[Window]) -> Tensor:
    """Returns all windows of all volumes, window by window."""
    return torch.cat([volumes[:, :, h, w, d] for h, w, d in windows])


def _add(total: Tensor, parts: Tensor, windows: tuple[Window, ...]) -> None:
    """Adds parts that `_cut` took back to their places in `total`."""
    for (h, w, d), part in zip(windows, parts.chunk(len(windows)), strict=True):
        total[:, :, h, w, d] += part
