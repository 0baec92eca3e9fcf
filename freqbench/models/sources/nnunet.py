"""Reads nnU-Net v2 result folders: `plans.json`, `dataset.json` and `fold_N/checkpoint_final.pth`.

Isensee et al., Nature Methods 2021, arXiv:1904.08128; residual encoders: Isensee et al., MICCAI 2024, arXiv:2404.09556.
The networks are those of the package `dynamic-network-architectures`. No code of a folder is run: names in the plans
are looked up in a table, and checkpoints are read as weights.

**Orientation.** nnU-Net looks at array axes only. If its reader reorients (`NibabelIOWithReorient`,
`SimpleITKIOWithReorient`), the axes point right, anterior and superior (`RAS`). Otherwise (`SimpleITKIO`, `NibabelIO`)
the network is given each file's own array, whatever its orientation. TotalSegmentator turns images itself before
nnU-Net reads them: give `orientation: RAS`, unless its plans name a reader that reorients.

Windows, their weights and padding are nnU-Net's own (`windows: even`, `weighting: nnunet`, `padding: 0`).

**Differs from nnU-Net:** under ZScoreNormalization, intensities beyond `z_score_limit` standard deviations are clipped,
as a volume in [0, 1] has bounds. One fold is one model, where nnU-Net averages folds by default. Sums over windows are
float32 (there: float16).
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError, installing, unknown
from freqbench.core.input_space import Millimetres, Preprocess
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import AXES, FILE_AXES, NNUNET, Finite, InputAdapter, ModelEntry
from freqbench.models.sources.source import (
    Facts,
    Metadata,
    Source,
    axes_towards,
    construct,
    fingerprint,
    here,
    read_object,
)
from freqbench.models.spec import ModelSpec

# Directions in which the axes of an array increase, as each image reader passes them on; None: as in its file.
_ORIENTATIONS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
_PACKAGE = "dynamic_network_architectures"
_BLOCKS = ("BasicBlockD", "BottleneckD")


class NnunetArgs(Strict):
    """Arguments of an nnU-Net folder in a job.

    Attributes:
        configuration: configuration of the plans; default the one that the checkpoint was trained as, else
            `3d_fullres`.
        fold: a number or `all`; default 0, or the only one there.
        checkpoint: a file of the fold: `checkpoint_final.pth` or `checkpoint_best.pth`.
        orientation: directions towards which every image was turned before nnU-Net read it: one of R or L, one of A or
            P, one of S or I, in the array's order; default: as the plans' image reader does, which turns images to RAS
            or leaves each as it lies in its file.
        z_score_limit: standard deviations that a volume spans on either side of its mean under ZScoreNormalization. A
            budget is a share of this span. Intensities beyond are clipped, which nnU-Net does not do: raise the limit
            if they matter.
    """

    configuration: str | None = None
    fold: NonNegativeInt | Literal["all"] | None = None
    checkpoint: str = Field(default="checkpoint_final.pth", pattern=r"^[^/\\]+$")
    orientation: str | None = None
    z_score_limit: PositiveFloat = 5.0

    @field_validator("orientation")
    @classmethod
    def _known(cls, codes: str | None) -> str | None:
        if codes is not None:
            axes_towards(codes)
        return codes


class _Channel(BaseModel):
    """Intensities of the foreground of the training set, in the data's own unit."""

    mean: Finite
    std: Finite
    percentile_00_5: Finite
    percentile_99_5: Finite


class _Architecture(BaseModel):
    network_class_name: str
    arch_kwargs: dict[str, Any]
    requires_import: list[str] = Field(alias="_kw_requires_import")


class _OldArchitecture(BaseModel):
    UNet_class_name: Literal["PlainConvUNet", "ResidualEncoderUNet"]
    UNet_base_num_features: PositiveInt
    unet_max_num_features: PositiveInt
    n_conv_per_stage_encoder: list[PositiveInt]
    n_conv_per_stage_decoder: list[PositiveInt]
    pool_op_kernel_sizes: list[list[PositiveInt]]
    conv_kernel_sizes: list[list[PositiveInt]]


class _Resampling(BaseModel):
    """Resampling of images: cubic, and nearest along an axis that is much coarser than the others."""

    order: Literal[3] = 3
    order_z: Literal[0] = 0
    force_separate_z: None = None


class _Configuration(BaseModel):
    """One configuration of the plans, in the network's axis order."""

    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    spacing: tuple[Millimetres, Millimetres, Millimetres]
    normalization_schemes: list[str] = Field(min_length=1)
    use_mask_for_norm: list[bool]
    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    resampling_fn_data: Literal["resample_data_or_seg_to_shape"] = "resample_data_or_seg_to_shape"
    resampling_fn_data_kwargs: _Resampling = Field(default_factory=_Resampling)


class _Plans(BaseModel):
    configurations: dict[str, dict[str, Any]]
    transpose_forward: tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]]
    image_reader_writer: str = "SimpleITKIO"
    foreground_intensity_properties_per_channel: dict[str, _Channel] = Field(default_factory=dict)


class _Dataset(BaseModel):
    labels: dict[str, Any]
    channel_names: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The parts of a folder's files that inference needs.

    `transpose`: the reader's axes in the network's order. `regions`: their names in the order of the outputs; none if
    classes exclude each other.
    """

    configuration: _Configuration
    architecture: _Architecture
    transpose: tuple[int, int, int]
    reader: str
    channels: tuple[_Channel, ...]
    num_channels: int
    num_classes: int
    regions: tuple[str, ...]


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a folder `TRAINER__PLANS__CONFIGURATION`.

    `space` is nnU-Net's own: its resampling, on the box of voxels that are not 0 in the file; z-scores are
    computed in that box. `inference` is nnU-Net's default, mirrored as the checkpoint allows.

    Raises CheckpointError for a file that is missing or unreadable; UserError for an unknown argument, a cascade, a 2d
    network, normalisation within a mask or of an unknown kind, or another resampling than nnU-Net's default.
    """
    stated = validate(dict(entry.args), NnunetArgs, path)
    file = _checkpoint(path, stated)
    content = _content(file)
    plan = _read_plan(path, stated.configuration, content)
    configuration = plan.configuration
    if not stated.orientation and plan.reader not in _ORIENTATIONS:
        raise UserError(
            f"{path}: plans.json: {unknown('image_reader_writer', plan.reader, _ORIENTATIONS)}: give orientation if "
            "its images lay in files as NIfTI does, as in LPS"
        )
    codes = stated.orientation or _ORIENTATIONS[plan.reader]
    # ITK's arrays, and all of nnU-Net's readers after them, have the file's last axis first.
    letters = "".join((codes or FILE_AXES)[::-1][axis] for axis in plan.transpose)
    axes = axes_towards(letters) if codes else letters
    intensity, scaled = _intensities(path, plan, stated.z_score_limit)
    adapter = InputAdapter(axes=axes, **scaled)
    return Facts(
        arch="nnunet",
        args=entry.args,
        roi=configuration.patch_size,
        num_classes=plan.num_classes,
        num_channels=plan.num_channels,
        outputs="sigmoid" if plan.regions else "softmax",
        input=adapter,
        space=Preprocess(
            spacing=adapter.in_volume_order(configuration.spacing),
            intensity=intensity,
            crop_foreground=False,
            resampling="nnunet_clipped",
            axes="RAS" if codes else "file",
        ),
        inference=NNUNET | {"mirror": _mirrored(file, content, axes)},
        metadata=Metadata(class_names=("background", *plan.regions) if plan.regions else None),
    )


def files(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns patterns of the files that are read: those of the requested fold, else of every fold."""
    stated = validate(dict(args), NnunetArgs, "nnunet")
    fold = "*" if stated.fold is None else stated.fold
    return "plans.json", "dataset.json", f"fold_{fold}/{stated.checkpoint}"


def network(spec: ModelSpec) -> nn.Module:
    """Builds the network of the plans with fresh weights, on the CPU or meta device; refuses as `facts`.

    Its deep-supervision heads exist, as checkpoints hold them, but are not used: it returns one tensor of full
    resolution.
    """
    path = here(spec)
    stated = validate(dict(spec.args), NnunetArgs, path)
    plan = _read_plan(path, stated.configuration, _content(_checkpoint(path, stated)))
    where = f"{path}: architecture of plans.json"
    name = plan.architecture.network_class_name
    package, _, last = name.rpartition(".")
    if not package.startswith(f"{_PACKAGE}.") or last not in _NETWORKS:
        raise UserError(f"{where}: {unknown('network', name, _NETWORKS)}")
    cls = _imported(where, f"{_PACKAGE}.architectures.unet:{last}")
    kwargs = {**plan.architecture.arch_kwargs, "deep_supervision": False}
    for key in plan.architecture.requires_import:
        if kwargs.get(key) is not None:
            kwargs[key] = _class(f"{where}.{key}", kwargs[key])
    return construct(where, lambda: cls(input_channels=plan.num_channels, num_classes=plan.num_classes, **kwargs))


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
    """Returns the weights of a fold, on the CPU; deep-supervision heads included."""
    file = _checkpoint(spec.checkpoint, validate(dict(spec.args), NnunetArgs, spec.checkpoint))
    return checkpoints.read_state_dict(str(file), keys=("network_weights",)), None


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    file = _checkpoint(path, validate(dict(args), NnunetArgs, path))
    return fingerprint({"checkpoint": file, **{name: Path(path, name) for name in ("plans.json", "dataset.json")}})


def _checkpoint(path: str, args: NnunetArgs) -> Path:
    if not Path(path, "plans.json").is_file():
        raise CheckpointError(
            f"{path}: expected an nnU-Net v2 folder with plans.json, dataset.json and fold_N/, found no plans.json: "
            "give the folder TRAINER__PLANS__CONFIGURATION"
        )
    there = sorted(fold.parent.name.removeprefix("fold_") for fold in Path(path).glob(f"fold_*/{args.checkpoint}"))
    if not there:
        raise CheckpointError(f"{path}: expected fold_N/{args.checkpoint}, found none: fetch it, or give checkpoint")
    wanted = str(args.fold) if args.fold is not None else ("0" if "0" in there or len(there) > 1 else there[0])
    if wanted not in there:
        raise CheckpointError(
            f"{path}: expected fold_{wanted}/{args.checkpoint}, found none: give fold, one of {', '.join(there)}"
        )
    return Path(path, f"fold_{wanted}", args.checkpoint)


def _content(file: Path) -> Mapping[str, Any]:
    content = checkpoints.read_content(str(file))
    if not isinstance(content, Mapping) or "network_weights" not in content:
        raise CheckpointError(f"{file}: expected an nnU-Net v2 checkpoint, found no network_weights in it")
    return content


def _intensities(path: str, plan: _Plan, limit: float) -> tuple[Any, dict[str, Any]]:
    """Returns `intensity` of the preprocessing, and `scale`, `mean` and `std` of the input adapter."""
    schemes = sorted(set(plan.configuration.normalization_schemes))
    if len(schemes) > 1:
        raise UserError(f"{path}: expected all channels to be normalised alike, got {', '.join(schemes)}")
    match schemes[0]:
        case "CTNormalization":
            return _ct(path, plan)
        case "ZScoreNormalization":
            if any(plan.configuration.use_mask_for_norm):
                raise UserError(f"{path}: ZScoreNormalization within a mask (use_mask_for_norm) is not supported")
            return {"zscore": limit}, {"scale": (-limit, limit)}
        case "RescaleTo01Normalization":
            return "minmax", {}
        case "RGBTo01Normalization":
            return {"window": (0.0, 255.0)}, {}
        case other:
            supported = "CTNormalization, RescaleTo01Normalization, RGBTo01Normalization, ZScoreNormalization"
            raise UserError(f"{path}: expected one of {supported}, got {other}, which is not supported")


def _ct(path: str, plan: _Plan) -> tuple[Any, dict[str, Any]]:
    if len(plan.channels) != plan.num_channels:
        raise UserError(f"{path}: plans.json: expected foreground intensities of {plan.num_channels} channels")
    windows = {(channel.percentile_00_5, channel.percentile_99_5) for channel in plan.channels}
    if len(windows) > 1:
        raise UserError(f"{path}: channels with windows of their own are not supported, got {sorted(windows)}")
    window = windows.pop()
    mean = tuple(channel.mean for channel in plan.channels)
    std = tuple(max(channel.std, 1e-8) for channel in plan.channels)
    of_channels = {"mean": mean, "std": std} if plan.num_channels > 1 else {"mean": mean[0], "std": std[0]}
    return {"window": window}, {"scale": window, **of_channels}


def _mirrored(file: Path, content: Mapping[str, Any], axes: str) -> str:
    """Returns the axes, of the volume or of the file, over which predictions may be mirrored."""
    allowed = content.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(allowed, tuple | list) or not all(axis in (0, 1, 2) for axis in allowed):
        raise CheckpointError(f"{file}: inference_allowed_mirroring_axes: expected some of 0, 1, 2, got {allowed!r}")
    letters = axes.replace("-", "")
    return "".join(sorted((letters[axis] for axis in set(allowed)), key=(AXES + FILE_AXES).index))


def _class(where: str, name: Any) -> Any:
    """Returns a layer of `torch.nn`, or a block of the package; nothing else is looked up, as plans are untrusted."""
    package, _, last = str(name).rpartition(".")
    if package == f"{_PACKAGE}.building_blocks.residual" and last in _BLOCKS:
        return _imported(where, f"{package}:{last}")
    layer = getattr(torch.nn, last, None) if f"{package}.".startswith("torch.nn.") else None
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise UserError(f"{where}: expected a layer of torch.nn or a block of {_PACKAGE}, got {name!r}")
    return layer


def _imported(where: str, target: str) -> Any:
    try:
        return pkgutil.resolve_name(target)
    except ImportError:
        raise UserError(
            f"{where}: expected the package dynamic-network-architectures: {installing('nnunet')}"
        ) from None


def _read_plan(path: str, configuration: str | None, content: Mapping[str, Any]) -> _Plan:
    """Returns the plan of the requested or trained configuration; refuses anything that this reader cannot read."""
    folder, trained = Path(path), content.get("init_args")
    trained_as = trained.get("configuration") if isinstance(trained, Mapping) else None
    if configuration and trained_as and configuration != trained_as:
        raise UserError(
            f"{path}: configuration is {configuration} here, but its checkpoint was trained as {trained_as}: "
            "leave it out"
        )
    name, where = str(configuration or trained_as or "3d_fullres"), str(folder / "plans.json")
    plans = validate(_renamed(read_object(folder / "plans.json")), _Plans, where)
    chosen = _inherited(where, plans.configurations, name)
    if chosen.get("previous_stage"):
        raise UserError(f"{where}: {name} refines another network's prediction: use 3d_fullres or 3d_lowres instead")
    patch = chosen.get("patch_size")
    if isinstance(patch, list) and len(patch) == 2:
        raise UserError(f"{where}: expected a 3d configuration, got {name}: use 3d_fullres or 3d_lowres instead")
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise UserError(f"{where}: transpose_forward: expected each of 0, 1, 2 once, got {plans.transpose_forward}")
    at = f"{where}: configurations.{name}"
    regions, num_classes, num_channels = _dataset(folder / "dataset.json")
    properties = plans.foreground_intensity_properties_per_channel
    return _Plan(
        configuration=validate(chosen, _Configuration, at),
        architecture=_architecture(chosen, at),
        transpose=plans.transpose_forward,
        reader=plans.image_reader_writer,
        channels=tuple(properties[str(i)] for i in range(num_channels) if str(i) in properties),
        num_channels=num_channels,
        num_classes=num_classes,
        regions=regions,
    )


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """Renames two keys of older files."""
    names = {
        "foreground_intensity_properties_by_modality": "foreground_intensity_properties_per_channel",
        "modality": "channel_names",
    }
    return {names.get(key, key): value for key, value in content.items()}


def _inherited(where: str, configurations: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    seen: list[str] = []
    following: Any = name
    while following is not None:
        if following in seen:
            raise CheckpointError(f"{where}: configurations.{name} inherits from itself: {' > '.join(seen)}")
        if not isinstance(following, str) or following not in configurations:
            raise UserError(f"{where}: {unknown('configuration', str(following), configurations)}")
        seen.append(following)
        merged = {**configurations[following], **merged}
        following = configurations[following].get("inherits_from")
    return merged


def _architecture(chosen: dict[str, Any], where: str) -> _Architecture:
    if "architecture" in chosen:
        return validate(chosen["architecture"], _Architecture, f"{where}.architecture")
    old = validate(chosen, _OldArchitecture, where)
    num_stages = len(old.n_conv_per_stage_encoder)
    widths = [min(old.UNet_base_num_features * 2**i, old.unet_max_num_features) for i in range(num_stages)]
    per_stage = "n_conv_per_stage" if old.UNet_class_name == "PlainConvUNet" else "n_blocks_per_stage"
    return _Architecture(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{old.UNet_class_name}",
        arch_kwargs={
            "n_stages": num_stages,
            "features_per_stage": widths,
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": old.conv_kernel_sizes,
            "strides": old.pool_op_kernel_sizes,
            per_stage: old.n_conv_per_stage_encoder,
            "n_conv_per_stage_decoder": old.n_conv_per_stage_decoder,
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        _kw_requires_import=["conv_op", "norm_op", "nonlin"],
    )


def _dataset(path: Path) -> tuple[tuple[str, ...], int, int]:
    """Returns the regions, if a list of labels makes all of them regions, and the numbers of outputs and channels."""
    dataset = validate(_renamed(read_object(path)), _Dataset, str(path))
    labels = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in dataset.labels.items()
        if name != "ignore"
    }
    if any(isinstance(value, list) for value in labels.values()):
        regions = tuple(name for name, value in labels.items() if value != 0)
        return regions, len(regions), len(dataset.channel_names)
    if sorted(labels.values(), key=str) != sorted(range(len(labels)), key=str):
        raise UserError(
            f"{path}: labels: expected each name with one of 0..{len(labels) - 1}, as nnU-Net v2 writes, got {labels}"
        )
    return (), len(labels), len(dataset.channel_names)


SOURCE = Source(
    facts=facts, network=network, weights=weights, sha256=_sha256, files=files, sign="plans.json", is_known=True
)
