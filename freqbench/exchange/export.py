"""Exports adversarial volumes in the grid and unit of the files that they were made from, for third-party tools."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from freqbench.core import names
from freqbench.core.documents import object_of
from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.core.types import CaseRef
from freqbench.data import attacked_native, resampling_error
from freqbench.data.base import Dataset
from freqbench.data.loaders.dicom import DicomFolders
from freqbench.engine import saved_volumes
from freqbench.exchange.dicom_series import CLEAN, CT, CaseSeries, made_kind, require_packages
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid
from freqbench.ops.regions import numbers_of
from freqbench.results.volumes import SUFFIX, VOLUMES

Form = Literal["nifti", "dicom"]
MANIFEST = "manifest.json"
REGIONS = "dataset.json"
INT16 = torch.iinfo(torch.int16)
LEAST_STEPS = 256  # over the whole range: fewer would be coarser than the 8 bits that the papers' code saved


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file of an export, as `manifest.json` lists it; the names are those of `freqbench.results.schema`."""

    path: str  # below the export's folder
    case_id: str
    case_key: str
    cell_id: str | None = None  # of the cell that made it; this and the next three are None of a clean volume
    attack: str | None = None
    params: str | None = None
    source: str | None = None
    dtype: str  # int16, or float32 where the data would not fit; of DICOM uint16 there
    step: float  # between two intensities that the file can hold; 0: floats
    rounding_max: float  # largest change of a voxel by rounding, in the data's own unit
    rounding_rms: float  # root mean square of that over all voxels and channels
    resampling_error: float | None = None  # before rounding, RMS of 0..1; None of a clean volume


@dataclass(frozen=True, kw_only=True)
class _Order:
    grid: Grid
    root: str  # of the saved volumes
    to: str
    former: frozenset[str]  # paths of a former export
    form: Form
    keeps_identity: bool


def path_of(grid: Grid, cell: Cell, ref: CaseRef, is_clean: bool) -> str:
    """Path of a case's clean volume (`is_clean`), or of the one that a cell made of `ref`, below the folder of an
    export of `grid`."""
    # A grid of several datasets may have a case's name twice, in one cell where they differ in files alone.
    key = f"-{cell.dataset.case_key(ref)}" if len(grid.cases) > 1 else ""
    return f"{CLEAN if is_clean else saved_volumes.cell_folder(cell)}/{ref.case_id}{key}.nii.gz"


def export(
    grid: Grid, out: str, to: str, console: Console, form: Form = "nifti", keeps_identity: bool = False
) -> list[Exported]:
    """Writes each saved adversarial volume of a store in its file's own grid and unit, and the clean ones once. Files
    are `<attack>-<source>-<cell_id>/<case_id>.nii.gz` and `clean/<case_id>.nii.gz` (both `<case_id>-<case_key>` where
    the job has several datasets), with the affine of the case's file; several channels are the fourth axis. They are
    int16, and float32 where intensities do not fit or span less than LEAST_STEPS units. `manifest.json` is written
    last. Volumes whose labels moved are left out: third-party tools are scored against the files' own. The regions of a
    dataset stand in `dataset.json` (`dataset-NAME.json` where the job has several), see `stated_regions`. Raises
    UserError where the store holds no volume of this grid, `to` holds another file in the place of one of these,
    nothing states a region's labels, or `keeps_identity` is asked of cases that are no DICOM.

    Args:
        grid: cells and cases of the store's job.
        out: the store, a folder or URI.
        to: the destination, a folder or URI.
        console: gets a line on what is left out and one on what was written.
        form: `nifti`, or `dicom`: folders of the files' names without `.nii.gz` hold a series a channel
            (`dicom_series.slices`), and saved predictions as SEG.
        keeps_identity: gives the series the patient and the study of the case's own slices.
    """
    datasets = {cell.dataset.name: cell.dataset for cell in grid.cells}
    _require_form(datasets, form, keeps_identity, console)
    stated = {} if form == "dicom" else _region_files(datasets, to, are_several=len(grid.cases) > 1)
    root = storage.join(out, VOLUMES)
    moved = sorted({cell.attack.name for cell in grid.cells if cell.attack.moves_labels})
    tell_left_out(console, "attacks that move labels", moved)
    grid = replace(grid, cells=tuple(cell for cell in grid.cells if not cell.attack.moves_labels))
    order = _Order(grid=grid, root=root, to=to, former=_former(to), form=form, keeps_identity=keeps_identity)
    is_saved = saved_volumes.find_saved(root)
    written: list[Exported] = []
    for name, refs in grid.cases.items():
        of_dataset = [cell for cell in grid.cells if cell.dataset.name == name]
        for ref in refs:  # reads a case's file once for all cells
            if cells := [cell for cell in of_dataset if is_saved(cell, ref)]:
                written.extend(_case(order, cells, ref))
    if not written:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    for path, content in stated.items():
        storage.write_atomic(path, content)
    units = "HU" if {*map(made_kind, datasets.values())} == {CT} else "of the files"
    of_all: dict[str, Any] = {"space": "native", "units": units, "format": form, "store": out}
    manifest = of_all | {"files": [*map(asdict, written)]}
    storage.write_atomic(storage.join(to, MANIFEST), json.dumps(manifest, indent=2).encode())
    _tell_written(console, written, to)
    return written


def _require_form(datasets: Mapping[str, Dataset], form: Form, keeps_identity: bool, console: Console) -> None:
    """Raises UserError for a form without its package or its cases; tells of which kind headers are made."""
    others = [name for name, dataset in datasets.items() if not isinstance(dataset, DicomFolders)]
    if keeps_identity and (others or form != "dicom"):
        got = f"got {f'--format {form}' if form != 'dicom' else others[0]}: leave it out"
        raise UserError(f"--keep-identity: expected --format dicom and cases of `loader: dicom`, {got}")
    if form == "dicom":
        require_packages()
        for name in others:
            kind = "CT, as `intensity` is a" if made_kind(datasets[name]) == CT else "MR, as `intensity` is no"
            console.print(f"{name}: cases are no DICOM: headers are made, of {kind} window", soft_wrap=True)


def _region_files(datasets: Mapping[str, Dataset], to: str, are_several: bool) -> dict[str, bytes]:
    """Makes the files that state the regions of datasets, by their paths; raises UserError if others lie there."""
    stated: dict[str, bytes] = {}
    for name, dataset in datasets.items():
        if dataset.classes.overlap:
            own = REGIONS.replace(".", f"-{names.require_name(name, 'dataset')}.") if are_several else REGIONS
            path = storage.join(to, own)
            content = json.dumps(stated_regions(dataset), indent=2).encode()
            storage.require_own(path, content)
            stated[path] = content
    return stated


def _tell_written(console: Console, written: Sequence[Exported], to: str) -> None:
    """Prints how many volumes were written, and what rounding and resampling changed at most."""
    num_attacked = sum(each.cell_id is not None for each in written)
    rounded = max(each.rounding_max for each in written)
    resampled = max(each.resampling_error or 0.0 for each in written)
    console.print(
        f"{num_attacked} adversarial and {len(written) - num_attacked} clean volumes are in {to}; rounding changed a "
        f"voxel by {rounded:.2g} at most (of the data's unit, CT: HU), the way to "
        f"the files' grids by {resampled:.2g} (RMS, of 0..1): {MANIFEST}",
        soft_wrap=True,
    )


def stated_regions(dataset: Dataset) -> dict[str, object]:
    """Returns the regions of a `dataset` in the form of nnU-Net v2: labels as lists, and `regions_class_order`. Labels
    are those in the dataset's files. Regions stand in the order in which they are drawn over each other, and the order
    holds for each the lowest label that lies in no later region, else the lowest of its own."""
    order = dataset.classes.order
    codes = sorted(dataset.classes.stated.items())
    labels: dict[str, Any] = {"background": 0}
    for region in order:
        name = dataset.class_names[region]
        labels[name] = [value for value, code in codes if region in numbers_of(code)]
        if not labels[name]:
            got = "got none: give its loader `region_codes`, or use the volumes in OUT/volumes"
            raise UserError(f"{dataset.name}: expected labels that make up the region {name}, {got}")
    first: list[int] = []
    later: set[int] = set()
    for region in reversed(order):
        own = labels[dataset.class_names[region]]
        first.insert(0, min({*own} - later or own))
        later.update(own)
    channels = {str(channel): f"channel {channel}" for channel in range(dataset.num_channels)}
    return {
        "channel_names": channels,
        "labels": labels,
        "regions_class_order": first,
        "file_ending": ".nii.gz",
    }


def tell_left_out(console: Console, what: str, names: Sequence[str]) -> None:
    """Prints to `console` how many are left out and of `what` kind, with the first three names; nothing for none."""
    if names:
        more = ", ..." if len(names) > 3 else ""
        console.print(f"{len(names)} {what} left out: {', '.join(names[:3])}{more}", soft_wrap=True)


def _former(to: str) -> frozenset[str]:
    """Paths that the manifest of a former export lists; empty if there is none."""
    path = storage.join(to, MANIFEST)
    if not storage.exists(path):
        return frozenset()
    storage.require_own(path, b'"space": "native"')
    return frozenset(each["path"] for each in object_of(storage.read_bytes(path), path)["files"])


def _case(order: _Order, cells: list[Cell], ref: CaseRef) -> Iterator[Exported]:
    """Writes the volumes of a case: the clean one, and then that of each cell."""
    dataset = cells[0].dataset
    root = order.root
    native = dataset.native(ref)
    low, high = map(float, native.image.aminmax())
    kind = torch.int16 if _fits(low, high) and high - low >= LEAST_STEPS else torch.float32
    series = CaseSeries(dataset=dataset, ref=ref, native=native, root=root, keeps_identity=order.keeps_identity)
    yield _write(order, series, cells, native.image, kind)
    for number, cell in enumerate(cells, 1):
        space = cell.source.space or dataset.space
        attacked, _ = saved_volumes.read(root, cell, ref)
        case = dataset.load(ref, space)
        if attacked.adversarial.shape != case.image.shape:
            raise DataError(
                f"{saved_volumes.folder(root, cell, ref)}: expected the shape of the prepared case, "
                f"{tuple(case.image.shape)}, got {tuple(attacked.adversarial.shape)}: the volume was made elsewhere: "
                "delete it and run the job again"
            )
        changed = attacked_native(native, case, attacked.adversarial, space)
        error = resampling_error(native, changed, attacked.adversarial, space)
        kept_kind = kind if _fits(*map(float, changed.image.aminmax())) else torch.float32
        written = _write(order, series, [cell], changed.image, kept_kind, number)
        yield replace(
            written,
            cell_id=cell.cell_id,
            attack=cell.attack.name,
            params=cell.params,
            source=cell.source.name,
            resampling_error=error,
        )


def _write(
    order: _Order, series: CaseSeries, cells: list[Cell], image: Tensor, kind: torch.dtype, number: int = 0
) -> Exported:
    """Writes one file, or a folder of DICOM; `number` is 0 for the clean volume of several cells."""
    ref = series.ref
    path = path_of(order.grid, cells[0], ref, is_clean=number == 0)
    place = storage.join(order.to, path)
    names.require_inside(order.to, place)
    is_whole = kind == torch.int16
    step = float(is_whole)
    if order.form == "nifti":
        stored = image.round().to(kind) if is_whole else image
        content = saved_volumes.pack_nifti(stored, series.native.affine)
        if path not in order.former:  # a stopped export may have left the same file
            storage.require_own(place, content)
        storage.write_atomic(place, content)
    else:
        path = path.removesuffix(SUFFIX)
        stored, step = series.write(place.removesuffix(SUFFIX), cells, number, image, whole=is_whole)
    floats = "float32" if order.form == "nifti" else "uint16"
    lost = (stored - image).double()
    return Exported(
        path=path,
        case_id=ref.case_id,
        case_key=series.dataset.case_key(ref),
        dtype="int16" if is_whole else floats,
        step=step,
        rounding_max=float(lost.abs().max()),
        rounding_rms=float(lost.square().mean().sqrt()),
    )


def _fits(low: float, high: float) -> bool:
    return low >= INT16.min and high <= INT16.max
