"""Twenty ways in which nnU-Net v2 is configured, small, and what nnunetv2 itself makes of a case with them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from models.nnunet_folder import RESAMPLING
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from scipy.ndimage import gaussian_filter
from torch import Tensor

from freqbench import load_dataset, load_model
from freqbench.api.model import Model
from freqbench.core.types import Case
from freqbench.data import Dataset
from freqbench.data.preprocess import way_to_file
from freqbench.models import SegmentationModel, VolumePrediction, Wanted, prediction
from freqbench.pipelines import Pipeline

Array = npt.NDArray[Any]
Change = Callable[[dict[str, Any]], object]

CLASSES = {"background": 0, "a": 1, "b": 2, "c": 3}
NESTED = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}
APART = {"background": 0, "left": [1, 2], "right": [2, 3], "edge": 1}
# Two voxels' classes whose probabilities are closer are a tie: float32 sums decide it.
TIE = 1e-4


def by_torch(configuration: dict[str, Any]) -> None:
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
        kwargs = {"is_seg": what == "seg", "force_separate_z": False, "memefficient_seg_resampling": False}
        configuration[f"resampling_fn_{what}_kwargs"] = kwargs


def unresampled(configuration: dict[str, Any]) -> None:
    for what in ("data", "seg", "probabilities"):
        configuration |= {f"resampling_fn_{what}": "no_resampling_hack", f"resampling_fn_{what}_kwargs": {}}


def residual(configuration: dict[str, Any]) -> None:
    network = configuration["architecture"]
    network["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    network["arch_kwargs"]["n_blocks_per_stage"] = network["arch_kwargs"].pop("n_conv_per_stage")


def channel(low: float, high: float, mean: float, std: float) -> dict[str, float]:
    ends = {"percentile_00_5": low, "percentile_99_5": high, "min": low, "max": high}
    return {"mean": mean, "median": mean, "std": std, **ends}


CT = channel(100.0, 900.0, 500.0, 100.0)
Z = "ZScoreNormalization"
CLIP = "CTNormalization"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A configuration, and the file that it is tried on; sides and shape are along the file's own axes."""

    name: str
    labels: Mapping[str, Any] = field(default_factory=lambda: CLASSES)
    order: tuple[int, ...] = (1, 2, 3)
    channels: tuple[str, ...] = ("MR",)
    schemes: tuple[str, ...] = (Z,)
    masks: tuple[bool, ...] = (False,)
    clips: tuple[Mapping[str, float], ...] = ()
    patch: tuple[int, ...] = (12, 16, 16)
    spacing: tuple[float, ...] = (2.0, 1.5, 1.5)
    folds: tuple[int, ...] = (0,)
    configuration: str = "3d_fullres"
    reader: str = "SimpleITKIO"
    transpose: tuple[int, int, int] = (0, 1, 2)
    mirror: tuple[int, ...] | None = None
    change: Change | None = None
    shape: tuple[int, int, int] = (24, 22, 20)
    sides: tuple[float, float, float] = (1.5, 1.5, 2.0)
    codes: str = "LPS"
    has_margin: bool = False
    has_skull: bool = False
    tilt: float = 0.0

    @property
    def has_regions(self) -> bool:
        return any(isinstance(held, list) for held in self.labels.values())


PLANS = [
    Plan(name="CT", channels=("CT",), schemes=(CLIP,)),
    Plan(name="MR, mirrored over all axes", mirror=(0, 1, 2), sides=(1.2, 1.4, 2.6)),
    Plan(name="three folds averaged", folds=(0, 1, 2)),
    Plan(name="nested regions of four channels", labels=NESTED, channels=("T1", "T1ce", "T2", "FLAIR"),
        schemes=(Z,) * 4, masks=(False,) * 4),
    Plan(name="regions that are not nested", labels=APART, order=(1, 3, 2)),
    Plan(name="z-scores within a mask (skull-stripped)", channels=("T1", "T2"), schemes=(Z,) * 2, masks=(True,) * 2,
        has_skull=True, sides=(1.3, 1.7, 2.4)),
    Plan(name="PET/CT, each with a clip of its own", channels=("CT", "CT"), schemes=(CLIP,) * 2, masks=(False,) * 2,
        clips=(CT, channel(300.0, 800.0, 600.0, 40.0))),
    Plan(name="CT clipped beside z-scores", channels=("CT", "PET"), schemes=(CLIP, Z), masks=(False,) * 2,
        sides=(1.2, 1.2, 2.4)),
    Plan(name="z-scores beside noNorm", channels=("MR", "noNorm"), schemes=(Z, "NoNormalization"), masks=(False,) * 2),
    Plan(name="RescaleTo01Normalization", schemes=("RescaleTo01Normalization",)),
    Plan(name="2d", configuration="2d", patch=(16, 16), spacing=(1.4, 1.3), mirror=(0, 1)),
    Plan(name="2d, transposed axes, two folds", configuration="2d", patch=(14, 16), spacing=(1.6, 1.6),
        transpose=(1, 0, 2), folds=(0, 1)),
    Plan(name="torch's resampling", change=by_torch, spacing=(2.5, 1.2, 1.2)),
    Plan(name="no resampling", change=unresampled, spacing=(2.5, 1.2, 1.2)),
    Plan(name="half the plan's spacing, odd shape", spacing=(2.0, 2.2, 2.2), shape=(33, 33, 20), sides=(1.1, 1.1, 2.0),
        tilt=0.1),
    Plan(name="thick slices, resampled apart", spacing=(5.0, 1.0, 1.0), shape=(24, 26, 11), sides=(0.9, 0.9, 6.0)),
    Plan(name="transposed axes", transpose=(2, 0, 1), sides=(1.7, 1.2, 2.2), codes="PSR"),
    Plan(name="a reader that turns files to RAS", reader="NibabelIOWithReorient", codes="PIR", shape=(20, 24, 18),
        sides=(1.4, 1.9, 1.6)),
    Plan(name="residual encoder, an ignore label", labels={**CLASSES, "ignore": 4}, change=residual),
    Plan(name="3d_lowres, zeros around the body", configuration="3d_lowres", spacing=(3.0, 2.4, 2.4), has_margin=True,
        shape=(34, 34, 28)),
]  # fmt: skip


def written(plan: Plan, root: Path) -> tuple[str, Path]:
    """Writes a results folder, with fresh networks by nnunetv2's own function, and the folder of a raw case."""
    folder = root / f"nnUNetTrainer__nnUNetPlans__{plan.configuration}"
    folder.mkdir(parents=True)
    dim = len(plan.patch)
    count = len(plan.channels)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        "arch_kwargs": {
            **{"n_stages": 2, "features_per_stage": [8, 16], "conv_op": f"torch.nn.Conv{dim}d", "conv_bias": True},
            **{"kernel_sizes": [[3] * dim] * 2, "strides": [[1] * dim, [2] * dim], "n_conv_per_stage": [1, 1]},
            **{"n_conv_per_stage_decoder": [1], "norm_op": f"torch.nn.InstanceNorm{dim}d", "dropout_op": None},
            **{"norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op_kwargs": None},
            **{"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
        },
    }
    configuration: dict[str, Any] = {
        **{"data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "batch_dice": False},
        **{"patch_size": [*plan.patch], "median_image_size_in_voxels": [24.0] * dim, "spacing": [*plan.spacing]},
        **{"normalization_schemes": [*plan.schemes], "use_mask_for_norm": [*plan.masks]},
        **RESAMPLING,
        "architecture": architecture,
    }
    if plan.change:
        plan.change(configuration)
    clips = plan.clips or (CT,) * count
    plans = {
        **{"dataset_name": "Dataset001_x", "plans_name": "nnUNetPlans", "image_reader_writer": plan.reader},
        "transpose_forward": [*plan.transpose],
        "transpose_backward": [plan.transpose.index(axis) for axis in range(3)],
        **{"original_median_spacing_after_transp": [2.0, 1.5, 1.5], "original_median_shape_after_transp": [24] * 3},
        **{"experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager"},
        "foreground_intensity_properties_per_channel": {str(i): dict(clip) for i, clip in enumerate(clips)},
        "configurations": {plan.configuration: configuration},
    }
    dataset = {
        "labels": dict(plan.labels),
        "channel_names": {str(i): name for i, name in enumerate(plan.channels)},
        **{"file_ending": ".nii.gz", "numTraining": 1},
        **({"regions_class_order": [*plan.order]} if plan.has_regions else {}),
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    heads = len([name for name in plan.labels if name != "ignore"]) - plan.has_regions
    for fold in plan.folds:
        (folder / f"fold_{fold}").mkdir()
        content = {
            "network_weights": fresh(architecture, count, heads, fold).state_dict(),
            "init_args": {"configuration": plan.configuration, "fold": fold},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": plan.mirror,
        }
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    raw = root / "raw"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    image, label = drawn(plan)
    for index, voxels in enumerate(image):
        nibabel.save(nibabel.Nifti1Image(voxels, affine_of(plan)), raw / f"imagesTr/a_{index:04d}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine_of(plan)), raw / "labelsTr/a.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(dataset))
    return str(folder), raw


def fresh(architecture: Mapping[str, Any], channels: int, heads: int, seed: int) -> torch.nn.Module:
    """A network whose larger weights make every class appear."""
    with torch.random.fork_rng(), quiet():
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        torch.manual_seed(seed)
        network: torch.nn.Module = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            heads,
            allow_init=True,
            deep_supervision=True,
        )
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
            else:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return network


def drawn(plan: Plan) -> tuple[Array, Array]:
    """A smooth volume `[C, i, j, k]` in the file's axes, and nested labels."""
    rng = np.random.default_rng(7)
    smooth = [gaussian_filter(rng.normal(0, 1, plan.shape), 1.5) * 400 + 500 for _ in plan.channels]
    image = np.stack(smooth).astype(np.float32)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in plan.shape), indexing="ij"))
    if plan.has_skull:
        image *= np.square(places).sum(axis=0) < 0.8
    if plan.has_margin:
        image *= (np.abs(places + 0.1) < 0.7).all(axis=0)
    label = np.zeros(plan.shape, np.uint8)
    for value, reach in ((1, 0.5), (2, 0.35), (3, 0.2)):
        label[(np.abs(places - 0.1) < reach).all(axis=0)] = value
    return image, label


def affine_of(plan: Plan) -> Array:
    turn = inv_ornt_aff(axcodes2ornt(tuple(plan.codes)), plan.shape)
    cosine = np.cos(plan.tilt)
    sine = np.sin(plan.tilt)
    tilted = np.array([[cosine, -sine, 0, 11], [sine, cosine, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
    made: Array = tilted @ np.linalg.inv(turn) @ np.diag([*plan.sides, 1.0])
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """nnunetv2 asks for variables as it is imported, and prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, "unused")
        yield


def module() -> ModuleType:
    with quiet():
        from nnunetv2.inference import predict_from_raw_data
    return predict_from_raw_data


@contextmanager
def float32_sums() -> Iterator[None]:
    """nnU-Net's sums over windows, float16 in its code, are float32; its weights stay rounded to float16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "half", torch.float)
        yield


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """Arrays that nnunetv2 makes of a case, in its own axes: those of its reader, last to first."""

    data: Array
    seg: Array  # label map on its grid
    logits: Tensor
    labels: Array  # on the file's grid, after its reader
    probabilities: Array  # [K, ...]
    in_float16: Array  # labels as its own sums make them
    is_sigmoid: bool

    @property
    def ties(self) -> Array:
        """Voxels of the file at which rounding decides."""
        first, second = (0.5, self.probabilities) if self.is_sigmoid else -np.sort(-self.probabilities, axis=0)[:2]
        near: Array = np.abs(first - second) < TIE
        return near.any(axis=0) if self.is_sigmoid else near


def seen(case: Case, image: Tensor) -> Tensor:
    """The network's input of a volume `[C, H, W, D]`: low + (high - low) x + rest, and rest alone where it is fixed."""
    assert case.prepared is not None
    low, high = (torch.tensor(ends).view(-1, 1, 1, 1) for ends in zip(*case.prepared.bounds, strict=True))
    made = low + (high - low) * image
    if case.prepared.fixed is not None:
        made = made * ~case.prepared.fixed
    return made if case.prepared.rest is None else made + case.prepared.rest


def by_nnunetv2(folder: str, raw: Path, folds: tuple[int, ...]) -> Theirs:
    """Predicts the case of a raw folder by nnunetv2's reader, preprocessor, predictor and export alone."""
    nnunetv2 = module()
    cpu = torch.device("cpu")
    with quiet():
        predictor = nnunetv2.nnUNetPredictor(perform_everything_on_device=False, device=cpu, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(folder, folds, "checkpoint_final.pth")
        plans = predictor.plans_manager
        configuration = predictor.configuration_manager
        reader = plans.image_reader_writer_class()
        content = predictor.dataset_json
        image, facts = reader.read_images([str(path) for path in sorted((raw / "imagesTr").iterdir())])
        label, _ = reader.read_seg(str(raw / "labelsTr/a.nii.gz"))
        preprocessor = configuration.preprocessor_class(verbose=False)
        made = [
            preprocessor.run_case_npy(image, each, dict(facts), plans, configuration, content)
            for each in (None, label)  # with a label its voxels join the mask, as in training
        ]
        data = np.asarray(made[0][0])
        seg = np.asarray(made[1][1])
        facts = made[0][2]
        managers = plans, configuration, predictor.label_manager, facts
        with float32_sums():
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float()
        rounded = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float()
        export = nnunetv2.convert_predicted_logits_to_segmentation_with_correct_shape
        labels, probabilities = export(logits, *managers, True)
        return Theirs(
            data=data,
            seg=seg,
            logits=logits,
            labels=np.asarray(labels),
            probabilities=np.asarray(probabilities),
            in_float16=np.asarray(export(rounded, *managers)),
            is_sigmoid=predictor.label_manager.has_regions,
        )


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Volume and label map that freqbench makes of the same case."""

    pipeline: Pipeline
    network: SegmentationModel
    case: Case
    predicted: VolumePrediction

    @property
    def seen(self) -> Tensor:
        """The input that the clean volume becomes, by the formula of `Beside`."""
        return seen(self.case, self.case.image)

    def in_their_axes(self, volume: Tensor) -> Tensor:
        """A volume `[C, H, W, D]` in the network's axes."""
        return self.network.order.to_network_axes(volume[None])[0]

    @property
    def labels(self) -> Array:
        """The label map in the file's axes, as codes of regions if there are any."""
        assert self.predicted.in_file is not None
        return self.predicted.in_file.labels.numpy()


def by_freqbench(folder: str, raw: Path, **entry: Any) -> Ours:
    dataset = load_dataset("nnunet_raw", root=str(raw), split="training").dataset
    return predicted_by(load_model(folder, **entry), dataset)


def predicted_by(model: Model, dataset: Dataset) -> Ours:
    """Predicts the only case of a dataset by a model with a pipeline of its own."""
    (ref,) = dataset.refs()
    pipeline = model.spec.space
    assert isinstance(pipeline, Pipeline)
    case = dataset.load(ref, pipeline)
    network = model.network.for_case(case)
    way = way_to_file(dataset.file_label(ref), case, pipeline)
    predicted = prediction(network, case.image, wanted=Wanted(file_grid=way))
    return Ours(pipeline=pipeline, network=network, case=case, predicted=predicted)


def in_file(plan: Plan, theirs: Array) -> Array:
    """An array `[..., k, j, i]` in the axes of nnU-Net's reader, in those of the file: by nibabel's orientations."""
    turned = np.moveaxis(theirs, (-1, -2, -3), (-3, -2, -1))
    if not plan.reader.endswith("Reorient"):
        return turned
    way = nibabel.orientations.ornt_transform(axcodes2ornt(("R", "A", "S")), axcodes2ornt(tuple(plan.codes)))
    return np.asarray(nibabel.orientations.apply_orientation(turned, way))


def as_codes(plan: Plan, labels: Array) -> Array:
    """A label map of files with overlapping regions as codes: bit k is region k of `dataset.json`, by its order."""
    held = [np.atleast_1d(value) for name, value in plan.labels.items() if name not in ("background", "ignore")]
    return sum((np.isin(labels, values).astype(np.uint8) << bit for bit, values in enumerate(held)), np.uint8(0))


def wanted(plan: Plan, theirs: Theirs) -> tuple[Array, Array, Array]:
    """The label maps that nnunetv2 writes, with float32 and with float16 sums, and ties, in the file's axes."""
    exact, rounded = (in_file(plan, each) for each in (theirs.labels, theirs.in_float16))
    if plan.has_regions:
        exact = as_codes(plan, exact)
        rounded = as_codes(plan, rounded)
    ties = theirs.ties if not plan.reader.endswith("Reorient") else theirs.ties.astype(np.uint8)
    return exact, rounded, in_file(plan, ties).astype(bool)
