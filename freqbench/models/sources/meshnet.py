"""Reads a MeshNet in TensorFlow.js' layers format: a chain of 3D convolutions and activations, without any code.
Fedorov et al., IJCNN 2017, arXiv:1612.00940; the networks of the browser tool brainchop (Masoud, Hu and Plis, JOSS
2023, doi 10.21105/joss.05098) have this form."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError
from freqbench.core.types import Shape, triple
from freqbench.models.checkpoints.files import check_sound, is_safetensors, read_content
from freqbench.models.entry import DEFAULT_ROI, InputAdapter, ModelEntry
from freqbench.models.sources import source
from freqbench.models.sources.source import Facts, Source
from freqbench.models.spec import ModelSpec

TOPOLOGY = "model.json"
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"linear": nn.Identity, "relu": nn.ReLU, "elu": nn.ELU}
_CONFORMED = InputAdapter(axes=source.axes_towards("LIA"))  # FreeSurfer's, to which brainchop brings every volume
_Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class _Conv(BaseModel):
    """Settings of a `Conv3D` layer; a value that the chain cannot have is refused."""

    name: str
    filters: PositiveInt
    kernel_size: _Triple
    strides: tuple[Literal[1], Literal[1], Literal[1]] = (1, 1, 1)
    padding: Literal["same"]
    data_format: Literal["channels_last"] = "channels_last"
    dilation_rate: _Triple = (1, 1, 1)
    groups: Literal[1] = 1
    activation: Literal["linear", "relu", "elu"] = "linear"
    use_bias: bool = True

    @model_validator(mode="after")
    def _has_a_centre(self) -> "_Conv":
        if any(side % 2 == 0 for side in self.kernel_size):
            raise ValueError(f"kernel_size: expected odd numbers, got {self.kernel_size}")
        return self


class _Activation(BaseModel):
    name: str
    activation: Literal["linear", "relu", "elu"]


class _Entry(BaseModel):
    """An array of the weights' manifest; float32, little-endian, not quantised."""

    name: str
    shape: Annotated[tuple[PositiveInt, ...], Field(max_length=5)]
    dtype: Literal["float32"]
    quantization: None = None


class _Group(BaseModel):
    paths: Annotated[tuple[Annotated[str, Field(pattern=r"^[\w.@-]+$")], ...], Field(min_length=1)]
    weights: tuple[_Entry, ...]


class _Chain(NamedTuple):
    file: Path
    side: Shape
    num_channels: int
    layers: list[_Conv | _Activation]
    groups: list[_Group]


class Dilated(nn.Conv3d):
    """A convolution of stride 1 that keeps the size; a CPU computes dilations d from 4 on by d^3 smaller volumes."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Returns the convolution of an input `[B, C, d, h, w]`, of its size."""
        d = self.dilation[0]
        if input.device.type != "cpu" or d < 4 or self.dilation != (d, d, d):
            return super().forward(input)
        batch, channels, *size = input.shape
        height, width, depth = places = [-(-n // d) for n in size]
        widths = [(0, -n % d) for n in reversed(size)]  # to multiples of d
        split = F.pad(input, sum(widths, ()))
        split = split.reshape(batch, channels, height, d, width, d, depth, d).permute(0, 3, 5, 7, 1, 2, 4, 6)
        parts = split.reshape(-1, channels, *places)  # [B d d d, C, height, width, depth]
        parts = F.conv3d(parts, self.weight, self.bias, padding=[side // 2 for side in self.kernel_size])
        joined = parts.reshape(batch, d, d, d, -1, *places).permute(0, 4, 5, 1, 6, 2, 7, 3)
        return joined.reshape(batch, -1, height * d, width * d, depth * d)[..., : size[0], : size[1], : size[2]]


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a network, from its folder or `model.json`: its window is the input's shape, its axes those
    of an array in the orientation LIA (FreeSurfer's conformed volumes), as nibabel reads it.

    `entry`, `path`, `num_classes` and `num_channels` are those of `Source.facts`; neither number is asked for. Raises
    CheckpointError for a file that is missing or of another format, UserError or CheckpointError for a layer that a
    chain does not have."""
    validate(dict(entry.args), source.NoArgs, path)
    chain = _read(path)
    outputs = _convolutions(chain)[-1].filters
    inputs = chain.num_channels
    return Facts(arch="meshnet", roi=chain.side, num_classes=outputs, num_channels=inputs, input=_CONFORMED)


def network(spec: ModelSpec) -> nn.Module:
    """Builds the chain of a spec with fresh weights; the names of its parameters are those of the layers."""
    path = spec.checkpoint
    read = _read(path)

    def chain() -> nn.Module:
        modules = nn.Sequential()
        channels = read.num_channels
        for number, layer in enumerate(read.layers):
            if isinstance(layer, _Conv):
                padding: Any = [d * (side // 2) for d, side in zip(layer.dilation_rate, layer.kernel_size, strict=True)]
                conv = Dilated(
                    channels, layer.filters, layer.kernel_size, 1, padding, layer.dilation_rate, bias=layer.use_bias
                )
                modules.add_module(_key(layer.name), conv)
                channels = layer.filters
            modules.add_module(f"activation{number}", ACTIVATIONS[layer.activation]())
        return modules

    return source.construct(path, chain)


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
    """Returns the weights of a spec's files, on the CPU, under the names of `network`'s parameters; `wanted`, those of
    a network, is not asked for."""
    chain = _read(spec.checkpoint)
    file = chain.file
    arrays = dict[str, Tensor]()
    for group in chain.groups:
        arrays.update(_arrays(file.parent, group))
    state = {}
    for layer in _convolutions(chain):
        for part, name in (("weight", "kernel"), ("bias", "bias")):
            if name == "bias" and not layer.use_bias:
                continue
            if (array := arrays.pop(f"{layer.name}/{name}", None)) is None:
                raise CheckpointError(f"{file}: weightsManifest: expected {layer.name}/{name}, found none")
            # A kernel is [d, h, w, in, out]; torch wants [out, in, d, h, w].
            state[f"{_key(layer.name)}.{part}"] = array.permute(4, 3, 0, 1, 2) if array.dim() == 5 else array
    if arrays:
        raise CheckpointError(f"{file}: weightsManifest: {next(iter(arrays))} is of no layer: fetch both again")
    check_sound(str(file), state)
    return state, None


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    chain = _read(path)
    file = chain.file
    files = {TOPOLOGY: file}
    for group in chain.groups:
        files |= {name: _existing(file.parent / name) for name in group.paths}
    return source.fingerprint(files)


def _read(path: str) -> _Chain:
    """Reads the `model.json` of a path, a folder's or the file itself; refuses what is no chain."""
    file = Path(path)
    file = file / TOPOLOGY if file.is_dir() else file
    content = source.read_object(file)
    topology = content.get("modelTopology")
    config = topology.get("model_config", topology) if isinstance(topology, dict) else {}
    config = config.get("config", config) if isinstance(config, dict) else {}
    layers = config.get("layers") if isinstance(config, dict) else config  # a Sequential of old had the list alone
    if not isinstance(layers, list) or not layers or not isinstance(content.get("weightsManifest"), list):
        raise CheckpointError(
            f"{file}: expected TensorFlow.js' layers format (modelTopology with layers, weightsManifest), got another: "
            "convert the network by tensorflowjs_converter --output_format tfjs_layers_model"
        )
    chain, sizes = _chained(file, layers)
    if not isinstance(sizes, list) or len(sizes) != 5 or not isinstance(sizes[4], int):
        raise CheckpointError(f"{file}: expected an input [batch, d, h, w, channels], got {sizes}")
    if not any(isinstance(layer, _Conv) for layer in chain):
        raise CheckpointError(f"{file}: expected a Conv3D, found none")
    side = triple(size if isinstance(size, int) and size > 0 else DEFAULT_ROI[0] for size in sizes[1:4])
    groups = [validate(group, _Group, f"{file}: weightsManifest") for group in content["weightsManifest"]]
    return _Chain(file, side, sizes[4], chain, groups)


def _chained(file: Path, layers: Sequence[Any]) -> tuple[list[_Conv | _Activation], Any]:
    """Returns the settings of the layers of a chain, and the sizes of its input as the file has them."""
    sizes: Any = None
    chain: list[_Conv | _Activation] = []
    names = list[str]()
    for each in layers:
        layer = each if isinstance(each, dict) else {}
        kind = layer.get("class_name")
        settings = layer.get("config")
        settings = settings if isinstance(settings, dict) else {}
        name = str(settings.get("name"))
        where = f"{file}: layer {name} ({kind})"
        if _inputs(layer) not in (None, names[-1:]):
            raise CheckpointError(f"{where}: expected a chain, in which each layer takes the one before")
        if name in names:
            raise CheckpointError(f"{where}: expected each layer's name once")
        sizes = sizes or settings.get("batch_input_shape") or settings.get("batchInputShape")
        if kind == "Conv3D":
            chain.append(validate(settings, _Conv, where))
        elif kind == "Activation":
            chain.append(validate(settings, _Activation, where))
        elif kind != "InputLayer" or names:
            raise CheckpointError(f"{where}: expected a chain of Conv3D and Activation, which has no such layer")
        names.append(name)
    return chain, sizes


def _inputs(layer: Mapping[str, Any]) -> list[str] | None:
    """Returns the names of the layers that a layer takes; None if it is no layer of a graph."""
    nodes = layer.get("inbound_nodes")
    if nodes is None:
        return None
    inputs = []
    try:
        for node in nodes:
            inputs += [edge[0] for edge in node]
    except (TypeError, IndexError, KeyError):
        return ["?"]
    return inputs


def _convolutions(chain: _Chain) -> list[_Conv]:
    return [layer for layer in chain.layers if isinstance(layer, _Conv)]


def _key(name: str) -> str:
    """Returns a layer's name as a module may have it."""
    return f"layer_{name.replace('.', '_')}"


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise CheckpointError(f"{file}: expected the weights that {TOPOLOGY} names, found none: fetch the whole folder")
    return file


def _arrays(folder: Path, group: _Group) -> Iterator[tuple[str, Tensor]]:
    """Yields names and arrays of a group, whose files follow each other; safetensors hold them by name."""
    paths = [_existing(folder / name) for name in group.paths]
    if len(paths) == 1 and is_safetensors(paths[0]):
        stored = read_content(str(paths[0]))
        for entry in group.weights:
            name = entry.name
            got = tuple(stored[name].shape) if name in stored else "none"
            if got != entry.shape:
                raise CheckpointError(f"{paths[0]}: {name}: expected the shape {entry.shape}, got {got}")
            yield name, stored[name].float()
        return
    counts = [math.prod(entry.shape) for entry in group.weights]
    size = sum(path.stat().st_size for path in paths)
    wanted = 4 * sum(counts)
    if size != wanted:
        rest = f"expected {wanted:,} bytes, as {TOPOLOGY} lists, got {size:,}: fetch again"
        raise CheckpointError(f"{', '.join(map(str, paths))}: {rest}")
    content = b"".join(path.read_bytes() for path in paths)
    values = torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32))
    for entry, part in zip(group.weights, torch.split(values, counts), strict=True):
        yield entry.name, part.reshape(entry.shape)


SOURCE = Source(
    facts=facts,
    network=network,
    weights=weights,
    sha256=_sha256,
    sign=TOPOLOGY,
    is_known=True,
    files=lambda args: (TOPOLOGY, "*.bin", "*.safetensors"),
)
