"""Exports adversarial volumes in the grid and unit of the files that they were made from, for third-party tools."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from torch import Tensor

from freqbench.core import names, storage
from freqbench.core.errors import DataError, UserError
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data import attacked_native, resampling_error
from freqbench.engine import saved_volumes
from freqbench.job.grid import Cell, Grid
from freqbench.results.volumes import VOLUMES

CLEAN = "clean"
MANIFEST = "manifest.json"
INT16 = torch.iinfo(torch.int16)
LEAST_STEPS = 256  # of the whole range: fewer would be coarser than the 8 bits that the papers' code saved


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file of an export, as `manifest.json` has it; the names are those of `freqbench.results.schema`.

    Attributes:
        path: below the export's folder.
        cell_id: of the cell that made it; this and the next three are None of a clean volume.
        dtype: `int16`, or `float32` where the data would not fit.
        rounding_max: largest change of a voxel by rounding, in the data's own unit.
        rounding_rms: root mean square of that over all voxels and channels.
        resampling_error: before rounding.
    """

    path: str
    case_id: str
    case_key: str
    cell_id: str | None
    attack: str | None
    params: str | None
    source: str | None
    dtype: str
    rounding_max: float
    rounding_rms: float
    resampling_error: float | None


def clean_path(grid: Grid, cell: Cell, ref: CaseRef) -> str:
    """Where a clean volume lies below an export's folder."""
    return f"{CLEAN}/{_file_name(grid, cell, ref)}"


def adversarial_path(grid: Grid, cell: Cell, ref: CaseRef) -> str:
    """Where an adversarial volume lies below an export's folder."""
    return f"{saved_volumes.cell_folder(cell)}/{_file_name(grid, cell, ref)}"


def _file_name(grid: Grid, cell: Cell, ref: CaseRef) -> str:
    """Of a case; a grid of several datasets may have its name twice, in one cell where they differ in files alone."""
    several = len(grid.cases) > 1
    return f"{ref.case_id}{f'-{cell.dataset.case_key(ref)}' if several else ''}.nii.gz"


def restricted(grid: Grid) -> list[str]:
    """Datasets of a grid whose volumes must not be passed on."""
    return sorted({cell.dataset.name for cell in grid.cells if not cell.dataset.redistributable})


def export(grid: Grid, out: str, to: str, console: Console) -> list[Exported]:
    """Write every saved adversarial volume of a store in its file's own grid and unit, and the clean ones once.

    Files are `<attack>-<source>-<cell_id>/<case_id>.nii.gz` and `clean/<case_id>.nii.gz` (both `<case_id>-<case_key>`
    where the job has several datasets), with the affine of the case's file; several channels are the fourth axis. They
    are int16, and float32 where intensities do not fit or span less than LEAST_STEPS units. The perturbation is carried
    back as `freqbench.data.attacked_native` does. `manifest.json` is written last.

    Args:
        grid: of the store's job.
        out: folder or URI of the store.
        to: folder or URI to write to.
        console: told what was written.

    Raises:
        UserError: the store holds no volume of this grid.
    """
    root = storage.join(out, VOLUMES)
    is_saved, written = saved_volumes.saved(root), list[Exported]()
    for name, refs in grid.cases.items():
        of_dataset = [cell for cell in grid.cells if cell.dataset.name == name]
        for ref in refs:  # a case's file is read once for all cells
            if cells := [cell for cell in of_dataset if is_saved(cell, ref)]:
                written.extend(_case(grid, cells, ref, root, to))
    if not written:
        raise UserError(f"{root}: expected saved volumes of this job, found none: run it with save_adversarial: nifti")
    manifest = {"space": "native", "units": "HU", "store": out, "files": [asdict(each) for each in written]}
    storage.write_atomic(storage.join(to, MANIFEST), json.dumps(manifest, indent=2).encode())
    attacked = [each for each in written if each.cell_id]
    console.print(
        f"{len(attacked)} adversarial and {len(written) - len(attacked)} clean volumes are in {to}; rounding changed a "
        f"voxel by {max(each.rounding_max for each in written):.2g} at most (of the data's unit, CT: HU), the way to "
        f"the files' grids by {max(each.resampling_error or 0.0 for each in written):.2g} (RMS, of 0..1): {MANIFEST}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return written


def _case(grid: Grid, cells: list[Cell], ref: CaseRef, root: str, to: str) -> Iterator[Exported]:
    """Write the files of one case."""
    dataset = cells[0].dataset
    native = dataset.native(ref)
    low, high = (float(bound) for bound in native.image.aminmax())
    fits = low >= INT16.min and high <= INT16.max and high - low >= LEAST_STEPS
    kind = torch.int16 if fits else torch.float32
    path = clean_path(grid, cells[0], ref)
    yield _write(to, path, native.image, kind, native, cells[0])
    for cell in cells:
        space = cell.source.space or dataset.space
        attacked, _ = saved_volumes.read(root, cell, ref)
        case = dataset.load(ref, space)
        if attacked.adversarial.shape != case.image.shape:
            shapes = tuple(case.image.shape), tuple(attacked.adversarial.shape)
            place = saved_volumes.folder(root, cell, ref)
            raise DataError(
                f"{place}: expected the shape of the prepared case, {shapes[0]}, got {shapes[1]}: "
                "the volume was made elsewhere: delete it and run the job again"
            )
        changed = attacked_native(native, case, attacked.adversarial)
        error = resampling_error(native, changed, attacked.adversarial, space)
        low, high = (float(bound) for bound in changed.image.aminmax())
        fits = low >= INT16.min and high <= INT16.max
        path = adversarial_path(grid, cell, ref)
        yield _write(to, path, changed.image, kind if fits else torch.float32, native, cell, error)


def _write(
    to: str, path: str, image: Tensor, kind: torch.dtype, native: NativeCase, cell: Cell, error: float | None = None
) -> Exported:
    """Write one file; `error` is None of a clean volume."""
    stored = image.round().to(torch.int16) if kind == torch.int16 else image
    names.require_inside(to, storage.join(to, path))
    saved_volumes.write(storage.join(to, path), stored, native.affine)
    lost = (stored - image).double()
    is_clean = error is None
    return Exported(
        path=path,
        case_id=native.ref.case_id,
        case_key=cell.dataset.case_key(native.ref),
        cell_id=None if is_clean else cell.cell_id,
        attack=None if is_clean else cell.attack.name,
        params=None if is_clean else cell.params,
        source=None if is_clean else cell.source.name,
        dtype=str(kind).removeprefix("torch."),
        rounding_max=float(lost.abs().max()),
        rounding_rms=float(lost.square().mean().sqrt()),
        resampling_error=error,
    )
