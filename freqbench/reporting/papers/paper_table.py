"""Makes a paper's table from records: its layout, the evidence of every cell, and notes. Known spreads decide whether
our number matches: an interval over 12 cases passes nearly anything, two papers' numbers of one setting do not."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from string import ascii_lowercase
from typing import Any, Literal, NamedTuple

import pandas as pd

from freqbench.analysis.groups import points
from freqbench.analysis.statistics import SIGNIFICANCE, t_tests
from freqbench.reporting.papers.cells import CellResult, find
from freqbench.reporting.papers.recipes import Recipe, published
from freqbench.reporting.render import Section

NOT_OURS = "not known to be the authors' checkpoint: comparable in kind only"
SCORED = (
    "Scores are means over cases and seeds, DSC, SSIM and LPIPS (1 - distance) x100; bold (in a terminal †) is the "
    "best of ours along the comparison where it is ahead of every other cell that was run: Student's t-test over "
    "patients, paired by case, Holm-corrected over all comparisons of this table, p below 0.05. Where nothing is bold "
    "none is. 95 % intervals are over patients, each for itself (Student's t, from 20 patients on BCa bootstrap). A "
    "star says that something about it is guessed."
)
MIXED = (
    "No best is marked among {threats}: such attacks bound different things, so that a lower score of one says nothing "
    "against the other. Compare them by the distances in the same row."
)
VERDICTS = (
    "The number in brackets is the published one. parity: our number is as near to the published one as rounding, the "
    "spread between our seeds and that of the authors' own reruns allow (0.5 DSC, 4.6 HD95, 0.7 LPIPS; none known for "
    "SSIM). not comparable: with guessed parameters, other cases, or a checkpoint that is not listed in the recipe as "
    "the authors' own: such numbers, of retrained networks first of all, can be compared in kind only."
)
RERUNS: Mapping[str, float] = {"dsc": 0.5, "hd95": 4.6, "lpips_similarity": 0.7}
"""Largest difference between the authors' two papers for one setting, in the tables' units; unknown for SSIM."""
COUNTS = ("cases", "patients", "undefined", "seeds", "failed", "low", "high", "seed_spread")
_SLACK = 1e-9  # 62.75 - 62.7 is a little more than 0.05 in binary
Facts = Sequence[Mapping[str, Any]]


def paper_table(recipe: Recipe, records: pd.DataFrame, facts: Facts = ()) -> list[Section]:
    """Makes the table of a recipe, of RECORDS after `current` and facts of their runs: the paper's layout with `ours
    (published)`; every cell with cases, patients, interval, seed spread and verdict; footnotes. `data` of both tables
    is by cell, in the table's unit (DSC, SSIM and LPIPS x100, HD95 in voxels), NaN with a `reason` if missing."""
    results = find(recipe, records)
    data, reasons = _judged(recipe, results, facts)
    title = f"{recipe.title}: {recipe.about}" if recipe.about else recipe.title
    best, mixed = _best(recipe, data, results)
    unmarked = MIXED.format(threats=" and ".join(mixed)) if mixed else ""
    notes = [recipe.citation, SCORED, unmarked, VERDICTS if recipe.published else "", *recipe.footnotes]
    text = "\n\n".join(filter(None, notes))
    return [_layout(recipe, data, title, best), _evidence(recipe, data, reasons), Section("Notes", text=text)]


def _judged(recipe: Recipe, results: Sequence[CellResult], facts: Facts) -> tuple[pd.DataFrame, list[list[str]]]:
    """Makes one row per cell, and the reasons for its verdict or its lack of one."""
    checkpoints = {key: model.get("sha256", "") for run in facts for key, model in (run.get("models") or {}).items()}
    rows = []
    reasons = []
    for cell, each in zip(recipe.cells, results, strict=True):
        (printed, note), labels, of = ("", ""), cell.labels, recipe.published
        if of is not None:
            place = (of.source, of.table, labels["dataset"], labels["model"], labels["training"], labels["attack"])
            printed, note = published().get((*place, cell.attack.printed, cell.metric.name), ("", ""))
        obstacles = {
            f"guessed: {', '.join(cell.starred)}": bool(cell.starred),
            NOT_OURS: checkpoints.get(each.model_id) not in cell.model.checkpoints,
            f"{each.cases} cases, not {cell.dataset.cases}": each.cases != cell.dataset.cases,
        }
        against = [reason for reason, is_so in obstacles.items() if is_so]
        parity = judge(each.mean, printed, cell.metric.name, each.seed_spread, against)
        failed = f"{each.failed} failed: {each.error}" if each.failed else ""
        reasons.append([text for text in (each.missing, failed, *(parity.reasons if recipe.published else ())) if text])
        row = {
            **labels,
            "metric": cell.metric.name,
            "params": cell.attack.printed,
            "starred": ", ".join(cell.starred),
            "ours": each.mean,
            "published": float(printed or "nan"),
            "difference": each.mean - float(printed or "nan"),
        }
        row |= {name: getattr(each, name) for name in COUNTS}
        row |= {"tolerance": parity.tolerance, "verdict": parity.verdict, "reason": "; ".join(reasons[-1])}
        digits = _decimals(printed) if printed else cell.metric.digits
        rows.append(row | {"precision": each.precision, "digits": digits, "note": note})
    return pd.DataFrame(rows), reasons


class Parity(NamedTuple):
    """Verdict (empty: a number is missing), its reasons, and the largest difference of parity, in the table's unit."""

    verdict: Literal["parity", "differs", "not comparable", ""]
    reasons: tuple[str, ...] = ()
    tolerance: float = math.nan


def judge(ours: float, printed: str, metric: str, seed_spread: float, obstacles: Sequence[str] = ()) -> Parity:
    """Compares our number with the printed one (empty: none), in the table's unit. Parity: |ours - published| <= half a
    unit of the last printed digit + `seed_spread` (standard deviation between seeds, NaN: unknown) + that of the
    authors' reruns. `metric` is a record's column; `obstacles` are reasons not to compare."""
    if not printed:
        return Parity("", ("no published number",))
    if math.isnan(ours):
        return Parity("")
    spread = 0.0 if math.isnan(seed_spread) else seed_spread
    tolerance = 0.5 * 10.0 ** -_decimals(printed) + spread + RERUNS.get(metric, 0.0)
    if obstacles:
        return Parity("not comparable", tuple(obstacles), tolerance)
    return Parity("parity" if abs(ours - float(printed)) <= tolerance + _SLACK else "differs", tolerance=tolerance)


def _decimals(printed: str) -> int:
    return len(printed.partition(".")[2])


def _layout(recipe: Recipe, data: pd.DataFrame, title: str, best: Collection[int]) -> Section:
    """Arranges cells in the paper's rows and columns; a heading has one line per dimension."""
    places = _places(recipe)
    rows = list(dict.fromkeys(row for row, _ in places))
    columns = list(dict.fromkeys(column for _, column in places))
    texts = _texts(data)
    table = pd.DataFrame("", index=range(len(rows)), columns=list(map("\n".join, columns)), dtype=object)
    marks = set()
    for (row, column), cell in places.items():
        at = rows.index(row)
        name = "\n".join(column)
        published = f"({texts['published'][cell]})" if texts["published"][cell] else ""
        table.loc[at, name] = " ".join(text for text in (texts["ours"][cell], published) if text)
        if cell in best:
            marks.add((at, name))
    for position, name in enumerate(recipe.rows):
        table.insert(position, name, [row[position] for row in rows])
    return Section(title, table, data=data, marks=frozenset(marks))


def _places(recipe: Recipe) -> dict[tuple[tuple[str, ...], tuple[str, ...]], int]:
    """Row and column of each cell; where budgets are columns, a cell without budget stands under each of them."""
    budgets = [*dict.fromkeys(entry.budget for entry in recipe.attacks if entry.budget)]
    places = {}
    for i, cell in enumerate(recipe.cells):
        labels = cell.starred_labels
        repeated = "budget" in recipe.columns and not labels["budget"] and budgets
        for budget in budgets if repeated else [labels["budget"]]:
            values = {**labels, "budget": budget}
            row, column = (tuple(values[name] for name in names) for names in (recipe.rows, recipe.columns))
            places[row, column] = i
    return places


def _best(recipe: Recipe, data: pd.DataFrame, stats: Sequence[CellResult]) -> tuple[set[int], list[str]]:
    """Picks the attacked cells to mark, see SCORED; returns also the threat models that no mark compares."""
    directions = {metric.name: metric.best for metric in recipe.metrics}
    threats = [cell.attack.threat_model for cell in recipe.cells]
    attacked = data.assign(_threat=threats)[[not cell.is_clean for cell in recipe.cells]].dropna(subset="ours")
    by = [name for name in ("dataset", "model", "training", "attack", "budget", "metric") if name != recipe.compare]
    rivals: dict[int, list[int]] = {}
    parts = []
    mixed = set[str]()
    for _, group in attacked.groupby(by):
        if (direction := directions[str(group["metric"].iloc[0])]) is None or len(group) < 2:
            continue
        if group["_threat"].nunique() > 1:
            mixed |= set(group["_threat"])
            continue
        ours = group["ours"].to_numpy(float)
        cells = group.index.tolist()
        sign = 1 if direction == "lowest" else -1
        best = cells.pop(int((sign * ours).argmin()))
        rivals[best] = cells
        for other in cells:
            pairs = stats[other].values.merge(stats[best].values, on=["case_id", "patient_id"], suffixes=("", "_best"))
            ahead = sign * (pairs["value"] - pairs["value_best"])
            parts.append(pairs[["patient_id"]].assign(best=best, other=other, ahead=ahead))
    if not parts:
        return set(), sorted(mixed)
    tests = t_tests(pd.concat(parts), ["best", "other"], "ahead")
    won = tests[(tests["mean"] > 0) & (tests["p_holm"] < SIGNIFICANCE)].groupby("best").size().to_dict()
    return {best for best, others in rivals.items() if won.get(best) == len(others)}, sorted(mixed)


def _texts(data: pd.DataFrame) -> pd.DataFrame:
    """Writes the numbers as text with as many digits as the paper prints; empty where missing."""
    names = ("ours", "published", "difference", "low", "high", "seed_spread")
    digits = data["digits"].tolist()
    return pd.DataFrame({name: list(map(points, data[name], digits)) for name in names})


def _evidence(recipe: Recipe, data: pd.DataFrame, reasons: Sequence[Sequence[str]]) -> Section:
    """Shows every cell, its reasons as letters; leaves out columns that are constant or empty."""
    texts = _texts(data)
    labels = pd.DataFrame([cell.starred_labels for cell in recipe.cells])
    letters = {reason: _letter(i) for i, reason in enumerate(dict.fromkeys(chain.from_iterable(reasons)))}
    ends = zip(texts["low"], texts["high"], strict=True)
    counts = zip(data["cases"], data["patients"], strict=True)
    columns = {
        "ours": texts["ours"].tolist(),
        "publ.": texts["published"].tolist(),
        "diff.": texts["difference"].tolist(),
        "95 %\ninterval": [f"[{low}, {high}]" if low else "" for low, high in ends],
        "cases/\npatients": [f"{cases}/{patients}" if cases else "" for cases, patients in counts],
        "seed\nspread": texts["seed_spread"].tolist(),
        "verdict": data["verdict"].tolist(),
        "why": [" ".join(letters[reason] for reason in each) for each in reasons],
    }
    filled = {name: values for name, values in columns.items() if any(values)}
    lines = [f"- {letter}: {reason}" for reason, letter in letters.items()]
    table = pd.concat([labels[[name for name in labels if labels[name].nunique() > 1]], pd.DataFrame(filled)], axis=1)
    return Section(f"{recipe.title}: every cell", table, text="\n".join(lines), data=data)


def _letter(number: int) -> str:
    """Letter of a reason: a, b, ..., z, aa, ab, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + ascii_lowercase[number % 26]
