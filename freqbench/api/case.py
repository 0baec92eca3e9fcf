"""Makes cases from arrays, from image files, or from a dataset."""

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core import config, names, types
from freqbench.core.errors import UserError, one_line
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.plugins import kind_of, require_class
from freqbench.core.types import IGNORED, NO_LABEL, CaseRef, Reference, Spacing, triple
from freqbench.data import Dataset, NativeCase, image_files
from freqbench.data.loaders.folder import CaseFiles, ListedFolder
from freqbench.job.schema import build_dataset
from freqbench.metrics.volumes import Volume, as_tensor, channels_of, require_classes, require_same_shape
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.inference import MOST_CLASSES
from freqbench.ops.voxels import without_ignored

AnyPath = str | PathLike[str]
LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes, on Linux


class PatientCase:
    """One patient volume, with its label map if there is one, as a model sees it.

    Arrays are used unchanged: they must have the grid and the intensities that the model was trained on. Files have
    neither, so the constructor `from_file` also takes the keys of preprocessing.

    Args:
        image: `[H, W, D]` or `[C, H, W, D]` in [0, 1], an array or tensor; a batch axis of length 1 is accepted.
        label: `[H, W, D]` of integers, 0 is background; leading axes of length 1 are accepted. None: models are
            attacked and scored against their own clean predictions, see `reference`.
        spacing: millimetres per voxel along H, W and D; None: those of the affine, or 1 mm without an affine.
        affine: voxel to world millimetres (RAS+), `[4, 4]`; None: the spacing along the axes.
        class_names: names of all classes, background first; empty: unnamed, as many as the model has.
        ignore: labels whose voxels do not count, in losses, metrics and success.
        name: name of the case in results.

    Attributes:
        reference: `label`: attacks and scores are against the label map; `prediction`: without one, against each
            model's prediction of the clean volume.
        ignores: true if voxels of the label map may not count; they have the label 254 there.

    Raises:
        UserError: shapes that differ, an image outside [0, 1], or labels that are no classes.
    """

    volume: types.Case
    class_names: tuple[str, ...]
    dataset: Dataset | None
    reference: Reference
    ignores: bool

    def __init__(
        self,
        image: Volume,
        label: Volume | None,
        spacing: Sequence[float] | None = None,
        *,
        affine: npt.NDArray[Any] | None = None,
        class_names: Sequence[str] = (),
        ignore: Sequence[int] = (),
        name: str = "case",
    ) -> None:
        require_name(name)
        if not isinstance(class_names, tuple | list) or not all(isinstance(text, str) for text in class_names):
            raise UserError(f"class_names: expected a list of names, got {kind_of(class_names)}: give one a class")
        voxels = channels_of(cpu_tensor(image))
        h, w, d = triple(voxels.shape[1:])
        classes = None if label is None else as_tensor(cpu_tensor(label))
        if classes is not None:
            require_same_shape((h, w, d), tuple(classes.shape))
        advice = "scale it as the model was trained on, or read files by Case.from_file with `intensity`"
        require_unit_range(voxels, f"{name}: expected an image", advice)
        grid, steps = _grid(name, spacing, affine)
        stored = {"image": voxels.to(torch.float32).clone()}
        if classes is not None:
            if ignore:
                left_out = torch.isin(classes, torch.tensor([*ignore], dtype=classes.dtype))
                require_classes(classes[~left_out], len(class_names) or IGNORED)
                classes = torch.where(left_out, IGNORED, classes.to(torch.int64))
            else:
                require_classes(classes, len(class_names) or MOST_CLASSES)
            stored["label"] = classes.to(torch.uint8).clone()[None]
        self.reference = "prediction" if classes is None else "label"
        fingerprint = digest([checkpoints.state_sha256(stored)])
        self.volume = types.Case(
            ref=CaseRef(case_id=name, patient_id=name, fingerprint=fingerprint, shape=(h, w, d)),
            image=stored["image"],
            label=stored.get("label", torch.full((1, h, w, d), NO_LABEL, dtype=torch.uint8)),
            spacing=steps,
            affine=grid,
            native_ranges=((0.0, 1.0),) * len(voxels),
            original_spacing=steps,
        )
        self.class_names, self.dataset, self.ignores = tuple(class_names), None, bool(ignore)

    @classmethod
    def from_file(
        cls,
        image: AnyPath | Sequence[AnyPath],
        label: AnyPath | None = None,
        *,
        labels: int | Sequence[str] | None = None,
        **keys: Any,
    ) -> "PatientCase":
        """Makes a case from its files of any format that is read, prepared like those of a job's dataset.

        Args:
            image: a path or URI, or one per channel; channels may also lie in one file, along a fourth axis or as
                numbers of a voxel.
            label: path or URI of the label map on the same grid; None: there is none, see `reference`.
            labels: names of all classes, background first, or their number; None: as many as the model has.
            keys: `label_map` and `ignore` of a dataset's entry in a job file (the class of each label in the file, and
                labels that do not count), and keys of `freqbench.core.input_space.Preprocess`: `spacing` in
                millimetres, `intensity` (default: percentiles 0.5 to 99.5, for MR; `{"window": [-175, 250]}` for CT),
                `crop_foreground`, `size`, `pad_to`, `resampling`.

        Warns of intensities that do not fit the window, and of classes whose label voxels the grid has lost.

        Raises:
            UserError: an unknown key, or invalid files.
        """
        several: Sequence[Any] = image if isinstance(image, tuple | list) and image else [image]
        images = tuple(path_of(path, "image") for path in several)
        files = {
            "image": images,
            "label": None if label is None else path_of(label, "label"),
            "reference": "prediction" if label is None else "label",
            "labels": (IGNORED if keys.get("ignore") else MOST_CLASSES) if labels is None else labels,
        }
        content = {"name": image_files.stem(images[0]), "root": "", **files, **keys}
        dataset = config.validate(content, _Files, "from_file")
        (ref,) = dataset.refs()
        return cls._of(dataset.load(ref), dataset, () if labels is None else dataset.class_names)

    from_nifti = from_file  # its name while NIfTI was the only format

    @classmethod
    def _of(cls, volume: types.Case, dataset: Dataset, class_names: tuple[str, ...]) -> "PatientCase":
        case = cls.__new__(cls)
        case.volume, case.dataset, case.class_names = volume, dataset, class_names
        case.reference, case.ignores = dataset.reference, bool(dataset.ignored)
        for line in (*volume.off_scale, *volume.lost):
            warnings.warn(f"{case.name}: {line}", stacklevel=3)
        return case

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image.shape))
        sides = " x ".join(f"{step:g}" for step in self.spacing)
        labels = "no label map" if self.label is None else f"labels 0 to {self.highest_label}"
        return f"<Case {self.name}: {shape} voxels of {sides} mm, {labels}>"

    @property
    def name(self) -> str:
        """Name of the case in results."""
        return self.volume.ref.case_id

    @property
    def image(self) -> Tensor:
        """Image, float32 `[C, H, W, D]` in [0, 1]."""
        return self.volume.image

    @property
    def label(self) -> Tensor | None:
        """Label map, uint8 `[1, H, W, D]`, 0 is background; None if `reference` is the prediction."""
        return self.volume.label if self.reference == "label" else None

    @property
    def highest_label(self) -> int:
        """The largest class in the label map; voxels that do not count are left out."""
        return int((without_ignored(self.volume.label) if self.ignores else self.volume.label).max())

    @property
    def spacing(self) -> Spacing:
        """Millimetres per voxel along H, W and D."""
        return self.volume.spacing

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Affine from voxels to world millimetres (RAS+), `[4, 4]`."""
        return self.volume.affine

    def _dataset_for(self, num_classes: int) -> Dataset:
        """Returns the dataset of the case, with `num_classes` classes if the case does not define its own."""
        if self.dataset is None:
            labels = self.class_names or num_classes
            return _Arrays(name=self.name, labels=labels, channels=len(self.image), reference=self.reference)
        return self.dataset if self.class_names else self.dataset.model_copy(update={"labels": num_classes})

    def _in(self, dataset: Dataset, space: Preprocess | None) -> types.Case:
        """Returns the case in the space of a model; None: that of its dataset."""
        return self.volume if space is None else dataset.load(self.volume.ref, space)

    def _file(self, dataset: Dataset) -> types.FileLabel:
        """Returns the label map on the grid of its file; arrays have no other grid than theirs."""
        if self.dataset is None:
            return types.FileLabel(label=self.volume.label, affine=self.affine, spacing=self.spacing)
        return dataset.file_label(self.volume.ref)


class Cases(Sequence[PatientCase]):
    """The cases of a dataset, read on access by index, with the warnings of `from_file`; a slice is again a sequence.

    Attributes:
        dataset: their dataset.
    """

    def __init__(self, dataset: Dataset, refs: tuple[CaseRef, ...] | None = None) -> None:
        self.dataset = dataset
        self._refs = dataset.refs() if refs is None else refs

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"<Cases of {self.dataset.name}, {self.dataset.split}: {', '.join(ref.case_id for ref in self._refs)}>"

    @overload
    def __getitem__(self, index: int) -> PatientCase: ...
    @overload
    def __getitem__(self, index: slice) -> "Cases": ...
    def __getitem__(self, index: int | slice) -> "PatientCase | Cases":
        if isinstance(index, slice):
            return Cases(self.dataset, self._refs[index])
        return PatientCase._of(self.dataset.load(self._refs[index]), self.dataset, self.dataset.class_names)


def load_dataset(loader: str | type[Dataset], **keys: Any) -> Cases:
    """Returns the cases of a dataset as a sequence that reads each case on access.

    Args:
        loader: a name in `freqbench.data.DATASETS` (`phantom`, `decathlon`, `msd`, `nnunet_raw`, ...), or a class.
        keys: keys of the dataset's entry in a job file: `split`, `cases` (how many, or which), and the loader's own,
            such as `root`, `spacing` and `intensity`; `name` is its name in results, by default that of the loader.

    Raises:
        UserError: an unknown loader or key, or data that is missing or damaged.
    """
    keys = {key: fspath(value) if isinstance(value, PathLike) else value for key, value in keys.items()}
    require_class(loader, Dataset)
    if not isinstance(loader, str):
        return Cases(config.validate({"name": loader.loader, **keys}, loader, "load_dataset"))
    return Cases(build_dataset({"name": loader, "loader": loader, **keys}, "load_dataset"))


def require_name(name: Any) -> None:
    """Refuses a name that is no text, or not fit for a file's name."""
    if not isinstance(name, str):
        raise UserError(f"name: expected text, got {kind_of(name)}: give it as text")
    names.required(name, "name")


def require_unit_range(voxels: Tensor, expected: str, advice: str) -> None:
    """Refuses intensities outside [0, 1], and NaN."""
    low, high = map(float, voxels.aminmax())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{expected} in [0, 1], got [{low:.4g}, {high:.4g}]: {advice}")


def path_of(path: AnyPath, what: str) -> str:
    """Returns the text of a path or URI; raises a UserError that begins with `what` for anything else."""
    text = fspath(path) if isinstance(path, str | PathLike) else None
    if not isinstance(text, str):
        raise UserError(f"{what}: expected a path or URI, got {kind_of(path)}: give it as text or a Path")
    if "\0" in text or len(text) > LONGEST_PATH or max(len(part.encode()) for part in text.split("/")) > LONGEST_NAME:
        raise UserError(
            f"{what}: expected a path of names of at most {LONGEST_NAME} bytes, got {text!a:.80}: shorten it"
        )
    return text


def plain(value: Any, place: str) -> Any:
    """Converts a value to the types of a job file, numpy's numbers included; refuses others at `place`."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, tuple | list):
        return type(value)(plain(item, place) for item in value)
    if isinstance(value, Mapping):
        return {plain(key, place): plain(item, place) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    raise UserError(
        f"{place}: expected numbers, text or lists of them, as in a job file, got {kind_of(value)}: convert it"
    )


def cpu_tensor(volume: Volume) -> Tensor:
    """Makes a CPU tensor from a tensor, MONAI's MetaTensor, or an array in any byte order and of any stride.

    Raises a UserError for anything else.
    """
    if isinstance(volume, str | PathLike):
        raise UserError(f"expected an array or tensor, got the path {fspath(volume)}: read files by Case.from_file")
    if isinstance(volume, np.ndarray):  # torch lacks most operations on unsigned integers
        dtypes = {"f": np.float32, "i": np.int64, "u": np.int64}
        volume = np.ascontiguousarray(volume, dtypes.get(volume.dtype.kind))
    try:
        tensor = torch.as_tensor(volume).as_subclass(Tensor).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        got = volume.dtype if isinstance(volume, np.ndarray) else type(volume).__name__
        raise UserError(f"expected an array or tensor of numbers, got {got}: {one_line(error)}") from None
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        raise UserError(f"expected a dense volume of real numbers, got {tensor.dtype}, {tensor.layout}: convert it")
    return tensor


def _grid(
    name: str, spacing: Sequence[float] | None, affine: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.float64], Spacing]:
    """Returns affine and spacing of a case, either of which may be missing; refuses impossible ones."""
    try:
        steps = np.array((1.0, 1.0, 1.0) if spacing is None else spacing, np.float64)
        grid = np.diag([*steps.ravel(), 1.0]) if affine is None else np.array(affine, np.float64)
        if spacing is None and grid.shape == (4, 4):
            steps = np.linalg.norm(grid[:3, :3], axis=0)
        got = f"{steps.tolist()!s:.80} and an affine {grid.shape}"
        fits = grid.shape == (4, 4) and steps.shape == (3,) and bool((steps > 0).all())
        fits = fits and bool(np.isfinite(steps).all() and np.isfinite(grid).all())
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        fits, got = False, one_line(error)
    if not fits:
        raise UserError(f"{name}: expected a spacing of three positive lengths in mm and an affine (4, 4), got {got}")
    h, w, d = steps.tolist()
    return grid, (h, w, d)


def as_case(given: PatientCase | Sequence[Any]) -> PatientCase:
    """Returns a case, made from a tuple of arguments of `Case` if need be."""
    if isinstance(given, PatientCase):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return PatientCase(*given)
    raise UserError(
        f"expected a Case or (image, label[, spacing]), got {type(given).__name__}: give the label map, too, or None"
    )


class _Arrays(Dataset):
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
        raise UserError(f"{self.name}: expected files, got arrays: give the files, by Case.from_file")


class _Files(ListedFolder):
    loader: ClassVar[str] = "files"

    image: tuple[str, ...]
    label: str | None

    def splits(self) -> Mapping[str, Sequence[Any]]:
        return {self.split: [self.name]}

    def _source(self) -> str:
        return self.image[0]

    def _listed_labels(self) -> Mapping[int, str]:
        return {}

    def _case_id(self, line: Any) -> str:
        return str(line)

    def _parsed(self, line: Any) -> CaseFiles:
        return CaseFiles(str(line), self.patient_of(str(line)), self.image[0], self.label, further=self.image[1:])
