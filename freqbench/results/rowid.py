"""Names rows by digests of their keys, and finds them; the names are stored nowhere."""

import hashlib
import random
import re
from collections.abc import Collection

from freqbench.core.errors import UserError
from freqbench.results.schema import KEY
from freqbench.results.store import Key, Store

LEAST_DIGITS = 6
_PREFIX = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},16}}")


def row_id(cell_id: str, case_key: str, target_model_id: str) -> str:
    """Returns 16 hex digits that name a record: a digest of its key.

    >>> row_id("0123456789abcdef", "fedcba9876543210", "feedfacefeedface")
    'fd9e36ab26584a29'
    """
    return hashlib.blake2b("/".join((cell_id, case_key, target_model_id)).encode(), digest_size=8).hexdigest()


def find_row(store: Store, text: str) -> Key:
    """Returns the key of the row whose id begins with `text`; raises UserError if none or several do."""
    if not _PREFIX.fullmatch(text):
        raise UserError(
            f"--row: expected {LEAST_DIGITS} to 16 hex digits of a row's id, got {text!r}: the page "
            "of `report --format html` has them in the details of a case"
        )
    keys = [key for key in store.rows(KEY) if row_id(*key).startswith(text)]
    if len(keys) != 1:
        ids = ", ".join(row_id(*key) for key in keys[:3])
        got = f"{len(keys)} of them ({ids}): give more digits" if keys else "none: check OUT and the digits"
        raise UserError(f"{store.root}: expected one row whose id begins with {text}, got {got}")
    return keys[0]


def sample_rows(store: Store, count: int, seed: int, first: Collection[Key] = ()) -> list[Key]:
    """Returns the keys `first` and those of `count` other ok rows drawn at random, or of all if there are fewer.

    They are the same for the same store. Raises UserError if no row is ok.
    """
    keys = sorted(row[:3] for row in store.rows((*KEY, "status")) if row[3] == "ok")
    if not keys:
        raise UserError(f"{store.root}: expected a row that is ok, found none: run the job first")
    others = [key for key in keys if key not in first]
    return [*first, *random.Random(seed).sample(others, min(count, len(others)))]
