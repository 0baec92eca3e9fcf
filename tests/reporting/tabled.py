"""Cells of the papers' tables over planted records."""

import pandas as pd
from reporting import planted

from freqbench.reporting.papers import recipes
from freqbench.reporting.papers.tables import cell_frame

JOBS = {**{f"vafa_table{n}": f"vafa_table{n}" for n in range(1, 7)}, "sa2_synapse": "sa2_main", "sa2_acdc": "sa2_main"}
"""Each recipe's job."""


def cells_of(papers: list[planted.Published], name: str, change: planted.Change = planted.unchanged) -> pd.DataFrame:
    """The cells of a recipe, by attack, budget and metric, over planted records."""
    return cell_frame(recipes.load(name), planted.frame_of(planted.records(JOBS[name], papers, change)))


def one(data: pd.DataFrame, **labels: str) -> pd.Series:
    (found,) = [row for _, row in data.iterrows() if all(row[key] == value for key, value in labels.items())]
    return found
