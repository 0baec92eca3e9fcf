"""Splits a grid into shards by the ids of its cells, which are hashes."""

import math
import re
from dataclasses import dataclass
from typing import Self

from freqbench.core.errors import UserError

_TEXT = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The `number`-th of `count` shards, from 1 on; the default is the whole grid.

    A cell's id, which is a hash, modulo `count` is the shard's number minus 1, so every run of a job agrees on it.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `2/8`; raises UserError for anything else."""
        match = _TEXT.fullmatch(text)
        if not match or int(match[1]) > int(match[2]):
            raise UserError(f"--shard: expected NUMBER/COUNT such as 2/8, from 1/8 to 8/8, got {text!r}")
        return cls(number=int(match[1]), count=int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, cell_id: str) -> bool:
        """True if the shard contains a cell (16 hex digits)."""
        return int(cell_id, 16) % self.count == self.number - 1

    def overlaps(self, other: "Shard") -> bool:
        """True if a cell can be in both: remainders agree modulo the counts' gcd (Chinese remainders)."""
        return (self.number - other.number) % math.gcd(self.count, other.count) == 0
