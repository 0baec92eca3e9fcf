"""Wraps a network as the model that attacks and inference use: window, padding, arithmetic, defence, ensemble."""

from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.errors import UserError, unknown
from freqbench.core.input_space import ras_order
from freqbench.core.types import Beside, Case, Outputs, Shape, triple
from freqbench.models.defences.base import FIXED, Back, Defence, draw_seed, keep_logits
from freqbench.models.defences.detectors import Watch
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.smoothing import Smoothing
from freqbench.models.entry import AXES, DEFAULT_INFERENCE, DEFAULT_INPUT, ClassMap, Inference, InputAdapter
from freqbench.models.one_volume import fast_convolutions
from freqbench.ops.heads import Head, head_of

PRECISIONS = ("fp32", "tf32", "bf16")


class SegmentationModel(nn.Module):
    r"""Maps `[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI.

    Axis order, intensities and padding are handled here, inside the gradient: an axis shorter than the ROI is padded on
    both sides in the network's input (`inference.padding`; the smaller half first, as in MONAI and nnU-Net), and the
    logits are cropped again. `fp32` computes in full float32, `tf32` allows TF32 inside the network, `bf16` runs it
    under autocast and returns float32; making or running a model leaves the process's switches for TF32 off.

    A defence acts on the window as it is cut from the volume, before padding, which a filter would smear into the
    patient. With T_d the d-th draw of a random defence and f the network, an adaptive attacker follows `forward`,

    .. math:: z(x) = \log \frac1D \sum_{d=1}^{D} \mathrm{softmax}\bigl(f(T_d(x))\bigr)

    with D draws at every pass (`Defence.draws`; all their graphs are held for the backward pass); for D = 1 the logits
    themselves. With `adaptive=False`, and for defences that draw nothing, `forward` is one pass f(T(x)), with one draw
    for every window and step. `scores` predicts: with one draw per window, different from an attacker's.

    `for_case` returns the model for a case: with the axes of its file (`InputAdapter.is_of_file`), and what the
    network's own pipeline made beside the volume (`Case.prepared`); `cut` cuts this for some windows. Where voxels are
    fixed, no gradient passes.

    Args:
        net: the bare network.
        roi: the window it was built for, in voxels of the volume's axes.
        precision: one of PRECISIONS, else a UserError.
        compile: run the network through `torch.compile`.
        adapter: axes and intensities of the network's input.
        inference: sliding window of `predict` and SlidingWindowModel; of it, `forward` follows `padding` alone.
        defence: defence before the network.
        adaptive: True if `forward` is for an attacker who knows the defence.
        class_map: for each class of the dataset, the classes of the network's output that are merged into it; None: the
            same classes. Of regions, first the outputs that are left out, then the one of each region.
        outputs: `softmax`: exclusive classes; `sigmoid`: one output a region, regions may overlap.
    """

    def __init__(  # noqa: PLR0913 (its keyword arguments are what own code gives)
        self,
        net: nn.Module,
        roi: Shape,
        precision: str = "fp32",
        compile: bool = False,
        adapter: InputAdapter = DEFAULT_INPUT,
        inference: Inference = DEFAULT_INFERENCE,
        defence: Defence | None = None,
        adaptive: bool = True,
        class_map: ClassMap | None = None,
        outputs: Outputs = "softmax",
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise UserError(unknown("precision", precision, PRECISIONS))
        self.net = net
        self.name = type(net).__name__  # what errors call it
        self.roi = roi
        self.precision = precision
        self.adapter = adapter
        self.inference = inference
        self.defence = defence
        self.adaptive = adaptive
        self.class_map = class_map
        self.outputs = outputs
        self.watch: Watch | None = None  # of a detector, once it has seen clean volumes
        self.takes_volumes = getattr(net, "takes_volumes", False) is True
        if self.takes_volumes:  # one window holds all
            self.inference = inference = inference.model_copy(update={"weighting": "constant"})
        self._of_file = roi, adapter, inference
        self._prepared: _BesideWindows | None = None
        self._case: Case | None = None
        _allow_tf32(False)
        torch.backends.cudnn.deterministic = True  # else UNETR's and SwinUNETR's gradients change from run to run
        self._compiled = compile
        if compile:
            net.compile()

    @property
    def takes_keys(self) -> bool:
        """True if `forward` draws random numbers: it then takes `keys`, one per sample, and new ones for new draws."""
        return self.adaptive and self.defence is not None and self.defence.is_random

    @property
    def passes(self) -> int:
        """Passes of the network in one `forward`: draws and mirror images that are averaged."""
        return self.draws << len(self.inference.attacked_mirror)

    @property
    def draws(self) -> int:
        """Draws of the defence that one `forward` averages."""
        return self.defence.draws if self.defence and self.adaptive else 1

    @property
    def smoothing(self) -> RandomizedSmoothing | Smoothing | None:
        """The defence that votes in place of a single prediction of a volume; None if there is none."""
        return self.defence if isinstance(self.defence, RandomizedSmoothing | Smoothing) else None

    @property
    def clamps_last(self) -> bool:
        """True if volumes need not lie in [0, 1]: a defence changes them and clamps the result."""
        return isinstance(self.defence, Smoothing)

    @property
    def is_parallel(self) -> bool:
        """True if several volumes at once take less time than one by one, as on no CPU and by no command."""
        return not self.takes_volumes and next(self.parameters()).device.type != "cpu"

    @property
    def gives_scores(self) -> bool:
        """True if its logits can be interpolated between voxels; a command says labels alone."""
        return not self.takes_volumes

    def drop_defence(self) -> "SegmentationModel":
        """Returns the model without its defence; modules are shared."""
        model = copy(self)
        model.defence = model.watch = None
        return model

    def for_case(self, case: Case) -> "SegmentationModel":
        """Returns the model, sharing weights and hooks, with a case's file axes and what a pipeline made beside it;
        itself if it takes neither. A command, which `takes_volumes`, gets the case for its grid and unit."""
        model = self._turned_to(case.ref.axes, case.prepared, triple(case.image.shape[1:]))
        if not self.takes_volumes:
            return model
        model = copy(model)
        model._case = case
        return model

    def _turned_to(self, codes: str, prepared: Beside | None, shape: Shape) -> "SegmentationModel":
        """Returns the model for a volume whose file has axes towards `codes`, and what a pipeline made beside it."""
        roi, adapter, inference = self._of_file
        if isinstance(self.net, MeanOfProbabilities):
            members = [member._turned_to(codes, prepared, shape) for member in self.net.models]
            model = self._ensemble(self.net, members)
            if model is self:
                return self
            model.roi = members[0].roi
            is_of_file = members[0].is_of_file
        else:
            if not adapter.is_of_file and prepared is None and self._prepared is None and not inference.whole:
                return self
            model = copy(self)
            model._prepared = None
            if prepared:
                device = next(self.parameters()).device
                low, high = torch.tensor(prepared.bounds, device=device).T.reshape(2, 1, -1, 1, 1, 1)
                rest, fixed = (None if t is None else t[None].to(device) for t in (prepared.rest, prepared.fixed))
                model._prepared = _BesideWindows(low=low, high=high, rest=rest, fixed=fixed)
            is_of_file = adapter.is_of_file
            model.roi = ras_order(roi, codes) if is_of_file else roi
            model.adapter = adapter.turn_to_file(codes)
        model.inference = inference.turn_to_file(codes) if is_of_file else inference
        model.roi = model.inference.window(model.roi, shape)
        return model

    @property
    def is_of_file(self) -> bool:
        """True if it is given files as they lie, so that its window follows their axes."""
        return self._of_file[1].is_of_file

    def _ensemble(self, net: "MeanOfProbabilities", members: Sequence["SegmentationModel"]) -> "SegmentationModel":
        """Returns the ensemble of other members; itself if they are its own."""
        if all(ours is theirs for ours, theirs in zip(members, net.models, strict=True)):
            return self
        model = copy(self)
        model._modules = {**self._modules, "net": type(net)(members)}
        return model

    @property
    def parts(self) -> list["SegmentationModel"]:
        """The members of an ensemble, else the model itself."""
        return self.net.models if isinstance(self.net, MeanOfProbabilities) else [self]

    @property
    def has_place(self) -> bool:
        """True if `cut` tells windows of a volume apart, so that an attack takes them one by one."""
        return any(part._prepared and part._prepared.has_place for part in self.parts)

    def cut(self, windows: Sequence[tuple[slice, slice, slice]]) -> "SegmentationModel":
        """Returns the model of `for_case` with what lies beside a batch of windows of its volume, in their order."""
        if isinstance(self.net, MeanOfProbabilities):
            return self._ensemble(self.net, [member.cut(windows) for member in self.net.models])
        if self._prepared and self._prepared.has_place:
            model = copy(self)
            model._prepared = self._prepared.cut(windows)
            return model
        return self

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Returns the logits `[B, K, h, w, d]` that an attacker follows, of images `[B, C, h, w, d]` in [0, 1]; raises
        UserError if an axis is longer than the ROI. `keys` seed the draws of each window; without them all windows
        share one fixed key."""
        h, w, d = self._logits_place(images.shape[2:])
        draws = []
        mirror = self.inference.attacked_mirror
        for draw in range(self.draws):
            seen, back = self._defend(images, keys, draw)
            logits = self._mean_over_mirrors(self._input(seen), mirror) if mirror else self._run(self._input(seen))
            logits = self.head.logits_of(logits) if mirror and self.averages_probabilities else logits
            draws.append(back(logits[:, :, h, w, d]))
        return draws[0] if len(draws) == 1 else self.head.mean_of_probabilities(draws)

    def scores(self, images: Tensor, mirror: str = "", keys: Sequence[int] | None = None) -> Tensor:
        r"""Returns the values to average where windows overlap: logits, or probabilities (`inference.average`).

        They are the mean over all 2^n subsets a of the n axes of `mirror` (some of `HWD`), with R_a the mirroring and f
        the network:

        .. math:: 2^{-n} \sum_a R_a \, h(f(R_a x)), \qquad h = \mathrm{id}, \text{ softmax or sigmoid}

        Mirror images share one draw of a defence, seeded by `keys`, one per image (None: one fixed key for all);
        randomised smoothing adds its noise to the whole volume, not here."""
        h, w, d = self._logits_place(images.shape[2:])
        seen, back = (images, keep_logits) if self.smoothing else self._defend(images, keys, draw=0)
        return back(self._mean_over_mirrors(self._input(seen), mirror)[:, :, h, w, d])

    def _mean_over_mirrors(self, padded: Tensor, mirror: str) -> Tensor:
        """Returns the mean over mirror images of windows of `_input` in the form that is averaged."""
        share = 0.5 ** len(mirror)
        mean = self.averaged_form(self._run(padded))
        if mirror:
            mean = mean * share
        mirrored = [2 + AXES.index(axis) for axis in mirror]
        for count in range(1, len(mirror) + 1):
            for axes in combinations(mirrored, count):
                mean.add_(self.averaged_form(self._run(padded.flip(axes))).flip(axes), alpha=share)
        return mean

    def averaged_form(self, logits: Tensor) -> Tensor:
        """Returns logits in the form that is averaged where windows overlap: unchanged, or as probabilities."""
        return self.head.probabilities(logits) if self.averages_probabilities else logits

    @property
    def head(self) -> Head:
        """Way in which its outputs are classes."""
        return head_of(self)

    @property
    def averages_probabilities(self) -> bool:
        """True if probabilities, and no logits, are averaged where windows overlap."""
        return self.inference.average == "probabilities"

    def window_place(self, size: Sequence[int]) -> tuple[slice, slice, slice]:
        """Returns the place in the ROI of a window of this size; raises UserError if an axis is longer."""
        if any(side > full for full, side in zip(self.roi, size, strict=True)):
            raise UserError(f"expected a window of at most {self.roi} voxels, got {tuple(size)}: tile the volume first")
        places = []
        for axis, (full, length) in enumerate(zip(self.roi, size, strict=True)):
            start = (full - length + (axis in self.turned)) // 2
            places.append(slice(start, start + length))
        return triple(places)

    @property
    def turned(self) -> tuple[int, ...]:
        """Axes of the volume on which windows and padding begin at the high end, the network's low one."""
        return () if self.inference.padding == "volume" else self.order.turned

    @property
    def order(self) -> InputAdapter:
        """Adapter to the network's axes; an ensemble's first member's."""
        return self.net.models[0].order if isinstance(self.net, MeanOfProbabilities) else self.adapter

    def _logits_place(self, size: Sequence[int]) -> tuple[slice, slice, slice]:
        """Returns the place of a window of this size in the logits of `_run`; refuses as `window_place`."""
        return triple(slice(0, length) for length in size) if self._leaves_padding else self.window_place(size)

    @property
    def _leaves_padding(self) -> bool:
        """True if no window is padded here: a command takes whole volumes, and members of an ensemble pad their own."""
        return self.takes_volumes or isinstance(self.net, MeanOfProbabilities)

    def _defend(self, images: Tensor, keys: Sequence[int] | None, draw: int) -> tuple[Tensor, Back]:
        """Returns the windows after one draw of the defence, and the map of logits back to their grid."""
        if self.defence is None:
            return images, keep_logits
        keys = [FIXED] * len(images) if keys is None else keys
        return self.defence.defend(images, [draw_seed(key, draw) for key in keys], self.adaptive)

    def _input(self, images: Tensor) -> Tensor:
        """Returns windows of the ROI in the network's unit, with the volume's axes."""
        padding = self.inference.padding
        if self.takes_volumes:
            return images.view_as(images)
        if self._prepared is not None:
            return self._pad(self._prepared.input(images), padding)
        if padding == "volume":
            return self.adapter.scale_images(self._pad(images, 0.0))
        return self._pad(self.adapter.scale_images(images), padding)

    def _pad(self, images: Tensor, padding: float | str) -> Tensor:
        size = images.shape[2:]
        axes = [] if self._leaves_padding else [*zip(self.window_place(size), self.roi, strict=True)]
        # The last axis first, its low side before its high.
        widths = list[int]()
        for place, full in reversed(axes):
            widths += (place.start, full - place.stop)
        if not any(widths):
            # A view, so that hooks never land on the caller's tensor.
            return images.view_as(images)
        if not isinstance(padding, str):
            return F.pad(images, widths, value=padding)
        sides = zip(images.shape[:1:-1], widths[::2], widths[1::2], strict=True)
        if padding == "reflect" and any(max(low, high) >= side for side, low, high in sides):
            raise UserError(
                f"{self.name}: inference.padding: expected reflect to be shorter than the volume, got "
                f"{tuple(size)} for a window of {self.roi}: take replicate, a number or a smaller roi"
            )
        return F.pad(images, widths, mode=padding)

    def _run(self, images: Tensor) -> Tensor:
        """Returns logits of windows of `_input`."""
        if self.takes_volumes:
            return self._merge(self.net(images, self._case, self.adapter))
        half = self.precision == "bf16"
        allowed = self.precision == "tf32"
        _allow_tf32(allowed)
        try:
            fast = nullcontext() if self._compiled else fast_convolutions(images)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half), fast:
                logits = self._merge(self.adapter.from_network(self.net(self.adapter.to_network_axes(images))))
        finally:
            _allow_tf32(False)
        if allowed and logits.requires_grad:
            # The backward pass enters the network at its logits and leaves it at its input.
            logits.register_hook(lambda _: _allow_tf32(True))  # type: ignore[no-untyped-call]
            if images.requires_grad:
                images.register_hook(lambda _: _allow_tf32(False))  # type: ignore[no-untyped-call]
        return logits.float() if half else logits

    def _merge(self, logits: Tensor) -> Tensor:
        r"""Returns logits of the dataset's classes: :math:`\log \sum_{k \in S} e^{z_k}` for the classes S of each."""
        if self.class_map is None:
            return logits
        groups = self.class_map if self.head.has_background else self.class_map[1:]
        return torch.stack([logits[:, list(merged)].logsumexp(dim=1) for merged in groups], dim=1)


@dataclass(frozen=True, kw_only=True)
class _BesideWindows:
    """Bounds and tensors `[B, C, h, w, d]` on the model's device, made beside a volume or its windows."""

    low: Tensor  # [1, C, 1, 1, 1]
    high: Tensor
    rest: Tensor | None
    fixed: Tensor | None

    @property
    def has_place(self) -> bool:
        """True if it differs from window to window."""
        return self.rest is not None or self.fixed is not None

    def cut(self, windows: Sequence[tuple[slice, slice, slice]]) -> "_BesideWindows":
        """Returns the bounds and tensors of windows of the volume, in their order."""
        own = {"rest": self.rest, "fixed": self.fixed}
        crops = {}
        for name, volume in own.items():
            if volume is not None:
                crops[name] = torch.cat([volume[:, :, h, w, d] for h, w, d in windows])
        return replace(self, **crops)

    def input(self, images: Tensor) -> Tensor:
        """Returns the network's input for images in [0, 1]; several images of a window follow each other."""
        low = self.low.to(images.dtype)
        high = self.high.to(images.dtype)
        made = low + (high - low) * images
        if self.fixed is not None:
            made = made.masked_fill(self._repeat(self.fixed, len(images)), 0.0)
        return made if self.rest is None else made + self._repeat(self.rest, len(images)).to(made.dtype)

    @staticmethod
    def _repeat(each: Tensor, count: int) -> Tensor:
        return each if len(each) == count else each.repeat_interleave(count // len(each), 0)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class MeanOfProbabilities(nn.Module):
    r"""Maps `[B, C, h, w, d]` to logits `[B, K, h, w, d]` of mean probabilities; all members have the same window.

    .. math:: z(x) = \log \frac{1}{M} \sum_m \mathrm{softmax}(f_m(x))

    Of regions, z is the logit of the mean of sigmoids. Attacks on an ensemble transfer better to other models (Liu et
    al., ICLR 2017, arXiv:1611.02770)."""

    def __init__(self, members: Sequence[SegmentationModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def models(self) -> list[SegmentationModel]:
        """The members."""
        return [member for member in self.members if isinstance(member, SegmentationModel)]

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits `[B, K, h, w, d]` of the members' mean probabilities for images `[B, C, h, w, d]`."""
        return self.models[0].head.mean_of_probabilities([member(images) for member in self.models])


class MeanOfLogits(MeanOfProbabilities):
    """Maps `[B, C, h, w, d]` to the mean of its members' logits, as nnU-Net averages its folds."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns the members' mean logits `[B, K, h, w, d]` for images `[B, C, h, w, d]`."""
        return torch.stack([member(images) for member in self.models]).mean(dim=0)
