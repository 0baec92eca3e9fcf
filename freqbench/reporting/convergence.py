"""Finds how many passes are enough: drop against passes of every attack, loss and number of restarts, and advice. Drop:
white-box foreground DSC in points; mean over cases with Student's t interval over patients. A curve is one attack with
one loss and one number of restarts, its settings ordered by passes. More passes are worth it where they add ENOUGH
points. On other cases a difference of a few tenths between attacks may turn round."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import bounds, is_white_box, points
from freqbench.analysis.labels import INTENSITY_PARAMETERS, value_text
from freqbench.analysis.statistics import POINTS, mean_intervals
from freqbench.core.terminal import printable
from freqbench.core.types import dataset_name
from freqbench.job.sweep import parse_value
from freqbench.reporting.render import Section

if TYPE_CHECKING:
    from freqbench.job.cells import Cell

ENOUGH = 0.2  # points of foreground DSC
RISES = "not converged"
PLACE = ["dataset", "model", "threat_model", "budget"]
CURVE = [*PLACE, "attack", "loss", "restarts"]
_SPENT = ("num_windows", "num_forwards", "num_backwards", "attack_seconds")
COLUMNS = ("dsc_foreground", "dsc_foreground_clean", *_SPENT, "l2_body")  # of RECORDS, beside those that identify a row
_MEANS = ("drop", "low", "high", "best", "cases", "patients", "l2_body", "seconds")
SETTING = [*CURVE, "steps", "passes", *_MEANS, "cell_id"]
CHOICES = ("loss", "restarts")
Entry = Mapping[str, Any]


def counted_entries(cells: Iterable["Cell"]) -> dict[str, Entry]:
    """Returns by cell id the entry of each attack of `cells` that more steps or queries make stronger, as `settings`
    takes it."""
    from freqbench.job.attacks import counted_entry

    return {cell.cell_id: entry for cell in cells if (entry := counted_entry(cell.attack))}


def settings(records: pd.DataFrame, entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Returns one row per setting: dataset, model, attack, loss, restarts and steps (of a search: queries). A setting
    that failed on some case is left out: its mean would cover other cases.

    Args:
        records: rows of RECORDS with COLUMNS; those that are not white-box are passed over.
        entries: by cell id, the entry of a job file that makes the attack, as of `counted_entries`.

    Returns:
        The columns of SETTING, ordered by passes in a curve. `passes`: forward and backward, of one window; `best`: the
        largest drop up to these passes, in points; `l2_body` and `seconds`: means of a volume.
    """
    rows = _describe_rows(records, entries)
    by = [*CURVE, "steps"]
    rows = rows[~rows.groupby(by)["is_failed"].transform("any")]
    rows = rows.assign(
        drop=100 * (rows["dsc_foreground_clean"] - rows["dsc_foreground"]),
        passes=(rows["num_forwards"] + rows["num_backwards"]) / rows["num_windows"],
    )
    mean: Any = {"passes": ("passes", "mean"), "l2_body": ("l2_body", "mean"), "seconds": ("attack_seconds", "mean")}
    means = rows.groupby(by, as_index=False).agg(**mean, cases=("case_key", "nunique"), cell_id=("cell_id", "first"))
    drops = mean_intervals(rows, by, "drop", POINTS).query("n > 0")
    drops = drops.rename(columns={"mean": "drop", "clusters": "patients"})
    table = means.merge(drops, on=by).sort_values([*CURVE, "passes", "steps"], kind="stable", ignore_index=True)
    return table.assign(best=table.groupby(CURVE)["drop"].cummax())[SETTING]


def failed_lines(records: pd.DataFrame, entries: Mapping[str, Entry]) -> list[str]:
    """Returns one line per setting that `settings` of these `records` and `entries` leaves out."""
    groups = _describe_rows(records, entries).groupby([*CURVE, "steps"], as_index=False)
    counts = groups.agg(failed=("is_failed", "sum"), n=("is_failed", "size"))
    lines = []
    for row in counts[counts["failed"] > 0].to_dict("records"):
        place = f"{title(row)} steps={row['steps']} on {row['dataset']}"
        lines.append(f"{place}: {row['model']} is left out: {row['failed']} of {row['n']} records failed")
    return lines


def _describe_rows(records: pd.DataFrame, entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Selects the white-box rows of the entries' cells and adds the columns of CURVE and `steps`."""
    rows = plain(records[records["cell_id"].isin(list(entries)) & is_white_box(records)])
    rows = rows.astype(dict.fromkeys(COLUMNS, float))
    cells = rows[["cell_id", "budget_name", "budget"]].drop_duplicates("cell_id")
    described = pd.DataFrame(
        {"cell_id": cell_id, **_parts(entries[cell_id], name, value)}
        for cell_id, name, value in cells.itertuples(index=False, name=None)
    )
    rows = rows.rename(columns={"source_model": "model"}).assign(is_failed=rows["status"] != "ok")
    return rows.drop(columns=["attack", "budget"]).merge(described, on="cell_id")


def _parts(entry: Entry, budget_name: str | None, budget: float | None) -> dict[str, Any]:
    """Splits an entry into budget, attack and effort, each as tables show it."""
    counted = next(key for key in reversed(list(entry)) if key in ("steps", "queries"))  # the effort stands last
    others = {key: value for key, value in entry.items() if key not in ("name", budget_name, counted, *CHOICES)}
    words = [f"{key}={value_text(key, v[0] if isinstance(v, list) else v)}" for key, v in others.items()]
    return {
        "budget": "" if pd.isna(budget) else f"{budget_name}={value_text(str(budget_name), budget)}",
        "attack": " ".join([str(entry["name"]), *words]),
        "loss": entry.get("loss", ""),
        "restarts": entry.get("restarts", 1),
        "steps": entry[counted],
    }


def knee(drops: Sequence[float]) -> int:
    """Index of the first setting of a curve after which more passes add less than ENOUGH; `drops` in points, ordered by
    passes."""
    return next(place for place, drop in enumerate(drops) if not _is_more(max(drops[place:]), drop))


def _is_more(drop: float, other: float) -> bool:
    """True if `drop` is ENOUGH points or more above `other`, up to rounding."""
    return round(drop - other, 6) >= ENOUGH


def still_gains(passes: Sequence[float], drops: Sequence[float]) -> str:
    """Says how much the last `passes` of a curve add to its `drops`, in points and in the same order, if that is ENOUGH
    or more; empty where the curve has converged."""
    if len(drops) < 2:
        return "one setting only: it cannot show whether more passes add anything"
    before = max(drops[:-1])
    best = max(drops)
    if not _is_more(best, before):
        return ""
    return f"{RISES}: still gains {best - before:.1f} points from {passes[-2]:g} to {passes[-1]:g} passes"


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per curve of a `table` of `settings`: CURVE, the `steps` and `passes` that are enough (the last
    ones if the curve still rises), `drop` there, `best` of the curve, and `still_gains`."""
    columns = [*CURVE, "steps", "passes", "drop"]
    rows = []
    for _, curve in table.groupby(CURVE, sort=False):
        drops = curve["drop"].tolist()
        gains = still_gains(curve["passes"].tolist(), drops)
        rows.append(curve.iloc[knee(drops)][columns].to_dict() | {"best": max(drops), "still_gains": gains})
    return pd.DataFrame(rows, columns=[*columns, "best", "still_gains"])


def recommend(table: pd.DataFrame) -> pd.DataFrame:
    """Picks from a `table` of `settings`, by dataset, model, threat model and budget, the setting of fewest passes,
    then larger drop, less than ENOUGH points below the `largest`; none where that curve still rises. `note` says where
    it has one setting only."""
    gains = curves(table).set_index(CURVE)["still_gains"].to_dict()
    rows = []
    for _, group in table.groupby(PLACE, sort=False):
        strongest = group.iloc[int(group["drop"].to_numpy().argmax())].to_dict()
        if (note := gains[tuple(strongest[name] for name in CURVE)]).startswith(RISES):
            continue
        near = group[[not _is_more(strongest["drop"], drop) for drop in group["drop"]]]
        chosen = near.sort_values(["passes", "drop"], ascending=[True, False], kind="stable").iloc[0].to_dict()
        if note and any(chosen[name] != strongest[name] for name in CURVE):
            note = f"{title(strongest)}, the strongest: {note}"
        rows.append({**chosen, "largest": strongest["drop"], "note": note})
    return pd.DataFrame(rows, columns=[*table.columns, "largest", "note"])


def title(row: Mapping[Hashable, Any]) -> str:
    """Names a curve without its budget.

    >>> title({"attack": "apgd", "loss": "dice", "restarts": 3}), title({"attack": "bim", "loss": "", "restarts": 1})
    ('apgd loss=dice restarts=3', 'bim')
    """
    loss = f" loss={row['loss']}" if row["loss"] else ""
    return f"{row['attack']}{loss}" + (f" restarts={row['restarts']}" if row["restarts"] > 1 else "")


def sections(table: pd.DataFrame) -> list[Section]:
    """Shows of a `table` of `settings`, for each dataset and model, the curves, those that still rise, and the
    recommended settings."""
    parts = []
    ends = curves(table)
    chosen = recommend(table)
    for (dataset, model), part in table.groupby(["dataset", "model"], sort=False):
        of_curves, of_chosen = (e[(e["dataset"] == dataset) & (e["model"] == model)] for e in (ends, chosen))
        text = (
            "Mean drop of foreground DSC in points by the number of steps, or of a search's queries, n = "
            f"{part['cases'].max()}; `enough` are the passes a window (forward + backward) from which on more add less "
            f"than {ENOUGH:g} points, with a + where the curve still rises at its end."
        )
        wide = part.pivot(index=CURVE[2:], columns="steps", values="drop")
        wide = wide.reindex(pd.MultiIndex.from_frame(of_curves[CURVE[2:]])).rename(columns="steps\n{}".format)
        pairs = zip(of_curves["passes"], of_curves["still_gains"], strict=True)
        enough = [f"{passes:.0f}" + ("+" if gains else "") for passes, gains in pairs]
        wide = _format_counts(wide.rename_axis(columns=None).reset_index().assign(enough=enough))
        parts.append(Section(f"{dataset}: drop against passes, attacks on {model}", wide, text, part))
        if rising := of_curves[of_curves["still_gains"] != ""].to_dict("records"):
            lines = [f"- {row['threat_model']} {row['budget']}: {title(row)}: {row['still_gains']}" for row in rising]
            text = "Where the largest drop is on one of these, none is recommended: repeat with more steps.\n\n"
            text += "\n".join(lines)
            parts.append(Section(f"{dataset}: attacks on {model} that need more passes", text=text))
        if of_chosen.empty:
            continue
        text = f"The fewest passes a window among the settings less than {ENOUGH:g} points below the largest drop."
        picks = of_chosen.assign(interval=bounds(of_chosen))
        picks = _format_counts(picks[[*CURVE[2:], "steps", "passes", "drop", "interval", "largest"]])
        parts.append(Section(f"{dataset}: recommended against {model}", picks, text, of_chosen))
    return parts


def _format_counts(table: pd.DataFrame) -> pd.DataFrame:
    texts = {}
    for name in ("restarts", "steps", "passes"):
        if name in table:
            texts[name] = [f"{value:.0f}" for value in table[name]]
    return table.assign(**texts)


def job_text(chosen: pd.DataFrame, entries: Mapping[str, Entry]) -> str:
    """Writes the settings of `recommend` that were `chosen` as the `attacks` of a job file, a line each after a comment
    with its drop; `entries` are those of `counted_entries`."""
    lines = [
        "# Recommended by freqbench audit --converge: per threat model and budget the fewest passes among the settings",
        f"# less than {ENOUGH:g} points of foreground DSC below the largest drop, where that drop has converged.",
        "attacks:" if len(chosen) else "attacks: []  # none has converged: repeat with more steps",
    ]
    several = len(chosen[["dataset", "model"]].drop_duplicates()) > 1
    for row, interval in zip(chosen.to_dict("records"), bounds(chosen), strict=True):
        entry = {key: _spell_value(key, value) for key, value in entries[row["cell_id"]].items()}
        dataset = dataset_name(row["dataset"])  # its name in jobs
        place = {"datasets": [dataset], "sources": [row["model"]]} if several else {}
        where = f"{row['threat_model']} {row['budget']} on {row['dataset']}, {row['model']}"
        drop = f"drop {points(row['drop'])} {interval} at {row['passes']:.0f} passes a window"
        about = f"{where}: {drop}; the largest is {points(row['largest'])}"
        lines += [f"  # {' '.join(printable(text).split())}" for text in (about, row["note"]) if text]
        lines.append(f"  - {yaml.safe_dump({**entry, **place}, default_flow_style=True, sort_keys=False, width=999)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _spell_value(key: str, value: Any) -> Any:
    """Spells a value as a person writes it in a job file: `8/255`, 20 for 20.0; unchanged if the text means another."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value_text(key, value) if key in INTENSITY_PARAMETERS else value
    return text if parse_value(text) == value else value
