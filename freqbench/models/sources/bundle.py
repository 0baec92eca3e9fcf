"""Reads MONAI bundles: folders with `configs/inference.json` (or `.yaml`), `configs/metadata.json`, `models/model.pt`.
Cardoso et al., arXiv:2211.02701. A bundle is data here: plain values, `@references` to them, a network of
`monai.networks.nets`, MONAI's transforms. A value that needs more is refused by its key, unless the bundle is trusted:
then MONAI's own parser resolves it, which runs the code behind a `$`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, PositiveFloat, PositiveInt
from torch import Tensor, nn

from freqbench.core.code import identify
from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.files import programs
from freqbench.core.limits import whole
from freqbench.core.plugins import is_trusted
from freqbench.core.types import Outputs, Shape, triple
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import DEFAULT_ROI, Finite, InputAdapter, ModelEntry, Overlap
from freqbench.models.networks.slices import SLICES, Sliced
from freqbench.models.sources import source
from freqbench.models.sources.source import Facts, Metadata, Source, adapter_of
from freqbench.models.spec import ModelSpec
from freqbench.pipelines.monai import INPUTS, NEUTRAL, Config, MonaiPipeline, is_off, is_on, name_of, short

_WEIGHTS = "models/model.pt"  # unless its inference loads another file into its network
_FILE = re.compile(r"[\w.-]+\.(?:pth?|ckpt|safetensors)\b")
_UNREAD = ("docs/", "eval/")
_NETWORKS = (".pt", ".pth", ".ts", ".onnx", ".ckpt", ".safetensors", ".trt", ".engine")
_NETS = "monai.networks.nets"
_BEFORE = "preprocessing"
_AFTER = "postprocessing::transforms"
# Steps after the network that leave the class of a voxel as it is.
_HARMLESS = {"Invert", "SaveImage", "CopyItems", "DeleteItems", "SelectItems", "CastToType", *NEUTRAL}
# Inferers whose windows are known, and their arguments that change no number.
_WINDOWS = ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer", "SimpleInferer")
_SILENT = (
    *("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "roi_weight_map", "cpu_thresh"),
    *("buffer_steps", "buffer_dim", "orig_roi_size"),
)
_CUT = "subtract log(t / (1 - t)) of the threshold t from the bias of its last layer, and write 0.5"
_FLAT = 1e9  # sigma of a Gaussian that is 1 at every voxel
_THRESHOLDS = ("threshold", "logit_thresh", "threshold_values", "rounding")


def _read_config(path: str) -> Config:
    names = [f"configs/inference{suffix}" for suffix in (".json", ".yaml", ".yml")]
    file = next((file for name in names if (file := Path(path, name)).is_file()), None)
    if file is None:
        found = "found none: give the folder that holds configs/ and models/"
        raise CheckpointError(f"{path}: expected a MONAI bundle with configs/inference.json (or .yaml), {found}")
    metadata = Path(path, "configs", "metadata.json")
    meta = source.read_object(metadata) if metadata.is_file() else {}
    return Config(where=str(file), content={**source.read_object(file), "bundle_root": path, "_meta_": meta})


class _Sizes(BaseModel):
    """Arguments that every segmentation network of MONAI takes; some have their dimensions by default."""

    spatial_dims: Literal[2, 3] | None = None
    in_channels: PositiveInt
    out_channels: PositiveInt


class _Inferer(Strict):
    """MONAI's sliding window, with MONAI's defaults; `axis` is the one along which a 2D network sees slices."""

    roi_size: tuple[int, int, int]
    overlap: Overlap | tuple[Overlap, Overlap, Overlap] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"
    sigma_scale: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] = 0.125
    padding_mode: Literal["constant", "reflect", "replicate"] = "constant"
    cval: Finite = 0.0
    axis: int | None = None

    def inference(self, adapter: InputAdapter) -> dict[str, Any]:
        """Returns the keys of `Inference` for a network with the axes of `adapter`."""
        padding = self.cval if self.padding_mode == "constant" else self.padding_mode
        overlap = self._axis_values(self.overlap, 0.0, adapter)
        sigma = self._axis_values(self.sigma_scale, _FLAT, adapter)
        stated: dict[str, Any] = {"overlap": overlap, "weighting": self.mode, "padding": padding}
        whole = [axis for axis, size in zip(adapter.axes.replace("-", ""), self.roi_size, strict=True) if size < 1]
        stated |= {"whole": "".join(whole)} if whole else {}
        return stated | ({} if sigma == 0.125 or self.mode == "constant" else {"sigma": sigma})

    def _axis_values(self, value: Any, of_slices: float, adapter: InputAdapter) -> Any:
        """Returns a value, or one for each axis of the volume, where slices have one of their own."""
        values = [*value] if isinstance(value, tuple) else [value] * 3
        if self.axis is not None:
            values[self.axis] = of_slices
        return value if len({*values}) == 1 else adapter.volume_order(triple(values))

    def roi(self, config: Config) -> Shape:
        """Returns the window, along the axes of whole volumes that of the metadata of `config`, or one that networks
        take."""
        usual = _spatial_shape(config, self.axis) or DEFAULT_ROI
        return triple(size if size > 0 else side for size, side in zip(self.roi_size, usual, strict=True))


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a bundle's folder. `entry`, `path`, `num_classes` and `num_channels` are those of
    `Source.facts`; neither number is asked for. `space` is its own `preprocessing`, run by MONAI; `postprocessing`
    restores predictions on the file. Without `preprocessing`, the job has to state both `preprocess` and `input`, which
    also replace it. Raises CheckpointError for a file that is missing or unreadable, or a reference to nothing;
    UserError for an expression or third-party class without trust, a threshold without activation or, after sigmoids,
    not of 0.5, or no window size."""
    validate(dict(entry.args), source.NoArgs, path)
    config = _read_config(path)
    sizes = _sizes(config)
    outputs, notes = _postprocessing(config)
    if outputs == "softmax" and sizes.out_channels < 2:
        rest = f"or a sigmoid after the network, got {sizes.out_channels}"
        raise UserError(f"{config.where}: network_def: expected out_channels of at least 2, {rest}")
    inferer = _inferer(config)
    named = _names(config, "_meta_::network_data_format::outputs::pred", sizes.out_channels)
    if sizes.spatial_dims not in (None, dims := 3 if inferer.axis is None else 2):
        got = f"got {sizes.spatial_dims}: a SliceInferer is for networks of 2, any other for those of 3"
        raise UserError(f"{config.where}: network_def: spatial_dims: expected {dims} beside this inferer, {got}")
    inputs = _inputs(config)  # a channel each, or the first has all
    channels = tuple(id.rpartition("::")[2] for id in inputs)
    if not len(inputs) == sizes.in_channels > 1:
        channels = _names(config, inputs[0], sizes.in_channels)
    adapter = InputAdapter()
    space = None
    if entry.transforms is None and not (entry.input and entry.preprocess):
        if config.find(_BEFORE) is None:
            raise UserError(f"{entry.name}: expected preprocess and input, as {path} has no {_BEFORE}: state both")
        content = dict(config.content)
        modules = [*Path(path).rglob("*.py")] if is_trusted() else []
        if modules:  # and what they may read
            files = [*modules, *_readable_files(path, modules)]
            content["_code_"] = source.fingerprint({file.relative_to(path).as_posix(): file for file in files})
        stated: dict[str, Any] = {"bounds": entry.bounds, "channels": entry.channels, "where": config.where}
        space = MonaiPipeline(release=version("monai"), config=content, **stated)
        adapter = adapter_of(space)
    return Facts(
        arch="bundle",
        code=_own_code(_build(config), config) if is_trusted() else None,
        roi=inferer.roi(config),
        num_classes=sizes.out_channels,
        num_channels=sizes.in_channels,
        outputs=outputs,
        input=adapter,
        space=space,
        inference=inferer.inference(adapter),
        notes=notes,
        metadata=Metadata(class_names=("background", *named) if named and outputs == "sigmoid" else None),
        class_names=named,
        channel_names=channels,
    )


def _inputs(config: Config) -> list[str]:
    """Returns the ids of the network's inputs in the metadata; that of `image` if they name it, or none."""
    inputs = config.find(INPUTS)
    is_named = isinstance(inputs, Mapping) and inputs and "image" not in inputs
    return [f"{INPUTS}::{name}" for name in (inputs if is_named else ["image"])]


def _names(config: Config, of: str, count: int) -> tuple[str, ...]:
    """Returns the names of an input's or output's channels by the bundle's metadata; empty if one has none."""
    named = config.find(f"{of}::channel_def")
    given = [named.get(str(number)) for number in range(count)] if isinstance(named, Mapping) else []
    names = tuple(name for name in given if isinstance(name, str))
    return names if len(names) == count else ()


def _postprocessing(config: Config) -> tuple[Outputs, tuple[str, ...]]:
    """Returns the kind of the outputs (a sigmoid without an argmax after it: regions), and notes on other steps."""
    enabled = (id for id in config.items(_AFTER) if not is_off(config, id))
    steps = [id for id in enabled if is_on(config, id, "pred")]
    names = {id: name_of(config, id) for id in steps}
    chosen = False
    has_regions = False
    notes = list[str]()
    for id, name in names.items():
        if name not in ("Activations", "AsDiscrete"):
            if name not in _HARMLESS:
                what = "changes labels on the file's grid alone, not on the attacked one"
                if "Invert" not in names.values():
                    what = f"is left out, as no Invertd of {_AFTER} leads back to the file"
                notes.append(f"{name or id} after the network {what}")
            continue
        has_regions |= bool(name == "Activations" and _prediction_argument(config, id, "sigmoid"))
        if name == "Activations" and _prediction_argument(config, id, "other"):
            notes.append(f"{id}::other is left out: labels differ if it moves the highest class")
        chosen |= any(_prediction_argument(config, id, key) for key in ("softmax", "argmax"))
        if (cut := [key for key in _THRESHOLDS if _prediction_argument(config, id, key)]) and has_regions:
            if (threshold := _prediction_argument(config, id, cut[0])) not in (0.5, True):
                rest = f"as a voxel lies in a region whose logit is above 0, got {threshold}: {_CUT}"
                raise UserError(f"{config.where}: {id}::{cut[0]}: expected 0.5, {rest}")
            continue
        if cut and not chosen:
            rest = "an argmax or a sigmoid before it, got none: a threshold of logits says nothing of classes"
            raise UserError(f"{config.where}: {id}::{cut[0]}: expected a softmax, {rest}")
        if cut and not any(_prediction_argument(config, each, "argmax") for each in steps[: steps.index(id) + 1]):
            notes.append(f"{id}::{cut[0]} is left out: a voxel gets the class of the highest logit, however low")
    return "sigmoid" if has_regions and not chosen else "softmax", tuple(notes)


def _prediction_argument(config: Config, id: str, name: str) -> Any:
    """Returns an argument that may be a list, one for each key of the transform; None and False if it is not set."""
    value = config.value(f"{id}::{name}")
    keys = config.value(f"{id}::keys")
    if isinstance(value, list) and isinstance(keys, list) and len(value) == len(keys):
        value = value[keys.index("pred")]
    return value if value is not None and value is not False else None


def network(spec: ModelSpec) -> nn.Module:
    """Builds the network of `network_def` of the bundle of `spec` with fresh weights, on the CPU or meta device."""
    net = _build(config := _read_config(spec.checkpoint))
    if _own_code(net, config) != spec.code:
        raise UserError(f"{spec.name}: the code of its network_def is not what was planned with: plan anew")
    return net if (axis := _inferer(config).axis) is None else Sliced(net, axis)


def _own_code(net: nn.Module, config: Config) -> str | None:
    """Returns the identity of a network that has code of others beside MONAI's, which its files do not hold."""
    code = identify(net, config.code_texts)
    return code.digest if code.modules or code.files else None


def _build(config: Config) -> nn.Module:
    _sizes(config)
    where = f"{config.where}: network_def"
    if is_trusted():
        return source.construct(where, lambda: config.parse("network_def"))
    kwargs = {key: config.value(f"network_def::{key}") for key in config.find("network_def") if not key.startswith("_")}
    if fetched := [key for key, value in kwargs.items() if "pretrained" in key and value]:
        raise UserError(f"{where}::{fetched[0]} would download weights: leave it out")
    import monai.networks.nets as nets

    package, _, last = (name := str(config.find("network_def::_target_"))).rpartition(".")
    cls: Any = getattr(nets, last, None)
    is_of_nets = not package or package == _NETS or package.startswith(f"{_NETS}.")
    if not (is_of_nets and isinstance(cls, type) and issubclass(cls, nn.Module)):
        got = f"got {name}: with --trust-code, or trust_code: true in the job, any class is taken"
        raise UserError(f"{where}::_target_: expected a class of {_NETS}, {got}")
    return source.construct(where, lambda: cls(**kwargs))


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
    """Returns the weights that the bundle of `spec` loads, on the CPU; reads weights only, trusted or not. `wanted`,
    names and shapes of its network, is not asked for."""
    file = _weights_file(spec.checkpoint)
    return checkpoints.read_state_dict(str(file), keys=("state_dict", "model_state_dict", "model")), None


def _weights_file(path: str) -> Path:
    config = _read_config(path)
    texts = [*_loading_texts(config.content)]
    for text in texts:  # and what they refer to
        named = map(config.content.get, re.findall(r"@(\w+)", text.replace("@bundle_root", "")))
        texts += [each for each in named if isinstance(each, str) and each not in texts]
    names = sorted({name for text in texts for name in _FILE.findall(text)}) or [Path(_WEIGHTS).name]
    if names[1:]:
        got = f"got {', '.join(names)}: leave one load_path in {config.where}"
        raise CheckpointError(f"{path}: expected one file of weights that is loaded into the network, {got}")
    found = (file for file in (Path(path, "models", names[0]), *Path(path).rglob(names[0])) if file.is_file())
    if (file := next(found, None)) is None:
        rest = "found none: fetch the whole bundle again"
        raise CheckpointError(f"{path}: expected the weights that it loads in models/{names[0]}, {rest}")
    return file


def _loading_texts(node: Any) -> Iterator[str]:
    """Yields the paths and expressions in a configuration by which weights are loaded into its network."""
    if isinstance(node, str) and node.startswith("$") and "load_state_dict" in node and "@net" in node:
        yield node
    children = node if isinstance(node, list) else ()
    if isinstance(node, Mapping):
        children = [*node.values()]
        is_disabled = str(node.get("_disabled_")).strip().lower() == "true"  # an expression may run code
        is_loader = short(str(node.get("_target_", ""))) == "CheckpointLoader" and not is_disabled
        if is_loader and "@net" in str(node.get("load_dict")):
            yield str(node.get("load_path"))
    for each in children:
        yield from _loading_texts(each)


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    """Returns the hash of all files that the output depends on: of a trusted bundle, those that its code may read."""
    modules = [*Path(path).rglob("*.py")]
    metadata = Path(path).glob("configs/metadata.json")
    scripts = [Path(_read_config(path).where), *modules]
    paths = [_weights_file(path), *scripts, *metadata, *(_readable_files(path, scripts) if is_trusted() else ())]
    return source.fingerprint({file.relative_to(path).as_posix(): file for file in paths})


def _readable_files(path: str, scripts: Sequence[Path]) -> Iterator[Path]:
    """Yields the files that a bundle's code may read: no documents, results, and networks that it does not name."""
    text = "".join(script.read_text("utf-8", errors="replace") for script in scripts)
    found = programs.program_files(Path(path))
    for name, file in (programs.named_files(scripts, [Path(path)]) if found is None else found).items():
        if not name.startswith(_UNREAD) and (file.suffix not in _NETWORKS or file.name in text):
            yield file


def _sizes(config: Config) -> _Sizes:
    """Returns the sizes in `network_def`; refuses a class whose weights mean something else today."""
    definition = config.find("network_def")
    if not isinstance(definition, Mapping) or "_target_" not in definition:
        raise UserError(f"{config.where}: expected network_def with a _target_, got {type(definition).__name__}")
    if str(config.find("network_def::_target_")).rpartition(".")[2] == "SwinUNETR":
        version = str(config.find("_meta_::monai_version") or "")
        numbers = tuple(i for part in version.split(".")[:2] if (i := whole(part)) is not None)
        if numbers < (1, 5):
            raise UserError(
                f"{config.where}: a SwinUNETR of MONAI {version or '(version unknown)'}: weights saved by MONAI 1.4 or "
                f"before predict otherwise today: give {_WEIGHTS} as the checkpoint of arch swin_unetr with a migration"
            )
    sizes = {name: config.value(f"network_def::{name}") for name in _Sizes.model_fields if name in definition}
    return validate(sizes, _Sizes, f"{config.where}: network_def")


def _inferer(config: Config) -> _Inferer:
    """Returns the windows of a bundle's inferer, by its class and all of its arguments; without one, whole volumes."""
    made = config.find("inferer")
    where = f"{config.where}: inferer"
    if made is None:
        if _spatial_shape(config) is None:
            rest = "or metadata.json to give spatial_shape of the image as three numbers: found neither"
            raise UserError(f"{where}: expected a SlidingWindowInferer with a roi_size, {rest}")
        return _Inferer(roi_size=(-1, -1, -1))
    if isinstance(made, Mapping):
        given = {key: config.value(f"inferer::{key}") for key in made if key[:1] != "_"}
        name = str(config.find("inferer::_target_"))
    else:  # an expression's
        given = {**vars(made)}
        name = f"{type(made).__module__}.{type(made).__name__}"
    given = {key: getattr(each, "value", each) for key, each in given.items() if key not in _SILENT}
    package, _, last = name.rpartition(".")
    if last not in _WINDOWS or package.partition(".")[0] not in ("", "monai"):
        raise UserError(
            f"{where}: expected one of {', '.join(_WINDOWS)}, got {name}: what it does is not known here: take the "
            f"weights in {_WEIGHTS} as a checkpoint, with transforms, roi and inference"
        )
    if last == "SimpleInferer":
        return _Inferer(roi_size=(-1, -1, -1))
    size = given.get("roi_size")
    axis = given.pop("spatial_dim", 0) if last == "SliceInferer" else None
    if axis is not None:
        if not isinstance(size, list | tuple) or len(size) != 2 or axis not in range(3):
            got = f"got {size!r} and {axis!r}: state both"
            raise UserError(f"{where}: expected roi_size of two sides of a slice, and spatial_dim of 0, 1 or 2, {got}")
        given |= {"roi_size": [*size[:axis], SLICES, *size[axis:]], "axis": axis}
    elif isinstance(size, int):
        given["roi_size"] = [size] * 3
    if isinstance(overlap := given.get("overlap"), list | tuple) and len({*overlap}) == 1:
        given["overlap"] = overlap[0]
    if not given.get("with_coord"):
        given.pop("with_coord", None)
    return validate(given, _Inferer, where)


def _spatial_shape(config: Config, axis: int | None = None) -> Shape | None:
    """Returns the sides of a volume that the metadata state, or of slices across an axis; None if they state none."""
    shape = config.find(f"{_inputs(config)[0]}::spatial_shape")
    if axis is not None and isinstance(shape, list) and len(shape) == 2:
        shape = [*shape[:axis], SLICES, *shape[axis:]]
    is_shape = isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    return triple(shape) if is_shape else None


SOURCE = Source(
    facts=facts,
    network=network,
    weights=weights,
    sha256=_sha256,
    sign="configs",
    files=lambda args: ("configs/*", "scripts/*", "models/*.pt", "*.py"),  # a trusted bundle may import its modules
)
