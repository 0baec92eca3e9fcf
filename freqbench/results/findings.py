"""What the checks of a store found: a verdict and a sentence each."""

from dataclasses import dataclass
from typing import Literal

MOST_EXAMPLES = 3

Verdict = Literal["ok", "wrong", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a store.

    Attributes:
        name: of the check, one word.
        verdict: `not checked` where what it needs is not there.
        text: one sentence.
    """

    name: str
    verdict: Verdict
    text: str


class Findings:
    """What is wrong, by check, while a store is looked through: the first few places and how many more."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[str]] = {}
        self._more: dict[str, int] = {}

    def wrong(self, name: str, text: str) -> None:
        """Something is wrong."""
        texts = self._wrong.setdefault(name, [])
        if len(texts) < MOST_EXAMPLES:
            texts.append(text)
        else:
            self._more[name] = self._more.get(name, 0) + 1

    def check(self, name: str, ok: str, missing: str = "") -> Check:
        """What came of a check.

        Args:
            name: of it.
            ok: the sentence if nothing is wrong.
            missing: why it could not be made, if it could not; what is wrong is wrong all the same.
        """
        if texts := self._wrong.get(name):
            more = f"; and {self._more[name]} more like these" if name in self._more else ""
            return Check(name=name, verdict="wrong", text="; ".join(texts) + more)
        return Check(name=name, verdict="not checked" if missing else "ok", text=missing or ok)
