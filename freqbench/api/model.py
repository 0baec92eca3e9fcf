"""Makes models from a checkpoint, a folder of another framework, or a network."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from freqbench import models
from freqbench.api.case import PatientCase
from freqbench.api.given import Arguments, ArraysDataset, arguments, device_of
from freqbench.core import config, names, plugins
from freqbench.core.errors import UserError, unknown
from freqbench.core.files.kept import Kept
from freqbench.core.input_space import Preprocess
from freqbench.core.names import AnyPath
from freqbench.core.plugins import kind_of
from freqbench.core.types import CaseRef
from freqbench.data import Dataset, channel_names, witnesses
from freqbench.engine import witness
from freqbench.engine.learning import TENSORS
from freqbench.job import fit
from freqbench.models import ModelEntry, ModelSpec, SegmentationModel, facts_of, hub, source_of
from freqbench.models.defences.detectors import Detector
from freqbench.models.entry import COMMAND
from freqbench.models.examination import mend
from freqbench.models.loading import wrap_network
from freqbench.models.resolving import match_channels, require_order, resolve_network
from freqbench.models.sources import kind_of_folder
from freqbench.models.sources.checkpoint import shown_channels
from freqbench.models.sources.source import Metadata

OF_A_MODULE = (
    *("name", "roi", "input", "preprocess", "transforms", "channels", "bounds"),
    *("inference", "defence", "adaptive", "expected_dice", "predictions", "outputs"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A segmentation model, ready to be attacked; `load_model` makes it.

    Attributes:
        network: `[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI; in eval mode, on
            its device, its parameters without gradients.
        spec: all facts that its results depend on.
        trained: the space of its training, from the checkpoint; None: unknown.
        class_names: names of all classes, from the checkpoint, background first; empty: unknown.
        predictions: folder of the network's own predictions, held against its clean ones of a dataset's cases before
            the first use of one.
    """

    network: SegmentationModel
    spec: ModelSpec
    trained: Preprocess | None = None
    class_names: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    predictions: str | None = None
    _held: dict[str, None] = field(default_factory=dict)  # datasets whose predictions are the network's own
    _learned: Kept[Tensor] = field(default_factory=TENSORS.anew)
    _clean: dict[tuple[str, str], float] = field(default_factory=dict)  # of the cases that it was evaluated on

    def __repr__(self) -> str:
        spec = self.spec
        roi = "x".join(map(str, self.spec.roi))
        shape = f"channels: {spec.num_channels}, classes: {spec.num_classes}, windows of {roi}"
        return f"<Model {spec.name}: {spec.arch}, {shape}, {self.network.precision} on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Device that the network computes on."""
        return next(self.network.parameters()).device

    def _fit_case(self, case: "PatientCase") -> tuple[Dataset, ModelSpec]:
        """Returns a case's dataset and the spec on it without its own space; UserError if they do not match."""
        trained = self.trained
        spec = self.spec
        dataset = case._dataset_for(spec.num_classes)
        self._require_numbers(case, dataset)
        require_order(spec.name, spec.checkpoint, self.class_names, dataset.class_names)
        self._require_channels_in_order(channel_names(dataset))
        self._require_outputs_in_order(dataset, case.volume.ref)
        if isinstance(dataset, ArraysDataset):
            return dataset, replace(spec, space=None)
        if not (spec.space or trained is None or trained.identity() == dataset.space.identity()):
            spec = replace(spec, space=trained)
        if self.predictions and dataset.name not in self._held:
            self._require_own_predictions(self.predictions, dataset, spec)
        return dataset, spec

    def _require_numbers(self, case: "PatientCase", dataset: Dataset) -> None:
        """Refuses a case of other numbers of channels or classes, of another kind of classes, or of higher labels."""
        spec = self.spec
        classes = dataset.classes
        num_classes = spec.num_classes
        if len(case.image) != spec.num_channels:
            shape = ", ".join(map(str, case.image.shape))
            raise UserError(
                f"{spec.name}: expected images [{spec.num_channels}, H, W, D], got [{shape}] of {case.name}: give the "
                "channels that the model was trained on, or load_model(..., num_channels=...)"
            )
        if classes.head != spec.head:
            wanted = "exclusive classes" if classes.overlap else "regions, by the key regions of Case.from_file"
            raise UserError(
                f"{spec.name}: expected cases of {wanted}, as its outputs are {spec.head}, got others in {case.name}: "
                "fix regions of the case, or outputs of load_model"
            )
        if len(classes) != num_classes:
            raise UserError(
                f"{spec.name}: expected cases of {num_classes} classes (background included), got "
                f"{len(classes)} of {dataset.name}: give those that the model was trained on"
            )
        is_exclusive = case.label is not None and not classes.overlap
        if is_exclusive and (highest := case.highest_label) >= num_classes:
            raise UserError(
                f"{spec.name}: expected labels 0 to {num_classes - 1} in {case.name}, got {highest}: map them to "
                "the model's classes"
            )

    def _require_channels_in_order(self, given: tuple[str, ...]) -> None:
        """Refuses channels, by their names, that the network takes in another order."""
        spec = self.spec
        if bound := match_channels(spec.name, spec.checkpoint, self.channel_names, given, spec.space):
            raise UserError(
                f"{spec.name}: expected the channels in the network's order, got {', '.join(given)}: "
                f"load_model(..., channels={bound})"
            )

    def _require_outputs_in_order(self, dataset: Dataset, ref: CaseRef) -> None:
        """Refuses classes in another order than the outputs that a network's transforms make of a case's labels."""
        spec = self.spec
        outputs = None if spec.class_map else fit.matching(spec.name, spec.space, dataset, [ref])
        if outputs is None:
            return
        pairs, count, _ = outputs
        if any(pair != (k,) for k, pair in pairs.items()):
            found = {k: [*pair] for k, pair in pairs.items()}
            raise UserError(
                f"{spec.name}: expected the classes of {dataset.name} in the order of the outputs that its transforms "
                f"make of labels, got others: load_model(..., num_classes={spec.num_classes}, classes={count}, "
                f"class_map={found}), or give the classes in that order"
            )

    def _require_own_predictions(self, folder: str, dataset: Dataset, spec: ModelSpec) -> None:
        """Refuses a network whose clean predictions of a dataset are not those in a folder."""
        own = witnesses.find(folder, dataset, spec.name)
        held = [witness.hold(self.network, spec, dataset, ref, own.files[ref.case_id]) for ref in own.refs]
        if any(each.is_other for each in held):
            raise UserError(witness.verdict(spec.name, held))
        self._held[dataset.name] = None


def load_model(
    source: AnyPath | nn.Module | Sequence[str],
    *,
    num_classes: int | None = None,
    num_channels: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    trust_code: bool = False,
    **settings: Any,
) -> Model:
    """Makes a model from a checkpoint, a MONAI bundle, an nnU-Net folder, a command, or a network that you have.

    Args:
        source: `zoo://DATASET/NAME`, path or URI of a checkpoint, or `random` for untrained weights (give `arch` unless
            freqbench wrote the checkpoint); folder of a MONAI bundle or of nnU-Net; `hf://ORG/REPO/PATH@REVISION` or
            `monai://BUNDLE@VERSION`; or any network that maps `[1, C, h, w, d]` to logits `[1, K, h, w, d]`. A network
            is copied: further training does not change the model. A list of words is a command that segments the file
            `{image}` and writes `{labels}`; it needs trust_code.
        num_classes: number of classes, background included, also beside regions; None: from the file or the network's
            output.
        num_channels: channels of the volumes; None: from the file, else 1.
        device: `cpu`, `cuda`, `cuda:1`; None: the network's device; for a file, a GPU if there is one.
        precision: `fp32`, `tf32` or `bf16`.
        trust_code: allow commands and code of other packages to run.
        settings: other keys of a model's entry in a job file (`freqbench.models.ModelEntry`): `name`, `arch`, `args`,
            `roi` (voxels of a window, default 96x96x96 or as trained), `input` (intensities and axes that the network
            expects), `preprocess` (the space of its training), `inference` (its sliding window), `defence`, `adaptive`,
            `migration`, `timeout`, `format`. For a network: all but `arch`, `args`, `migration`, `timeout` and
            `format`.

    Raises:
        UserError: an unknown key, a missing device, a network that does not take its window, or a refusal of
            `freqbench.models.resolve`.
    """
    asked = {"num_classes": num_classes, "num_channels": num_channels, "precision": precision, "trust_code": trust_code}
    call = arguments("load_model", **asked)
    where = device_of(device)
    if isinstance(source, nn.Module):
        model = _wrap_network(source, call, where, settings)
    elif isinstance(source, str | PathLike | list | tuple):
        place = source if isinstance(source, list | tuple) else names.path_of(source, "load_model")
        with plugins.trusting(trust_code or plugins.is_trusted()):
            model = _load_files(_entry(place, settings), call, where)
    else:
        raise UserError(
            f"expected a path, URI, command or network, got {kind_of(source)}: give the network itself, with its "
            "weights, or a command as a list of words"
        )
    if isinstance(model.spec.defence, Detector):
        got = f"got {model.spec.defence.name}, a detector: give it to a model of a job"
        raise UserError(f"load_model: defence: expected one that learns from no clean volumes, {got}")
    for note in model.spec.notes:
        warnings.warn(note, stacklevel=2)
    return model


def _entry(source: str | Sequence[str], settings: dict[str, Any]) -> ModelEntry:
    """Makes the entry of a job file for a command, checkpoint or folder, whose files tell its framework."""
    if not isinstance(source, str):
        name = PurePath(*map(str, source[:1])).stem or COMMAND
        return config.validate({"name": name, **settings, COMMAND: source}, ModelEntry, "load_model")
    folder = hub.local(source) if source.startswith(hub.SCHEMES) else names.home_of(source)
    if not isinstance(arch := settings.get("arch"), str | None):
        raise UserError(f"load_model: arch: expected a name, got {kind_of(arch)}: give it as text")
    arch = kind_of_folder(folder) if arch is None else arch
    place = {"bundle": source} if arch == "bundle" else {"checkpoint": source, "arch": arch}
    return config.validate({"name": PurePath(source).stem, **settings, "arch": None, **place}, ModelEntry, "load_model")


def _load_files(entry: ModelEntry, call: Arguments, device: torch.device | None) -> Model:
    # A command, or a file that brings its network, may state its classes only when it is asked with the rest.
    facts = facts_of(entry) if source_of(entry.reader).weights else None
    metadata = facts.metadata if facts else Metadata()
    num_classes = call.num_classes
    num_channels = call.num_channels
    if facts:
        outputs = facts.num_classes
        num_channels = num_channels or facts.num_channels
        if (num_classes or outputs) is None or num_channels is None:
            shown = shown_channels(facts)
            num_channels = num_channels or shown.in_channels
            outputs = outputs or (None if entry.class_map else shown.out_channels)
        num_classes = num_classes or (outputs and outputs + (entry.head(facts.outputs) == "sigmoid"))
    if num_classes is None:
        path = (facts or entry).path
        raise UserError(f"{path}: expected num_classes (background included), which it does not state: give it")
    spec = models.resolve(entry, num_classes, num_channels or 1, metadata.preprocess, facts=facts)
    network = models.load(spec, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"), call.precision)
    named = facts.class_names if facts and entry.class_map is None else ()  # else they are the network's own
    channels = facts.channel_names if facts else ()
    of_model: dict[str, Any] = {"trained": metadata.preprocess, "class_names": named, "channel_names": channels}
    return Model(network=network, spec=spec, predictions=entry.predictions, **of_model)


def _wrap_network(net: nn.Module, call: Arguments, device: torch.device | None, settings: dict[str, Any]) -> Model:
    name = names.require_name(settings.get("name", type(net).__name__), "name")
    for key in settings:
        if key not in OF_A_MODULE:
            raise UserError(f"{name}: {unknown('key', key, OF_A_MODULE)}")
    entry = config.validate({"name": name, "checkpoint": "random", **settings}, ModelEntry, "load_model")
    spec, net = resolve_network(net, entry, call.num_classes, call.num_channels or 1, device)
    network = wrap_network(spec, net, precision=call.precision, adapter=spec.input).eval()
    network.net = mend(net, spec.yields, spec.singly, spec.head)
    return Model(network=network, spec=spec, predictions=entry.predictions)


def require_model(given: Model) -> Model:
    """Returns a model of `load_model`; raises a UserError for anything else."""
    if not isinstance(given, Model):
        raise UserError(f"expected a model of load_model, got {type(given).__name__}: load_model(network, roi=...)")
    return given
