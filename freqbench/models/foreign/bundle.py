"""MONAI bundles: a folder with `configs/inference.json` (or `.yaml`), `configs/metadata.json` and `models/model.pt`.

Cardoso et al., arXiv:2211.02701. MONAI's own parser runs what stands behind a `$`; here a bundle is data: plain values
and `@references` to them are resolved, and the network is a class of `monai.networks.nets`. What needs more is refused
by its key, unless the bundle is trusted: then MONAI's parser resolves it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor, nn

from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import is_trusted
from freqbench.core.types import Shape
from freqbench.models.adapter import Description, InputAdapter
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.foreign.bundle_config import Config
from freqbench.models.foreign.bundle_space import Space, space_of
from freqbench.models.foreign.common import construct, fingerprint, in_volume_order, read_object

_WEIGHTS = "models/model.pt"
_NETS = "monai.networks.nets"


class BundleArgs(Strict):
    """What a job may say of a bundle: nothing, as all is in its folder."""


class _Network(BaseModel):
    """What every segmentation network of MONAI is told."""

    spatial_dims: Literal[3] = 3
    in_channels: PositiveInt
    out_channels: Annotated[int, Field(ge=2)]


class _Inferer(BaseModel):
    """MONAI's sliding window, its own defaults."""

    roi_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"


def describe(path: str, args: Mapping[str, Any]) -> Description:
    """What a bundle says of its model.

    Args:
        path: the bundle's folder.
        args: see `BundleArgs`.

    Returns:
        `preprocess` is None, and `input` leaves the volume as it is, where the transforms do more, or other, than
        `Orientationd`, `Spacingd`, `ScaleIntensityRanged` and `CropForegroundd` in this order (`NormalizeIntensityd`,
        say): nothing is guessed, so the job has to state both.

    Raises:
        CheckpointError: a file that is missing or unreadable, or a reference to nothing.
        UserError: an expression or a class of others' without trust; overlapping classes; no window size.
    """
    validate(dict(args), BundleArgs, path)
    config = _config(path)
    told = _network(config)
    _refuse_overlapping_classes(config)
    inferer = _inferer(config)
    space = space_of(config)
    return Description(
        roi=inferer.roi_size if inferer else _spatial_shape(config),
        num_classes=told.out_channels,
        num_channels=told.in_channels,
        input=InputAdapter(axes=space.axes, scale=space.scale) if space else InputAdapter(),
        preprocess=_preprocess(space) if space else None,
        inference={"overlap": inferer.overlap, "weighting": inferer.mode} if inferer else {},
        sha256=fingerprint(_files(path, config)),
    )


def files(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Patterns of what is read of a bundle's folder: a trusted one may import its modules."""
    return "configs/*", _WEIGHTS, "*.py"


def network(path: str, args: Mapping[str, Any]) -> nn.Module:
    """The network of `network_def` with fresh weights, on the CPU or under `torch.device("meta")`, in training mode.

    Raises:
        CheckpointError, UserError: as `describe`; or not a class of `monai.networks.nets`, or it refuses its arguments.
    """
    validate(dict(args), BundleArgs, path)
    config = _config(path)
    _network(config)
    if is_trusted():
        return construct(f"{config.file}: network_def", lambda: _resolved(config))
    name = str(config.find("network_def::_target_"))
    kwargs = {key: config.value(f"network_def::{key}") for key in config.find("network_def") if not key.startswith("_")}
    fetched = [key for key, value in kwargs.items() if "pretrained" in key and value]
    if fetched:
        raise UserError(f"{config.file}: network_def::{fetched[0]} would download weights: leave it out")
    cls = _class(config, name)
    return construct(f"{config.file}: network_def", lambda: cls(**kwargs))


def state_dict(path: str, args: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of `models/model.pt`, on the CPU: weights only, trusted or not.

    Raises:
        CheckpointError: no such file, unreadable, or a pickle that asks for more than weights.
        UserError: an unknown argument.
    """
    validate(dict(args), BundleArgs, path)
    return checkpoints.read_state_dict(str(_weights(path)), keys=("state_dict", "model_state_dict", "model"))


def _config(path: str) -> Config:
    names = [f"configs/inference{suffix}" for suffix in (".json", ".yaml", ".yml")]
    file = next((file for name in names if (file := Path(path, name)).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{path}: expected a MONAI bundle with configs/inference.json (or .yaml), found none: give the folder that "
            "holds configs/ and models/"
        )
    metadata = Path(path, "configs", "metadata.json")
    content = {
        **read_object(file),
        "bundle_root": path,
        "_meta_": read_object(metadata) if metadata.is_file() else {},
    }
    return Config(file=file, content=content)


def _weights(path: str) -> Path:
    file = Path(path, _WEIGHTS)
    if not file.is_file():
        raise CheckpointError(f"{path}: expected the weights in {_WEIGHTS}, found none: fetch the whole bundle again")
    return file


def _files(path: str, config: Config) -> dict[str, Path]:
    """What the output depends on: modules of the bundle too, as a trusted one may import them."""
    metadata = Path(path, "configs", "metadata.json")
    found = [config.file, _weights(path), *Path(path).rglob("*.py"), *([metadata] if metadata.is_file() else [])]
    return {file.relative_to(path).as_posix(): file for file in found}


def _network(config: Config) -> _Network:
    """The sizes in `network_def`, and that weights of its class mean today what they meant when they were saved."""
    definition = config.find("network_def")
    if not isinstance(definition, Mapping) or "_target_" not in definition:
        raise UserError(f"{config.file}: expected network_def with a _target_, got {type(definition).__name__}")
    if str(config.find("network_def::_target_")).rpartition(".")[2] == "SwinUNETR":
        version = str(config.find("_meta_::monai_version") or "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < (1, 5):
            raise UserError(
                f"{config.file}: a SwinUNETR of MONAI {version or '(version unknown)'}: weights saved by MONAI 1.4 or "
                f"before predict otherwise today: give {_WEIGHTS} as the checkpoint of arch swin_unetr with a migration"
            )
    sizes = {name: config.value(f"network_def::{name}") for name in _Network.model_fields if name in definition}
    return validate(sizes, _Network, f"{config.file}: network_def")


def _class(config: Config, name: str) -> Any:
    """A network of MONAI by its short or its full name."""
    import monai.networks.nets as nets

    package, _, last = name.rpartition(".")
    found = getattr(nets, last, None)
    known = not package or package == _NETS or package.startswith(f"{_NETS}.")
    if not (known and isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"{config.file}: network_def::_target_: expected a class of {_NETS}, got {name}: with --trust-code, or "
            "trust_code: true in the job, any class is taken"
        )
    return found


def _resolved(config: Config) -> nn.Module:
    found = config.parsed("network_def")
    if not isinstance(found, nn.Module):
        raise TypeError(f"expected a network, got {type(found).__name__}")
    return found


def _preprocess(space: Space) -> Preprocess:
    return Preprocess(
        spacing=in_volume_order(space.axes, space.spacing) if space.spacing else None,
        intensity={"window": space.window},
        crop_foreground=space.crop_foreground,
    )


def _refuse_overlapping_classes(config: Config) -> None:
    for i in range(config.length("postprocessing::transforms")):
        if config.value(f"postprocessing::transforms::{i}::sigmoid") is True:
            raise UserError(
                f"{config.file}: postprocessing::transforms::{i}::sigmoid: classes that overlap are not supported, as "
                "each voxel is given the class of the highest logit"
            )


def _inferer(config: Config) -> _Inferer | None:
    name = str(config.find("inferer::_target_")).rpartition(".")[2]
    if name != "SlidingWindowInferer":
        return None
    told = {key: config.value(f"inferer::{key}") for key in _Inferer.model_fields}
    if isinstance(told["roi_size"], int):
        told["roi_size"] = [told["roi_size"]] * 3
    if isinstance(told["overlap"], list) and len(set(told["overlap"])) == 1:
        told["overlap"] = told["overlap"][0]
    return validate({k: v for k, v in told.items() if v is not None}, _Inferer, f"{config.file}: inferer")


def _spatial_shape(config: Config) -> Shape:
    """The window of the metadata, for bundles that state no sliding window."""
    shape = config.find("_meta_::network_data_format::inputs::image::spatial_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UserError(
            f"{config.file}: expected inferer to be a SlidingWindowInferer with a roi_size, or metadata.json to give "
            "spatial_shape of the image as three numbers: found neither"
        )
    h, w, d = shape
    return h, w, d
