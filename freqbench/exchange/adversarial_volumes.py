"""Imports adversarial volumes of third-party code into a store as if a cell had saved them, and scores them."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from rich.console import Console
from torch import Tensor
from typing_extensions import override

from freqbench import models
from freqbench.attacks import Attack
from freqbench.attacks.core.task import Task
from freqbench.core.errors import DataError, UserError, unknown
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.types import Case, CaseRef
from freqbench.data import image_files
from freqbench.engine import memory, run, saved_volumes
from freqbench.engine.attacking import AttackedVolume
from freqbench.engine.run import Additions, ImportedCell, Summary
from freqbench.exchange.export import tell_left_out
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES

PREFIX = "adv_"  # of the files that the papers' code saved


@dataclass(frozen=True, kw_only=True)
class Imported(Attack):
    """Stands for the unknown maker of existing volumes; no job can name it, as it makes none."""

    name: ClassVar[str] = "imported"
    threat_model: ClassVar[str] = "none"
    budget_name: ClassVar[str | None] = None

    label: str  # its name in tables
    content: str  # digest of the volumes' files, so that other volumes are another cell

    def perturb(self, task: Task) -> Tensor:
        """Raises UserError for any `task`: volumes cannot be made, only imported."""
        raise UserError(f"{self.label}: expected the volumes that were brought in, found none: bring them in again")

    @property
    @override
    def passes(self) -> tuple[int, int]:
        return 0, 0


def bring_in(grid: Grid, out: str, folder: str, source: str, label: str, console: Console) -> Summary:
    """Saves volumes of third-party code in a store and scores them on the job's targets. The released code saves
    `imagesTsAdv/adv_<image>.nii.gz`: uint8 0..255, identity affine, on the preprocessed grid; they are divided by 255.
    Floats in [0, 1] stay as they are. A file belongs to the case of its name, whatever its affine. Raises UserError for
    no such model, no file of a case, or a volume of another shape or range; nothing is stored then.

    Args:
        grid: the data and the targets.
        out: the store, a folder or URI.
        folder: folder or URI of the volumes.
        source: name of the job's model whose gradients made them.
        label: their name in tables.
        console: shows progress.
    """
    names = [entry.name for entry in grid.job.models]
    if source not in names:
        raise UserError(f"--source: {unknown('model', source, names)}")
    template, files = _match_files(grid, folder, source, console)
    content = digest(sorted((ref.case_id, *image_files.sha256s(path)) for ref, path in files))
    cell = _cell(template, label, content)
    root = storage.join(out, VOLUMES)
    is_saved = saved_volumes.find_saved(root)
    network = None
    for saving in (False, True):  # every file is looked at before anything is written
        for ref, path in files:
            if saving and is_saved(cell, ref):
                continue
            case = cell.dataset.load(ref, cell.source.space)
            voxels = _read(path, case)
            if saving:
                if cell.dataset.reference == "prediction":  # what is saved as its label
                    network = network or models.load(cell.source, torch.device("cpu"))
                    case = memory.reference_case(case, cell.dataset, network)
                saved_volumes.save(root, cell, case, AttackedVolume(adversarial=voxels), attack_seconds=None)
    imported = replace(grid, cells=(cell,), cases={cell.dataset.name: tuple(ref for ref, _ in files)}, warnings=())
    entry = {**imported.index()["cells"][0], "cases": list(imported.case_keys[cell.dataset.name])}
    added = Additions.read(Store(out)).add_imported(ImportedCell(**entry, source=source, label=label, content=content))
    return run.rescore(imported, out, console, added)


def join_imported(grid: Grid, out: str) -> Grid:
    """Joins a job's grid with the cells that were imported into its store `out`, if they fit its data and models."""
    templates = {(cell.dataset.name, cell.source.name): cell for cell in reversed(grid.cells)}
    further = []
    for entry in Additions.read(Store(out)).imported:
        cells = (_cell(template, entry.label, entry.content) for template in templates.values())
        further += [cell for cell in cells if cell.cell_id == entry.cell_id][:1]
    return replace(grid, cells=(*grid.cells, *further))


def _cell(template: Cell, label: str, content: str) -> Cell:
    return replace(template, attack=Imported(label=label, content=content), seed=None, window_batch=None, surrogates=())


def _match_files(grid: Grid, folder: str, source: str, console: Console) -> tuple[Cell, list[tuple[CaseRef, str]]]:
    """Matches files with cases: a cell of the source on their data, and the file of each case; reports the rest."""
    names = [name for name in storage.list_files(folder, "") if name.endswith(image_files.SUFFIXES)]
    by_case = {image_files.stem(name).removeprefix(PREFIX): storage.join(folder, name) for name in sorted(names)}
    templates = {cell.dataset.name: cell for cell in grid.cells if cell.source.name == source}
    ids: list[str] = []
    datasets: list[str] = []
    for name in templates:
        of_dataset = [ref.case_id for ref in grid.cases[name]]
        ids += of_dataset
        if not by_case.keys().isdisjoint(of_dataset):
            datasets.append(name)
    if len(datasets) != 1:
        got = f"files of {' and '.join(datasets)}" if datasets else f"{', '.join(sorted(names)[:3]) or 'no file'}"
        example = f"{PREFIX}{ids[0]}.nii.gz" if ids else f"{PREFIX}CASE.nii.gz"
        rest = f"such as {example}, got {got}: rename them, or give a job of these cases"
        raise UserError(f"{folder}: expected volumes of cases of one dataset that the job attacks {source} on, {rest}")
    (name,) = datasets
    files: list[tuple[CaseRef, str]] = []
    without: list[str] = []
    for ref in grid.cases[name]:
        path = by_case.pop(ref.case_id, None)
        if path:
            files.append((ref, path))
        else:
            without.append(ref.case_id)
    tell_left_out(console, "files of no case of the job are", sorted(by_case))
    tell_left_out(console, "cases without a file are", without)
    return templates[name], files


def _read(path: str, case: Case) -> Tensor:
    """Reads a volume in [0, 1] on the grid of its case, `[C, H, W, D]`; raises DataError for others."""
    header = image_files.read_header(image_files.fetch(path), multichannel=True)
    shape = (header.num_channels, *header.shape)
    expected = tuple(case.image.shape)
    if shape != expected:
        raise DataError(
            f"{path}: expected the shape of the prepared case, {expected} (channels first), got {shape}: check "
            "spacing, crop_foreground, pad_to and size of the dataset against the code that saved it"
        )
    voxels = image_files.read_image(header)
    if header.stored == "uint8":  # scaled bytes stand for floats
        voxels /= 255
    low = float(voxels.min())
    high = float(voxels.max())
    if low < 0 or high > 1:
        raise DataError(f"{path}: expected uint8 0..255 or floats in [0, 1], got {low:g} to {high:g}: convert the file")
    return torch.from_numpy(voxels)
