"""Reads the model card of an entry: a person's statements about a network, which nothing here can measure."""

import re
import unicodedata
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from freqbench.core import config
from freqbench.core.config import Strict
from freqbench.core.documents import YAML_BYTES, mapping_of

CARD = "card.yaml"
LINE, PARAGRAPH = 200, 3000  # letters

_HTTPS = re.compile(r"https://[!#-;=?-~]{1,300}")  # neither quotes nor angle brackets
_ZOO = re.compile(r"zoo://\w[\w-]*/\w[\w.-]*")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", re.ASCII)

TEMPLATE = """\
# What people read about the network. Fill in every key; paper and bibtex may stay null.
title: {title}
authors: ""      # who made it
summary: ""      # what it is: architecture, size, what makes it robust
data: ""         # what it was trained on, and where to get that
training: ""     # how: steps, loss, augmentation, attacks
license: ""      # of the weights, such as Apache-2.0
contact: ""      # a mail address, or an https address
checkpoint: {checkpoint}   # where to get the weights: an https address, or zoo://DATASET/NAME
paper: null      # an https address
bibtex: null     # how to cite it
"""


def _text(longest: int) -> AfterValidator:
    def checked(text: str) -> str:
        if not text.strip():
            raise ValueError("expected a text, got none: fill it in")
        if len(text) > longest:
            raise ValueError(f"expected at most {longest} letters, got {len(text)}: shorten it")
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") and letter != "\n" for letter in text):
            raise ValueError("expected plain text, got control characters: remove them")
        return text.strip()

    return AfterValidator(checked)


def is_address(text: str) -> bool:
    """True if a text is an https address of a host without a user name."""
    try:
        parts = urlsplit(text)
        return bool(_HTTPS.fullmatch(text) and parts.hostname and parts.username is None)
    except ValueError:
        return False


def _address(expected: str, *others: re.Pattern[str]) -> AfterValidator:
    def checked(text: str) -> str:
        if not (is_address(text) or any(other.fullmatch(text) for other in others)):
            raise ValueError(f"expected {expected}, got {text!r:.100}: give one")
        return text

    return AfterValidator(checked)


Line = Annotated[str, _text(LINE)]
Paragraph = Annotated[str, _text(PARAGRAPH)]


class Card(Strict):
    """A model card: plain texts; links are https addresses.

    Attributes:
        checkpoint: where to get the weights: an https address, or `zoo://DATASET/NAME`.
        license: of the weights.
        contact: a mail address or an https address.
    """

    title: Line
    authors: Line
    summary: Paragraph
    data: Paragraph
    training: Paragraph
    license: Line
    contact: Annotated[str, _address("a mail address or an https address", _MAIL)]
    checkpoint: Annotated[str, _address("an https address or zoo://DATASET/NAME", _ZOO)]
    paper: Annotated[str, _address("an https address")] | None = None
    bibtex: Paragraph | None = None


def read_card(path: Path) -> Card:
    """Reads the card of an entry; UserError in one line for a key that is missing, unknown or empty, or a bad value."""
    with path.open("rb") as stream:
        return config.validate(mapping_of(stream.read(YAML_BYTES + 1), str(path)), Card, where=str(path))
