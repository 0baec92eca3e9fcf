"""Shows a store in short, as a run ends: DSC under white-box attacks, the furthest one's transfer, and failures."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK, NULL_ROW, points
from freqbench.analysis.statistics import t_intervals
from freqbench.analysis.tables import CLEAN, failures
from freqbench.audit.checks.contrasts import is_none
from freqbench.core.errors import one_line
from freqbench.core.terminal import amount
from freqbench.reporting.render import Section
from freqbench.reporting.views import smallest
from freqbench.reporting.views.transfer import OF_MODELS, PAIR

COLUMNS = (*smallest.COLUMNS, "ssim_body", "error")
SIZE, OWN_FORMS = "SSIM body", ("vafa_opt", "sa2_opt")  # attacks that no paper has, in this form
SCORE, ON_CLEAN, DROP = "dsc_foreground", "dsc_foreground_clean", "dsc_foreground_drop"
OWN = " °"
SIZES = (
    "Attacks without a budget: how small a change suffices, in 1/255 and in the file's unit of intensity (HU for CT); "
    "the larger, the more robust. What they leave of the DSC ranks nothing. More: report --table smallest."
)
MOST_FAILURES = 5
REASON_CHARACTERS = 100


def overview(records: pd.DataFrame) -> list[Section]:
    """Shows by dataset the DSC that white-box attacks leave, the drop, one attack's transfer; failed and left-out rows.

    A null row stands in brackets beside its attack, the lowest of several, after = if the attack did nothing else.
    Smallest changes follow by their size.
    """
    sections: list[Section] = []
    frame = groups.select_scored(records, ("ssim_body",))
    for dataset, group in frame[~groups.is_minimal(frame)].groupby("dataset", observed=True):
        sections += [*_white_box(str(dataset), group), *_transfer(str(dataset), group)]
    if smallest.applies(records):
        sections += [replace(section, text=SIZES) for section in smallest.smallest(records)]
    if count := int((records["left_out"] != "").sum()):
        text = f"Not in the tables: {count:,} of a reduced precision; the report says why."
        sections.append(Section("Left out", text=text))
    if len(failed := failures(records)):
        sections.append(Section("Failed", text="\n".join(_failed_lines(failed))))
    return sections or [Section("Overview", text="No attack was scored.")]


def _white_box(dataset: str, frame: pd.DataFrame) -> Iterator[Section]:
    white = frame[groups.is_white_box(frame)]
    if white.empty:
        return
    means = white.groupby([*ATTACK, "source_model"], observed=True)[SCORE].mean().reset_index()
    rows = groups.add_settings(plain(means), white)
    rows["base"] = rows["label"].str.replace(rf"{NULL_ROW}\S+", "", regex=True)
    is_beside = (rows["label"] != rows["base"]) & rows["base"].isin(rows["label"])
    beside = rows[is_beside].dropna(subset=[SCORE])
    nulls = beside.loc[beside.groupby(["base", "source_model"])[SCORE].idxmin()].to_dict("records")
    brackets = {(row["base"], row["source_model"]): _bracket(white, row) for row in nulls}
    attacks = rows[~is_beside]
    keys = zip(attacks["label"], attacks["source_model"], strict=True)
    cells = [points(score) + brackets.get(key, "") for score, key in zip(attacks[SCORE], keys, strict=True)]
    order = pd.MultiIndex.from_frame(attacks[ATTACK].drop_duplicates())
    wide = attacks.assign(cell=cells).pivot(index=ATTACK, columns="source_model", values="cell")
    wide = wide.reindex(order).fillna("")
    clean = {model: points(value) for model, value in _clean(white).items()}
    wide = wide.droplevel("threat_model")
    table = _add_head(pd.concat([pd.DataFrame([clean], index=[CLEAN]), wide])[wide.columns], "attack")
    drops = white.groupby(["label", "source_model"], observed=True)[DROP].mean().groupby("label", observed=True).mean()
    table["drop"] = ["", *map(points, drops.reindex(wide.index))]
    ssim = white.groupby("label", observed=True)["ssim_body"].mean()
    if ssim.notna().any():
        table[SIZE] = ["", *("" if pd.isna(value) else points(100 * value) for value in ssim.reindex(wide.index))]
    own = table["attack"].str.partition(" ")[0].isin(OWN_FORMS)
    table["attack"] = table["attack"].where(~own, table["attack"] + OWN)
    of = white.dropna(subset=[SCORE])
    n = f"{amount(of['case_id'].nunique(), 'case')} of {amount(of['patient_id'].nunique(), 'patient')}"
    told = "; in brackets that of the attack's null row" if brackets else ""
    told += ", = where the attack did nothing else (paired over cases)" if "= " in "".join(brackets.values()) else ""
    over = "mean over the models" if len(wide.columns) > 1 else "from clean"
    text = f"Foreground DSC x100, mean over {n}{told}; drop in points, {over}."
    text += f" {SIZE} is the size of the change, 100 for none: compare rows of equal size." if SIZE in table else ""
    text += f"{OWN} is this project's own form of the attack." if own.any() else ""
    yield Section(f"{dataset}: DSC under white-box attacks", table, text)


def _bracket(white: pd.DataFrame, null: Mapping[Hashable, Any]) -> str:
    """Writes what a null row leaves, after = if its attack leaves the same, paired by case."""
    of_model = white[white["source_model"] == null["source_model"]]
    left = of_model.groupby(["label", "case_id", "patient_id"], observed=True)[SCORE].mean()
    gap = (left[null["base"]] - left[null["label"]]).reset_index().assign(number=0)
    gaps = t_intervals(gap, ["number"], SCORE)[["mean", "low", "high"]].itertuples(index=False, name=None)
    return f" ({'= ' if any(is_none(*each) for each in gaps) else ''}{points(null[SCORE])})"


def _transfer(dataset: str, frame: pd.DataFrame) -> Iterator[Section]:
    """Makes one row per source and one column per target, for the attack with the largest mean drop on other models."""
    carried = frame[~groups.is_white_box(frame) & ~groups.is_null_row(frame)]
    drops = carried.groupby("label", observed=True)[DROP].mean().dropna()
    if drops.empty:
        return
    furthest = drops.idxmax()
    rows = frame[frame["label"] == furthest]
    means = plain(rows.groupby(PAIR, observed=True)[SCORE].mean().reset_index())
    wide = means.pivot(index="source_model", columns="target_model", values=SCORE)
    table = pd.concat([_clean(rows).to_frame(CLEAN).T, wide])[wide.columns]
    text = "Foreground DSC x100 of each model (columns) on volumes made on each source (rows); * is white-box."
    yield Section(f"{dataset}: transfer of {furthest}, which transfers most", _add_head(table, "source_model"), text)


def _clean(frame: pd.DataFrame) -> "pd.Series[float]":
    """Mean DSC of the clean cases of each model, each case counted once."""
    cases = frame.drop_duplicates(["target_model", "case_id"])
    return cases.groupby("target_model", observed=True)[ON_CLEAN].mean()


def _add_head(table: pd.DataFrame, first: str) -> pd.DataFrame:
    """Turns the index into a first column, and marks models whose name is that of a column."""
    return table.rename(columns=OF_MODELS).rename_axis(index=first, columns=None).reset_index()


def _failed_lines(failed: pd.DataFrame) -> Iterator[str]:
    for row in failed.head(MOST_FAILURES).to_dict("records"):
        pair = " to ".join(dict.fromkeys((row["source_model"], row["target_model"])))
        reason = one_line(row["first_reason"])
        yield f"{row['attack']} on {pair}, {row['dataset']}: {row['failed']} failed: {reason:.{REASON_CHARACTERS}}"
    total, hidden = int(failed["failed"].sum()), len(failed) - MOST_FAILURES
    more = f"; {hidden} more rows of attacks are in the report" if hidden > 0 else ""
    yield f"In all {total} records failed{more}."
