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
from freqbench.reporting.papers.recipes import Recipe, TableCell, published
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
    """Makes the table of a recipe.

    Args:
        recipe: of the table.
        records: columns of RECORDS after `tables.current`, of any jobs.
        facts: of the runs that made them (`Store.runs`): the checkpoints of the models; without them none is the
            authors'.

    Returns:
        The paper's layout with `ours (published)`; every cell with cases, patients, interval, seed spread and verdict;
        footnotes. `data` of both tables is by cell, in the table's unit (DSC, SSIM and LPIPS x100, HD95 in voxels), NaN
        with a `reason` if missing.
    """
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
    checkpoints: dict[str, str] = {}
    for run in facts:
        checkpoints |= {key: model.get("sha256", "") for key, model in (run.get("models") or {}).items()}
    rows = []
    reasons = []
    for cell, each in zip(recipe.cells, results, strict=True):
        metric = cell.metric.name
        printed, note = _printed(recipe, cell)
        guessed = ", ".join(cell.starred)
        obstacles = {
            f"guessed: {guessed}": bool(guessed),
            NOT_OURS: checkpoints.get(each.model_id) not in cell.model.checkpoints,
            f"{each.cases} cases, not {cell.dataset.cases}": each.cases != cell.dataset.cases,
        }
        against = [reason for reason, is_so in obstacles.items() if is_so]
        parity = judge(each.mean, printed, metric, each.seed_spread, against)
        failed = f"{each.failed} failed: {each.error}" if each.failed else ""
        of_parity = parity.reasons if recipe.published else ()
        of_cell = [*filter(None, (each.missing, failed, *of_parity))]
        reasons.append(of_cell)
        theirs = float(printed or "nan")
        digits = _decimals(printed) if printed else cell.metric.digits
        row = {
            **cell.labels,
            "metric": metric,
            "params": cell.attack.printed,
            "starred": guessed,
            "ours": each.mean,
            "published": theirs,
            "difference": each.mean - theirs,
        }
        row |= {name: getattr(each, name) for name in COUNTS}
        row |= {"tolerance": parity.tolerance, "verdict": parity.verdict, "reason": "; ".join(of_cell)}
        rows.append(row | {"precision": each.precision, "digits": digits, "note": note})
    return pd.DataFrame(rows), reasons


def _printed(recipe: Recipe, cell: TableCell) -> tuple[str, str]:
    """Returns the published number of a cell as it is printed, and the note on it; empty without."""
    if (table := recipe.published) is None:
        return "", ""
    labels = cell.labels
    entry = (labels[name] for name in ("dataset", "model", "training", "attack"))
    place = (table.source, table.table, *entry, cell.attack.printed, cell.metric.name)
    return published().get(place, ("", ""))


class Parity(NamedTuple):
    """Verdict (empty: a number is missing), its reasons, and the largest difference of parity, in the table's unit."""

    verdict: Literal["parity", "differs", "not comparable", ""]
    reasons: tuple[str, ...] = ()
    tolerance: float = math.nan


def judge(ours: float, printed: str, metric: str, seed_spread: float, obstacles: Sequence[str] = ()) -> Parity:
    """Compares our number with the printed one. Parity: |ours - published| <= half a unit of the last printed digit +
    `seed_spread` + that of the authors' reruns.

    Args:
        ours: in the table's unit, as is all else; NaN where missing.
        printed: the published number with the digits as printed; empty where there is none.
        metric: a record's column.
        seed_spread: standard deviation between seeds; NaN where unknown.
        obstacles: reasons why the two must not be compared.
    """
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
            row = tuple(values[name] for name in recipe.rows)
            column = tuple(values[name] for name in recipe.columns)
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
    intervals = [f"[{low}, {high}]" if low else "" for low, high in ends]
    counts = zip(data["cases"], data["patients"], strict=True)
    numbers = [f"{cases}/{patients}" if cases else "" for cases, patients in counts]
    columns: dict[str, Any] = {
        "ours": texts["ours"],
        "publ.": texts["published"],
        "diff.": texts["difference"],
        "95 %\ninterval": intervals,
        "cases/\npatients": numbers,
        "seed\nspread": texts["seed_spread"],
        "verdict": data["verdict"],
        "why": [" ".join(map(letters.__getitem__, each)) for each in reasons],
    }
    filled = {name: values for name, values in columns.items() if any(values)}
    lines = [f"- {letter}: {reason}" for reason, letter in letters.items()]
    varied = labels.loc[:, labels.nunique() > 1]
    table = pd.concat([varied, pd.DataFrame(filled)], axis=1)
    return Section(f"{recipe.title}: every cell", table, text="\n".join(lines), data=data)


def _letter(number: int) -> str:
    """Letter of a reason: a, b, ..., z, aa, ab, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + ascii_lowercase[number % 26]
