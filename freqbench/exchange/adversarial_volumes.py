"""Adversarial volumes that others made: brought into a store as if a cell had saved them, and scored as its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.attacks.core.task import Task
from freqbench.core import storage
from freqbench.core.errors import DataError, UserError, unknown
from freqbench.core.identity import digest
from freqbench.core.types import Case, CaseRef
from freqbench.data import nifti
from freqbench.engine import additions, run, saved_volumes
from freqbench.engine.evaluate import AttackedVolume
from freqbench.engine.summary import Summary
from freqbench.job.grid import Cell, Grid
from freqbench.job.schema import JobSpec
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES

PREFIX = "adv_"  # of the files that the papers' code saved


@dataclass(frozen=True, kw_only=True)
class Imported(Attack):
    """What made volumes that are there already; no attack of a job, as nothing can be made by it.

    Args:
        label: what tables call it.
        content: digest of the volumes' files, so that other volumes are another cell.
    """

    name: ClassVar[str] = "imported"
    threat_model: ClassVar[str] = "none"
    budget_name: ClassVar[str | None] = None

    label: str
    content: str

    def perturb(self, task: Task) -> Tensor:
        """There is nothing to do it by.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.label}: expected the volumes that were brought in, found none: bring them in again")

    @property
    def passes(self) -> tuple[int, int]:
        """None here."""
        return 0, 0


def bring_in(job: JobSpec, grid: Grid, out: str, folder: str, source: str, label: str, console: Console) -> Summary:
    """Save volumes of others in a store and score them on the job's targets.

    The released code saves `imagesTsAdv/adv_<image>.nii.gz`: uint8 0..255, identity affine, on the preprocessed grid;
    they are divided by 255. Floats in [0, 1] are taken as they are. A file belongs to the case of its name; its affine
    is not looked at.

    Args:
        job: that knows data, source and targets.
        grid: its own.
        out: folder or URI of the store.
        folder: folder or URI of the volumes.
        source: the job's model whose gradients made them.
        label: what tables call them.
        console: where progress goes.

    Raises:
        UserError: no such model, no file of a case, or a volume of another shape or range; nothing is stored then.
    """
    names = [entry.name for entry in job.models]
    if source not in names:
        raise UserError(f"--source: {unknown('model', source, names)}")
    template, files = _matched(grid, folder, source, console)
    content = digest(sorted((ref.case_id, storage.sha256(path)) for ref, path in files))
    cell = _cell(template, label, content)
    root = storage.join(out, VOLUMES)
    is_saved = saved_volumes.saved(root)
    for saving in (False, True):  # every file is looked at before anything is written
        for ref, path in files:
            if saving and is_saved(cell, ref):
                continue
            case = cell.dataset.load(ref, cell.source.space)
            attacked = AttackedVolume(
                adversarial=_read(path, case), num_windows=None, num_forwards=None, num_backwards=None
            )
            if saving:
                saved_volumes.save(root, cell, case, attacked, attack_seconds=None)
    own = Grid(cells=(cell,), cases={cell.dataset.name: tuple(ref for ref, _ in files)}, metrics=grid.metrics)
    entry = {**own.index()["cells"][0], "cases": list(own.case_keys[cell.dataset.name])}
    added = additions.of_store(Store(out)).with_imported(entry | {"source": source, "label": label, "content": content})
    return run.rescore(job, own, out, console, added)


def joined(grid: Grid, out: str) -> Grid:
    """A job's grid with the cells that were brought into its store."""
    cells = [_again(entry, grid) for entry in additions.of_store(Store(out)).imported]
    return replace(grid, cells=(*grid.cells, *(cell for cell in cells if cell)))


def _again(entry: Mapping[str, Any], grid: Grid) -> Cell | None:
    """A cell that was brought in; None where it is of other data or another model than the grid's."""
    for template in grid.cells:
        if (template.dataset.name, template.source.name) == (entry["dataset"], entry["source"]):
            cell = _cell(template, entry["label"], entry["content"])
            return cell if cell.cell_id == entry["cell_id"] else None
    return None


def _cell(template: Cell, label: str, content: str) -> Cell:
    """The cell beside another of the same data, source and targets."""
    return replace(template, attack=Imported(label=label, content=content), seed=None, window_batch=None)


def _matched(grid: Grid, folder: str, source: str, console: Console) -> tuple[Cell, list[tuple[CaseRef, str]]]:
    """A cell of the source on the data of the files, and the file of each case; what does not match is said."""
    names = [name for suffix in nifti.SUFFIXES for name in storage.list_files(folder, suffix)]
    by_case = {nifti.stem(name).removeprefix(PREFIX): storage.join(folder, name) for name in sorted(names)}
    templates = {cell.dataset.name: cell for cell in grid.cells if cell.source.name == source}
    found = {
        name: files
        for name in templates
        if (files := [(ref, by_case[ref.case_id]) for ref in grid.cases[name] if ref.case_id in by_case])
    }
    if len(found) != 1:
        ids = [ref.case_id for name in templates for ref in grid.cases[name]]
        got = f"files of {' and '.join(found)}" if found else f"{', '.join(sorted(names)[:3]) or 'no file'}"
        example = f"{PREFIX}{ids[0]}.nii.gz" if ids else f"{PREFIX}CASE.nii.gz"
        raise UserError(
            f"{folder}: expected volumes of cases of one dataset that the job attacks {source} on, such as {example}, "
            f"got {got}: rename them, or give a job of these cases"
        )
    ((name, files),) = found.items()
    known = {ref.case_id for ref, _ in files}
    absent = [ref.case_id for ref in grid.cases[name] if ref.case_id not in known]
    for text, words in (
        ("files of no case of the job", sorted(by_case.keys() - known)),
        ("cases without a file", absent),
    ):
        if words:
            more = ", ..." if len(words) > 3 else ""
            line = f"{len(words)} {text} are left out: {', '.join(words[:3])}{more}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return templates[name], files


def _read(path: str, case: Case) -> Tensor:
    """A volume in [0, 1] on the grid of its case, `[C, H, W, D]`.

    Raises:
        DataError: another shape, or other values than uint8 or [0, 1].
    """
    local = storage.fetch(path)
    header = nifti.read_header(local, multichannel=True)
    shape, expected = (header.num_channels, *header.shape), tuple(case.image.shape)
    if shape != expected:
        raise DataError(
            f"{path}: expected the shape of the prepared case, {expected} (channels first), got {shape}: check "
            "spacing, crop_foreground, pad_to and size of the dataset against the code that saved it"
        )
    voxels = nifti.read_image(header)
    if _is_uint8(local):
        voxels /= 255
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0 or high > 1:
        raise DataError(f"{path}: expected uint8 0..255 or floats in [0, 1], got {low:g} to {high:g}: convert the file")
    return torch.from_numpy(voxels)


def _is_uint8(path: Path) -> bool:
    """Whether the file's bytes are its values: scaled ones stand for floats."""
    import nibabel

    voxels: Any = nibabel.load(path).dataobj
    return str(voxels.dtype) == "uint8" and (voxels.slope, voxels.inter) == (1, 0)
