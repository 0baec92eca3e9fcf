"""The files of an nnU-Net v2 result folder, as nnU-Net writes them: plans of either format, dataset and checkpoint."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

PATCH = (8, 16, 24)
LAYERS: dict[str, Any] = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
COMMON: dict[str, Any] = {
    "n_stages": 3, "features_per_stage": [4, 8, 10], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
NAMES = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "nonlin": "torch.nn.LeakyReLU",
    "dropout_op": None,
}
PER_STAGE = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]
RESAMPLING = {  # as nnU-Net's planner writes it
    f"resampling_fn_{what}{suffix}": value
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))
    for suffix, value in (
        ("", "resample_data_or_seg_to_shape"),
        ("_kwargs", {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}),
    )
}
CT = {"mean": 90.0, "std": 120.0, "percentile_00_5": -60.0, "percentile_99_5": 340.0, "min": -1024.0, "max": 3000.0}


def direct(cls: str, channels: int = 1, classes: int = 3, seed: int = 5) -> torch.nn.Module:
    """The network as training has it, built without a folder: it returns a list, full resolution first."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kwargs = {**COMMON, **LAYERS, PER_STAGE[cls]: [1, 2, 1]}
        build = getattr(import_module("dynamic_network_architectures.architectures.unet"), cls)
        return build(input_channels=channels, num_classes=classes, deep_supervision=True, **kwargs).eval()


def old_architecture(cls: str) -> dict[str, Any]:
    return {
        "UNet_class_name": cls, "UNet_base_num_features": 4, "unet_max_num_features": 10,
        "n_conv_per_stage_encoder": [1, 2, 1], "n_conv_per_stage_decoder": [1, 1], "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": COMMON["strides"], "conv_kernel_sizes": COMMON["kernel_sizes"],
    }  # fmt: skip


def new_architecture(cls: str) -> dict[str, Any]:
    return {
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{cls}",
            "arch_kwargs": {**COMMON, **NAMES, PER_STAGE[cls]: [1, 2, 1]},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }


def plans(architecture: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset001_Small",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {"patch_size": [16, 16]},
            "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor",
                "patch_size": list(PATCH), "spacing": [5.0, 1.0, 0.8], "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False], "batch_size": 2, "batch_dice": False, **RESAMPLING, **architecture},
            "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [6.0, 2.0, 1.6]},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "foreground_intensity_properties_per_channel": {"0": CT},
    }  # fmt: skip


def dataset() -> dict[str, Any]:
    labels = {"background": 0, "liver": 1, "tumour": 2}
    return {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}


def checkpoint(network: torch.nn.Module) -> dict[str, Any]:
    """Content that nnU-Net's trainer writes: more than weights."""
    momentum = {i: {"momentum_buffer": torch.zeros(1)} for i, _ in enumerate(network.parameters())}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": momentum, "param_groups": [{"lr": 0.01, "params": list(momentum)}]},
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.4)], "lrs": [0.01]},
        "_best_ema": np.float64(0.6),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cuda", 0), "plans": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def write(
    folder: Path,
    change: Change | None = None,
    architecture: dict[str, Any] | None = None,
    network: torch.nn.Module | None = None,
) -> str:
    """A folder, of a plain network unless another is given; `change` alters plans, dataset and checkpoint before."""
    trained = checkpoint(network or direct("PlainConvUNet"))
    contents = plans(architecture or new_architecture("PlainConvUNet")), dataset(), trained
    if change:
        change(*contents)
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(contents[0]))
    (folder / "dataset.json").write_text(json.dumps(contents[1]))
    torch.save(contents[2], folder / "fold_0" / "checkpoint_final.pth")
    return str(folder)
