"""Budgets that were found for a store, in its `match.json`."""

import json
from collections.abc import Mapping

from freqbench.core import config, storage
from freqbench.core.config import Strict
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.job.sweep import Match

FILE = "match.json"


class Record(Strict):
    """What `match.json` holds of one budget.

    Attributes:
        dataset: its name.
        source: name of the source model.
        attack: its name.
        match: what was asked for.
        cases: whose mean it is.
        budget_name: the parameter.
        budget: its value.
        reached: the metric's mean at this budget.
        tried: how many budgets were tried.
    """

    dataset: str
    source: str
    attack: str
    match: Match
    cases: tuple[str, ...]
    budget_name: str
    budget: float
    reached: float
    tried: int

    @property
    def text(self) -> str:
        """One line."""
        cases = f"{len(self.cases)} case{'s' if len(self.cases) > 1 else ''}"
        return (
            f"{self.attack} on {self.source}, {self.dataset}: {self.budget_name}={self.budget:g} has "
            f"{self.match.metric} {self.reached:.4g}, asked {self.match.value:g} (mean of {cases}, "
            f"{self.tried} budgets tried)"
        )


def read_budgets(out: str) -> dict[str, Record]:
    """The budgets that a store knows, by key.

    Raises:
        UserError: `match.json` cannot be read.
    """
    path = storage.join(out, FILE)
    if not storage.exists(path):
        return {}
    try:
        content = object_of(storage.read_bytes(path), path)
        return {key: config.validate(value, Record, f"{path}: {key}") for key, value in content.items()}
    except UserError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: expected budgets that a run found, got something else ({why}): delete it") from None


def write_budgets(out: str, known: Mapping[str, Record]) -> None:
    """Keep budgets in a store."""
    content = {key: record.model_dump(mode="json") for key, record in known.items()}
    storage.write_atomic(storage.join(out, FILE), json.dumps(content, indent=2).encode())
