"""Defines the spec that a model's entry in a job resolves to, all settings filled in and checked, and its cost."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from freqbench.core import plugins
from freqbench.core.code import Code, identify
from freqbench.core.identity import digest
from freqbench.core.input_space import ras_order
from freqbench.core.types import CaseRef, Outputs, Shape
from freqbench.models import entry
from freqbench.models.defences.base import Defence
from freqbench.models.entry import DEFAULT_INFERENCE, DEFAULT_INPUT, ClassMap, Inference, InputAdapter, Yields
from freqbench.pipelines import AnySpace, Pipeline

UNTRAINED = "its weights look untrained, as every scale of a norm and slope of a PReLU is that of a fresh network"

# An ONNX file cannot be counted without computing: it counts as a UNet of the papers' size.
UNCOUNTED_FLOPS = 10**12
UNCOUNTED_BYTES = 2 << 30
GRAPH_BYTES = 4 << 30
"""Memory for the graphs that an attack on a volume's prediction keeps, so that the backward pass repeats no forward
pass; a GPU with more free memory gives more."""


# Fields of a spec that enter its identity where they are not at their default; the first two have none.
_STATED_IF_NEW = (
    "num_classes",
    "roi",
    "num_channels",
    "migration",
    "prefix",
    "head",
    "class_map",
    "yields",
    "singly",
    "averages",
    "adaptive",
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Facts of a network that pass from its files to its spec unchanged, but for what a check of its weights mends."""

    arch: str = ""  # its architecture; also `ensemble`
    args: Mapping[str, Any] = field(default_factory=dict)  # the job's over those of its files
    checkpoint: str = ""  # path of its files
    checkpoint_sha256: str = ""  # hex digest of all files that its output depends on, or `random:SEED`
    code: str | None = None  # identity of the code of another package's class, or of a network that a caller gives
    black_box: str | None = field(default=None, compare=False)  # why no gradient goes through it; None if one does
    notes: tuple[str, ...] = field(default=(), compare=False)  # of what was assumed, read, left out or mended, by line
    found: tuple[str, ...] = field(default=(), compare=False)  # classes and channels paired with a dataset's, likewise

    @property
    def origin(self) -> dict[str, Any]:
        """Returns these facts by name, also of what has more."""
        return {each.name: getattr(self, each.name) for each in fields(Origin)}

    @property
    def takes_volumes(self) -> bool:
        """True for a command, which sees whole volumes in their own unit and returns labels alone."""
        return self.arch == entry.COMMAND


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Origin):
    """A model with all its settings resolved and checked; plain data. Fields of `ModelEntry` mean the same here."""

    name: str
    roi: Shape
    num_classes: int
    num_channels: int = 1
    migration: str | None = None  # that its checkpoint needs; None: its weights stay as they are
    prefix: str | None = None  # of the weights' names in its checkpoint; None: the one that fits best
    input: InputAdapter = DEFAULT_INPUT
    space: AnySpace | None = None  # in which it is attacked and scored; None: the dataset's
    inference: Inference = DEFAULT_INFERENCE
    silent_args: frozenset[str] = field(default=frozenset(), compare=False)  # that no identity depends on
    head: Outputs = "softmax"  # or `sigmoid`: one output for each class but the background
    class_map: ClassMap | None = None  # that of SegmentationModel; None: the classes are the network's own
    yields: Yields = "logits"  # of the network itself; of `probabilities` the logarithm is taken
    singly: bool = False  # windows pass one by one, as the network mixes those of a batch
    caution: str | None = field(default=None, compare=False)  # what makes its rows say little; None: nothing known
    members: tuple["ModelSpec", ...] = ()
    averages: Literal["probabilities", "logits"] = "probabilities"  # over its members
    defence: Defence | None = None
    adaptive: bool = True
    learns_from: Mapping[str, CaseRef] = field(default_factory=dict)  # clean cases of its detector, by their keys
    expected_dice: float | None = None
    training: str | None = None  # identity of the training, if the job trains the weights
    method: str | None = None  # the same without the seed
    weights_sha256: str | None = None  # hex, of weights alone: replaces that of the file, which has the training's time
    flops: int | None = field(default=None, compare=False)  # of a pass over one window; None of an ONNX file
    step_bytes: int | None = field(default=None, compare=False)  # of its tensors and of the weights

    @cached_property
    def model_id(self) -> str:
        """16 hex digits that tell models apart by what they compute; name and path do not enter."""
        return self._identity(self.weights_sha256 or self.checkpoint_sha256, self.training)

    @property
    def codes(self) -> Iterator[Code]:
        """Identities of the code of others in it, as this process holds it; not of a network that a caller gave."""
        if self.code and self.checkpoint and plugins.names_class(self.arch):
            yield identify(plugins.load_class(self.arch, object))
        if isinstance(self.space, Pipeline) and (code := self.space.code):
            yield code
        if self.defence and plugins.is_foreign(type(self.defence)):
            yield identify(type(self.defence))
        for member in self.members:
            yield from member.codes

    @cached_property
    def method_id(self) -> str | None:
        """16 hex digits of networks that differ in name and training seed alone; None if the training is unknown."""
        return self._identity(self.method, None) if self.method else None

    def _identity(self, weights: str, training: str | None) -> str:
        args = {name: value for name, value in self.args.items() if name not in self.silent_args}
        facts: dict[str, Any] = {"arch": self.arch, "args": args, "checkpoint": weights}
        space = self.space and self.space.identity()
        members = [member.model_id for member in self.members]
        defence = self.defence and self.defence.identity()
        parts = {  # left out if there is nothing
            "input": self.input.model_dump(exclude_defaults=True),
            "space": space,
            "inference": self._sliding(),
            "code": self.code,
            "members": members,
            "training": training,
            "defence": defence,
            "learns_from": [*self.learns_from],
        }
        facts |= {name: part for name, part in parts.items() if part}
        for name in _STATED_IF_NEW:
            if getattr(self, name) != getattr(ModelSpec, name, None):
                facts[name] = getattr(self, name)
        return digest(facts)

    def _sliding(self) -> dict[str, Any]:
        """Returns the sliding window's settings; padding only where it differs from `volume`, as it was before."""
        stated = self.inference.model_dump(exclude_defaults=True, exclude={"padding"})
        padding = self.inference.padding
        adapter = (self.members or (self,))[0].input
        follows_volume = not adapter.turned and not adapter.is_of_file
        if padding == "volume" or self.members:  # members pad their own windows, which start where the ensemble says
            starts_apart = self.members and padding == "volume" and not follows_volume
            return {**stated, "padding": padding} if starts_apart else stated
        means = np.atleast_1d(adapter.mean)
        stds = np.atleast_1d(adapter.std)
        lowest = (adapter.scale[0] - means) / stds
        return stated if follows_volume and np.all(lowest == padding) else {**stated, "padding": padding}

    def roi_of(self, ref: CaseRef, shape: Shape) -> Shape:
        """Returns the ROI along the axes of the volume of the case `ref`, which has this shape."""
        first = self.members[0] if self.members else self
        roi = self.roi
        inference = self.inference
        if first.input.is_of_file:
            roi = ras_order(roi, ref.axes)
            inference = inference.turn_to_file(ref.axes)
        return inference.window(roi, shape)

    @property
    def num_outputs(self) -> int:
        """Number of the network's own outputs; a class map holds each of them once."""
        return sum(map(len, self.class_map)) if self.class_map else self.num_classes - (self.head == "sigmoid")

    @property
    def network_roi(self) -> Shape:
        """The ROI in the network's own axis order."""
        return self.input.network_order(self.roi)

    @property
    def passes(self) -> int:
        """Network passes for each query of an attacker."""
        return (self.defence.draws if self.defence and self.adaptive else 1) << len(self.inference.attacked_mirror)

    @property
    def predictions(self) -> int:
        """Sliding windows over the whole volume that one prediction takes."""
        return self.defence.predictions if self.defence else 1

    @property
    def defence_text(self) -> str | None:
        """JSON of the defence's parameters, of `adaptive`, and of the `model_id` without the defence."""
        if self.defence is None:
            return None
        undefended = replace(self, defence=None, adaptive=True, learns_from={}).model_id
        return json.dumps({**self.defence.model_dump(), "adaptive": self.adaptive, "undefended": undefended})

    @property
    def seed(self) -> int | None:
        """Seed of untrained weights; None for weights of a checkpoint."""
        return entry.seed_of(self.checkpoint)

    @property
    def is_random(self) -> bool:
        """True if its weights are untrained."""
        return self.seed is not None

    @property
    def is_judged(self) -> bool:
        """True if its clean Dice must show that it fits: it is stated, or somebody trained it, as its weights show."""
        return self.expected_dice is not None or not self._is_untrained

    @property
    def _is_untrained(self) -> bool:
        if self.members:
            return all(member._is_untrained for member in self.members)
        return self.is_random or any(note.endswith(UNTRAINED) for note in self.notes)

    @property
    def votes(self) -> bool:
        """True if a defence makes its prediction of many, and says how sure the vote is."""
        return self.defence is not None and self.defence.votes


def forward_flops(spec: ModelSpec) -> int:
    """Returns the floating-point operations of a forward pass of the network of `spec` over one window; a multiply-add
    counts as two."""
    if spec.members:
        return sum(map(forward_flops, spec.members))
    return UNCOUNTED_FLOPS if spec.flops is None else spec.flops


def step_bytes(spec: ModelSpec) -> int:
    """Returns the bytes of weights and all tensors of a forward pass of the network of `spec` over one window: an upper
    bound for a step."""
    if spec.members:
        return sum(map(step_bytes, spec.members))
    return UNCOUNTED_BYTES if spec.step_bytes is None else spec.step_bytes


def windows_in_graph(specs: Iterable[ModelSpec], available: int = GRAPH_BYTES) -> int:
    """Returns the number of windows whose graphs fit at once into `available` bytes, of an attack that follows all the
    models of `specs`."""
    return available // sum(step_bytes(spec) * spec.passes for spec in specs)
