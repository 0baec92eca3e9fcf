"""Whether checkpoints fit the data, by what they make of a clean case."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from freqbench.job.grid import Unit

CAUSES = (
    "usual causes: another intensity window or spacing, another order of classes or axes, a checkpoint of an older "
    "MONAI without its migration"
)


class Fit:
    """Looks at each model's first case of each dataset.

    Args:
        units: that are carried out; `min_dice` of their targets is the floor.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._floors = {
            (unit.cell.dataset.name, target.model_id): target.min_dice for unit in units for target in unit.targets
        }
        self._seen: set[tuple[str, str]] = set()

    def complaint(self, record: Mapping[str, Any]) -> str | None:
        """One line if the clean foreground Dice of a model's first case is below its floor.

        A case without a class of the foreground says nothing: the next one is looked at.
        """
        key, dice = (record["dataset"], record["target_model_id"]), record["dsc_foreground_clean"]
        if dice is None or math.isnan(dice) or key in self._seen:
            return None
        self._seen.add(key)
        floor = self._floors.get(key, 0.0)
        if dice >= floor:
            return None
        return (
            f"{record['target_model']}: clean foreground Dice {dice:.2f} on {record['case_id']} of "
            f"{record['dataset']}, expected min_dice {floor:g} at least: this checkpoint does not fit this dataset or "
            f"preprocessing ({CAUSES})"
        )
