"""Makes models from a checkpoint, a folder of another framework, or a network."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import PurePath
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from freqbench import models
from freqbench.api.case import AnyPath, PatientCase, _Arrays, path_of, require_name
from freqbench.attacks import Attack
from freqbench.core import config, names, plugins
from freqbench.core.config import Strict, Whole
from freqbench.core.errors import UserError, one_line, unknown
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import kind_of
from freqbench.data import Dataset
from freqbench.engine.worker import LRU, keeping_learned
from freqbench.job.cells import Cell
from freqbench.models import ModelEntry, ModelSpec, SegmentationModel, examination, facts_of, source_of
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import COMMAND, DEFAULT_INFERENCE, DEFAULT_INPUT, DEFAULT_ROI
from freqbench.models.inference import MOST_CLASSES
from freqbench.models.networks.construction import refusing
from freqbench.models.resolving import require_order
from freqbench.models.sources import kind_of_folder
from freqbench.models.sources.checkpoint import shown_channels
from freqbench.models.sources.source import Metadata

OF_A_MODULE = ("name", "roi", "input", "preprocess", "inference", "defence", "adaptive", "min_dice")


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A segmentation model, ready to be attacked; `load_model` makes it.

    Attributes:
        network: `[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI; in eval mode, on
            its device, its parameters without gradients.
        spec: all facts that its results depend on.
        trained: the space of its training, from the checkpoint; None: unknown.
        class_names: names of all classes, from the checkpoint, background first; empty: unknown.
    """

    network: SegmentationModel
    spec: ModelSpec
    trained: Preprocess | None = None
    class_names: tuple[str, ...] = ()
    _learned: LRU[Tensor] = field(default_factory=keeping_learned)

    def __repr__(self) -> str:
        spec, roi = self.spec, "x".join(map(str, self.spec.roi))
        shape = f"channels: {spec.num_channels}, classes: {spec.num_classes}, windows of {roi}"
        return f"<Model {spec.name}: {spec.arch}, {shape}, {self.network.precision} on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Device that the network computes on."""
        return next(self.network.parameters()).device

    def _on(self, dataset: Dataset) -> ModelSpec:
        """Returns the spec that a job would have on a dataset: without its own space if it equals the dataset's."""
        if isinstance(dataset, _Arrays):
            return replace(self.spec, space=None)
        if self.spec.space or self.trained is None or self.trained.identity() == dataset.space.identity():
            return self.spec
        return replace(self.spec, space=self.trained)

    def _fitted(self, case: "PatientCase") -> tuple[Dataset, ModelSpec]:
        """Returns the dataset of a case and the spec on it; raises a UserError if model and case do not match."""
        spec, dataset = self.spec, case._dataset_for(self.spec.num_classes)
        if len(case.image) != spec.num_channels:
            shape = ", ".join(map(str, case.image.shape))
            raise UserError(
                f"{spec.name}: expected images [{spec.num_channels}, H, W, D], got [{shape}] of {case.name}: give the "
                "channels that the model was trained on, or load_model(..., num_channels=...)"
            )
        if dataset.num_classes != spec.num_classes:
            raise UserError(
                f"{spec.name}: expected cases of {spec.num_classes} classes (background included), got "
                f"{dataset.num_classes} of {dataset.name}: give those that the model was trained on"
            )
        if spec.is_prompted:
            dataset.require_labels(spec.name, "from which its points are drawn")
        if case.label is not None and (highest := case.highest_label) >= spec.num_classes:
            raise UserError(
                f"{spec.name}: expected labels 0 to {spec.num_classes - 1} in {case.name}, got {highest}: map them to "
                "the model's classes"
            )
        require_order(spec.name, spec.checkpoint, self.class_names, dataset.class_names)
        return dataset, self._on(dataset)


class _Call(Strict):
    """Arguments of `load_model` that a model's entry in a job file does not have."""

    num_classes: Annotated[Whole, Field(ge=2, le=MOST_CLASSES)] | None
    num_channels: Annotated[Whole, Field(ge=1, le=MOST_CLASSES)] | None
    precision: str
    trust_code: bool


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
            freqbench wrote the checkpoint); folder of a MONAI bundle or of nnU-Net; or any network that maps `[1, C, h,
            w, d]` to logits `[1, K, h, w, d]`. A network is copied: further training does not change the model. A list
            of words is a command that segments the file `{image}` and writes `{labels}`; it needs trust_code.
        num_classes: number of classes, background included; None: from the file or the network's output.
        num_channels: channels of the volumes; None: from the file, else 1.
        device: `cpu`, `cuda`, `cuda:1`; None: the network's device; for a file, a GPU if there is one.
        precision: `fp32`, `tf32` or `bf16`.
        trust_code: allow commands, code of other packages and frozen models (`torchscript`, `torch_export`) to run.
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
    call = config.validate(asked, _Call, "load_model")
    num_classes, num_channels = call.num_classes, call.num_channels
    where = _device(device)
    if isinstance(source, nn.Module):
        return _of_network(source, num_classes, num_channels or 1, where, precision, settings)
    if not isinstance(source, str | PathLike | list | tuple):
        raise UserError(
            f"expected a path, URI, command or network, got {kind_of(source)}: give the network itself, with its "
            "weights, or a command as a list of words"
        )
    place = source if isinstance(source, list | tuple) else path_of(source, "load_model")
    where = where or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with plugins.trusting(trust_code or plugins.is_trusted()):
        entry = _entry(place, settings)
        # A command, or a file that brings its network, may state its classes only when it is asked with the rest.
        facts = facts_of(entry) if source_of(entry.reader).weights else None
        metadata = facts.metadata if facts else Metadata()
        if facts:
            num_classes, num_channels = num_classes or facts.num_classes, num_channels or facts.num_channels
            if not facts.is_own and (num_classes is None or num_channels is None):
                shown = shown_channels(facts)
                num_channels = num_channels or shown.in_channels
                num_classes = num_classes or (None if entry.class_map else shown.out_channels)
        if num_classes is None:
            path = (facts or entry).path
            raise UserError(f"{path}: expected num_classes (background included), which it does not state: give it")
        spec = models.resolve(entry, num_classes, num_channels or 1, metadata.preprocess, facts=facts)
        network = models.load(spec, where, precision)
    for note in spec.notes:
        warnings.warn(note, stacklevel=2)
    return Model(network=network, spec=spec, trained=metadata.preprocess, class_names=metadata.class_names or ())


def _device(given: str | torch.device | None) -> torch.device | None:
    """Returns a device of this machine; raises a UserError for another."""
    if given is None:
        return None
    try:
        device = torch.device(given)
    except (RuntimeError, TypeError, ValueError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device: expected cpu, cuda or cuda:N, got {one_line(repr(given)):.80}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device: expected one of this machine, got {device}, and torch finds {count} GPUs: take cpu")
    return device


def _entry(source: str | Sequence[str], settings: Mapping[str, Any]) -> ModelEntry:
    """Makes the entry of a job file for a command, checkpoint or folder, whose files tell its framework."""
    if not isinstance(source, str):
        name = PurePath(*map(str, source[:1])).stem or COMMAND
        return config.validate({"name": name, **settings, COMMAND: source}, ModelEntry, "load_model")
    arch, folder = settings.get("arch"), names.at_home(source)
    if not isinstance(arch, str | None):
        raise UserError(f"load_model: arch: expected a name, got {kind_of(arch)}: give it as text")
    arch = kind_of_folder(folder) if arch is None else arch
    place = {"bundle": source} if arch == "bundle" else {"checkpoint": source, "arch": arch}
    content = {"name": PurePath(source).stem, **settings, "arch": None, **place}
    return config.validate(content, ModelEntry, "load_model")


def _of_network(
    net: nn.Module,
    num_classes: int | None,
    num_channels: int,
    device: torch.device | None,
    precision: str,
    settings: Mapping[str, Any],
) -> Model:
    """Makes a model from a copy of a network; one window of zeros shows the shape of its logits."""
    name = settings.get("name", type(net).__name__)
    require_name(name)
    for key in settings:
        if key not in OF_A_MODULE:
            raise UserError(f"{name}: {unknown('key', key, OF_A_MODULE)}")
    if next(net.parameters(), None) is None:
        raise UserError(f"{name}: expected a network with parameters, found none: add one")
    entry = config.validate({"name": name, "checkpoint": "random", **settings}, ModelEntry, "load_model")
    roi, adapter = entry.roi or DEFAULT_ROI, entry.input or DEFAULT_INPUT
    inference = entry.inference or DEFAULT_INFERENCE
    device = device or next(net.parameters()).device
    with refusing(f"{name}: expected a network that can be copied", (Exception,)):
        net = copy.deepcopy(net).requires_grad_(False)
    checkpoints.check_sound(name, net.state_dict())
    network = SegmentationModel(net, roi, precision, False, adapter, inference, entry.defence, entry.adaptive)
    network.name = name
    network = network.to(device).eval()
    size = "x".join(map(str, (num_channels, *roi)))
    with torch.no_grad(), refusing(f"{name}: a window of {size} does not pass through it", (Exception,)):
        window = adapter.to_network(torch.zeros(1, num_channels, *roi, device=device))
        version = window._version
        logits = net(window)
    if window._version != version:
        raise UserError(
            f"{name}: expected a network that leaves its input as it is, got one that writes into it: copy it"
        )
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    sides = adapter.in_network_order(roi)
    if not isinstance(got, tuple) or len(got) != 5 or got[1] < 2 or (got[0], *got[2:]) != (1, *sides):
        raise UserError(
            f"{name}: expected logits of shape (1, K, {', '.join(map(str, sides))}) with 2 classes or more, got {got}: "
            "wrap the network so that it returns them"
        )
    if not logits.is_floating_point() or logits.layout != torch.strided:
        raise UserError(
            f"{name}: expected dense logits of floating-point numbers, got {logits.dtype}, {logits.layout}: return the "
            "scores of classes"
        )
    if num_classes not in (None, got[1]):
        raise UserError(
            f"{name}: expected {num_classes} output classes, got {got[1]}: leave num_classes out, or mend it"
        )
    inputs = adapter.to_network(examination.windows(num_channels, roi).to(device))
    findings = examination.examine(net, inputs, got[1])
    if findings.fault:
        raise UserError(f"{name}: {findings.fault}")
    network.net = examination.mended(net, findings.yields, findings.singly)
    notes = tuple(f"{name}: {note}" for note in findings.notes)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    spec = ModelSpec(
        name=name,
        arch=f"{type(net).__module__}:{type(net).__qualname__}",
        args={},
        roi=roi,
        num_classes=got[1],
        checkpoint="",
        checkpoint_sha256=checkpoints.state_sha256(net.state_dict()),
        num_channels=num_channels,
        input=adapter,
        space=entry.preprocess,
        inference=inference,
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=entry.min_dice,
        yields=findings.yields,
        singly=findings.singly,
        caution=findings.caution,
        notes=notes,
    )
    return Model(network=network, spec=spec)


def as_model(given: Model) -> Model:
    """Returns a model of `load_model`; raises a UserError for anything else."""
    if not isinstance(given, Model):
        raise UserError(f"expected a model of load_model, got {type(given).__name__}: load_model(network, roi=...)")
    return given


def cell_of(model: Model, dataset: Dataset, source: ModelSpec, made: Attack, seed: int | None) -> Cell:
    """Makes the cell that a job's grid would have for this attack."""
    precision = model.network.precision
    return Cell(
        dataset=dataset, source=source, targets=(source,), attack=made, seed=seed, precision=precision, compile=False
    )
