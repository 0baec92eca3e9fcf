"""Says in sentences what was found, from the means that the page shows."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from freqbench.analysis.groups import NULL_ROW, is_null_row, is_white_box
from freqbench.reporting.views.transfer import MIN_DROP

DROP = "dsc_foreground_drop"


def sentences(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns `{dataset row text}`: for each dataset and threat model the largest white-box drop of foreground DSC, how
    much of it transfers and how much needs no optimisation; and the model that keeps most under all attacks.

    Attacks of different threat models are not compared. The rows are those of `tables.summary` without clean ones, with
    their place as `row`, which says what a sentence is about, and the attack's `label`.
    """
    entries = []
    for dataset, of_dataset in rows.groupby("dataset", observed=True):
        white_box = of_dataset[is_white_box(of_dataset) & of_dataset[DROP].notna()]
        attacks = white_box[~is_null_row(white_box)]
        leading = attacks.loc[attacks.groupby("threat_model", observed=True)[DROP].idxmax()]
        texts = [(row, _strongest(row, of_dataset)) for _, row in leading.iterrows() if row[DROP] >= MIN_DROP]
        texts += _most_robust(attacks)
        entries += [{"dataset": str(dataset), "row": int(row["row"]), "text": text} for row, text in texts]
    return entries


def _strongest(row: pd.Series, rows: pd.DataFrame) -> str:
    """States what the strongest attack of a threat model takes, what transfers, and what it takes unoptimised."""
    source, label, drop = row["source_model"], str(row["label"]), row[DROP]
    before = row["dsc_foreground"] + drop
    n = f"mean of {row['cases']} cases" if row["cases"] > 1 else "one case"
    text = (
        f"{row['threat_model']}: {label} takes {drop:.1f} points of foreground DSC from {source} "
        f"({before:.1f} to {row['dsc_foreground']:.1f}, {n})"
    )
    same = rows[(rows["source_model"] == source) & (rows["label"].astype(str) == label) & ~is_white_box(rows)]
    same = same[same[DROP].notna()]
    if len(same):
        most = same.loc[same[DROP].idxmax()]
        share = max(0, round(100 * most[DROP] / drop))
        text += f", {share} % of which transfers to {most['target_model']}"
        text += "" if len(same) == 1 else f", the most of {len(same)} models"
    nulls = rows[(rows["source_model"] == source) & is_white_box(rows) & is_null_row(rows) & rows[DROP].notna()]
    nulls = nulls[nulls["label"].astype(str).str.startswith(label + NULL_ROW)]
    if len(nulls):
        null = nulls.loc[nulls[DROP].idxmax()]
        control = str(null["label"]).partition(NULL_ROW)[2].split()[0]
        text += f"; the same change without optimisation ({control}) takes {null[DROP]:.1f}"
    return f"{text}."


def _most_robust(attacks: pd.DataFrame) -> Iterator[tuple[pd.Series, str]]:
    """Yields the model whose largest drop is the smallest, if several met the same attacks."""
    met = [frozenset(group["label"].astype(str)) for _, group in attacks.groupby("source_model", observed=True)]
    if len(met) < 2 or len(set(met)) > 1:
        return
    worst = attacks.loc[attacks.groupby("source_model", observed=True)[DROP].idxmax()].sort_values(DROP)
    least, most = worst.iloc[0], worst.iloc[-1]
    yield (
        least,
        f"{least['source_model']} keeps most: none of the {len(met[0])} attacks takes more than "
        f"{max(0.0, least[DROP]):.1f} points from it ({least['label']}); {most['source_model']} loses up to "
        f"{most[DROP]:.1f} ({most['label']}).",
    )
