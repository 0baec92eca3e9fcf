"""Reads ONNX files: as a torch network with gradients if all operators have a counterpart, else on ONNX Runtime. A file
holds arrays and a graph of ONNX's own operators, no code, so it needs no trust."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError, installing, one_line
from freqbench.core.files import storage
from freqbench.core.torchvision_import import import_torchvision
from freqbench.models import ModelEntry, ModelSpec
from freqbench.models.entry import DEFAULT_INPUT, advice_on_classes
from freqbench.models.examination import mend
from freqbench.models.sources.source import Facts, Source, fingerprint

TOLERANCE = 1e-5  # largest difference of the two networks' outputs, as a share of the largest output if that is above 1


class OnnxArgs(Strict):
    """Arguments of an ONNX file in a job; None: the file states them."""

    num_classes: Annotated[int, Field(ge=2)] | None = None  # of its output, background included
    num_channels: PositiveInt | None = None  # of its input; None: the file's, else 1
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # of a window, in the network's axis order


class OnnxNetwork(nn.Module):
    """A network of an ONNX file, in evaluation mode: `net` has gradients, `session` of ONNX Runtime has none."""

    def __init__(self, net: nn.Module | None, session: Any = None) -> None:
        super().__init__()
        self.net = net
        self.session = session
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # says the device, which callers ask for

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[B, K, h, w, d]` of images, windows `[B, C, h, w, d]`; those of ONNX Runtime are computed on
        the CPU."""
        if self.net is not None:
            return self.net(images)
        (scores,) = self.session.run(None, {self.session.get_inputs()[0].name: images.detach().float().cpu().numpy()})
        return torch.from_numpy(scores).to(images)

    def train(self, mode: bool = True) -> "OnnxNetwork":
        """Sets the flag to `mode` only: the file fixed its behaviour."""
        self.training = mode
        return self


class _Graph(NamedTuple):
    files: Mapping[str, Path]
    facts: Mapping[str, Any]
    singly: bool


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a network, from its file, else from the job; compares both ways to run it on one volume.
    `entry`, `path`, `num_classes` and `num_channels` are those of `Source.facts`. Raises UserError for a missing
    package or a wrong argument, CheckpointError for a damaged or unfit file."""
    args = _args(entry, num_classes, num_channels)
    stated = validate(args, OnnxArgs, path)
    graph = _graph(path)
    roi = _agreed(path, "roi", stated, graph.facts)
    channels = _agreed(path, "num_channels", stated, graph.facts, default=1)
    sha256 = _sha256(path, args)
    classes, black_box = _compare(path, sha256, (1, channels, *roi))
    if _sha256(path, args) != sha256:
        _compare.cache_clear()
        raise CheckpointError(f"{path}: expected a file that stays while it is read, got another content: run again")
    count = _agreed(path, "num_classes", stated, {"num_classes": classes})
    arch = str(entry.reader)
    return Facts(arch=arch, args=args, roi=roi, num_classes=count, num_channels=channels, black_box=black_box)


def network(spec: ModelSpec) -> nn.Module:
    """Returns the network of the file of `spec` with its weights, on the CPU."""
    path = spec.checkpoint
    net = OnnxNetwork(_convert(path)) if spec.black_box is None else OnnxNetwork(None, _session(path))
    return mend(net, "logits", _graph(path).singly)


def _args(entry: ModelEntry, num_classes: int | None, num_channels: int | None) -> dict[str, Any]:
    """Returns an entry's arguments with the job's counts and ROI, as the file may not state inputs and outputs."""
    roi = {"roi": (entry.input or DEFAULT_INPUT).network_order(entry.roi)} if entry.roi else {}
    return {"num_classes": entry.num_outputs(num_classes), "num_channels": num_channels, **roi, **entry.args}


def _agreed(path: str, name: str, args: OnnxArgs, file: Mapping[str, Any], default: Any = None) -> Any:
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


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    files = _graph(path).files
    return fingerprint(files) if len(files) > 1 else storage.sha256(path)


def _packages(path: str) -> Any:
    """Returns onnx, ONNX Runtime and the converter."""
    try:
        import_torchvision()  # the converter imports it
        import onnx
        import onnx2torch
        import onnxruntime
    except ImportError as error:
        got = f"got {one_line(error)}: {installing('onnx')}"
        raise UserError(f"{path}: expected the packages for ONNX files, {got}") from None
    return onnx, onnxruntime, onnx2torch


def _graph(path: str) -> _Graph:
    """Reads the input and output of a file, and the names of files with its larger arrays."""
    onnx, *_ = _packages(path)
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: expected a file, found none: check the path")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001 (damaged bytes can make a parser raise anything)
        raise CheckpointError(f"{path}: not an ONNX file, or a truncated one ({one_line(error, 80)})") from None
    graph = model.graph
    arrays = {array.name for array in graph.initializer}
    inputs = [value for value in graph.input if value.name not in arrays]
    if len(inputs) != 1 or len(graph.output) != 1:
        got = f"got {len(inputs)} in and {len(graph.output)} out: export the logits alone"
        raise CheckpointError(f"{path}: expected an ONNX file with one tensor in and one out, {got}")
    files = {"": Path(path)}
    for entry in _external_entries(model):
        if entry.key == "location":
            files[entry.value] = Path(path).parent / entry.value
    for name, file in files.items():
        if name and (Path(name).name != name or not file.is_file() or file.is_symlink()):
            raise CheckpointError(f"{path}: expected its arrays in {name[:80]!r} beside it, found no such file")
    taken = inputs[0].type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in taken.shape.dim]
    if len(sizes) != 5 or taken.elem_type != onnx.TensorProto.FLOAT or (sizes[0] or 1) > 1:
        raise CheckpointError(
            f"{path}: expected float32 [batch, channels, h, w, d] in, with any batch or one, got "
            f"{onnx.TensorProto.DataType.Name(taken.elem_type)} {['?' if size is None else size for size in sizes]}"
        )
    facts = {"num_channels": sizes[1], "roi": None if None in sizes[2:] else tuple(sizes[2:])}
    return _Graph(files, facts, sizes[0] == 1)


def _external_entries(message: Any) -> Iterator[Any]:
    """Yields the entries on files of every array in a message: in attributes, subgraphs and functions, sparse ones."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            yield from value
        elif field.type == field.TYPE_MESSAGE:
            for each in value if isinstance(value, Sequence) else [value]:
                yield from _external_entries(each)


def _session(path: str) -> Any:
    _, runtime, _ = _packages(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (its exceptions share no class)
        raise CheckpointError(f"{path}: ONNX Runtime refuses it: {one_line(error, 160)}: export it again") from None


def _convert(path: str) -> nn.Module:
    _, _, converter = _packages(path)
    return converter.convert(path).eval().requires_grad_(False)


@lru_cache(maxsize=32)  # a plan asks for each dataset, a worker for each load
def _compare(path: str, sha256: str, shape: tuple[int, ...]) -> tuple[int, str | None]:
    """Returns the output's classes, and why the torch network cannot stand for ONNX Runtime's; None if it can."""
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    size = "x".join(map(str, shape[2:]))
    try:
        reference = OnnxNetwork(None, _session(path))(volume)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (its exceptions share no class)
        raise UserError(f"{path}: a roi of {size} does not pass through it: {one_line(error, 160)}") from None
    if reference.dim() != 5 or reference.shape[2:] != volume.shape[2:] or reference.shape[1] < 2:
        raise UserError(f"{path}: expected logits [B, K, {size}] with K of 2 or more, got {tuple(reference.shape)}")
    outputs = reference.shape[1]
    try:
        x = volume.requires_grad_()
        logits = OnnxNetwork(_convert(path))(x)
        torch.autograd.grad(logits.sum(), x)
    except Exception as error:  # noqa: BLE001 (an operator without a counterpart raises what its converter likes)
        operator = re.search(r"operation_type='(\w+)'", str(error))
        reason = f"has no {operator[1]}" if operator else f"fails: {one_line(error, 120)}"
        return outputs, f"its torch counterpart {reason}"
    difference = float((logits.detach() - reference).abs().max()) if logits.shape == reference.shape else float("nan")
    if not difference <= TOLERANCE * max(1.0, float(reference.abs().max())):
        return outputs, f"its torch counterpart differs from ONNX Runtime by {difference:.2g}"
    return outputs, None


SOURCE = Source(facts=facts, network=network, sha256=_sha256)
