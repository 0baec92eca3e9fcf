"""Shows a store in short, as a run ends: DSC under white-box attacks, the furthest one's transfer, and failures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, floor, nan

import pandas as pd

from freqbench.analysis import groups
from freqbench.analysis.frames import added_scores, plain
from freqbench.analysis.groups import ATTACK, NULL_ROW, points
from freqbench.analysis.statistics import t_intervals
from freqbench.analysis.tables import ADDED, CLEAN, failures
from freqbench.audit.checks.contrasts import is_none
from freqbench.core.errors import one_line
from freqbench.core.terminal import amount
from freqbench.reporting.render import Section
from freqbench.reporting.views import smallest
from freqbench.reporting.views.transfer import OF_MODELS, PAIR

COLUMNS = (*smallest.COLUMNS, "ssim_body", "error", "added_metrics")
# attacks that no paper has, in this form
NULL = "null row"
SIZE = "SSIM body"
OWN_FORMS = ("vafa_opt", "sa2_opt")
SCORE = "dsc_foreground"
ON_CLEAN = "dsc_foreground_clean"
DROP = "dsc_foreground_drop"
OWN = " °"
SIZES = (
    "Attacks without a budget: how small a change suffices, in 1/255 and in the file's unit of intensity (HU for CT); "
    "the larger, the more robust. What they leave of the DSC ranks nothing. More: report --table smallest."
)
MOST_FAILURES = 5
REASON_CHARACTERS = 100


def overview(records: pd.DataFrame) -> list[Section]:
    """Shows by dataset of `records` with COLUMNS the DSC that white-box attacks leave with its interval, one attack's
    transfer; failed rows. A null row stands beside its attack, after = if the attack did nothing else. Smallest changes
    follow by their size."""
    sections: list[Section] = []
    scored = groups.select_scored(records, ("ssim_body",))
    frame = scored.join(added_scores(records.loc[scored.index]).add_prefix(ADDED))
    for dataset, group in groups.by_dataset(frame[~groups.is_minimal(frame)]):
        sections += [*_white_box(dataset, group), *_transfer(dataset, group)]
    if smallest.applies(records):
        sections += [replace(section, text=SIZES) for section in smallest.smallest(records)]
    if count := int((records["left_out"] != "").sum()):
        text = f"Not in the tables: {count:,} of a reduced precision; report --table all says why."
        sections.append(Section("Left out", text=text))
    if len(failed := failures(records)):
        sections.append(Section("Failed", text="\n".join(_failed_lines(failed))))
    return sections or [Section("Overview", text="No attack was scored.")]


def _white_box(dataset: str, frame: pd.DataFrame) -> Iterator[Section]:
    if (white := frame[groups.is_white_box(frame)]).empty:
        return
    rows = groups.add_settings(groups.group_means(white, [*ATTACK, "source_model"], SCORE), white)
    labels = rows["label"]
    bases = labels.str.replace(rf"{NULL_ROW}\S+", "", regex=True)
    is_beside = (labels != bases) & bases.isin(labels)
    wide = _wide(rows[~is_beside], white)
    shown = wide.index[1:]
    table = _add_head(wide, "attack")
    nulls = labels[is_beside].groupby(bases)
    if beside := {base: _null_cell(white, str(base), [*of_base]) for base, of_base in nulls}:
        table[NULL] = ["", *(beside.get(label, "") for label in shown)]
    _add_measures(table, white, shown)
    attacks = table["attack"]
    is_own = attacks.str.partition(" ")[0].isin(OWN_FORMS)
    table["attack"] = attacks.where(~is_own, attacks + OWN)
    note = groups.few_patients_note(rows["patients"]).replace(" One", ": one") or "."
    text = _mean_of(white) + note
    text += " Other columns are means over the models." if len(wide.columns) > 1 and len(table.columns) > 4 else ""
    if beside:
        text += f" {NULL}: what the same change leaves without the optimisation"
        text += ", = where the attack did nothing else (paired)." if "=" in "".join(beside.values()) else "."
    text += f" {SIZE} is the size of the change, 100 for none: compare rows of equal size." if SIZE in table else ""
    text += f"{OWN} is this project's own form of the attack." if is_own.any() else ""
    data = rows.drop(columns="threat_model").rename(columns={SCORE: "mean"})
    yield Section(f"{dataset}: DSC under white-box attacks", table, text, data)


def _wide(rows: pd.DataFrame, white: pd.DataFrame) -> pd.DataFrame:
    """Makes one row per attack, in the order of `rows`, after one of the clean volumes, and one column per model."""
    order = pd.MultiIndex.from_frame(rows[ATTACK].drop_duplicates())
    wide = rows.assign(cell=_cells(rows, SCORE)).pivot(index=ATTACK, columns="source_model", values="cell")
    wide = wide.reindex(order).fillna("").droplevel("threat_model")
    clean = groups.group_means(white.drop_duplicates(["source_model", "case_id"]), ["source_model"], ON_CLEAN)
    first = pd.DataFrame([dict(zip(clean["source_model"], _cells(clean, ON_CLEAN), strict=True))], index=[CLEAN])
    return pd.concat([first, wide])[wide.columns]


def _add_measures(table: pd.DataFrame, white: pd.DataFrame, labels: pd.Index) -> None:
    """Adds the size of the change and other packages' metrics, means over models, to a table of clean and `labels`."""
    means = white.groupby("label", observed=True)
    if white["ssim_body"].notna().any():
        table[SIZE] = ["", *map(points, (100 * means["ssim_body"].mean()).reindex(labels))]
    for name in map(str, white):
        if name.startswith(ADDED) and not name.endswith("_clean"):
            values = [white.get(f"{name}_clean", pd.Series([nan])).mean(), *means[name].mean().reindex(labels)]
            head = name.removeprefix(ADDED)
            column = head if head not in table else f"{head} (metric)"
            table[column] = ["" if pd.isna(value) else f"{value:.3g}" for value in values]


def _mean_of(white: pd.DataFrame) -> str:
    scored = white.dropna(subset=[SCORE])
    cases = amount(scored["case_id"].nunique(), "case")
    patients = amount(scored["patient_id"].nunique(), "patient")
    return f"Foreground DSC x100, mean over {cases} of {patients} with its 95 % interval over patients in whole points"


def _cells(rows: pd.DataFrame, score: str) -> list[str]:
    """Writes means with their intervals, which are rounded outwards; a mean alone where there is none."""
    values = zip(rows[score], rows["low"], rows["high"], strict=True)
    return [points(mean) + ("" if pd.isna(low) else f" [{floor(low)}, {ceil(high)}]") for mean, low, high in values]


def _null_cell(white: pd.DataFrame, base: str, nulls: Sequence[str]) -> str:
    """Writes what the lowest of an attack's null rows leaves, after = if the attack leaves the same, paired by case."""
    keys = ["label", "source_model", "case_id", "patient_id"]
    left = white[white["label"].isin([base, *nulls])].groupby(keys, observed=True)[SCORE].mean()
    if (lowest := left.groupby("label", observed=True).mean().drop(base).dropna()).empty:
        return ""
    gap = (left[base] - left[str(lowest.idxmin())]).reset_index().assign(number=0)
    gaps = t_intervals(gap, ["number"], SCORE)[["mean", "low", "high"]].itertuples(index=False, name=None)
    return f"{'= ' if any(is_none(*each) for each in gaps) else ''}{points(lowest.min())}"


def _transfer(dataset: str, frame: pd.DataFrame) -> Iterator[Section]:
    """Makes one row per source and one column per target, for the attack with the largest mean drop on other models."""
    carried = frame[~groups.is_white_box(frame) & ~groups.is_null_row(frame)]
    if (drops := carried.groupby("label", observed=True)[DROP].mean().dropna()).empty:
        return
    furthest = drops.idxmax()
    rows = frame[frame["label"] == furthest]
    means = plain(rows.groupby(PAIR, observed=True)[SCORE].mean().reset_index())
    wide = means.pivot(index="source_model", columns="target_model", values=SCORE)
    clean = rows.drop_duplicates(["target_model", "case_id"]).groupby("target_model", observed=True)[ON_CLEAN].mean()
    table = pd.concat([clean.to_frame(CLEAN).T, wide])[wide.columns]
    text = "Foreground DSC x100 of each model (columns) on volumes made on each source (rows); * is white-box."
    yield Section(f"{dataset}: transfer of {furthest}, which transfers most", _add_head(table, "source_model"), text)


def _add_head(table: pd.DataFrame, first: str) -> pd.DataFrame:
    """Turns the index into a first column, and marks models whose name is that of a column."""
    return table.rename(columns=OF_MODELS).rename_axis(index=first, columns=None).reset_index()


def _failed_lines(failed: pd.DataFrame) -> Iterator[str]:
    for row in failed.head(MOST_FAILURES).to_dict("records"):
        pair = " to ".join(dict.fromkeys((row["source_model"], row["target_model"])))
        reason = one_line(row["first_reason"])
        yield f"{row['attack']} on {pair}, {row['dataset']}: {row['failed']} failed: {reason:.{REASON_CHARACTERS}}"
    total = int(failed["failed"].sum())
    hidden = len(failed) - MOST_FAILURES
    more = f"; {hidden} more rows of attacks are in the report" if hidden > 0 else ""
    yield f"In all {total} records failed{more}."
