"""Lists the views of a store beside the papers' tables: one question each, from records to sections of a page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import pandas as pd

from freqbench.analysis import certificates
from freqbench.analysis.groups import SCORES
from freqbench.analysis.tables import current
from freqbench.reporting.render import Section
from freqbench.reporting.views import (
    clinical,
    defences,
    detection,
    ejection,
    leaderboard,
    natural,
    overview,
    smallest,
    transfer,
)
from freqbench.reporting.views.compare import compare

__all__ = ["VIEWS", "View", "compare", "unasked_sections"]


@dataclass(frozen=True, kw_only=True)
class View:
    """View of a store: `build` makes sections of records after `current`, and of class records if it needs them."""

    build: Callable[..., list[Section]]
    columns: tuple[str, ...] = SCORES  # of RECORDS, beside those that identify a row
    needs_classes: bool = False
    applies: Callable[[pd.DataFrame], bool] | None = None  # a report shows it unasked for these records; None: never


def _has_values(column: str) -> Callable[[pd.DataFrame], bool]:
    return lambda records: bool(records[column].notna().any())


VIEWS: Mapping[str, View] = {
    "overview": View(build=overview.overview, columns=overview.COLUMNS),
    "transfer": View(build=transfer.transfer, columns=(*SCORES, *transfer.DISTANCES)),
    "clinical": View(build=clinical.clinical, columns=clinical.COLUMNS),
    "ejection": View(build=ejection.ejection, needs_classes=True),
    "leaderboard": View(build=leaderboard.leaderboard, columns=(*SCORES, "target_method", *certificates.COLUMNS)),
    "defences": View(build=defences.defences, columns=defences.COLUMNS, applies=_has_values("target_defence")),
    "detection": View(build=detection.detection, columns=detection.COLUMNS, applies=detection.applies),
    "certified": View(
        build=defences.certified_sections, columns=defences.CERTIFIED_COLUMNS, applies=_has_values("certified_radius")
    ),
    "bounds": View(build=defences.bounds, columns=certificates.COLUMNS, applies=_has_values("draws")),
    "smallest": View(build=smallest.smallest, columns=smallest.COLUMNS, applies=smallest.applies),
    "natural": View(build=natural.natural, columns=natural.COLUMNS, applies=natural.applies),
}


def unasked_sections(records: pd.DataFrame, but: str = "") -> list[Section]:
    """Sections of the views, all but one, whose subject is in a report's records, after `exclude`: shown unasked."""
    fitting = [view for name, view in VIEWS.items() if name != but and view.applies and view.applies(records)]
    rows = current(records) if fitting else records
    return list(chain.from_iterable(view.build(rows) for view in fitting))
