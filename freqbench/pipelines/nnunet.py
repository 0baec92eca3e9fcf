"""Runs nnU-Net's preprocessing and export by nnunetv2 itself. Isensee et al., Nature Methods 2021, arXiv:1904.08128;
residual encoders: Isensee et al., MICCAI 2024, arXiv:2404.09556."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor

from freqbench.core import plugins
from freqbench.core.code import Code, identify
from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError, installing, unknown
from freqbench.core.files import downloads
from freqbench.core.identity import digest
from freqbench.core.input_space import Millimetres, file_codes, orient, turned_affine, turning
from freqbench.core.limits import whole
from freqbench.core.types import NativeCase, Outputs, Shape, Spacing, triple
from freqbench.ops.regions import code_of, codes_of
from freqbench.pipelines import pipeline
from freqbench.pipelines.pipeline import Facts, Maps, Pipeline, PreparedInput, line_of, own_bounds, quiet, running

# Directions in which the axes of an array increase, as each image reader passes them on; None: as in its file.
READERS: Mapping[str, str | None] = {
    **dict.fromkeys(("SimpleITKIO", "NibabelIO")),
    **dict.fromkeys(("SimpleITKIOWithReorient", "NibabelIOWithReorient"), "RAS"),
}
Mask = npt.NDArray[np.bool_]
BESIDE = 255  # a label beside each region of merged logits: nnU-Net calls labels regions only where one has several
RESAMPLING = "resampling function"
# Where nnunetv2 looks for the classes and functions that plans name, and below it the modules that it brings.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "preprocessor_name": ("nnunetv2.preprocessing", "preprocessors.default_preprocessor"),
    "normalization_schemes": ("nnunetv2.preprocessing.normalization", "default_normalization_schemes"),
    "label_manager": ("nnunetv2.utilities.label_handling", "label_handling"),
    RESAMPLING: ("nnunetv2.preprocessing.resampling", "default_resampling", "no_resampling", "resample_torch"),
}


class _Plans(BaseModel):
    configurations: dict[str, dict[str, Any]]
    transpose_forward: tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]]
    image_reader_writer: str = "SimpleITKIO"
    label_manager: str = "LabelManager"


class _Architecture(BaseModel):
    network_class_name: str
    arch_kwargs: dict[str, Any]
    needing_import: list[str] = Field(alias="_kw_requires_import")


class _Configuration(BaseModel):
    """The part of a configuration that freqbench reads too; the rest is nnunetv2's."""

    patch_size: list[PositiveInt] = Field(min_length=2, max_length=3)
    spacing: list[Millimetres] = Field(min_length=2, max_length=3)
    normalization_schemes: list[str] = Field(min_length=1)
    use_mask_for_norm: list[bool] = Field(min_length=1)
    preprocessor_name: str
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg: str
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: _Architecture


class _Dataset(BaseModel):
    labels: dict[str, Any]
    channel_names: dict[str, Any]


class _Clip(BaseModel):
    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


def release() -> str:
    """Returns nnunetv2's version; raises UserError if it is not installed."""
    try:
        return version("nnunetv2")
    except ImportError:
        raise UserError(f"expected the package nnunetv2, found none: {installing('nnunet')}") from None


def _module(name: str) -> Any:
    release()
    with quiet():
        return import_module(name)


def _find_own(where: str, what: str, name: str) -> Any:
    """Returns a class or function that nnunetv2 does not bring, which needs trust; None for one that it brings."""
    place, *modules = _PLACES[what]
    is_meant = callable if what == RESAMPLING else inspect.isclass
    brought = list[str]()
    for part in modules:
        module = f"{place}.{part}"
        for key, each in vars(_module(module)).items():
            if is_meant(each) and getattr(each, "__module__", None) == module:
                brought.append(key)
    if name in brought:
        return None
    if not plugins.is_trusted():
        raise UserError(f"{where}: {unknown(what, name, brought)}; one of your own in {place} needs --trust-code")
    # Importing a module runs it, and it may raise anything.
    with running(f"{where}: {what} {name}: nnunetv2 cannot look for it", UserError), quiet():
        find = _module("nnunetv2.utilities.find_class_by_name").recursive_find_python_class
        found = find(_module(place).__path__[0], name, place)
    if not is_meant(found):
        raise UserError(f"{where}: {unknown(what, name, brought)}; put your own into the folder of {place}")
    return found


def _files_of(own: Any) -> Iterator[str]:
    """Yields the hashes of the files of a class and its bases, or of a function, wherever they are installed."""
    for each in own.__mro__[:-1] if isinstance(own, type) else (own,):
        if (file := getattr(sys.modules.get(each.__module__), "__file__", None)) and Path(file).is_file():
            yield downloads.digest(Path(file))


@dataclass(frozen=True, kw_only=True)
class NnunetPipeline(Pipeline):
    """nnU-Net's preprocessor, label manager and export."""

    kind = "nnunet"
    toolchain = "nnunetv2"
    drawing = "regions drawn by regions_class_order"

    plans: Mapping[str, Any] = field(repr=False)  # of `plans.json`
    dataset: Mapping[str, Any] = field(repr=False)  # of `dataset.json`
    configuration: str  # name of a configuration of the plans
    orientation: str | None = None  # of images before nnU-Net read them; None: as its reader does

    @cached_property
    def described(self) -> Mapping[str, Any]:
        """The content of its files in short, and which part of them is meant."""
        stated = {} if self.orientation is None else {"orientation": self.orientation}
        files = sorted({*chain.from_iterable(map(_files_of, self.own))})
        code = {"code": digest([self.code.digest, files])} if self.code else {}
        return {"files": digest([self.plans, self.dataset]), "configuration": self.configuration, **stated, **code}

    @property
    def code(self) -> Code | None:
        """Identity of the classes and functions of one's own in its plans; None: there are none."""
        return identify(self.own) if self.own else None

    @cached_property
    def own(self) -> tuple[Any, ...]:
        """Classes and functions in its plans that nnunetv2 does not bring; refuses what is not found or not trusted."""
        stated = self.settings.configuration
        manager = self.plans.get("label_manager", "LabelManager")
        named = [("label_manager", manager), ("preprocessor_name", stated["preprocessor_name"])]
        named += [("normalization_schemes", scheme) for scheme in stated["normalization_schemes"]]
        named += [(RESAMPLING, stated[f"resampling_fn_{of}"]) for of in ("data", "seg", "probabilities")]
        found = [_find_own("plans.json", what, name) for what, name in dict.fromkeys(named)]
        return tuple(each for each in found if each is not None)

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return len(self.dataset["channel_names"])

    @cached_property
    def manager(self) -> Any:
        """nnunetv2's PlansManager."""
        key = "foreground_intensity_properties_per_channel"
        known = self.plans.get(key) or self.plans.get("foreground_intensity_properties_by_modality") or {}
        # nnunetv2 asks for the properties of every channel, also of those whose normalisation has none.
        filled = {str(i): known.get(str(i), {}) for i in range(self.num_channels)}
        return _module("nnunetv2.utilities.plans_handling.plans_handler").PlansManager({**self.plans, key: filled})

    @cached_property
    def settings(self) -> Any:
        """nnunetv2's ConfigurationManager."""
        with quiet():
            return self.manager.get_configuration(self.configuration)

    @cached_property
    def labels(self) -> Any:
        """nnunetv2's LabelManager."""
        with quiet():
            return self.manager.get_label_manager(dict(self.dataset))

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the overlapping regions in the order of the network's outputs; empty for exclusive classes."""
        if not self.labels.has_regions:
            return ()
        return tuple(n for n, held in self.dataset["labels"].items() if n != "ignore" and held not in ([0], 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels, or of the regions behind the background."""
        first = {int(np.atleast_1d(label)[0]): name for name, label in self.dataset["labels"].items()}
        named = (first[int(number)] for number in self.labels.all_labels)
        return ("background", *self.regions) if self.regions else tuple(named)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels in their order."""
        named = self.dataset["channel_names"]
        return tuple(str(named[number]) for number in sorted(named, key=lambda number: whole(number) or 0))

    @property
    def patch(self) -> Shape:
        """Voxels of a window in the network's axes; of a 2d network, one slice."""
        return triple([1] * (3 - len(self.settings.patch_size)) + list(self.settings.patch_size))

    @property
    def is_2d(self) -> bool:
        """True if its network sees slices."""
        return len(self.settings.patch_size) == 2

    @property
    def reader(self) -> str:
        """Name of nnU-Net's reader of images."""
        return str(self.plans.get("image_reader_writer", "SimpleITKIO"))

    def codes_of(self, codes: str) -> str:
        """Returns directions of the network's axes for a file's, `codes`: the reader's, reversed, then transposed."""
        return "".join(self._reader_codes(codes)[axis] for axis in self.plans["transpose_forward"])

    def shape_of(self, shape: Shape, spacing: Spacing, codes: str) -> Shape:
        """Returns nnU-Net's shape of a volume without zeros around it, along RAS axes, as the shape and spacing (mm)
        given are; the file's own axes lie towards `codes`."""
        if self.settings.configuration["resampling_fn_data"] == "no_resampling_hack":
            return shape
        compute = _module("nnunetv2.preprocessing.resampling.default_resampling").compute_new_shape
        order, _ = turning("RAS", self.codes_of(codes))
        old = [shape[axis] for axis in order]
        own = [spacing[axis] for axis in order]
        new = compute(old, own, self._resampled_sides(own))
        return triple(max(1, int(new[order.index(axis)])) for axis in range(3))

    @property
    def stated_bounds(self) -> tuple[tuple[float, float] | None, ...]:
        """Bounds of each channel as far as they are known without a volume."""
        if self.bounds is not None:
            return self.bounds
        usual = {"ZScoreNormalization": (-pipeline.DEVIATIONS, pipeline.DEVIATIONS)}
        usual |= dict.fromkeys(("RescaleTo01Normalization", "RGBTo01Normalization"), (0.0, 1.0))
        known = [*map(usual.get, self.settings.normalization_schemes)]
        for index, scheme in enumerate(self.settings.normalization_schemes):
            if scheme == "CTNormalization":
                clip = self.manager.foreground_intensity_properties_per_channel[str(index)]
                mean = clip["mean"]
                std = max(clip["std"], 1e-8)
                known[index] = (clip["percentile_00_5"] - mean) / std, (clip["percentile_99_5"] - mean) / std
        return tuple(known)

    @property
    def own_rule(self) -> str:
        """Words on its bounds by channel."""
        words = {
            "CTNormalization": "the clip of the plans",
            "ZScoreNormalization": f"{-pipeline.DEVIATIONS:g} to {pipeline.DEVIATIONS:g} deviations",
        }
        schemes = self.settings.normalization_schemes
        return " and ".join(dict.fromkeys(words.get(each, "its own ends") for each in schemes))

    @property
    def rule(self) -> str:
        """Sentence on its bounds, and on its crop."""
        return f"{super().rule}; where voxels of 0 around it are cut off, windows are fewer than planned"

    def prepare(self, native: NativeCase) -> PreparedInput:
        """Prepares volume and label of a file, `native`, by nnunetv2; `fixed` lie outside of a mask that normalises a
        channel."""
        file = file_codes(native.affine)
        data, seg, made, ran = self._run(native, file)
        shape = triple(data.shape[1:])
        facts = self._facts(native, file, made)
        fixed = (seg < 0) & torch.tensor(self.settings.use_mask_for_norm)[:, None, None, None]
        label = self._label(native, file, facts, ran.outside, shape)
        affine = self._affine(native, file, facts, shape)
        bounds = own_bounds(native.source, data, self.stated_bounds)
        return PreparedInput(
            data=data,
            label=label,
            codes=self.codes_of(file),
            affine=affine,
            bounds=bounds,
            lines=ran.lines,
            fixed=fixed if fixed.any() else None,
            facts=facts,
        )

    def again(self, attacked: NativeCase, clean: PreparedInput) -> Tensor:
        """Prepares an attacked volume as nnunetv2 does the file; one with another box than the `clean` one's is
        interpolated linearly."""
        from scipy.ndimage import affine_transform

        file = clean.facts["codes"]
        shape = clean.data.shape[1:]
        data, _, made, _ = self._run(attacked, file)
        if (facts := self._facts(attacked, file, made)) == clean.facts:
            return data
        to_made = np.linalg.inv(self._affine(attacked, file, facts, triple(data.shape[1:]))) @ clean.affine
        at = to_made[:3, :3], to_made[:3, 3]
        return torch.from_numpy(np.stack([affine_transform(one, *at, shape, order=1, mode="nearest") for one in data]))

    def voxels_to_keep(self, native: NativeCase, facts: Mapping[str, Any]) -> Mask:
        """Returns what lies outside of the crop's box of a file, `native`, which `facts` of its `PreparedInput` hold;
        of a network that is normalised within a mask, outside of it."""
        image = native.image
        file = facts["codes"]
        codes = self.codes_of(file)
        if any(self.settings.use_mask_for_norm):
            within: Mask = _module("nnunetv2.preprocessing.cropping.cropping").create_nonzero_mask(image.numpy())
            return ~within
        outside = torch.ones(1, *orient(image[:1], file, codes).shape[1:], dtype=torch.bool)
        outside[(slice(None), *(slice(*ends) for ends in facts["bbox_used_for_cropping"]))] = False
        return orient(outside, codes, file)[0].numpy()

    def clips(self, channel: int) -> bool | None:
        """False but for a channel of CT, whose normalisation clips at ends that `bounds` may lie within."""
        return None if self.settings.normalization_schemes[channel] == "CTNormalization" else False

    def _facts(self, native: NativeCase, file: str, made: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what leads back to a file, of nnunetv2's properties of a case."""
        sides = self._sides(native, self._reader_codes(file))
        box = [[*map(int, ends)] for ends in made["bbox_used_for_cropping"]]
        shapes = {name: [*map(int, made[name])] for name in _SHAPES}
        return {"codes": file, "spacing": sides, "bbox_used_for_cropping": box, **shapes}

    def _reader_codes(self, codes: str) -> str:
        """Returns the directions of the axes of the array that nnU-Net's reader makes of a file towards `codes`."""
        return (self.orientation or READERS[self.reader] or codes)[::-1]

    def _sides(self, native: NativeCase, codes: str) -> list[float]:
        """Returns the sides of a file's voxels along axes towards `codes`."""
        order, _ = turning(file_codes(native.affine), codes)
        return [float((native.stated or native.spacing)[axis]) for axis in order]

    def _resampled_sides(self, sides: Sequence[float]) -> list[float]:
        """Returns the sides of voxels after resampling of those before, in the network's axes: of 2d, two change."""
        stated = self.settings.spacing
        return [*sides[: 3 - len(stated)], *stated]

    def _run(self, native: NativeCase, file: str) -> tuple[Tensor, Tensor, dict[str, Any], Any]:
        """Runs nnunetv2's preprocessor on a volume as its reader hands it over: data, mask, properties, recorder."""
        reader = self._reader_codes(file)
        volume = orient(native.image, file, reader)
        recorder = _recording(self.settings.preprocessor_class)
        properties = {"spacing": self._sides(native, reader)}
        with running(f"{native.source}: nnunetv2 cannot prepare it"):
            settings = self.manager, self.settings, dict(self.dataset)
            data, seg, made = recorder.run_case_npy(volume.numpy(), None, properties, *settings)
        if recorder.outside is None:  # one of one's own that normalises elsewhere
            recorder.lines = (None,) * self.num_channels
            recorder.outside = np.zeros((1, *made["shape_after_cropping_and_before_resampling"]), np.bool_)
        return torch.as_tensor(data).float(), torch.as_tensor(seg), made, recorder

    def _label(self, native: NativeCase, file: str, facts: Mapping[str, Any], outside: Mask, shape: Shape) -> Tensor:
        """Resamples a label map as those of the training set, where the background `outside` is a label of its own."""
        network = self.codes_of(file)
        label = orient(native.label, file, network).numpy().astype(np.int16)
        label = label[(slice(None), *(slice(*ends) for ends in facts["bbox_used_for_cropping"]))]
        label = np.where((label == 0) & outside, np.int16(-1), label)
        own = self._sides(native, network)
        with running(f"{native.source}: nnunetv2 cannot resample its label map"):
            made = self.settings.resampling_fn_seg(label, list(shape), own, self._resampled_sides(own))
        return torch.as_tensor(made).clamp(min=0).to(torch.uint8)

    def _affine(self, native: NativeCase, file: str, facts: Mapping[str, Any], shape: Shape) -> pipeline.Affine:
        """Returns the affine of the prepared grid, whose outer edges are those of the crop."""
        made = turned_affine(native.affine, native.image.shape[1:], file, self.codes_of(file))
        scale = np.array(facts["shape_after_cropping_and_before_resampling"], np.float64) / np.array(shape, np.float64)
        first = [low for low, _ in facts["bbox_used_for_cropping"]]
        to_whole = np.diag([*scale, 1.0])
        to_whole[:3, 3] = first + (scale - 1) / 2
        return made @ to_whole

    def restore(self, facts: Facts, logits: Tensor, head: Outputs, is_merged: bool, with_probabilities: bool) -> Maps:
        """Restores logits by nnunetv2's export: resampled, made labels by its label manager, put back into the file,
        regions by `regions_class_order`. Of merged logits a region is where its own sigmoid is above one half. `facts`,
        `head`, `is_merged` and `with_probabilities` are those of `Pipeline.restore`."""
        export = _module("nnunetv2.inference.export_prediction")
        labels = self.labels
        is_sigmoid = head == "sigmoid"
        if is_merged:  # the first output of regions is a region, of classes the background
            numbers = range(1, len(logits) + is_sigmoid)
            meant = {str(k): [k, BESIDE] if is_sigmoid else k for k in numbers}
            labels = type(labels)({"background": 0, **meant}, [*numbers] if is_sigmoid else None)
        convert = partial(
            export.convert_predicted_logits_to_segmentation_with_correct_shape,
            *(logits, self.manager, self.settings, labels, dict(facts)),
        )
        needed = with_probabilities or (is_merged and is_sigmoid)
        probabilities = torch.zeros(0)
        with running("nnunetv2 cannot restore a prediction"):
            made = convert(return_probabilities=needed, num_threads_torch=torch.get_num_threads())
        if needed:
            made, likely = made
            probabilities = torch.as_tensor(likely)
        classes = torch.as_tensor(made)
        if is_merged and is_sigmoid:
            classes = codes_of(probabilities > 0.5)
        elif is_sigmoid:
            held = [np.atleast_1d(each) for each in labels.foreground_regions]
            codes = []
            for label in range(max(labels.all_labels) + 1):
                codes.append(code_of(k for k, each in enumerate(held, 1) if label in each))
            classes = torch.tensor(codes)[classes.long()]
        file = facts["codes"]
        reader = self._reader_codes(file)
        back = orient(classes[None].to(torch.uint8), reader, file)[0].contiguous()
        return back, orient(probabilities, reader, file) if with_probabilities else None


_SHAPES = "shape_before_cropping", "shape_after_cropping_and_before_resampling"


def _recording(cls: type[Any]) -> Any:
    """Returns nnunetv2's preprocessor, which also keeps its lines, and what lies outside of the crop's mask."""

    class Recording(cls):  # type: ignore[misc]
        lines: tuple[pipeline.Line | None, ...] = ()
        outside: Mask | None = None  # [1, *crop]

        def _normalize(self, data: pipeline.Volume, seg: npt.NDArray[np.int8], *rest: Any) -> pipeline.Volume:
            raw = data.copy()
            made: pipeline.Volume = super()._normalize(data, seg, *rest)
            self.lines = tuple(map(line_of, raw, made))
            self.outside = seg < 0
            return made

    return Recording(verbose=False)


def pipeline_of(
    path: str, plans: Facts, dataset: Facts, configuration: str, orientation: str | None, bounds: pipeline.Bounds | None
) -> NnunetPipeline:
    """Returns the pipeline of a folder's files.

    Args:
        path: the folder, for messages.
        plans: content of `plans.json`.
        dataset: content of `dataset.json`.
        configuration: name of one of the plans' configurations.
        orientation: three letters towards which images were turned before nnU-Net read them; None: as its reader does.
        bounds: those that the job states; None: by the pipeline's own rule.

    Raises UserError or CheckpointError for what nnunetv2 does not run.
    """
    where = f"{path}/plans.json"
    read = validate(dict(plans), _Plans, where)
    if sorted(read.transpose_forward) != [0, 1, 2]:
        raise UserError(f"{where}: transpose_forward: expected each of 0, 1, 2 once, got {read.transpose_forward}")
    if configuration not in read.configurations:
        raise UserError(f"{where}: {unknown('configuration', configuration, read.configurations)}")
    if read.image_reader_writer not in READERS and not orientation:
        advice = "give orientation if its images lay in files as NIfTI does, as in LPS"
        raise UserError(f"{where}: {unknown('image_reader_writer', read.image_reader_writer, READERS)}: {advice}")
    if "modality" in dataset:  # as older files call it
        dataset = {**dataset, "channel_names": dataset["modality"]}
    validate(dict(dataset), _Dataset, f"{path}/dataset.json")
    plans = {**plans, "transpose_backward": [*map(int, np.argsort(read.transpose_forward))]}
    files: Any = {"plans": plans, "dataset": dataset, "configuration": configuration}
    made = NnunetPipeline(release=release(), bounds=bounds, orientation=orientation, **files)
    with running(f"{where}: nnunetv2 cannot read it", CheckpointError):
        settings = made.settings
    if previous := settings.previous_stage_name:
        rest = f"which would have to be attacked with it: use 3d_fullres, or {previous} itself"
        raise UserError(f"{where}: {configuration} refines the prediction of {previous}, {rest}")
    stated = validate(settings.configuration, _Configuration, f"{where}: configurations.{configuration}")
    try:
        made.described  # noqa: B018 (finds code of one's own while it is trusted)
    except UserError as error:
        raise UserError(f"{path}/{error}") from None
    _check_labels(made, f"{path}/dataset.json")
    _check_channels(made, stated, where)
    return made


def _check_labels(made: NnunetPipeline, where: str) -> None:
    """Refuses labels that are no row of classes, or regions in an order of what are no labels."""
    with running(f"{where}: nnunetv2 cannot read it", CheckpointError):
        labels = made.labels
    known = [*map(int, labels.all_labels)]
    if labels.has_regions and not {*labels.regions_class_order} <= {*known}:
        wrong = f"expected some of the labels {known}, got {[*labels.regions_class_order]}"
        raise UserError(f"{where}: regions_class_order: {wrong}")
    if not labels.has_regions and known != [*range(len(known))]:
        got = f"got {made.dataset['labels']}"
        wrong = f"expected each name with one of 0..{len(known) - 1}, as nnU-Net v2 writes, {got}"
        raise UserError(f"{where}: labels: {wrong}")


def _check_channels(made: NnunetPipeline, stated: _Configuration, where: str) -> None:
    """Refuses settings of channels that are not one for each, and a clip of CT that is none."""
    schemes = stated.normalization_schemes
    per_channel: Mapping[str, Sequence[Any]] = {
        "normalization_schemes": schemes,
        "use_mask_for_norm": stated.use_mask_for_norm,
        "bounds": made.bounds or schemes,
    }
    for what, settings in per_channel.items():
        if len(settings) != made.num_channels:
            wanted = f"expected one for each of the {made.num_channels} channels"
            raise UserError(f"{where}: {what}: {wanted}, got {len(settings)}")
    for index, scheme in enumerate(schemes):
        if scheme == "CTNormalization":
            clip = dict(made.manager.foreground_intensity_properties_per_channel[str(index)])
            validate(clip, _Clip, f"{where}: foreground_intensity_properties_per_channel.{index}")
