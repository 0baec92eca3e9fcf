"""Names the files of one case of a folder, and finds them below its root."""

from dataclasses import dataclass

from freqbench.core import names, storage
from freqbench.core.errors import DataError, MissingDataError, UserError


class UnlabelledError(DataError):
    """A case for which the list names no label map."""


@dataclass(frozen=True)
class Entry:
    """One case of a folder: its name and its files as paths or URIs."""

    case_id: str
    patient_id: str
    image: str
    label: str
    further: tuple[str, ...] = ()  # the files of further channels, in order
    masks: tuple[str, ...] = ()  # a mask a class from 1 on, where these make the label map; `label` is the first

    def __post_init__(self) -> None:
        try:
            names.required(self.case_id, "case")
        except UserError as error:
            raise DataError(f"{self.image}: {error}") from None

    def files(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.image, self.label, *self.further, *self.masks)))


def expanded(text: str, name: str) -> str:
    """`storage.filled_in`, of a dataset."""
    try:
        return storage.filled_in(text, name)
    except UserError as error:
        raise MissingDataError(str(error)) from None


def join(root: str, path: str) -> str:
    """A path below the root, itself where it is absolute."""
    return path if path.startswith("/") or "://" in path else storage.join(root, path.removeprefix("./"))
