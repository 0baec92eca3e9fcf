"""Defines a kind of place that networks come from, the facts that it states of one, and what several kinds need."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from freqbench.core import plugins
from freqbench.core.config import Strict
from freqbench.core.documents import mapping_of, object_of
from freqbench.core.errors import CheckpointError, NoFileError, UserError, one_line
from freqbench.core.files import storage
from freqbench.core.input_space import RAS_LETTERS, Preprocess, turning
from freqbench.core.types import Outputs, Shape
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import AXES, DEFAULT_INPUT, FILE_AXES, InputAdapter, ModelEntry, seed_of
from freqbench.models.networks.construction import REFUSALS, limit_modules, refusing, seed_weights
from freqbench.models.spec import UNTRAINED, ModelSpec, Origin
from freqbench.pipelines import AnySpace, Pipeline
from freqbench.pipelines.monai import MonaiPipeline


class NoArgs(Strict):
    """Arguments, in a job, of a model whose folder holds them all: none."""


class Fingerprints(BaseModel):
    """Fingerprints of the cases that shaped the weights."""

    train: tuple[str, ...] = ()
    select: tuple[str, ...] = ()


class TrainingRecord(BaseModel):
    """Part of the record of `freqbench.training` that is used here."""

    fingerprints: Fingerprints = Fingerprints()
    method: str | None = None


class Metadata(BaseModel):
    """Metadata that freqbench writes into a checkpoint: untrusted, so checked; further keys are ignored."""

    arch: str | None = None
    args: dict[str, Any] | None = None
    num_classes: PositiveInt | None = None
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    preprocess: Preprocess | None = None
    outputs: Outputs | None = None
    class_names: tuple[str, ...] | None = None
    training: TrainingRecord = Field(default_factory=TrainingRecord)


@dataclass(frozen=True, kw_only=True)
class Facts(Origin):
    """Facts of a network that its files state; of an ONNX file or a command, the job's where these do not. None: not
    stated. `class_map` is that of an entry, by the dataset's names or transforms of the label; empty: in order."""

    roi: Shape | None = None  # voxels of its window, in its own axis order
    num_classes: int | None = None  # of its output
    num_channels: int | None = None  # of its input
    outputs: Outputs | None = None
    input: InputAdapter = DEFAULT_INPUT  # from a volume, with the axes that the network takes
    space: AnySpace | None = None  # preprocessing of its training data
    inference: Mapping[str, Any] = field(default_factory=dict)  # keys of `Inference`, as it was deployed
    class_map: Mapping[int, tuple[int, ...]] | None = None
    metadata: Metadata = field(default_factory=Metadata)  # by freqbench, if it `is_own`; else at most names of regions
    class_names: tuple[str, ...] = ()  # by its files, background first
    channel_names: tuple[str, ...] = ()
    is_own: bool = False
    knows_axes: bool = False  # no assumption: freqbench trained it, nobody did, or it reads a file's header
    path: str = ""  # as the job says, variables filled in

    @property
    def is_settled(self) -> bool:
        """True if nothing is assumed of it: freqbench trained it, nobody did, or it is a command."""
        return self.is_own or seed_of(self.path) is not None or self.takes_volumes


def fit_weights(source: "Source", draft: ModelSpec, facts: Facts, entry: ModelEntry) -> ModelSpec:
    """Returns the spec with its counts and notes; refuses weights or a window that do not fit the network. `source`,
    `draft`, `facts` and `entry` are those of `Source.fit`."""
    if source.weights is None:
        return draft
    net = source.outline_of(draft)
    notes = draft.notes
    if not draft.is_random:
        wanted = net.state_dict()
        weights, note = source.weights(draft, wanted)
        notes = require_fit(draft, wanted, weights, note, facts.is_own)
    flops, step_bytes = cost_of(draft, net)
    return replace(draft, notes=notes, flops=flops, step_bytes=step_bytes)


def require_fit(
    draft: ModelSpec, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], note: str | None, is_own: bool
) -> tuple[str, ...]:
    """Refuses weights that do not fit a network; returns the notes of its spec, and those on its weights.

    Args:
        draft: the spec of the network.
        wanted: its names and shapes (meta will do).
        weights: those of its files.
        note: a line on their place there; None: nothing.
        is_own: True: freqbench's own metadata tell of a training.
    """
    checkpoints.check_fit(draft.name, draft.checkpoint, wanted, weights, draft.num_outputs, draft.head)
    untrained = None if is_own or not checkpoints.look_untrained(weights) else UNTRAINED
    return (*draft.notes, *filter(None, [note, untrained]))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of place that networks come from: files of one format, another package's class, a command.

    Attributes:
        facts: states the facts of a network, of `entry`, the model in a job file, `path`, its local place, and the
            dataset's `num_classes` (background included) and `num_channels` (None: not known yet).
        network: builds that of a spec on the CPU or meta device, with fresh weights or its file's.
        weights: returns those of a spec's files by the names and shapes of its network (meta will do), and a note on
            their place; None: `network` brings them.
        sha256: hashes, of a path and arguments, all files that the output depends on.
        fit: returns a spec with all that takes a network to know, or refuses it: of the `source` itself, the `draft` of
            the spec as far as job and files state it, their `facts`, and the `entry`.
    """

    facts: Callable[[ModelEntry, str, int | None, int | None], Facts]
    network: Callable[[ModelSpec], nn.Module]
    weights: Callable[[ModelSpec, Mapping[str, Tensor]], tuple[dict[str, Tensor], str | None]] | None = None
    sha256: Callable[[str, Mapping[str, Any]], str] = lambda path, args: checkpoints.content_sha256(path)
    fit: Callable[["Source", ModelSpec, Facts, ModelEntry], ModelSpec] = fit_weights
    files: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None  # patterns in a folder; None: one file is read
    silent: Callable[[str, Mapping[str, Any]], Iterable[str]] = lambda arch, args: ()  # arguments in no identity
    takes: tuple[str, ...] = ()  # keys of an entry that serve its weights, of `migration` and `prefix`
    sign: str | None = None  # file or folder inside a folder that shows its kind
    runs_code: bool = False  # its files are programs, so that they need trust
    is_known: bool = False  # its construction shows that it returns logits, of each window by itself
    has_path: bool = True  # not of a command, whose words are no place of files
    is_checkpoint: bool = False  # read from a file of weights, in which freqbench may have left metadata

    def locate(self, path: str, args: Mapping[str, Any], sha256: str | None = None) -> str:
        """Returns a path on this machine; fetches a URI to the node's cache, by its `sha256` (hex) if given, and of a
        folder the files that are read with the arguments `args` of a job."""
        if not self.has_path or seed_of(path) is not None:
            return path
        path = checkpoints.locate(path)
        if storage.is_local(path):
            return storage.local_path(path)
        try:
            return str(storage.fetch_folder(path, self.files(args)) if self.files else storage.fetch(path, sha256))
        except NoFileError as error:
            raise CheckpointError(str(error)) from None

    def network_of(self, spec: ModelSpec) -> nn.Module:
        """Builds the bare network of `spec` on the CPU without loading its weights (an ONNX file brings them)."""
        if self.runs_code and not plugins.is_installed(spec.arch):
            plugins.require_trust(f"{spec.name}: {spec.arch}")
        return self.network(spec)

    def outline_of(self, spec: ModelSpec) -> nn.Module:
        """Returns the bare network of `spec` on the meta device, shapes and keys only; not of a source without
        `weights`. Raises
        UserError if its class refuses, is not the resolved one, is not trusted, or has no parameters."""
        with limit_modules():
            if self.is_known:
                with torch.device("meta"):
                    net = self.network_of(spec).eval()
            else:  # constructors of third-party networks may read numbers off tensors, which meta does not have
                net = self.network_of(spec).to("meta").eval()
        if next(net.parameters(), None) is None:
            raise UserError(f"{spec.name}: {spec.arch}: expected a network with parameters, found none: add one")
        return net


def cost_of(spec: ModelSpec, net: nn.Module) -> tuple[int, int]:
    """Counts operations and bytes of one window of the shape that `spec` states through a network, `net`, on meta;
    raises UserError if it refuses."""
    arch = spec.arch
    roi = spec.network_roi
    size = "x".join(map(str, roi))
    try:
        with torch.no_grad(), _Counter() as counted:  # type: ignore[no-untyped-call]
            logits = net(torch.empty(1, spec.num_channels, *roi, device="meta"))
    except REFUSALS as error:
        if "more than 1 spatial element" in str(error):
            rest = "which instance norm cannot take: enlarge the roi or use fewer strides"
            raise UserError(f"{arch}: a roi of {size} shrinks to a single voxel inside the network, {rest}") from None
        raise UserError(f"{arch}: a roi of {size} does not pass through the network: {one_line(error)}") from None
    expected = (1, spec.num_outputs, *roi)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if got != expected:
        raise UserError(f"{arch}: expected logits of shape {expected}, got {got}: check args and roi")
    return counted.operations, counted.bytes + sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up operations and bytes of returned tensors; `FlopCounterMode` imports the compiler, which takes long."""

    operations = bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it is to import it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.operations += int(formula(*args, **(kwargs or {}), out_val=returned))
        if not func.is_view:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves(returned) if isinstance(leaf, Tensor))
        return returned


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in the JSON or YAML file at `path`; raises CheckpointError if it holds none."""
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found none: check the path, or fetch the whole folder again")
    try:
        content = path.read_bytes()
        return object_of(content, str(path)) if path.suffix == ".json" else mapping_of(content, str(path), True)
    except UserError as error:
        raise CheckpointError(str(error)) from None


def fingerprint(files: Mapping[str, Path]) -> str:
    """Returns the SHA-256 (hex) of several files' contents under their names; the folder's path does not matter."""
    contents = sorted((name, storage.sha256(str(path))) for name, path in files.items())
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def axes_towards(codes: str) -> str:
    """Returns `axes` of an `InputAdapter` from the direction in which each axis of a network's input increases.

    `codes` are one of R or L, one of A or P, and one of S or I, in the network's order; raises ValueError otherwise.

    >>> axes_towards("SPL")
    'D-W-H'
    """
    axes = "".join(RAS_LETTERS.get(code, code) for code in codes)
    if sorted(axes.replace("-", "")) != sorted(AXES):
        raise ValueError(f"expected one of R or L, one of A or P and one of S or I, as in LPS, got {codes!r}")
    return axes


def axes_of(pipeline: Pipeline) -> str:
    """Returns `axes` of an `InputAdapter` for a pipeline: the volume's, or each file's if files stay as they lie."""
    codes = pipeline.codes_of("RAS")
    if pipeline.codes_of("LPS") == codes:
        return axes_towards(codes)
    along, against = turning("RAS", codes)
    return "".join("-" * (axis in against) + FILE_AXES[along[axis]] for axis in range(3))


def adapter_of(pipeline: MonaiPipeline) -> InputAdapter:
    """Returns the axes that a pipeline of MONAI's makes, and the intensities that arrays are given."""
    return InputAdapter(axes=axes_of(pipeline), **spanning(pipeline.bounds or pipeline.stated_bounds))


def spanning(bounds: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    """Returns `mean` and `std` of an `InputAdapter` by which [0, 1] spans these bounds; empty if one is None."""
    stated = [ends for ends in bounds if ends is not None]
    if len(stated) < len(bounds):
        return {}
    mean = tuple(low / (low - high) for low, high in stated)
    std = tuple(1 / (high - low) for low, high in stated)
    return {"mean": mean[0], "std": std[0]} if len(set(stated)) == 1 else {"mean": mean, "std": std}


def construct(where: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Returns the network of `make` with the fresh weights of seed 0; raises UserError, which begins with `where`, if
    it refuses its arguments."""
    with seed_weights(0), refusing(f"{where} does not fit its class"):
        if not isinstance(net := make(), nn.Module):  # the code of a trusted bundle may return anything
            raise TypeError(f"expected a network, got {type(net).__name__}")
        return net
