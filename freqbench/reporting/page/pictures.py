"""Puts the glimpses of stores into the page, each beside the row of means that it belongs to."""

import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from freqbench.analysis.groups import is_white_box, with_files
from freqbench.core import storage
from freqbench.results.glimpses import MAX_BYTES, listed

MOST_BYTES = 8_000_000


def shown_glimpses(records: pd.DataFrame, stores: Sequence[str]) -> list[dict[str, Any]]:
    """`{row case drop image}` of each white-box row of the summary that has a glimpse, the largest drop first.

    `case` is its id, `drop` in points of foreground DSC, `image` a WebP file as base64. Of several seeds or stores the
    case that lost most is shown; no more than MOST_BYTES are, the largest drops. `row` of the records is the place of
    each in the summary.
    """
    files = {key: path for store in reversed(stores) for key, path in listed(store).items()}  # the first store's win
    rows = with_files(records, files)
    rows = rows[is_white_box(rows) & (rows["status"] == "ok")]
    drops = 100 * (rows["dsc_foreground_clean"] - rows["dsc_foreground"]).astype(float)
    rows = rows.assign(drop=drops).sort_values("drop", ascending=False, kind="stable").drop_duplicates("row")
    pictures: list[dict[str, Any]] = []
    room = MOST_BYTES
    for row, case, drop, path in rows[["row", "case_id", "drop", "file"]].itertuples(index=False, name=None):
        with suppress(FileNotFoundError):  # a run has replaced it meanwhile
            image = storage.read_range(path, 0, MAX_BYTES + 1)
            if len(image) > MAX_BYTES or image[:4] != b"RIFF" or image[8:12] != b"WEBP":
                continue
            room -= len(image)
            if room < 0:
                break
            encoded = base64.b64encode(image).decode()
            pictures.append({"row": int(row), "case": str(case), "drop": round(drop, 2), "image": encoded})
    return pictures
