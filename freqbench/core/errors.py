"""Errors that a user can mend: one line that says what was expected, what was got and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1000  # letters of a refusal
MOST_NAMES = 50  # of a table that a refusal lists


class UserError(ValueError):
    """A mistake in what the user gave: printed as one line of at most LONGEST letters, exit code 2."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message)))


class ParameterError(UserError):
    """A parameter out of its range; `parameter` names it, so that a job file can point at its place."""

    def __init__(self, owner: str, parameter: str, complaint: str) -> None:
        super().__init__(f"{owner}: {parameter}: {complaint}")
        self.parameter = parameter
        self.complaint = complaint


class DataError(UserError):
    """A case that cannot be read or is not what it should be."""


class MissingDataError(DataError):
    """A file or folder of a dataset that is not on this machine."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit its architecture."""


class NoFileError(UserError):
    """A path or URI where a file was expected and none is."""


class StorageRefused(UserError, OSError):  # noqa: N818 (a kind of refusal, as its readers say it)
    """Object storage that will go on refusing until somebody mends it: no access, no credentials, no such bucket."""


class StorageUnavailable(OSError):  # noqa: N818
    """Object storage that cannot be reached, does not answer or is overloaded: worth another try later; one line."""


class EngineLost(RuntimeError):  # noqa: N818
    """What carried a run out is gone, whoever's fault it is: one line, exit code 1; the same command goes on."""


class ThreatModelError(RuntimeError):
    """An attack left the bound that its threat model declares: a defect of the attack, not of its input."""


def shortened(text: str) -> str:
    """A text of at most LONGEST letters: its begin, which names the place, and its end, which says what to do."""
    half = LONGEST // 2 - 3
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def one_line(said: object) -> str:
    """A text, or what an exception says, on one line; the type of what says nothing."""
    return " ".join(str(said).split()) or type(said).__name__


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a table.

    >>> unknown("attack", "pdg", ["pgd", "gn"])
    "unknown attack 'pdg'. Did you mean 'pgd'? Known: gn, pgd"
    """
    names = sorted(known)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    plain = {name.casefold(): name for name in names}
    close = [plain[name] for name in get_close_matches(word.casefold(), plain, n=1, cutoff=0.5)]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {word!r:.80}.{hint} Known: {', '.join(names[:MOST_NAMES])}{more}"
