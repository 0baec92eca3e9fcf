"""Errors that a user can fix: one line with the expected value, the actual one and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1000  # letters of a refusal
WORD = 40  # letters of the longest word that is left out rather than cut
MOST_NAMES = 25  # of a table that a refusal lists
MOST_CLOSE = 3
CATALOGUED = "attack"  # its names, too many for a line, are a command's list


class UserError(ValueError):
    """A mistake in the user's input: printed as one line of at most LONGEST letters, exit code 2."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(" ".join(str(message).split())))  # a name in it may hold line breaks


class ParameterError(UserError):
    """A parameter out of its range; `parameter` names it, so that a job file can point at its place."""

    def __init__(self, owner: str, parameter: str, complaint: str) -> None:
        super().__init__(f"{owner}: {parameter}: {complaint}")
        self.parameter = parameter
        self.complaint = complaint


class DataError(UserError):
    """Raised for a case that cannot be read or is malformed."""


class MissingDataError(DataError):
    """Raised for a file or folder of a dataset, of brainchop's or of a hub's that is not on this machine."""


class MisfitError(UserError):
    """A network whose clean predictions show that it does not fit its data; nothing was attacked."""


class CheckpointError(UserError):
    """Raised for a checkpoint that cannot be read or does not fit its architecture."""


class UnsafeError(CheckpointError):
    """Raised for a checkpoint that is a pickle and asks for code."""


class NoFileError(UserError):
    """Raised for a path or URI without the expected file."""


class StorageRefused(UserError, OSError):  # noqa: N818 (a kind of refusal, as its readers say it)
    """Raised if object storage will refuse until somebody fixes it: no access, no credentials, no such bucket."""


class StorageUnavailable(OSError):  # noqa: N818
    """Raised if object storage cannot be reached, does not answer or is overloaded: worth another try later."""


class EngineLost(RuntimeError):  # noqa: N818
    """Raised if the engine of a run is lost, whatever the cause: one line, exit code 1; the same command resumes."""


class ThreatModelError(RuntimeError):
    """Raised if an attack left the bound of its threat model: a defect of the attack, not of its input."""


def shortened(text: str) -> str:
    """Shortens a text to LONGEST letters: its start names the place, and its end the remedy."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2 - 3
    end = text[-half:].partition(" ")[2]
    return f"{one_line(text, half)} {end if len(end) > half - WORD else text[-half:]}"


def one_line(said: object, most: int | None = None) -> str:
    r"""Returns what was `said`, a text or an exception's message, on one line, up to the last word within `most`
    letters.

    An empty one gives the type's name.

    >>> one_line("first words\nof many", 13)
    'first words ...'
    """
    text = " ".join(str(said).split()) or type(said).__name__
    if most is None or len(text) <= most:
        return text
    whole = text[: most + 1].rpartition(" ")[0]
    return f"{whole if len(whole) > max(0, most - WORD) else text[:most]} ..."


def installing(extra: str) -> str:
    """Returns the command that installs an extra of this package, which is on no index."""
    return f"pip install '.[{extra}]' in a clone of freqbench"


def unknown(kind: str, word: str, known: Iterable[str], likely: str | None = None) -> str:
    """Returns the sentence for a `word` that is none of the `known` names; it proposes `likely`, else the closest
    spelling. `kind` is what the names are names of.

    >>> unknown("attack", "pdg", ["pgd", "gn"])
    "unknown attack 'pdg'. Did you mean 'pgd'? Known: gn, pgd"
    """
    names = sorted(known)
    if not names:
        return f"unknown {kind} {word!r:.80}: expected none: leave it out"
    plain = {name.casefold(): name for name in names}
    spellings = get_close_matches(word.casefold(), plain, n=MOST_CLOSE, cutoff=0.5)
    close = [likely] if likely else [plain[name] for name in spellings]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if len(names) <= MOST_NAMES:
        return f"unknown {kind} {word!r:.80}.{hint} Known: {', '.join(names)}"
    if kind == CATALOGUED:
        return f"unknown {kind} {word!r:.80}.{hint} All {len(names)}: freqbench list attacks"
    shown = [*close, *(name for name in names if name not in close)][:MOST_NAMES]
    return f"unknown {kind} {word!r:.80}.{hint} Known: {', '.join(shown)} and {len(names) - MOST_NAMES} more"
