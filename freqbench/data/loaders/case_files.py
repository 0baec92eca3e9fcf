"""Names the files of one case in a folder, and finds them below its root."""

from dataclasses import dataclass

from freqbench.core import names, storage
from freqbench.core.errors import DataError, MissingDataError, UserError


class UnlabelledError(DataError):
    """Raised for a case without a label map in the list."""


@dataclass(frozen=True)
class CaseFiles:
    """One case of a folder: its name and its files as paths or URIs."""

    case_id: str
    patient_id: str
    image: str
    label: str
    further: tuple[str, ...] = ()  # the files of further channels, in order
    masks: tuple[str, ...] = ()  # one mask per class from 1 on, if masks make up the label map; `label` is the first

    def __post_init__(self) -> None:
        try:
            names.required(self.case_id, "case")
        except UserError as error:
            raise DataError(f"{self.image}: {error}") from None

    def files(self) -> tuple[str, ...]:
        """Returns all files of the case, each once."""
        return tuple(dict.fromkeys((self.image, self.label, *self.further, *self.masks)))


def expanded(text: str, name: str) -> str:
    """Fills variables in as `storage.filled_in` does, and raises MissingDataError for a dataset."""
    try:
        return storage.filled_in(text, name)
    except UserError as error:
        raise MissingDataError(str(error)) from None


def join(root: str, path: str) -> str:
    """Returns a path below the root; an absolute path stays as it is."""
    return path if path.startswith("/") or "://" in path else storage.join(root, path.removeprefix("./"))
