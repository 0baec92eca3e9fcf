"""Attacks and scores models from Python: what `import freqbench as fb` offers.

Attacks run and are scored by the functions that `freqbench run` uses, so the numbers are the same, to the bit at equal
threads and `window_batch`. A mistake in what is given is a `freqbench.core.errors.UserError`, a ValueError of one line,
and is raised before anything is computed.
"""

import base64
import copy
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from html import escape
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from freqbench import models
from freqbench.attacks import Attack, attack_class
from freqbench.core import config, names, plugins, storage, types
from freqbench.core.errors import UserError, unknown
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import CaseRef, Spacing
from freqbench.data import Dataset, NativeCase, attacked_native, nifti
from freqbench.data.loaders.folder import Entry, ListedFolder
from freqbench.data.spaces import in_spaces
from freqbench.engine import evaluate as engine
from freqbench.engine import memory, rows, saved_volumes
from freqbench.engine.evaluate import AttackedVolume
from freqbench.engine.worker import INFERENCE_WINDOWS
from freqbench.exchange.adversarial_volumes import Imported
from freqbench.job.grid import COUPLED_WINDOWS, Cell, Unit
from freqbench.job.outline import DEFAULT_METRICS
from freqbench.job.schema import attack_of, build_dataset
from freqbench.metrics import LpipsUnavailable, Scores, prepare_lpips, voxel_success
from freqbench.metrics.volumes import Volume, as_tensor, channels_of, require_classes, require_same_shape
from freqbench.models import READERS, ModelEntry, ModelSpec, Prediction, SegmentationModel
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints.record import require_order
from freqbench.models.networks.architectures import refusing
from freqbench.models.resolve import DEFAULT_ROI, examined
from freqbench.models.settings import DEFAULT_INFERENCE, DEFAULT_INPUT
from freqbench.models.spec import FROZEN
from freqbench.results import RECORDS
from freqbench.results.volumes import SUFFIX

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

AnyPath = str | PathLike[str]
MOST_CLASSES = 256  # that a label map in uint8 can tell apart
DOTS = 144  # an inch of a picture in a notebook
OF_A_NETWORK = ("name", "roi", "input", "preprocess", "inference", "defence", "adaptive")


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A segmentation model that is ready to be attacked; `load_model` makes it.

    Attributes:
        network: `[B, C, h, w, d]` in [0, 1] to logits `[B, K, h, w, d]`, for windows up to the ROI; in eval mode, on
            its device, its parameters without gradients.
        spec: all that its results depend on.
        trained: the space that its checkpoint says it was trained in; None: it does not say.
        class_names: likewise, background first; empty: it does not say.
    """

    network: SegmentationModel
    spec: ModelSpec
    trained: Preprocess | None = None
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        spec, roi = self.spec, "x".join(map(str, self.spec.roi))
        shape = f"channels: {spec.num_channels}, classes: {spec.num_classes}, windows of {roi}"
        return f"<Model {spec.name}: {spec.arch}, {shape}, {self.network.precision} on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    def _on(self, dataset: Dataset) -> ModelSpec:
        """The spec that a job would have on a dataset: without a space of its own where that is the dataset's."""
        if isinstance(dataset, _Arrays):
            return replace(self.spec, space=None)
        if self.spec.space or self.trained is None or self.trained.identity() == dataset.space.identity():
            return self.spec
        return replace(self.spec, space=self.trained)

    def _fitted(self, case: "Case") -> tuple[Dataset, ModelSpec]:
        """The dataset of a case and the spec on it; a UserError where model and case do not fit each other."""
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
        if (highest := int(case.label.max())) >= spec.num_classes:
            raise UserError(
                f"{spec.name}: expected labels 0 to {spec.num_classes - 1} in {case.name}, got {highest}: map them to "
                "the model's classes"
            )
        require_order(spec.name, spec.checkpoint, self.class_names, dataset.class_names)
        return dataset, self._on(dataset)


def load_model(
    source: AnyPath | nn.Module,
    *,
    num_classes: int | None = None,
    num_channels: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    trust_code: bool = False,
    **settings: Any,
) -> Model:
    """A model from a checkpoint, a MONAI bundle, an nnU-Net folder, or a network that you have already.

    Args:
        source: `zoo://DATASET/NAME`, path or URI of a checkpoint, or `random` for untrained weights (give `arch` unless
            freqbench wrote the checkpoint); folder of a MONAI bundle or of nnU-Net; or any network that maps `[1, C, h,
            w, d]` to logits `[1, K, h, w, d]`. Of a network a copy is taken: training it further changes nothing here.
        num_classes: background included; None: as the file says, or as the network's output has.
        num_channels: of the volumes; None: as the file says, else 1.
        device: `cpu`, `cuda`, `cuda:1`; None: where the network is, of a file a GPU if there is one.
        precision: `fp32`, `tf32` or `bf16`.
        trust_code: code of other packages and of frozen models (`torchscript`, `torch_export`) may run.
        settings: what else the model's entry in a job file may hold (`freqbench.models.ModelEntry`): `name`, `arch`,
            `args`, `roi` (voxels of a window, default 96x96x96 or as trained), `input` (how the network wants its
            intensities and axes), `preprocess` (the space that it was trained in), `inference` (its sliding window),
            `defence`, `adaptive`, `migration`. Of a network: all but `arch`, `args` and `migration`.

    Raises:
        UserError: a key that is not known, a device that is not there, a network that does not take its window, or
            what `freqbench.models.resolve` refuses.
    """
    where = _device(device)
    if isinstance(source, nn.Module):
        return _of_network(source, num_classes, num_channels or 1, where, precision, settings)
    where = where or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with plugins.trusting(trust_code or plugins.is_trusted()):
        entry = _entry(fspath(source), settings)
        path, arch, trained, is_own = examined(entry)
        if arch in READERS and arch not in FROZEN and storage.is_local(path):
            found = READERS[arch].describe(storage.local_path(path), entry.args)
            num_classes, num_channels = num_classes or found.num_classes, num_channels or found.num_channels
        elif is_own:
            num_classes = num_classes or checkpoints.read_metadata(path).get("num_classes")
        if not isinstance(num_classes, int):
            raise UserError(
                f"{source}: expected num_classes (background included), as the file does not say it: give it"
            )
        class_names = trained.class_names or ()
        spec = models.resolve(entry, num_classes, num_channels or 1, trained.preprocess, class_names)
        network = models.load(spec, where, precision)
    return Model(network=network, spec=spec, trained=trained.preprocess, class_names=class_names)


def _device(given: str | torch.device | None) -> torch.device | None:
    """A device of this machine; a UserError for another."""
    if given is None:
        return None
    try:
        device = torch.device(given)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda or cuda:N, got {given!r}") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device: expected one of this machine, got {device}, and torch finds {count} GPUs: take cpu")
    return device


def _entry(source: str, settings: Mapping[str, Any]) -> ModelEntry:
    """The entry of a job file for a checkpoint or folder; what lies in a folder says whose it is."""
    arch, folder = settings.get("arch"), names.at_home(source)
    if arch is None and (folder / "configs").is_dir():
        arch = "bundle"
    elif arch is None and (folder / "plans.json").is_file():
        arch = "nnunet"
    own = {"bundle": source} if arch == "bundle" else {"checkpoint": source, "arch": arch}
    content = {"name": PurePath(source).stem, **settings, "arch": None, **own}
    return config.validate(content, ModelEntry, "load_model")


def _of_network(
    net: nn.Module,
    num_classes: int | None,
    num_channels: int,
    device: torch.device | None,
    precision: str,
    settings: Mapping[str, Any],
) -> Model:
    """A copy of a network that somebody else made; one window of zeros shows what it returns."""
    name = settings.get("name", type(net).__name__)
    for key in settings:
        if key not in OF_A_NETWORK:
            raise UserError(f"{name}: {unknown('key', key, OF_A_NETWORK)}")
    if next(net.parameters(), None) is None:
        raise UserError(f"{name}: expected a network with parameters, found none: add one")
    entry = config.validate({"name": name, "checkpoint": "random", **settings}, ModelEntry, "load_model")
    roi, adapter = entry.roi or DEFAULT_ROI, entry.input or DEFAULT_INPUT
    inference = entry.inference or DEFAULT_INFERENCE
    device = device or next(net.parameters()).device
    net = copy.deepcopy(net).requires_grad_(False)
    network = SegmentationModel(net, roi, precision, False, adapter, inference, entry.defence, entry.adaptive)
    network = network.to(device).eval()
    size = "x".join(map(str, (num_channels, *roi)))
    with torch.inference_mode(), refusing(f"{name}: a window of {size} does not pass through it", (Exception,)):
        logits = net(adapter.to_network(torch.zeros(1, num_channels, *roi, device=device)))
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    own = adapter.in_network_order(roi)
    if not isinstance(got, tuple) or len(got) != 5 or got[1] < 2 or (got[0], *got[2:]) != (1, *own):
        raise UserError(
            f"{name}: expected logits of shape (1, K, {', '.join(map(str, own))}) with 2 classes or more, got {got}: "
            "wrap the network so that it returns them"
        )
    if num_classes not in (None, got[1]):
        raise UserError(
            f"{name}: expected {num_classes} output classes, got {got[1]}: leave num_classes out, or mend it"
        )
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
    )
    return Model(network=network, spec=spec)


class Case:
    """One patient volume with its label map, as a model sees it.

    Arrays are taken as they are: on the grid and with the intensities that the model was trained on. Files are in
    neither, so they have a constructor of their own, `from_nifti`, that takes the keys of preprocessing beside them.

    Args:
        image: `[H, W, D]` or `[C, H, W, D]` in [0, 1], an array or tensor; a batch axis of length 1 is taken, too.
        label: `[H, W, D]` of integers, 0 is background; leading axes of length 1 are taken, too.
        spacing: millimetres a voxel along H, W and D; None: those of the affine, without one 1 mm.
        affine: voxel to world millimetres (RAS+), `[4, 4]`; None: the spacing along the axes.
        class_names: background first; empty: as many as the model has, without names.
        name: what results call the case.

    Raises:
        UserError: shapes that differ, an image outside [0, 1], labels that are no classes.
    """

    volume: types.Case
    class_names: tuple[str, ...]
    dataset: Dataset | None

    def __init__(
        self,
        image: Volume,
        label: Volume,
        spacing: Sequence[float] | None = None,
        *,
        affine: npt.NDArray[Any] | None = None,
        class_names: Sequence[str] = (),
        name: str = "case",
    ) -> None:
        voxels, classes = channels_of(_plain(image)), as_tensor(_plain(label))
        require_same_shape(tuple(voxels.shape[1:]), tuple(classes.shape))
        low, high = map(float, voxels.aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{name}: expected an image in [0, 1], got [{low:.4g}, {high:.4g}]: scale it as the model was trained "
                "on, or read files by Case.from_nifti with `intensity`"
            )
        require_classes(classes, len(class_names) or MOST_CLASSES)
        grid, steps = _grid(name, spacing, affine)
        stored = {"image": voxels.to(torch.float32).clone(), "label": classes.to(torch.uint8).clone()[None]}
        h, w, d = classes.shape
        fingerprint = digest([checkpoints.state_sha256(stored)])
        self.volume = types.Case(
            ref=CaseRef(case_id=name, patient_id=name, fingerprint=fingerprint, shape=(h, w, d)),
            **stored,
            spacing=steps,
            affine=grid,
            native_ranges=((0.0, 1.0),) * len(voxels),
            original_spacing=steps,
        )
        self.class_names, self.dataset = tuple(class_names), None

    @classmethod
    def from_nifti(
        cls,
        image: AnyPath | Sequence[AnyPath],
        label: AnyPath,
        *,
        labels: int | Sequence[str] | None = None,
        **space: Any,
    ) -> "Case":
        """A case from its NIfTI files, prepared as those of a job's dataset are.

        Args:
            image: a path or URI, or one a channel; channels may also lie along the file's fourth axis.
            label: of the label map on the same grid.
            labels: names of all classes, background first, or how many; None: as many as the model has.
            space: the keys of `freqbench.core.input_space.Preprocess`: `spacing` in millimetres, `intensity` (default:
                percentiles 0.5 to 99.5, for MR; `{"window": [-175, 250]}` for CT), `crop_foreground`, `size`, `pad_to`,
                `resampling`.

        Raises:
            UserError: a key that is not known, or files that are not what they must be.
        """
        images = tuple(fspath(path) for path in ([image] if isinstance(image, str | PathLike) else image))
        files = {"image": images, "label_map": fspath(label), "labels": labels or MOST_CLASSES}
        content = {"name": nifti.stem(images[0]), "root": "", **files, **space}
        dataset = config.validate(content, _Files, "from_nifti")
        case = Cases(dataset)[0]
        return case if labels else case._of(case.volume, dataset, ())

    @classmethod
    def _of(cls, volume: types.Case, dataset: Dataset, class_names: tuple[str, ...]) -> "Case":
        """A case of a dataset, read."""
        case = cls.__new__(cls)
        case.volume, case.dataset, case.class_names = volume, dataset, class_names
        return case

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image.shape))
        sides = " x ".join(f"{step:g}" for step in self.spacing)
        return f"<Case {self.name}: {shape} voxels of {sides} mm, labels 0 to {int(self.label.max())}>"

    @property
    def name(self) -> str:
        """What results call it."""
        return self.volume.ref.case_id

    @property
    def image(self) -> Tensor:
        """float32 `[C, H, W, D]` in [0, 1]."""
        return self.volume.image

    @property
    def label(self) -> Tensor:
        """uint8 `[1, H, W, D]`, 0 is background."""
        return self.volume.label

    @property
    def spacing(self) -> Spacing:
        """Millimetres a voxel."""
        return self.volume.spacing

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Voxel to world millimetres (RAS+), `[4, 4]`."""
        return self.volume.affine

    def _dataset_for(self, num_classes: int) -> Dataset:
        """What the case belongs to, of so many classes where nobody says what the classes are."""
        if self.dataset is None:
            labels = self.class_names or num_classes
            return _Arrays(name=self.name, labels=labels, channels=len(self.image))
        return self.dataset if self.class_names else self.dataset.model_copy(update={"labels": num_classes})

    def _in(self, dataset: Dataset, space: Preprocess | None) -> types.Case:
        """The case in the space of a model; None: its dataset's."""
        return self.volume if space is None else dataset.load(self.volume.ref, space)


def _plain(volume: Volume) -> Tensor:
    """A tensor on the CPU, of an array in any byte order and of any stride too, or of MONAI's MetaTensor."""
    if isinstance(volume, np.ndarray):  # torch lacks most of what can be done with unsigned integers
        known = {"f": np.float32, "i": np.int64, "u": np.int64}
        volume = np.ascontiguousarray(volume, known.get(volume.dtype.kind))
    return torch.as_tensor(volume).as_subclass(Tensor).cpu()


def _grid(
    name: str, spacing: Sequence[float] | None, affine: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.float64], Spacing]:
    """Affine and spacing of a case, of which either may be missing; a UserError where they cannot be."""
    if affine is None:
        steps = np.array((1.0, 1.0, 1.0) if spacing is None else spacing, np.float64)
        grid = np.diag([*steps.ravel(), 1.0])
    else:
        grid = np.array(affine, np.float64)
        steps = np.linalg.norm(grid[:3, :3], axis=0) if spacing is None else np.array(spacing, np.float64)
    if grid.shape != (4, 4) or steps.shape != (3,) or not ((steps > 0) & (steps < np.inf)).all():
        got = f"{steps.tolist()} and an affine {grid.shape}"
        raise UserError(f"{name}: expected a spacing of three positive lengths in mm and an affine (4, 4), got {got}")
    h, w, d = steps.tolist()
    return grid, (h, w, d)


def _as_case(given: Case | Sequence[Any]) -> Case:
    """A case, also from a tuple with what `Case` takes."""
    if isinstance(given, Case):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return Case(*given)
    raise UserError(
        f"expected a Case or (image, label[, spacing]), got {type(given).__name__}: give the label map, too"
    )


class _Arrays(Dataset):
    """What a case of arrays belongs to."""

    loader: ClassVar[str] = "arrays"

    labels: int | tuple[str, ...]
    channels: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.labels if isinstance(self.labels, tuple) else tuple(f"class {k}" for k in range(self.labels))

    @property
    def num_channels(self) -> int:
        return self.channels

    def recipe(self) -> dict[str, Any]:
        return {"loader": self.loader, "labels": self.class_names}

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        return ()

    def native(self, ref: CaseRef) -> NativeCase:
        raise UserError(f"{self.name}: expected files, got arrays: give the files, by Case.from_nifti")


class _Files(ListedFolder):
    """What a case of files belongs to: it is the only one."""

    loader: ClassVar[str] = "files"

    image: tuple[str, ...]
    label_map: str

    def splits(self) -> Mapping[str, Sequence[Any]]:
        return {self.split: [self.name]}

    def _source(self) -> str:
        return self.image[0]

    def _listed_class_names(self) -> tuple[str, ...]:
        return ()

    def _case_id(self, line: Any) -> str:
        return str(line)

    def _parsed(self, line: Any) -> Entry:
        return Entry(str(line), str(line), self.image[0], self.label_map, further=self.image[1:])


class Cases(Sequence[Case]):
    """The cases of a dataset; each is read when it is asked for, by its place or a slice.

    Attributes:
        dataset: what they come from.
    """

    def __init__(self, dataset: Dataset, refs: tuple[CaseRef, ...] | None = None) -> None:
        self.dataset = dataset
        self._refs = dataset.refs() if refs is None else refs

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"<Cases of {self.dataset.name}, {self.dataset.split}: {', '.join(ref.case_id for ref in self._refs)}>"

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> "Cases": ...
    def __getitem__(self, index: int | slice) -> "Case | Cases":
        if isinstance(index, slice):
            return Cases(self.dataset, self._refs[index])
        return Case._of(self.dataset.load(self._refs[index]), self.dataset, self.dataset.class_names)


def load_dataset(loader: str | type[Dataset], **keys: Any) -> Cases:
    """The cases of a dataset, as a sequence that reads each when it is asked for.

    Args:
        loader: a name of `freqbench.data.DATASETS` (`phantom`, `decathlon`, `msd`, `nnunet_raw`, ...), or a class.
        keys: what the dataset's entry in a job file may hold: `split`, `cases` (how many, or which), and the loader's
            own, such as `root`, `spacing` and `intensity`; `name` is what results call it, by default the loader.

    Raises:
        UserError: a loader or key that is not known, or data that is missing or damaged.
    """
    keys = {key: fspath(value) if isinstance(value, PathLike) else value for key, value in keys.items()}
    if not isinstance(loader, str):
        return Cases(config.validate({"name": loader.loader, **keys}, loader, "load_dataset"))
    _require_class(loader)
    return Cases(build_dataset({"name": loader, "loader": loader, **keys}, "load_dataset"))


def _require_class(name: str) -> None:
    """Refuse the path of a class, which would run whatever stands there."""
    if plugins.names_class(name) and not plugins.is_trusted():
        raise UserError(f"{name}: expected a name or a class, got the path of a class: import it, and give the class")


@dataclass(frozen=True, kw_only=True)
class _View:
    """What a model sees of a result, and what it predicts."""

    target: ModelSpec
    case: types.Case
    error: float | None  # of resampling, where the model has another space than the source
    before: Prediction
    after: Prediction


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """What an attack made of a case.

    Attributes:
        model: that was attacked.
        case: that was given.
        volume: the case as the model saw it: in the model's own space, if it has one.
        cell: dataset, attack with all its parameters, and seed, as a job's grid has them.
        attacked: the volume and the passes that it took.
        measured: columns of a record that tell of this execution.
    """

    model: Model
    case: Case
    volume: types.Case
    cell: Cell
    attacked: AttackedVolume
    measured: Mapping[str, Any]
    _views: dict[Model, _View] = field(default_factory=dict)
    _scores: dict[tuple[str, ...], Scores] = field(default_factory=dict)

    @property
    def adversarial(self) -> Tensor:
        """float32 `[C, H, W, D]` in [0, 1], on the CPU."""
        return self.attacked.adversarial

    @property
    def clean(self) -> Tensor:
        """The volume before, likewise."""
        return self.volume.image

    @property
    def label(self) -> Tensor:
        """uint8 `[1, H, W, D]`."""
        return self.volume.label

    @property
    def spacing(self) -> Spacing:
        """Millimetres a voxel."""
        return self.volume.spacing

    @cached_property
    def losses(self) -> Tensor:
        """The objective before each step, `[steps, N]`: a column a window, or a batch of windows that are coupled; NaN
        for steps that were not taken. Without rows where the attack follows no gradient."""
        parts = [part if part.ndim == 2 else part[:, None] for part in self.attacked.losses]
        columns = [column for part in parts for column in part.unbind(1)]
        return pad_sequence(columns, padding_value=float("nan")) if columns else torch.zeros(0, 0)

    @property
    def num_forwards(self) -> int | None:
        """Forward passes of the network over all windows; None where the volume was made elsewhere."""
        return self.attacked.num_forwards

    @property
    def num_backwards(self) -> int | None:
        """Backward passes, likewise."""
        return self.attacked.num_backwards

    @property
    def prediction_clean(self) -> Tensor:
        """The label map that the model predicts on the clean volume, uint8 `[H, W, D]`; computed once, if asked for."""
        return self._seen_by(self.model).before.labels

    @property
    def prediction(self) -> Tensor:
        """The same on the adversarial volume."""
        return self._seen_by(self.model).after.labels

    def figure(self) -> "Figure":
        """Clean, adversarial, change, label and both predictions, in three planes at the slice that changed most."""
        from freqbench.reporting.figures.case_volumes import turned
        from freqbench.reporting.figures.cases import in_full
        from freqbench.reporting.figures.style import styled

        name = self.model.spec.name
        predictions = {name: (self.prediction_clean.numpy(), self.prediction.numpy())}
        volumes = self.clean.numpy(), self.adversarial.numpy(), self.label[0].numpy()
        with styled():
            shown = turned(*volumes, predictions, self.volume.affine)
            figure = in_full(shown, name, self._title, dict(enumerate(self.cell.dataset.class_names)))
        figure.set_dpi(DOTS)
        return figure

    def show(self) -> None:
        """Show `figure` in the notebook, or in a window; without a screen take `figure().savefig("case.png")`."""
        import matplotlib.pyplot as plt

        figure = self.figure()
        plt.figure(FigureClass=lambda **_: figure)  # pyplot knows only the figures that it makes
        plt.show()

    def save(self, path: AnyPath) -> None:
        """Write the adversarial volume as `.nii.gz`, whole or not at all, to a path or URI.

        Of a case from files the perturbation is carried back to the file's own grid and unit, as `freqbench export`
        does it (in float32, nothing is rounded); of arrays the volume is written as it is, with the case's affine.
        """
        if not fspath(path).endswith(SUFFIX):
            raise UserError(f"{path}: expected a name that ends in {SUFFIX}: rename it")
        image, affine = self.adversarial, self.volume.affine
        if self.case.dataset is not None:
            native = self.cell.dataset.native(self.volume.ref)
            image, affine = attacked_native(native, self.volume, image).image, native.affine
        saved_volumes.write(fspath(path), image, affine)

    def __repr__(self) -> str:
        change = (self.adversarial - self.clean).abs().max()
        passes = f"{self.num_forwards} forward and {self.num_backwards} backward passes"
        return f"<Result {self._title}: {passes}, largest change {float(change):.4f}>"

    def _repr_html_(self) -> str:
        from freqbench.reporting.figures.style import styled

        picture = io.BytesIO()
        with styled():
            self.figure().savefig(picture, format="png", dpi=DOTS)
        source = base64.b64encode(picture.getvalue()).decode()
        return f'<p>{escape(repr(self))}</p><img alt="{escape(self._title)}" src="data:image/png;base64,{source}">'

    @property
    def _title(self) -> str:
        import pandas as pd

        from freqbench.analysis.labels import attack_labels

        (attack,) = attack_labels(pd.DataFrame([rows.cell_columns(self.cell)]))
        return f"{attack} on {self.model.spec.name}, case {self.case.name}"

    def _seen_by(self, model: Model) -> _View:
        """What a model sees and predicts; computed once."""
        if model not in self._views:
            dataset, target = model._fitted(self.case)
            own = self.cell.source.space
            adversarial, error = in_spaces(dataset, self.volume, self.adversarial, own)(target.space)
            volume = self.volume if error is None else self.case._in(dataset, target.space)
            before, after = (_predicted(model, image, volume.ref) for image in (volume.image, adversarial))
            self._views[model] = _View(target=target, case=volume, error=error, before=before, after=after)
        return self._views[model]

    def _distances(self, metrics: tuple[str, ...]) -> Scores:
        """How far the volume is from the clean one; computed once."""
        if metrics not in self._scores:
            unavailable = {}
            if "lpips" in metrics:
                try:
                    prepare_lpips()
                except LpipsUnavailable as error:
                    unavailable = {"lpips": str(error)}
            roi, device = self.cell.source.roi, self.model.device
            scores = engine.score_volume(self.volume, self.adversarial, metrics, roi, device, unavailable)
            self._scores[metrics] = scores
        return self._scores[metrics]


def _predicted(model: Model, image: Tensor, ref: CaseRef) -> Prediction:
    def predict(windows: int) -> Prediction:
        return models.prediction(model.network, image, windows, ref.fingerprint)

    return memory.within_memory(predict, INFERENCE_WINDOWS)[0]


def attack(
    model: Model,
    case: Case | Sequence[Any],
    name: str | type[Attack],
    *,
    seed: int = 0,
    window_batch: int | None = None,
    **parameters: Any,
) -> Result:
    """Attack a case, window by window, or with `scope="volume"` as one through the model's sliding window.

    Args:
        model: from `load_model`; its gradients are followed.
        case: a Case, or a tuple `(image, label)` or `(image, label, spacing)` of arrays or tensors, see Case.
        name: of `freqbench.attacks.ATTACKS` (`pgd`, `vafa`, `sa2`, ...), or a class of your own.
        seed: of the draws, for attacks that draw.
        window_batch: windows attacked at once. None: as `window_batch: auto` of a job, 1 on a CPU, as many as its
            memory holds on a GPU, and 4 for attacks that couple the windows of a batch.
        parameters: of the attack, as in a job file; budgets such as `eps` are on the [0, 1] intensity scale, as a
            number or as `"8/255"`.

    Raises:
        UserError: an attack or parameter that is not known, a value out of its range, or a case that does not fit the
            model.
    """
    model, case = _as_model(model), _as_case(case)
    if window_batch is not None and window_batch < 1:
        raise UserError(f"window_batch: expected at least 1, got {window_batch}: leave it out")
    if isinstance(name, str):
        _require_class(name)
        name = attack_class(names.ALIASES["attacks"].get(name, name))
    dataset, source = model._fitted(case)
    made = attack_of(name, parameters, dataset, name.name)
    cell = _cell(model, dataset, source, made, seed if made.is_stochastic else None)
    if made.couples_batch:
        cell = replace(cell, window_batch=window_batch or COUPLED_WINDOWS)
    volume, reference = case._in(dataset, source.space), None
    if made.needs_reference:
        reference = dataset.load(dataset.other(volume.ref, cell.seed or 0), source.space)
    started = time.perf_counter()
    run = partial(engine.attack_case, made, model.network, volume, cell.seed, reference=reference)
    if cell.window_batch is None:
        wanted = window_batch or memory.fitting_windows(made, model.network, volume, 1.0)
        attacked, window_batch = memory.within_memory(run, wanted, memory.hint_for(made))
    else:
        attacked, window_batch = memory.at_once(run, cell.window_batch), cell.window_batch
    seconds = time.perf_counter() - started
    measured = {"attack_seconds": seconds, "window_batch": window_batch, "threads": torch.get_num_threads()}
    return Result(model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured=measured)


def _as_model(given: Model) -> Model:
    if not isinstance(given, Model):
        raise UserError(f"expected a model of load_model, got {type(given).__name__}: load_model(network, roi=...)")
    return given


def _cell(model: Model, dataset: Dataset, source: ModelSpec, made: Attack, seed: int | None) -> Cell:
    about: dict[str, Any] = {"precision": model.network.precision, "compile": False, "targets": (source,)}
    return Cell(dataset=dataset, source=source, attack=made, seed=seed, **about)


class Record(dict[str, Any]):
    """The columns of a record by their names, as `freqbench.results.schema` documents them; None: not asked for.

    Attributes:
        classes: one mapping a class, the columns of a class record.
    """

    def __init__(self, columns: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(columns)
        self.classes = tuple(classes)

    def __repr__(self) -> str:
        return self._table().drop(columns="meaning").to_string(index=False)

    def _repr_html_(self) -> str:
        return self._table().to_html(index=False)

    def _table(self) -> "pd.DataFrame":
        """The results alone, a row each."""
        import pandas as pd

        scores = [each for each in RECORDS if each.mark == "result" and isinstance(self[each.name], int | float)]
        values = [(each.name, f"{self[each.name]:.6g}", each.unit, each.direction, each.meaning) for each in scores]
        return pd.DataFrame(values, columns=["column", "value", "unit", "better", "meaning"])


def evaluate(
    model: Model,
    case: Case | Sequence[Any],
    result: Result | Volume,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> Record:
    """Score an adversarial volume on a model: the one that was attacked (white-box), or any other (transfer).

    Args:
        model: from `load_model`; its predictions are scored.
        case: that was attacked.
        result: of `attack`; or a volume that other code made, `[C, H, W, D]` in [0, 1] on the case's grid.
        metrics: names of `freqbench.metrics.METRICS`: `dsc`, `hd95`, `ssim`, `psnr`, `lpips`.

    Raises:
        UserError: a metric that is not known, a model that the case does not fit, a volume of another case, of another
            shape, or outside [0, 1].
    """
    model, case = _as_model(model), _as_case(case)
    for metric in metrics:
        names.known("metrics", "metric", metric)
    model._fitted(case)
    made = result if isinstance(result, Result) else _brought_in(model, case, result)
    if made.volume.ref != case.volume.ref:
        raise UserError(f"expected the case that was attacked, {made.case.name}, got {case.name}: give that one")
    started = time.perf_counter()
    wanted, cell = tuple(metrics), made.cell
    seen = made._seen_by(model)
    label, num_classes = seen.case.label[0], cell.dataset.num_classes
    before, after = (
        engine.score_prediction(prediction.labels, label, num_classes, seen.case.spacing, wanted)
        for prediction in (seen.before, seen.after)
    )
    certified, certified_clean = (
        engine.score_certificate(prediction, label, num_classes) for prediction in (seen.after, seen.before)
    )
    clean = engine.as_clean(engine.PredictionScores(record=certified_clean, classes=())).record
    facts = {
        "voxel_success": voxel_success(seen.before.labels, seen.after.labels),
        "resampling_error": seen.error,
        **certified,
        **clean,
    }
    volume = made._distances(wanted)
    measured = {
        **made.measured,
        **{name: getattr(made.attacked, name) for name in engine.PASSES},
        "finished_at": datetime.now(UTC),
        "score_seconds": time.perf_counter() - started,
        "device": str(model.device),
    }
    unit = Unit(cell=replace(cell, targets=(seen.target,)), ref=made.volume.ref, targets=(seen.target,))
    parts = (*map(engine.as_clean, before), *after)
    outcome = rows.scored(unit, made.volume, volume, [parts], [facts], wanted, measured)
    return Record(outcome.records[0], outcome.class_records[0])


def _brought_in(model: Model, case: Case, given: Volume) -> Result:
    """A result for a volume that other code made."""
    dataset, source = model._fitted(case)
    volume = case._in(dataset, source.space)
    adversarial = channels_of(_plain(given)).to(torch.float32)
    require_same_shape(tuple(volume.image.shape), tuple(adversarial.shape))
    low, high = map(float, adversarial.aminmax())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{case.name}: expected a volume in [0, 1], got [{low:.4g}, {high:.4g}]: scale it as the case is"
        )
    imported = Imported(label="given", content=digest([checkpoints.state_sha256({"adversarial": adversarial})]))
    attacked = AttackedVolume(adversarial=adversarial, num_windows=None, num_forwards=None, num_backwards=None)
    cell = _cell(model, dataset, source, imported, None)
    return Result(model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured={})


def load_results(out: AnyPath) -> "pd.DataFrame":
    """The records of a run's store as a pandas DataFrame, one row a record: a cell, a case and a target model.

    Of rows that stand twice there is the one that counts: ok before failed, then the latest. The columns are those of
    `freqbench.results.schema.RECORDS`, each with its unit and meaning.

    Args:
        out: folder or URI (`s3://`, `gs://`, ...) that `freqbench run` wrote.

    Raises:
        UserError: no results there, or files that cannot be read.
    """
    from freqbench.analysis.frames import found_records, plain
    from freqbench.results import Store

    root = storage.filled_in(fspath(out), "load_results")
    return plain(found_records([Store(root)], None)[0])
