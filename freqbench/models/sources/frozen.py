"""Reads networks that were saved with their code: TorchScript files and `torch.export` archives (`.pt2`). Such a file
is a program: it is opened only if trusted, and cannot be built on the meta device. Save it in eval mode, which cannot
be set afterwards."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.fx import GraphModule

from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError, one_line
from freqbench.core.plugins import require_trust
from freqbench.models.checkpoints.files import check_sound
from freqbench.models.entry import DEFAULT_INPUT, ModelEntry, advice_on_classes
from freqbench.models.examination import mend
from freqbench.models.sources.source import Facts, Source
from freqbench.models.spec import ModelSpec

# Errors that torch raises on files that it cannot read.
_UNREADABLE = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError, EOFError)


class FrozenArgs(Strict):
    """Arguments of a frozen network in a job; None: an archive of torch.export states them."""

    num_classes: Annotated[int, Field(ge=2)] | None = None  # of its output, background included
    num_channels: PositiveInt | None = None  # of its input; None: the archive's, else 1
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # of a window, in the network's axis order


class Frozen(nn.Module):
    """A frozen network, without gradients to weights; `net` is a ScriptModule or the module of an ExportedProgram."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net = net
        self.name = name
        # One by one: a ScriptModule has no `requires_grad_` of its own.
        for parameter in net.parameters():
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits of windows of its saved size; raises UserError if the file lets no gradient through."""
        logits = self.net(images)
        if not isinstance(logits, Tensor):
            got = f"got {type(logits).__name__}: save it without deep supervision"
            raise UserError(f"{self.name}: expected a network that returns one tensor, {got}")
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise UserError(f"{self.name}: expected a network with gradients to its input: save it without no_grad")
        return logits

    def train(self, mode: bool = True) -> "Frozen":
        """Sets the flag only: saving a frozen network fixed its behaviour."""
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        moved: Frozen = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0, device=next(self.parameters()).device)).device
        for module in self.net.modules():
            if isinstance(module, GraphModule):  # its graph names devices on which it creates tensors
                for node in module.graph.nodes:
                    if node.kwargs.get("device") is not None:
                        node.update_kwarg("device", device)
                    elif node.target is torch.ops.aten.to.device:
                        node.update_arg(1, device)
                module.recompile()
        return moved


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a frozen network, from its file, else from the job. Raises UserError for no trust, or an
    argument that is unknown, missing or contradicts the file; CheckpointError for a file of neither format."""
    args = complete_args(entry, num_classes, num_channels)
    stated = validate(args, FrozenArgs, path)
    _, said, _ = _load(path)
    roi, classes = (agreed_argument(path, name, stated, said) for name in ("roi", "num_classes"))
    channels = agreed_argument(path, "num_channels", stated, said, default=1)
    return Facts(arch=str(entry.reader), args=args, roi=roi, num_classes=classes, num_channels=channels)


def network(spec: ModelSpec) -> nn.Module:
    """Returns the network of a file with its weights, on the CPU, without gradients; it moves with `.to(device)`."""
    net, _, singly = _load(path := spec.checkpoint)
    return mend(Frozen(net, path), "logits", singly)


def complete_args(entry: ModelEntry, num_classes: int | None, num_channels: int | None) -> dict[str, Any]:
    """Returns an entry's arguments with the job's counts and ROI, as the file may not state inputs and outputs."""
    roi = {"roi": (entry.input or DEFAULT_INPUT).network_order(entry.roi)} if entry.roi else {}
    return {"num_classes": entry.num_outputs(num_classes), "num_channels": num_channels, **roi, **entry.args}


def _load(path: str) -> tuple[nn.Module, dict[str, Any], bool]:
    """Returns the network, the arguments that its file states, and True if its graph takes one sample at a time."""
    if not (file := Path(path)).is_file():
        raise CheckpointError(f"{path}: expected a file, found none: check the path")
    require_trust(path)
    entries = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    scripted = any(entry.endswith("/constants.pkl") for entry in entries)
    exported = any(entry.endswith("archive_format") or entry == "serialized_exported_program.json" for entry in entries)
    if not scripted and not exported:
        got = "got neither, or a truncated one: weights alone need their arch"
        raise CheckpointError(f"{path}: expected a file of torch.jit.save or torch.export.save, {got}")
    try:
        if scripted:
            net: nn.Module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
            facts = dict[str, Any]()
            singly = False
        else:
            net, facts, singly = _load_export(path)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be loaded: {one_line(error, 160)}: fetch or save it again") from None
    if next(net.parameters(), None) is None:
        found = "found none, as torch.jit.freeze leaves it: save it unfrozen"
        raise CheckpointError(f"{path}: expected a network with parameters, {found}")
    check_sound(path, net.state_dict())
    return net, facts, singly


def _load_export(path: str) -> tuple[nn.Module, dict[str, Any], bool]:
    from torch.export.passes import move_to_device_pass

    # As a stream: torch demands the suffix .pt2 of a path.
    with Path(path).open("rb") as stream:
        program = move_to_device_pass(torch.export.load(stream), "cpu")
    net: nn.Module = program.module()
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = signature.user_inputs
    outputs = signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{path}: expected one tensor in and one out, got {len(inputs)} in and {len(outputs)} out")
    taken, given = (nodes[str(names[0])].meta["val"] for names in (inputs, outputs))
    if taken.dim() != 5 or given.dim() != 5:
        raise UserError(f"{path}: expected [B, C, h, w, d] in and out, got {taken.dim()} and {given.dim()} dimensions")
    lengths = (*taken.shape, given.shape[1])
    batch, channels, *roi, num_classes = (size if isinstance(size, int) else None for size in lengths)  # else symbolic
    if batch is not None and batch > 1:
        raise UserError(f"{path}: expected a batch of any size or of one, got {batch}: export it with a dynamic batch")
    facts = {"num_channels": channels, "roi": None if None in roi else tuple(roi), "num_classes": num_classes}
    return net, facts, batch == 1


def agreed_argument(path: str, name: str, args: FrozenArgs, file: Mapping[str, Any], default: Any = None) -> Any:
    """Returns an argument that the job or the file states; raises UserError if neither does, or the two differ."""
    ours = getattr(args, name)
    theirs = file.get(name)
    if ours is not None and theirs is not None and ours != theirs:
        advice = advice_on_classes(theirs, ours) if name == "num_classes" else "leave it out"
        raise UserError(f"{path}: {name} is {ours} here, but the file was exported for {theirs}: {advice}")
    value = theirs if ours is None else ours
    if value is None and default is None:
        raise UserError(f"{path}: {name}: required, as the file does not say it")
    return default if value is None else value


SOURCE = Source(facts=facts, network=network, runs_code=True)
