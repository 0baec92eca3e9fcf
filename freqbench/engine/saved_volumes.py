"""Saves volumes and predictions of a unit as NIfTI files on their preprocessed grid; channels are the fourth axis."""

import gzip
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from freqbench.core import config, names
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.types import Case, CaseRef
from freqbench.data import nibabel_files
from freqbench.data.intensities import is_ct
from freqbench.engine.attacking import AttackedVolume, AttackFacts
from freqbench.job.cells import Cell
from freqbench.results import volumes as layout
from freqbench.results.volumes import FACTS


class SavedFacts(AttackFacts, layout.VolumeFacts):
    """Facts of a saved volume; its file is written last, as the sign that the volume is complete."""

    attack_seconds: float | None  # None: unknown


def cell_folder(cell: Cell) -> str:
    """Returns the name of a cell's folder."""
    return layout.cell_folder(cell.attack.name, cell.source.name, cell.cell_id)


def folder(root: str, cell: Cell, ref: CaseRef) -> str:
    """Returns the folder below `root` with the volumes of a cell and of the case `ref`."""
    return storage.join(root, cell_folder(cell), f"{ref.case_id}-{cell.dataset.case_key(ref)}")


def _own_folder(root: str, cell: Cell, ref: CaseRef) -> str:
    """Returns `folder`, and refuses links that lead out of the store, which is the parent of `root`."""
    place = folder(root, cell, ref)
    names.require_inside(root.rpartition("/")[0] or ".", place)
    return place


def find_saved(root: str) -> Callable[[Cell, CaseRef], bool]:
    """Returns a function that is true if a cell's volume of a case lies below `root`, from one listing for all."""
    there = {storage.join(root, path) for path in storage.list_below(root, FACTS)}
    return lambda cell, ref: storage.join(folder(root, cell, ref), FACTS) in there


def save(root: str, cell: Cell, case: Case, attacked: AttackedVolume, attack_seconds: float | None) -> None:
    """Writes `adversarial`, `clean` (float32), `label` and, if it moved, the moved label (uint8), then the facts.

    Args:
        root: folder of a store's volumes, a path or URI.
        cell: dataset, source and attack.
        case: the clean volume `[C, H, W, D]`, with label and affine.
        attacked: the adversarial volume and its facts.
        attack_seconds: seconds of the attack; None: unknown.
    """
    place = _own_folder(root, cell, case.ref)
    for name, volume in ((layout.ADVERSARIAL, attacked.adversarial), (layout.CLEAN, case.image)):
        write(storage.join(place, name), volume, case.affine)
    moved = {} if attacked.label is None else {layout.MOVED_LABEL: attacked.label}
    save_maps(root, cell, case.ref, {layout.LABEL: case.label, **moved}, case.affine)
    facts = SavedFacts(
        **attacked.facts.model_dump(),
        attack_seconds=attack_seconds,
        regions=cell.dataset.classes.of_labels,
        native_ranges=case.windows,
        unit="HU" if is_ct(case, cell.dataset.space) else "",
    )
    storage.write_atomic(storage.join(place, FACTS), facts.model_dump_json().encode())


def save_maps(root: str, cell: Cell, ref: CaseRef, maps: Mapping[str, Tensor], affine: npt.NDArray[np.float64]) -> None:
    """Writes label maps `[1, H, W, D]` of a cell and the case `ref`, or several that are one tensor, below `root`, by
    the names of their files; `affine` is voxel to world (RAS+, mm)."""
    place = _own_folder(root, cell, ref)
    for name, labels in maps.items():
        write(storage.join(place, name), cell.dataset.classes.shown(labels), affine)


def read(root: str, cell: Cell, ref: CaseRef) -> tuple[AttackedVolume, float | None]:
    """Reads the adversarial volume of a cell and the case `ref` below `root`, and the seconds of its attack, None if
    unknown; refuses files of others."""
    place = _own_folder(root, cell, ref)
    path = storage.join(place, FACTS)
    facts = config.validate(object_of(storage.read_bytes(path), path), SavedFacts, path)
    adversarial = read_volume(storage.join(place, layout.ADVERSARIAL))
    label = None
    if cell.attack.moves_labels:
        label = cell.dataset.classes.unshown(read_volume(storage.join(place, layout.MOVED_LABEL)).to(torch.uint8))
    own = AttackFacts(**facts.model_dump(exclude={"attack_seconds", *layout.VolumeFacts.model_fields}))
    return AttackedVolume(adversarial=adversarial, facts=own, label=label), facts.attack_seconds


def read_volume(path: str) -> Tensor:
    """Reads the volume of a file of `write` at `path`, `[C, H, W, D]`."""
    voxels = nibabel_files.read_packed(storage.read_bytes(path), path)
    return torch.from_numpy(np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None])


def write(path: str, volume: Tensor, affine: npt.NDArray[np.float64]) -> None:
    """Writes a volume as one `.nii.gz` file at `path`, a file or URI, atomically; `affine` as in `pack_nifti`."""
    storage.write_atomic(path, pack_nifti(volume, affine))


def pack_nifti(volume: Tensor, affine: npt.NDArray[np.float64]) -> bytes:
    """Packs a `volume` `[H, W, D]` or `[C, H, W, D]` as a `.nii.gz` of its type by `affine` (RAS+, mm): equal bytes if
    equal."""
    import nibabel

    voxels = volume.movedim(0, -1) if volume.ndim == 4 and len(volume) > 1 else volume.reshape(volume.shape[-3:])
    image = nibabel.Nifti1Image(voxels.numpy(), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def require_shared(volumes: str | None, num_nodes: int) -> None:
    """Raises UserError if several machines, `num_nodes` of them, would each save volumes at a local path."""
    if volumes and num_nodes > 1 and "://" not in volumes:
        raise UserError(
            f"save_adversarial: expected --out as a URI, or as file:///... on a file system that all {num_nodes} nodes "
            f"share, got {volumes}: its volumes would be left on each node (--set save_adversarial=none: no volumes)"
        )
