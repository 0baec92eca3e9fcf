"""What can be asked of a store beside the papers' tables: one view a file, each from records to sections of a page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from freqbench.reporting.render import Section
from freqbench.reporting.views import certified, defences
from freqbench.reporting.views.budget import budget
from freqbench.reporting.views.compare import compare
from freqbench.reporting.views.cost import cost
from freqbench.reporting.views.leaderboard import leaderboard
from freqbench.reporting.views.organs import organs
from freqbench.reporting.views.transfer import transfer

__all__ = ["VIEWS", "View", "compare"]


@dataclass(frozen=True, kw_only=True)
class View:
    """A view of a store.

    Attributes:
        build: from records after `tables.current(strength.checked(...))`, and class records where `needs_classes`, to
            sections.
        columns: of RECORDS that it needs beside those that identify a row, and `status`, `finished_at`, `dsc`,
            `dsc_clean`.
        needs_classes: whether `build` takes class records too.
    """

    build: Callable[..., list[Section]]
    columns: tuple[str, ...] = ("dsc", "dsc_clean")
    needs_classes: bool = False


VIEWS: Mapping[str, View] = {
    "transfer": View(build=transfer, columns=("dsc", "dsc_clean", "ssim_body", "lpips_body", "l2_body")),
    "organs": View(build=organs, needs_classes=True),
    "budget": View(build=budget),
    "cost": View(
        build=cost,
        columns=(
            *("dsc", "dsc_clean", "attack_seconds", "num_forwards", "num_backwards"),
            *("peak_memory_bytes", "device", "window_batch"),
        ),
    ),
    "leaderboard": View(build=leaderboard),
    "defences": View(build=defences.defences, columns=defences.COLUMNS),
    "certified": View(build=certified.certified, columns=certified.COLUMNS),
}
