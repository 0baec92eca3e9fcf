"""Makes cases from arrays, from image files, or from a dataset."""

import warnings
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.api import given
from freqbench.core import config, names, types
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.names import AnyPath
from freqbench.core.plugins import require_class
from freqbench.core.types import IGNORED, NO_LABEL, CaseRef, Reference, Spacing, triple
from freqbench.data import Dataset, image_files
from freqbench.job.schema import build_dataset
from freqbench.metrics.volumes import Volume, as_tensor, channels_of, require_classes, require_same_shape
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.inference import MOST_CLASSES
from freqbench.ops.voxels import without_ignored
from freqbench.pipelines import AnySpace


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
        names.require_name(name, "name")
        stated = given.arguments("Case", class_names=class_names, ignore=ignore)
        voxels = channels_of(given.cpu_tensor(image))
        shape = triple(voxels.shape[1:])
        if (classes := None if label is None else as_tensor(given.cpu_tensor(label))) is not None:
            require_same_shape(shape, tuple(classes.shape))
        advice = "scale it as the model was trained on, or read files by Case.from_file with `intensity`"
        given.require_unit_range(voxels, f"{name}: expected an image", advice)
        grid, steps = given.grid_of(name, spacing, affine)
        stored = {"image": voxels.to(torch.float32).clone()}
        if classes is not None:
            left_out = torch.isin(classes.long(), torch.tensor(stated.ignore, dtype=torch.int64))
            require_classes(classes[~left_out], len(stated.class_names) or (IGNORED if stated.ignore else MOST_CLASSES))
            stored["label"] = torch.where(left_out, IGNORED, classes.long()).to(torch.uint8)[None]
        self.reference: Reference = "prediction" if classes is None else "label"
        fingerprint = digest([checkpoints.state_sha256(stored)])
        no_label = torch.full((1, *shape), NO_LABEL, dtype=torch.uint8)
        ref = CaseRef(case_id=name, patient_id=name, fingerprint=fingerprint, shape=shape)
        self.volume = types.Case(
            ref=ref,
            image=stored["image"],
            label=stored.get("label", no_label),
            spacing=steps,
            affine=grid,
            native_ranges=((0.0, 1.0),) * len(voxels),
            original_spacing=steps,
        )
        self.dataset: Dataset | None = None
        self.class_names = stated.class_names
        self.ignores = bool(stated.ignore)

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
                numbers of a voxel. A folder of this machine is a DICOM series; of several, the one that the label map
                refers to, else the longest.
            label: path or URI of the label map on the same grid, of DICOM a SEG; None: there is none, see `reference`.
            labels: names of all classes, background first, or their number; None: as many as the model has, or those
                of a SEG.
            keys: `label_map`, `regions` and `ignore` of a dataset's entry in a job file (the class of each label in the
                file, labels of each region, and labels that do not count), and keys of
                `freqbench.core.input_space.Preprocess`: `spacing` in millimetres, `intensity` (default: percentiles
                0.5 to 99.5, for MR; `{"window": [-175, 250]}` for CT), `crop_foreground`, `size`, `pad_to`,
                `resampling`. For DICOM also `series`, the SeriesInstanceUID to read.

        Warns of intensities that do not fit the window, of classes whose label voxels the grid has lost, and of a
        series that was chosen.

        Raises:
            UserError: an unknown key, or invalid files.
        """
        several: Sequence[Any] = image if isinstance(image, tuple | list) and image else [image]
        images = tuple(names.path_of(path, "image") for path in several)
        for path in images:
            if not storage.is_local(path):
                image_files.reader_of(path)
        place = None if label is None else names.path_of(label, "label")
        keys = {key: given.plain(value, f"from_file: {key}") for key, value in {**keys, "labels": labels}.items()}
        labels = keys.pop("labels")
        content = {"label": place, "reference": "prediction" if label is None else "label", **keys}
        if is_series := len(images) == 1 and names.home_of(images[0]).is_dir():
            content |= {"name": "series", "root": images[0], "uid": content.pop("series", None)}
        else:
            content |= {"name": image_files.stem(images[0]), "root": "", "image": images}
        counted = IGNORED if keys.get("ignore") else MOST_CLASSES  # of classes that nothing names
        content["labels"] = None if is_series and label and labels is None else counted if labels is None else labels
        dataset = config.validate(content, given.FolderDataset if is_series else given.FilesDataset, "from_file")
        (ref,) = dataset.refs()
        if is_series:
            dataset = dataset.model_copy(update={"name": ref.case_id})
            for line in dataset.remarks([ref.patient_id]):
                warnings.warn(line, stacklevel=2)
        is_unnamed = labels is None and not dataset.classes.overlap and not (is_series and label)
        return cls._from_volume(dataset.load(ref), dataset, () if is_unnamed else dataset.class_names)

    from_nifti = from_file  # its name while NIfTI was the only format, on which scripts of others rely

    @classmethod
    def _from_volume(cls, volume: types.Case, dataset: Dataset, class_names: tuple[str, ...]) -> "PatientCase":
        case = cls.__new__(cls)
        case.volume = volume
        case.dataset = dataset
        case.class_names = class_names
        case.reference = dataset.reference
        case.ignores = bool(dataset.classes.ignored)
        for line in (*volume.off_scale, *volume.lost):
            warnings.warn(f"{case.name}: {line}", stacklevel=3)
        return case

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image.shape))
        sides = " x ".join(f"{step:g}" for step in self.spacing)
        labels = f"labels 0 to {self.highest_label}"
        if self.dataset is not None and self.dataset.classes.overlap:
            labels = f"regions {', '.join(self.class_names[1:])}"
        labels = "no label map" if self.label is None else labels
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
        """Label map, uint8 `[1, H, W, D]`, 0 is background; None if `reference` is the prediction.

        Of regions that overlap, codes: bit k - 1 of a voxel's code says that it lies in region k.
        """
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
        dataset = self.dataset
        if dataset is None:
            labels = self.class_names or num_classes
            return given.ArraysDataset(
                name=self.name, labels=labels, channels=len(self.image), reference=self.reference
            )
        return dataset if self.class_names else dataset.model_copy(update={"labels": num_classes})

    def _load_in(self, dataset: Dataset, space: AnySpace | None) -> types.Case:
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
        dataset = self.dataset
        if isinstance(index, slice):
            return Cases(dataset, self._refs[index])
        return PatientCase._from_volume(dataset.load(self._refs[index]), dataset, dataset.class_names)


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


def to_case(given: PatientCase | Sequence[Any]) -> PatientCase:
    """Returns a `given` case, made from a tuple of arguments of `Case` if need be."""
    if isinstance(given, PatientCase):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return PatientCase(*given)
    raise UserError(
        f"expected a Case or (image, label[, spacing]), got {type(given).__name__}: give the label map, too, or None"
    )
