"""Reads scans without label maps: a folder of NIfTI images, or a single one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import model_validator

from freqbench.core import storage
from freqbench.core.errors import MissingDataError
from freqbench.data import nifti
from freqbench.data.loaders.folder import CaseFiles, ListedFolder

_CHANNEL = re.compile(r"(?P<case>.+)_[0-9]{4}")


class Images(ListedFolder):
    """Scans without label maps: the `.nii.gz` and `.nii` files of a folder, not of folders in it, or one such file.

    Needs `reference: prediction`. If all names end in a channel's number as nnU-Net writes it (`case_0000.nii.gz`,
    `case_0001.nii.gz`), files that differ in it alone are one case; else each file is one.

    Attributes:
        root: folder or URI, or that of a single file; `brainchop://t1_crop.nii.gz` is fetched.
        labels: names of the model's classes, background first, or their number; None: as the first model's file states.
    """

    loader: ClassVar[str] = "images"

    @model_validator(mode="after")
    def _has_no_labels(self) -> "Images":
        if self.reference == "label":
            raise ValueError(
                "expected label maps to score against, and scans alone have none: set reference: prediction"
            )
        return self

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the only split, `test`: each case as its name and files."""
        root = self._root()
        names = [""] if root.endswith(nifti.SUFFIXES) else []
        names = names or sorted({name for suffix in nifti.SUFFIXES for name in storage.list_files(root, suffix)})
        if not names:
            raise MissingDataError(f"{root}: expected .nii.gz or .nii files, found none: check `root`")
        files = [storage.join(root, name) if name else root for name in names]
        channels = [_CHANNEL.fullmatch(nifti.stem(file)) for file in files]
        if not all(channels):
            return {"test": [(nifti.stem(file), [file]) for file in files]}
        cases: dict[str, list[str]] = {}
        for file, channel in zip(files, filter(None, channels), strict=True):
            cases.setdefault(channel["case"], []).append(file)
        return {"test": list(cases.items())}

    def _source(self) -> str:
        return self._root()

    def _listed_class_names(self) -> tuple[str, ...]:
        raise MissingDataError(
            f"{self.name}: expected `labels`, the number of the model's classes or their names, as neither scans nor "
            "the model's file state them, got none: give them"
        )

    def _case_id(self, line: Any) -> str:
        return str(line[0])

    def _parsed(self, line: Any) -> CaseFiles:
        case_id, (image, *further) = line
        return CaseFiles(case_id, self.patient_of(case_id), image, None, further=tuple(further))
