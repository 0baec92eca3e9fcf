"""Finds and reads predictions that a network's own code wrote for cases of a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.core.identity import digest
from freqbench.core.types import CaseRef, NativeCase, Shape, triple
from freqbench.data import image_files
from freqbench.data.base import Dataset
from freqbench.data.headers import Header

MOST_CASES = 5
DEPTH = 3
PACKED = ".npz"
Values = npt.NDArray[Any]


class NoPredictionsError(UserError):
    """Raised if no file is of a case of the dataset."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Predictions of a network's own code: the cases, and the file of each by its id."""

    refs: tuple[CaseRef, ...]
    files: Mapping[str, str]

    @property
    def content(self) -> str:
        """16 hex digits of the cases and their files."""
        return digest([[case_id, storage.sha256(path)] for case_id, path in sorted(self.files.items())])


def find(folder: str, dataset: Dataset, where: str, refs: Sequence[CaseRef] | None = None) -> Witness:
    """Finds the predictions of a dataset's cases in a folder or URI, MOST_CASES at most, those of `refs` first. A file
    is a case's if its name, or the folder that it lies in, is the case's id, or that id with `_WORDS` behind it as
    MONAI's SaveImage writes them. Raises UserError, which begins with `where`, for none, or two of one case."""
    root = storage.filled_in(folder, where)
    of_id = {ref.case_id: ref for ref in (*(refs or ()), *dataset.whole_split())}
    found: dict[str, list[str]] = {}
    for path in storage.list_tree(root, DEPTH):
        if path.endswith((*image_files.SUFFIXES, PACKED)):
            *above, _ = path.split("/")
            begins = "".join(f"/{name}_" for name in (image_files.stem(path).removesuffix(PACKED), *above))
            fits = [each for each in of_id if f"/{each}_" in begins]
            if fits:
                found.setdefault(max(fits, key=len), []).append(storage.join(root, path))
    if not found:
        rest = f"such as {next(iter(of_id))}.nii.gz, in {root}, found none: name them as their cases"
        raise NoPredictionsError(f"{where}: predictions: expected files of cases of {dataset.name}, {rest}")
    for case_id, paths in found.items():
        exact = [path for path in paths if image_files.stem(path).removesuffix(PACKED) == case_id]
        maps = [path for path in exact if not path.endswith(PACKED)]  # nnU-Net writes probabilities beside a map
        found[case_id] = maps or exact or paths
        if len(found[case_id]) > 1:
            got = f"got {' and '.join(sorted(paths)[:2])}: drop one"
            raise UserError(f"{where}: predictions: expected one file of {case_id}, {got}")
    chosen = [case_id for case_id in of_id if case_id in found][:MOST_CASES]
    return Witness(refs=tuple(map(of_id.__getitem__, chosen)), files={each: found[each][0] for each in chosen})


def read(path: str, native: NativeCase) -> Values:
    """Returns the label map `[H, W, D]` in the file at `path`, or a channel an output, `[K, H, W, D]`; refuses another
    grid than that of the case `native`."""
    if path.endswith(PACKED):  # probabilities that nnU-Net saved, which have the axes of SimpleITK
        with np.load(storage.fetch(path)) as content:
            name = next((name for name in ("probabilities", "softmax") if name in content), None)
            if name is None:
                raise DataError(f"{path}: expected `probabilities`, as nnU-Net saves them, got {', '.join(content)}")
            values = content[name]
        if values.ndim != 4 or values.shape[:0:-1] != _shape(native):
            raise DataError(f"{path}: expected K maps of {_shape(native)[::-1]}, got {values.shape}: predict this case")
        return np.ascontiguousarray(values.transpose(0, 3, 2, 1)).astype(np.float32)
    header = image_files.read_header(image_files.fetch(path), multichannel=True)
    own = Header(path=Path(native.source), shape=_shape(native), spacing=native.spacing, affine=native.affine)
    header = header.turn_to(own)
    header.check_same_grid(own, "prediction")
    return image_files.read_integers(header) if header.num_channels == 1 else image_files.read_channels(header)


def _shape(native: NativeCase) -> Shape:
    return triple(native.image.shape[1:])
