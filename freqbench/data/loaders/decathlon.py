"""Reads folders in the layout of the Medical Segmentation Decathlon: a JSON list beside NIfTI images and label maps.

Antonelli et al., Nature Communications 2022, arXiv:2106.05735. Synapse (BTCV) and ACDC are used in this layout too, or
as they were downloaded, with published splits whose lists the package ships.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict, Field

from freqbench.core import storage
from freqbench.core.errors import DataError, MissingDataError
from freqbench.data import nifti, nsd_tolerances
from freqbench.data.loaders.folder import CaseFiles, ListedFolder, UnlabelledError, asked, expanded, join, read_object

SPLITS = Path(__file__).parents[1] / "splits"
PUBLISHED = "published"
LIST = "the JSON list of cases"


class Decathlon(ListedFolder):
    """Any folder with a Decathlon JSON list.

    Entries are dicts with `image` and `label` (and `patient`, if several cases share one), or bare image names, in
    `imagesTr` if they name no folder. The label map of a bare `imagesTs/a.nii.gz` is `labelsTs/a.nii.gz`, else
    `labelsTr/a.nii.gz`; either may be named `a_gt.nii.gz`. Counters in lists are often wrong and are not read. A case
    has the name of its image's file; the patient of `patient001_frame01` is `patient001`.

    Attributes:
        list_file: `list` in job files: the JSON list, in `root` or absolute.
    """

    # Accept the field's own name too, so that a dumped dataset can be validated again.
    model_config = ConfigDict(populate_by_name=True)

    loader: ClassVar[str] = "decathlon"

    list_file: str = Field("dataset.json", alias="list")

    def _listed_class_names(self) -> tuple[str, ...]:
        listed = self._content().get("labels")
        count = len(listed) if isinstance(listed, dict) else 0
        if not isinstance(listed, dict) or count < 2 or set(listed) != {str(index) for index in range(count)}:
            raise DataError(
                f"{self._source()}: expected `labels` with the names of classes 0, 1, ..., got {listed!r}: "
                "give `labels` in the job file"
            )
        return tuple(str(listed[str(index)]) for index in range(count))

    @property
    def tolerances_mm(self) -> tuple[float, ...]:
        """The tolerance of the list's Decathlon task, if it is one; else by organ."""
        tolerance = nsd_tolerances.TASKS.get(str(self._content().get("name")).lower())
        return super().tolerances_mm if tolerance is None else (tolerance,) * (self.num_classes - 1)

    def _source(self) -> str:
        return join(self._root(), expanded(self.list_file, self.name))

    def _content(self) -> dict[str, Any]:
        path = self._source()
        return _read_list(path, asked(storage.sha256, path, LIST))

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the file's lists by their keys."""
        return {key: value for key, value in self._content().items() if isinstance(value, list)}

    def _case_id(self, line: Any) -> str:
        return nifti.stem(self._image_of(line))

    def _image_of(self, line: Any) -> str:
        """Returns an entry's image as the list names it."""
        image = line.get("image") if isinstance(line, dict) else line
        if not isinstance(image, str) or not image:
            raise DataError(f"{self._source()}: expected {{image, label}} or an image's name, got {line!r}")
        return image if isinstance(line, dict) or "/" in image else f"imagesTr/{image}"

    def _parsed(self, line: Any) -> CaseFiles:
        root, image = self._root(), self._image_of(line)
        case_id, label = self._case_id(line), None
        if self.reference == "label":
            label = line.get("label") if isinstance(line, dict) else _label_beside(root, image)
            if not isinstance(label, str) or not label:
                raise UnlabelledError(
                    f"{self._source()}: expected a label map for {image}, got none: choose a labelled split, or set "
                    "reference: prediction"
                )
            label = join(root, label)
        patient = line.get("patient") if isinstance(line, dict) else None
        return CaseFiles(case_id, self.patient_of(case_id, str(patient) if patient else None), join(root, image), label)


class Place(NamedTuple):
    """Places of a download's cases; `{case}`, `{patient}` and `{number}` (the case's digits) are filled in."""

    marker: str  # a file or folder that marks this layout
    image: str
    label: str


class Published(Decathlon):
    """A dataset with a published split, in the Decathlon layout that the list names or as downloaded.

    Attributes:
        list_file: `list` in job files: `published`, or your own Decathlon list, in `root` or absolute.
        split: `training`, `validation` or, if its label maps are public, `test`; or a slice: `validation[0:4]`.
    """

    shipped: ClassVar[str]
    labelled: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]
    places: ClassVar[tuple[Place, ...]]

    split: str = "validation"
    list_file: str = Field(PUBLISHED, alias="list")

    def splits(self) -> Mapping[str, Sequence[Any]]:
        """Returns the lists by their keys; of the published list, those with label maps."""
        splits = super().splits()
        return {key: splits[key] for key in self.labelled} if self.list_file == PUBLISHED else splits

    def _listed_class_names(self) -> tuple[str, ...]:
        return self.names

    def _source(self) -> str:
        return str(SPLITS / self.shipped) if self.list_file == PUBLISHED else super()._source()

    def _parsed(self, line: Any) -> CaseFiles:
        if self.list_file != PUBLISHED:
            return super()._parsed(line)
        place = self._place()
        if place is None:
            try:
                return super()._parsed(line)
            except UnlabelledError:  # a bare name in a labelled split: name the missing label map
                image = self._image_of(line)
                label = image.replace("images", "labels").replace(".nii.gz", "_gt.nii.gz")
                return super()._parsed({"image": image, "label": label})
        case_id = self._case_id(line)
        patient = case_id.partition("_frame")[0]
        number = "".join(filter(str.isdigit, patient))
        image, label = (
            join(self._root(), pattern.format(case=case_id, patient=patient, number=number))
            for pattern in (place.image, place.label)
        )
        return CaseFiles(case_id, self.patient_of(case_id), image, label)

    def _place(self) -> Place | None:
        """Returns the download's layout, None for Decathlon's; raises DataError if neither exists."""
        root = self._root()
        if storage.exists(join(root, "imagesTr")):
            return None
        for place in self.places:
            if storage.exists(join(root, place.marker)):
                return place
        markers = ", ".join(["imagesTr", *(place.marker for place in self.places)])
        raise MissingDataError(
            f"{root}: expected one of {markers} in it, found none: check `root`, or download the "
            f"files from {self.homepage}"
        )


def is_averaged(path: str) -> bool:
    """True if a file's name is that of an average over volumes, not of a case: `avg152T1...`, `DET0000101_avg...`."""
    name = nifti.stem(path)
    return name.startswith("avg") or "_avg" in name


@lru_cache(maxsize=64)
def _read_list(path: str, content_sha256: str) -> dict[str, Any]:
    """Parses a list once for each content of the file."""
    return read_object(path, LIST)


def _label_beside(root: str, image: str) -> str | None:
    parent, _, file = image.rpartition("/")
    above, _, beside = parent.rpartition("/")
    suffix = file.removeprefix(nifti.stem(image))
    for folder in (beside.replace("images", "labels"), "labelsTr"):
        for name in (file, f"{nifti.stem(image)}_gt{suffix}"):
            label = "/".join(filter(None, (above, folder, name)))
            if label != image and storage.exists(join(root, label)):
                return label
    return None
