"""Reads datasets with a published split: the package ships the list, the files stay as they were downloaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from freqbench.core import storage
from freqbench.core.errors import MissingDataError
from freqbench.data import nifti
from freqbench.data.loaders.case_files import CaseFiles, UnlabelledError, join
from freqbench.data.loaders.decathlon import Decathlon

SPLITS = Path(__file__).parents[1] / "splits"

PUBLISHED = "published"


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
        return CaseFiles(case_id, patient, image, label)

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
