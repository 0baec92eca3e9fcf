"""What a job says of a model, what it resolves to, and the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import BaseModel, Field, PositiveInt
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqbench.config import Strict, validate
from freqbench.errors import CheckpointError, UserError
from freqbench.identity import digest
from freqbench.models import checkpoint as checkpoints
from freqbench.models.nets import MODELS, build, complete_args, skeleton, trace
from freqbench.models.wrapper import SegmentationModel
from freqbench.types import Shape

DEFAULT_ROI: Shape = (96, 96, 96)


class ModelEntry(Strict):
    """A model as a job file names it.

    Attributes:
        name: what tables call it.
        arch: a name of MODELS; a checkpoint of freqbench's own brings it along.
        checkpoint: path, URI, `zoo://DATASET/NAME`, or `random` for untrained weights (seed 0).
        args: arguments of the network's class, over the defaults.
        roi: voxels of a window, a multiple of what the network needs; default 96x96x96, or as trained.
    """

    name: str = Field(min_length=1, pattern=r"^[^/\\]+$")
    arch: str | None = None
    checkpoint: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None


class _Record(BaseModel):
    """What a checkpoint may say of itself: untrusted, so checked; more keys may stand beside these."""

    arch: str | None = None
    args: dict[str, Any] | None = None
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model of which everything is known and checked; plain data that travels to workers.

    Attributes:
        name: what tables call it.
        arch: a name of MODELS.
        args: the network's arguments that are not its class's own defaults.
        roi: voxels of a window.
        num_classes: output classes, background included.
        checkpoint: as given.
        checkpoint_sha256: hex, or `random:0`.
    """

    name: str
    arch: str
    args: Mapping[str, Any]
    roi: Shape
    num_classes: int
    checkpoint: str
    checkpoint_sha256: str

    @cached_property
    def model_id(self) -> str:
        """16 hex digits that tell models apart by what they compute: neither name nor path enters."""
        defaults = MODELS[self.arch].args
        changed = {k: v for k, v in self.args.items() if k not in defaults or v != defaults[k]}
        return digest(
            {
                "arch": self.arch,
                "args": changed,
                "num_classes": self.num_classes,
                "roi": self.roi,
                "checkpoint": self.checkpoint_sha256,
            }
        )


def resolve(entry: ModelEntry, num_classes: int) -> ModelSpec:
    """Check all that can be wrong with a model, without computing, and fix its identity.

    Args:
        entry: from a job file.
        num_classes: of the dataset, background included.

    Raises:
        UserError: an unknown architecture or argument, a value or ROI the network refuses, a contradiction with
            what the checkpoint says of itself.
        CheckpointError: no such checkpoint, unreadable, or it does not fit the network.
    """
    untrained = entry.checkpoint == checkpoints.RANDOM
    metadata = {} if untrained else checkpoints.read_metadata(entry.checkpoint)
    trained = validate(metadata, _Record, where=f"{entry.checkpoint}: metadata")
    arch = _agreed_arch(entry, trained.arch)
    args = _agreed_args(entry, arch, trained.args)
    roi = entry.roi or trained.roi or DEFAULT_ROI
    net = skeleton(arch, num_classes, roi, args)
    if not untrained:
        found = checkpoints.read_state_dict(entry.checkpoint)
        checkpoints.check_fit(entry.name, entry.checkpoint, net.state_dict(), found, num_classes)
    trace(arch, net, num_classes, roi)
    return ModelSpec(
        name=entry.name,
        arch=arch,
        args=args,
        roi=roi,
        num_classes=num_classes,
        checkpoint=entry.checkpoint,
        checkpoint_sha256="random:0" if untrained else checkpoints.content_sha256(entry.checkpoint),
    )


def load(spec: ModelSpec, device: torch.device, precision: str = "fp32", compile: bool = False) -> SegmentationModel:
    """The model of a spec on a device, in eval mode, its parameters without gradients.

    Args:
        spec: from `resolve`.
        device: where it is to run.
        precision: `fp32`, `tf32` or `bf16`.
        compile: run the network through `torch.compile`.

    Raises:
        CheckpointError: the checkpoint is not the one that was resolved.
    """
    net = build(spec.arch, spec.num_classes, spec.roi, spec.args, seed=0)
    if spec.checkpoint != checkpoints.RANDOM:
        if checkpoints.content_sha256(spec.checkpoint) != spec.checkpoint_sha256:
            raise CheckpointError(
                f"{spec.name}: {spec.checkpoint} is not the file that was planned with (sha256 "
                f"{spec.checkpoint_sha256[:12]}...): put that file back or plan anew"
            )
        # Strict, and casts float16 weights to the network's float32.
        net.load_state_dict(checkpoints.read_state_dict(spec.checkpoint))
    return SegmentationModel(net.requires_grad_(False), spec.roi, precision, compile).to(device).eval()


def forward_flops(spec: ModelSpec) -> int:
    """Floating-point operations of one forward pass over one window (a multiplication and an addition are two).

    Counted on shapes, nothing is computed. A pass back to the input costs about as much again.
    """
    from torch.utils.flop_counter import FlopCounterMode

    net = skeleton(spec.arch, spec.num_classes, spec.roi, spec.args)
    with FlopCounterMode(display=False) as counter:
        trace(spec.arch, net, spec.num_classes, spec.roi)
    return int(counter.get_total_flops())


def step_bytes(spec: ModelSpec) -> int:
    """Bytes of the weights and of every tensor that a forward pass over one window makes.

    Counted on shapes, nothing is computed. An upper bound of what an attack step holds, as not all is kept for the way
    back.
    """
    net = skeleton(spec.arch, spec.num_classes, spec.roi, spec.args)
    with _CountBytes() as counter:  # type: ignore[no-untyped-call]
        trace(spec.arch, net, spec.num_classes, spec.roi)
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return int(counter.total + weights)


class _CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what operations return, views left out."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves(returned) if isinstance(leaf, torch.Tensor))
        return returned


def _agreed_arch(entry: ModelEntry, trained: str | None) -> str:
    if entry.arch is None and trained is None:
        raise UserError(f"{entry.name}: the checkpoint does not say its architecture: give arch: {', '.join(MODELS)}")
    if entry.arch and trained and entry.arch != trained:
        raise UserError(
            f"{entry.name}: arch is {entry.arch} here, but {entry.checkpoint} was trained as {trained}: leave arch out"
        )
    return str(entry.arch or trained)


def _agreed_args(entry: ModelEntry, arch: str, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    args = complete_args(arch, {**(trained or {}), **entry.args})
    if trained is not None:
        original = complete_args(arch, trained)
        changed = [name for name in entry.args if args.get(name) != original.get(name)]
        if changed:
            raise UserError(
                f"{entry.name}: args.{changed[0]} is {entry.args[changed[0]]!r} here, but {entry.checkpoint} was "
                "trained otherwise: leave it out"
            )
    return args
