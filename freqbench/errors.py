"""Errors that a user can mend: one line that says what was expected, what was got and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user gave: printed as one line without a traceback, exit code 2."""


class DataError(UserError):
    """A case that cannot be read or is not what it should be."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit its architecture."""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a table.

    >>> unknown("attack", "pdg", ["pgd", "gn"])
    "unknown attack 'pdg'. Did you mean 'pgd'? Known: gn, pgd"
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {word!r}.{hint} Known: {', '.join(names)}"
