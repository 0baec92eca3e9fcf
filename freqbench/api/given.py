"""Reads arguments of a call, arrays above all, and defines the datasets of a case that no job names."""

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from typing_extensions import override

from freqbench.analysis.certificates import ALPHA
from freqbench.core import config
from freqbench.core.config import Seed, Strict, Whole
from freqbench.core.errors import DataError, UserError, one_line
from freqbench.core.plugins import kind_of
from freqbench.core.types import CaseRef, ScoredOn, Spacing, triple
from freqbench.data import Dataset, NativeCase, dicom
from freqbench.data.loaders.dicom import DicomFolders
from freqbench.data.loaders.folder import ListedFolder
from freqbench.data.scans import ImageFiles, ListedCase, Stated
from freqbench.job.schema import Metric
from freqbench.metrics.volumes import Volume
from freqbench.models.inference import MOST_CLASSES

SAME_SIDE = 0.01  # how far a voxel's side by the spacing may be from that by the affine


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names}) < len(names):
        raise ValueError(f"expected different names, got {names!r:.300}")
    return names


class Arguments(Strict):
    """Plain arguments of calls, with the limits of a job file."""

    num_classes: Annotated[Whole, Field(ge=2, le=MOST_CLASSES)] | None = None
    num_channels: Annotated[Whole, Field(ge=1, le=MOST_CLASSES)] | None = None
    precision: str = "fp32"
    trust_code: bool = False
    seed: Seed = 0
    window_batch: Annotated[Whole, Field(gt=0)] | None = None
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ()
    score_on: ScoredOn | None = None
    class_names: Annotated[tuple[str, ...], AfterValidator(_different)] = ()
    ignore: tuple[Whole, ...] = ()
    radii: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = ()
    score: str = ""
    alpha: Annotated[float, Field(gt=0, lt=1)] = ALPHA


def arguments(where: str, **given: Any) -> Arguments:
    """Returns the arguments of a call by their values; raises a UserError, after the call's name `where`, for wrong
    ones, and for other types."""
    return config.validate({key: plain(value, f"{where}: {key}") for key, value in given.items()}, Arguments, where)


def cpu_tensor(volume: Volume) -> Tensor:
    """Makes a CPU tensor from a tensor, MONAI's MetaTensor, or an array in any byte order and of any stride.

    Raises a UserError for anything else.
    """
    if isinstance(volume, str | PathLike):
        raise UserError(f"expected an array or tensor, got the path {fspath(volume)}: read files by Case.from_file")
    if np.ma.is_masked(volume):
        raise UserError("expected all voxels, got an array of which some are masked: fill them, by .filled(0)")
    if isinstance(volume, np.ndarray):  # torch lacks most operations on unsigned integers
        volume = np.ascontiguousarray(volume, {"f": np.float32, "i": np.int64, "u": np.int64}.get(volume.dtype.kind))
    try:
        tensor = torch.as_tensor(volume).as_subclass(Tensor).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        got = volume.dtype if isinstance(volume, np.ndarray) else type(volume).__name__
        raise UserError(f"expected an array or tensor of numbers, got {got}: {one_line(error)}") from None
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        raise UserError(f"expected a dense volume of real numbers, got {tensor.dtype}, {tensor.layout}: convert it")
    return tensor


def require_unit_range(voxels: Tensor, expected: str, advice: str) -> None:
    """Refuses `voxels` outside [0, 1], and NaN, by a message that begins with what was `expected` and ends in
    `advice`."""
    low, high = map(float, voxels.aminmax())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{expected} in [0, 1], got [{low:.4g}, {high:.4g}]: {advice}")


def grid_of(
    name: str, spacing: Sequence[float] | None, affine: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.float64], Spacing]:
    """Returns affine and spacing of the case `name`, either of which may be missing; refuses impossible ones."""
    try:
        steps = np.array((1.0, 1.0, 1.0) if spacing is None else spacing, np.float64)
        grid = np.diag([*steps.ravel(), 1.0]) if affine is None else np.array(affine, np.float64)
        has_shape = grid.shape == (4, 4)
        axes = grid[:3, :3] if has_shape else np.zeros((3, 3))
        sides = np.linalg.norm(axes, axis=0)
        if spacing is None and has_shape:
            steps = sides
        shown = sides.round(3).tolist() if has_shape else grid.shape
        got = f"{steps.tolist()!s:.80} and an affine of {shown}"
        fits = has_shape and steps.shape == (3,) and bool((steps > 0).all())
        fits = fits and bool(np.isfinite(steps).all() and np.isfinite(grid).all())
        fits = fits and bool(np.allclose(sides, steps, rtol=SAME_SIDE, atol=0))
        fits = fits and np.linalg.matrix_rank(axes) == 3
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        fits = False
        got = one_line(error)
    if not fits:
        expected = "a spacing of three positive lengths in mm and an invertible affine (4, 4) of such voxels"
        raise UserError(f"{name}: expected {expected}, got {got}: give one of both, or fix it")
    return grid, triple(steps.tolist())


def device_of(given: str | torch.device | None) -> torch.device | None:
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


def plain(value: Any, place: str) -> Any:
    """Converts a value to the types of a job file, numpy's numbers included; refuses others at `place`."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, range | Set):
        value = sorted(value)
    if isinstance(value, tuple | list):
        return type(value)(plain(item, place) for item in value)
    if isinstance(value, Mapping):
        return {plain(key, place): plain(item, place) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    raise UserError(
        f"{place}: expected numbers, text or lists of them, as in a job file, got {kind_of(value)}: convert it"
    )


class ArraysDataset(Dataset):
    """Classes and channels of a case that was made from arrays."""

    loader: ClassVar[str] = "arrays"

    labels: int | tuple[str, ...]
    channels: int

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return self.labels if isinstance(self.labels, tuple) else tuple(f"class {k}" for k in range(self.labels))

    @property
    @override
    def num_channels(self) -> int:
        return self.channels

    @override
    def recipe(self) -> dict[str, Any]:
        return {"loader": self.loader, "labels": self.class_names}

    @override
    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        return ()

    @override
    def native(self, ref: CaseRef) -> NativeCase:
        raise UserError(f"{self.name}: expected files, got arrays: give the files, by Case.from_file")


class FilesDataset(ListedFolder):
    """A case that was made from its image files."""

    loader: ClassVar[str] = "files"

    image: tuple[str, ...]
    label: str | None

    @override
    def splits(self) -> Mapping[str, Sequence[ListedCase]]:
        return {
            self.split: [
                ListedCase(self.name, partial(ImageFiles, case_id=self.name, channels=self.image, map=self.label))
            ]
        }

    @override
    def stated_labels(self) -> Stated:
        return Stated()

    @property
    @override
    def source(self) -> str:
        return self.image[0]


class FolderDataset(DicomFolders):
    """A case that was made from the folder of a DICOM series."""

    label: str | None
    uid: str | None  # of the series, if the folder has several

    def _places(self, top: Path) -> Iterator[tuple[Path, Sequence[Path]]]:
        if self.label is None:
            yield top, []
            return
        place = Path(self.label)
        if not (place.is_file() and dicom.files.is_dicom(place)):
            got = "another file" if place.exists() else "none"
            raise DataError(f"{self.label}: expected a DICOM SEG of the series {top}, got {got}: give its file")
        yield top, [place]

    def _series_of(self, case_id: str) -> str | None:
        return self.uid
