"""Reads `plans.json` and `dataset.json` of an nnU-Net v2 folder, of old and new versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PositiveInt

from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError, unknown
from freqbench.core.input_space import Millimetres
from freqbench.models.entry import Finite
from freqbench.models.foreign.common import read_object


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
class Plan:
    """The parts of a folder's files that inference needs; `transpose`: the reader's axes in the network's order."""

    configuration: _Configuration
    architecture: _Architecture
    transpose: tuple[int, int, int]
    reader: str
    channels: tuple[_Channel, ...]
    num_channels: int
    num_classes: int


def read_plan(path: str, configuration: str | None, content: Mapping[str, Any]) -> Plan:
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
    num_classes, num_channels = _dataset(folder / "dataset.json")
    properties = plans.foreground_intensity_properties_per_channel
    return Plan(
        configuration=validate(chosen, _Configuration, at),
        architecture=_architecture(chosen, at),
        transpose=plans.transpose_forward,
        reader=plans.image_reader_writer,
        channels=tuple(properties[str(i)] for i in range(num_channels) if str(i) in properties),
        num_channels=num_channels,
        num_classes=num_classes,
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


def _dataset(path: Path) -> tuple[int, int]:
    """Returns the numbers of output classes and input channels."""
    dataset = validate(_renamed(read_object(path)), _Dataset, str(path))
    labels = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in dataset.labels.items()
        if name != "ignore"
    }
    for name, value in labels.items():
        if isinstance(value, list):
            raise UserError(f"{path}: expected labels that exclude each other, got the region {name}: not supported")
    if sorted(labels.values(), key=str) != sorted(range(len(labels)), key=str):
        raise UserError(
            f"{path}: labels: expected each name with one of 0..{len(labels) - 1}, as nnU-Net v2 writes, got {labels}"
        )
    return len(labels), len(dataset.channel_names)
