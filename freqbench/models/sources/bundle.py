"""Reads MONAI bundles: folders with `configs/inference.json` (or `.yaml`), `configs/metadata.json`, `models/model.pt`.

Cardoso et al., arXiv:2211.02701. A bundle is data here: plain values and `@references` to them are resolved, and the
network is a class of `monai.networks.nets`. A value that needs more is refused by its key, unless the bundle is
trusted: then MONAI's own parser resolves it, which runs the code behind a `$`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import Tensor, nn

from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError, one_line
from freqbench.core.input_space import Millimetres, Preprocess
from freqbench.core.limits import whole
from freqbench.core.plugins import is_trusted, require_trust
from freqbench.core.types import Outputs, Shape, triple
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import Finite, InputAdapter, ModelEntry
from freqbench.models.networks.construction import REFUSALS
from freqbench.models.sources import source
from freqbench.models.sources.source import Facts, Metadata, Source
from freqbench.models.spec import ModelSpec

_WEIGHTS = "models/model.pt"
_NETS = "monai.networks.nets"
_TRANSFORMS, _AFTER = "preprocessing::transforms", "postprocessing::transforms"
# Transforms that leave intensities and grid as they are.
_NEUTRAL = {"LoadImage", "EnsureChannelFirst", "EnsureType", "AddChannel", "AsChannelFirst", "ToTensor", "ToDevice"}
# Steps after the network that leave the class of a voxel as it is.
_HARMLESS = {"Invert", "SaveImage", "CopyItems", "DeleteItems", "SelectItems", "CastToType", *_NEUTRAL}
_THRESHOLDS = ("threshold", "logit_thresh", "threshold_values", "rounding")
# The order in which freqbench applies them; in another order they would mean something else.
_ORDER = ("Orientation", "Spacing", "ScaleIntensityRange", "CropForeground")

# Errors that a bundle's code may raise, beside the refusals of networks.
_FAILURES = (*REFUSALS, ImportError, SyntaxError, OSError)


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Values of a configuration by their id, such as `network_def::out_channels`, as MONAI's parser names them."""

    file: Path
    content: Mapping[str, Any]

    def find(self, id: str, seen: tuple[str, ...] = ()) -> Any:
        """Returns the value of an id, its own reference resolved but not those inside it; None if absent."""
        if id in seen:
            raise CheckpointError(f"{self.file}: {seen[0]} refers to itself: {' > '.join((*seen, id))}")
        parent, _, last = id.rpartition("::")
        holder = self.find(parent, seen) if parent else self.content
        node = None
        if isinstance(holder, Mapping):
            node = holder.get(last)
        elif isinstance(holder, list) and (i := whole(last)) is not None and i < len(holder):
            node = holder[i]
        if not isinstance(node, str) or not node.startswith(("$", "@", "%")):
            return node
        if node.startswith("$"):
            require_trust(f"{self.file}: {id} is the expression {' '.join(node.split())}")
            return self.parsed(id)
        target = self.find(node[1:].replace("#", "::"), (*seen, id))
        if target is None:
            raise CheckpointError(f"{self.file}: {id} refers to {node}, which is not in the file")
        return target

    def value(self, id: str) -> Any:
        """Returns the value with all references inside it resolved; an object that has to be made needs trust."""
        node = self.find(id)
        if isinstance(node, Mapping):
            if "_target_" in node:
                require_trust(f"{self.file}: {id} is an object of {node['_target_']}")
                return self.parsed(id)
            return {key: self.value(f"{id}::{key}") for key in node}
        if isinstance(node, list):
            return [self.value(f"{id}::{i}") for i in range(len(node))]
        return node

    def given(self, id: str, *names: str) -> dict[str, Any]:
        """Returns the named values under an id that are present."""
        values = {name: self.value(f"{id}::{name}") for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def items(self, id: str) -> list[str]:
        """Returns the ids of the items of the list under an id; an empty list if there is no list."""
        node = self.find(id)
        return [f"{id}::{i}" for i in range(len(node))] if isinstance(node, list) else []

    def parsed(self, id: str) -> Any:
        """Returns an id's value from MONAI's parser; this runs the bundle's code, and so needs trust."""
        require_trust(f"{self.file}: {id}")
        try:
            return self._parser.get_parsed_content(id)
        except _FAILURES as error:
            raise CheckpointError(
                f"{self.file}: {id} cannot be resolved: {one_line(error)}: if it needs modules of the bundle, put its "
                "folder on PYTHONPATH"
            ) from None

    @cached_property
    def _parser(self) -> Any:
        from monai.bundle import ConfigParser

        return ConfigParser(dict(self.content))


def _read_config(path: str) -> _Config:
    """Reads the configuration of a bundle's folder, with its metadata."""
    names = [f"configs/inference{suffix}" for suffix in (".json", ".yaml", ".yml")]
    file = next((file for name in names if (file := Path(path, name)).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{path}: expected a MONAI bundle with configs/inference.json (or .yaml), found none: give the folder that "
            "holds configs/ and models/"
        )
    metadata = Path(path, "configs", "metadata.json")
    meta = source.read_object(metadata) if metadata.is_file() else {}
    return _Config(file=file, content={**source.read_object(file), "bundle_root": path, "_meta_": meta})


class _Sizes(BaseModel):
    """Arguments that every segmentation network of MONAI takes."""

    spatial_dims: Literal[3] = 3
    in_channels: PositiveInt
    out_channels: PositiveInt


class _Inferer(BaseModel):
    """MONAI's sliding window, with MONAI's defaults."""

    roi_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"
    sigma_scale: Annotated[float, Field(ge=0.125, le=0.125)] = 0.125
    padding_mode: Literal["constant", "reflect", "replicate"] = "constant"
    cval: Finite = 0.0

    @property
    def inference(self) -> dict[str, Any]:
        """The keys of `Inference`."""
        padding = self.cval if self.padding_mode == "constant" else self.padding_mode
        return {"overlap": self.overlap, "weighting": self.mode, "padding": padding}


class _Spacing(BaseModel):
    pixdim: tuple[Millimetres, Millimetres, Millimetres]


class _Range(BaseModel):
    a_min: Finite
    a_max: Finite
    b_min: Finite = 0.0
    b_max: Finite = 1.0

    @model_validator(mode="after")
    def _rises(self) -> "_Range":
        if self.a_min >= self.a_max:
            raise ValueError(f"expected a_min below a_max, got {self.a_min} and {self.a_max}")
        return self


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a bundle's folder.

    If its transforms are not `Orientationd`, `Spacingd`, `ScaleIntensityRanged` and `CropForegroundd` in this order, or
    do more, the job has to state `preprocess` and `input`: with one alone, intensities of one window would pass as
    another's.

    Raises CheckpointError for a file that is missing or unreadable, or a reference to nothing; UserError for an
    expression or a third-party class without trust, a threshold without an activation before it or, after sigmoids,
    another one than 0.5, or no window size.
    """
    validate(dict(entry.args), source.NoArgs, path)
    config = _read_config(path)
    sizes = _sizes(config)
    outputs, notes = _postprocessing(config)
    if outputs == "softmax" and sizes.out_channels < 2:
        raise UserError(
            f"{config.file}: network_def: expected out_channels of at least 2, or a sigmoid after the network, got "
            f"{sizes.out_channels}"
        )
    inferer = _inferer(config)
    adapter, space = _space(config) or (InputAdapter(), None)
    if space is None and not (entry.input and entry.preprocess):
        raise UserError(
            f"{entry.name}: expected preprocess and input, as the transforms of {path} are not all known: state both"
        )
    return Facts(
        arch="bundle",
        roi=inferer.roi_size if inferer else _spatial_shape(config),
        num_classes=sizes.out_channels,
        num_channels=sizes.in_channels,
        outputs=outputs,
        input=adapter,
        space=space,
        inference=inferer.inference if inferer else {},
        notes=notes,
        metadata=Metadata(class_names=_region_names(config, sizes.out_channels) if outputs == "sigmoid" else None),
    )


def _region_names(config: _Config, count: int) -> tuple[str, ...] | None:
    """Returns the names of the outputs, the background's before them, as the bundle's metadata state them."""
    named = config.find("_meta_::network_data_format::outputs::pred::channel_def")
    names = [*map(named.get, map(str, range(count)))] if isinstance(named, Mapping) else [None]
    return ("background", *names) if all(isinstance(name, str) for name in names) else None


def _postprocessing(config: _Config) -> tuple[Outputs, tuple[str, ...]]:
    """Returns the kind of the outputs, and notes on steps after the network that change classes.

    A sigmoid without an argmax after it makes regions, which may overlap.
    """
    enabled = (id for id in config.items(_AFTER) if config.find(f"{id}::_disabled_") is not True)
    steps = [id for id in enabled if _is_on(config, id, "pred")]
    names = {id: _transform(config, id) for id in steps}
    chosen, has_regions, notes = False, False, list[str]()
    for id, name in names.items():
        if name not in ("Activations", "AsDiscrete"):
            if name not in _HARMLESS:
                notes.append(
                    f"{name or id} after the network is left out: labels differ where the bundle's change by it"
                )
            continue
        has_regions |= bool(name == "Activations" and _of_prediction(config, id, "sigmoid"))
        if name == "Activations" and _of_prediction(config, id, "other"):
            notes.append(f"{id}::other is left out: labels differ if it moves the highest class")
        chosen |= any(_of_prediction(config, id, key) for key in ("softmax", "argmax"))
        cut = [key for key in _THRESHOLDS if _of_prediction(config, id, key)]
        if cut and has_regions:
            if (threshold := _of_prediction(config, id, cut[0])) not in (0.5, True):
                raise UserError(
                    f"{config.file}: {id}::{cut[0]}: expected 0.5, as a voxel lies in a region whose logit is above 0, "
                    f"got {threshold}"
                )
            continue
        if cut and not chosen:
            raise UserError(
                f"{config.file}: {id}::{cut[0]}: expected a softmax, an argmax or a sigmoid before it, got none: a "
                "threshold of logits says nothing of classes"
            )
        if cut and not any(_of_prediction(config, each, "argmax") for each in steps[: steps.index(id) + 1]):
            notes.append(f"{id}::{cut[0]} is left out: a voxel gets the class of the highest logit, however low")
    return "sigmoid" if has_regions and not chosen else "softmax", tuple(notes)


def _is_on(config: _Config, id: str, key: str) -> bool:
    """True if a transform works on the image or prediction of this key, or does not say on what."""
    keys = config.value(f"{id}::keys")
    return keys is None or key in ([keys] if isinstance(keys, str) else keys)


def _of_prediction(config: _Config, id: str, name: str) -> Any:
    """Returns an argument that may be a list, one for each key of the transform; None and False if it is not set."""
    value, keys = config.value(f"{id}::{name}"), config.value(f"{id}::keys")
    if isinstance(value, list) and isinstance(keys, list) and len(value) == len(keys):
        value = value[keys.index("pred")]
    return value if value is not None and value is not False else None


def network(spec: ModelSpec) -> nn.Module:
    """Builds the network of `network_def` with fresh weights, on the CPU or meta device."""
    config = _read_config(source.here(spec))
    _sizes(config)
    where = f"{config.file}: network_def"
    if is_trusted():
        return source.construct(where, lambda: _as_network(config.parsed("network_def")))
    kwargs = {key: config.value(f"network_def::{key}") for key in config.find("network_def") if not key.startswith("_")}
    fetched = [key for key, value in kwargs.items() if "pretrained" in key and value]
    if fetched:
        raise UserError(f"{where}::{fetched[0]} would download weights: leave it out")
    cls = _class(where, str(config.find("network_def::_target_")))
    return source.construct(where, lambda: cls(**kwargs))


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
    """Returns the weights of `models/model.pt`, on the CPU; reads weights only, trusted or not."""
    file = _weights_file(spec.checkpoint)
    return checkpoints.read_state_dict(str(file), keys=("state_dict", "model_state_dict", "model")), None


def _weights_file(path: str) -> Path:
    file = Path(path, _WEIGHTS)
    if not file.is_file():
        raise CheckpointError(f"{path}: expected the weights in {_WEIGHTS}, found none: fetch the whole bundle again")
    return file


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    """Returns the hash of all files that the output depends on, modules too, as a trusted bundle may import them."""
    modules, metadata = Path(path).rglob("*.py"), Path(path).glob("configs/metadata.json")
    paths = [_read_config(path).file, _weights_file(path), *modules, *metadata]
    return source.fingerprint({file.relative_to(path).as_posix(): file for file in paths})


def _sizes(config: _Config) -> _Sizes:
    """Returns the sizes in `network_def`; refuses a class whose weights mean something else today."""
    if "vista3d" in str(config.content.get("network_def")).lower():
        raise UserError(
            f"{config.file}: a VISTA3D, which is asked for classes: give {_WEIGHTS} as the checkpoint of arch vista3d"
        )
    definition = config.find("network_def")
    if not isinstance(definition, Mapping) or "_target_" not in definition:
        raise UserError(f"{config.file}: expected network_def with a _target_, got {type(definition).__name__}")
    if str(config.find("network_def::_target_")).rpartition(".")[2] == "SwinUNETR":
        version = str(config.find("_meta_::monai_version") or "")
        numbers = tuple(i for part in version.split(".")[:2] if (i := whole(part)) is not None)
        if numbers < (1, 5):
            raise UserError(
                f"{config.file}: a SwinUNETR of MONAI {version or '(version unknown)'}: weights saved by MONAI 1.4 or "
                f"before predict otherwise today: give {_WEIGHTS} as the checkpoint of arch swin_unetr with a migration"
            )
    sizes = {name: config.value(f"network_def::{name}") for name in _Sizes.model_fields if name in definition}
    return validate(sizes, _Sizes, f"{config.file}: network_def")


def _as_network(parsed: Any) -> nn.Module:
    if not isinstance(parsed, nn.Module):
        raise TypeError(f"expected a network, got {type(parsed).__name__}")
    return parsed


def _class(where: str, name: str) -> Any:
    import monai.networks.nets as nets

    package, _, last = name.rpartition(".")
    cls = getattr(nets, last, None)
    is_of_nets = not package or package == _NETS or package.startswith(f"{_NETS}.")
    if not (is_of_nets and isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UserError(
            f"{where}::_target_: expected a class of {_NETS}, got {name}: with --trust-code, or trust_code: true in "
            "the job, any class is taken"
        )
    return cls


def _inferer(config: _Config) -> _Inferer | None:
    if str(config.find("inferer::_target_")).rpartition(".")[2] != "SlidingWindowInferer":
        return None
    settings = config.given("inferer", *_Inferer.model_fields)
    size, overlap = settings.get("roi_size"), settings.get("overlap")
    if isinstance(size, int):
        settings["roi_size"] = [size] * 3
    if isinstance(overlap, list) and len(set(overlap)) == 1:
        settings["overlap"] = overlap[0]
    return validate(settings, _Inferer, f"{config.file}: inferer")


def _spatial_shape(config: _Config) -> Shape:
    """Returns the window that the metadata states, for bundles without a sliding window."""
    shape = config.find("_meta_::network_data_format::inputs::image::spatial_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UserError(
            f"{config.file}: expected inferer to be a SlidingWindowInferer with a roi_size, or metadata.json to give "
            "spatial_shape of the image as three numbers: found neither"
        )
    return triple(shape)


def _space(config: _Config) -> tuple[InputAdapter, Preprocess] | None:
    """Converts the transforms to an input adapter and preprocessing; None if any is unknown or out of order."""
    steps: dict[str, str] = {}
    for id in config.items(_TRANSFORMS):
        name, is_on_image = _transform(config, id), _is_on(config, id, "image")
        if name in _NEUTRAL or not is_on_image or config.find(f"{id}::_disabled_") is True:
            continue
        if name not in _ORDER or name in steps or not _usual(config, id, name):
            return None
        steps[name] = id
    in_order = [name for name in _ORDER if name in steps]
    if list(steps) != in_order or "Orientation" not in steps or "ScaleIntensityRange" not in steps:
        return None
    place = f"{config.file}: {_TRANSFORMS}"
    intensities = validate(config.given(steps["ScaleIntensityRange"], *_Range.model_fields), _Range, place)
    axes = source.axes_towards(str(config.value(f"{steps['Orientation']}::axcodes")))
    adapter = InputAdapter(axes=axes, scale=(intensities.b_min, intensities.b_max))
    spacing = None
    if "Spacing" in steps:
        pixdim = validate(config.given(steps["Spacing"], "pixdim"), _Spacing, place).pixdim
        spacing = adapter.in_volume_order(pixdim)
    return adapter, Preprocess(
        spacing=spacing,
        intensity={"window": (intensities.a_min, intensities.a_max)},
        crop_foreground="CropForeground" in steps,
    )


def _transform(config: _Config, id: str) -> str:
    """Returns `Spacing` for `Spacingd`, `SpacingD`, `SpacingDict` and their full names; empty for anything else."""
    definition = config.find(id)
    last = str((definition.get("_target_") if isinstance(definition, dict) else None) or "").rpartition(".")[2]
    for suffix in ("Dict", "d", "D"):
        if last.endswith(suffix):
            return last.removesuffix(suffix)
    return ""


def _usual(config: _Config, id: str, name: str) -> bool:
    """True if a known transform has no argument that changes what it does here."""
    arguments = config.given(id, "axcodes", "mode", "clip", "margin", "k_divisible", "select_fn")
    match name:
        case "Orientation":
            with suppress(ValueError):
                return bool(source.axes_towards(str(arguments.get("axcodes"))))
            return False
        case "Spacing":
            mode = arguments.get("mode", "bilinear")
            return (mode if isinstance(mode, str) else next(iter(mode), None)) == "bilinear"
        case "ScaleIntensityRange":
            return arguments.get("clip") is True
        case _:
            return not {"margin", "k_divisible", "select_fn"} & set(arguments)


SOURCE = Source(
    facts=facts,
    network=network,
    weights=weights,
    sha256=_sha256,
    files=lambda args: ("configs/*", _WEIGHTS, "*.py"),  # a trusted bundle may import its modules
    sign="configs",
)
