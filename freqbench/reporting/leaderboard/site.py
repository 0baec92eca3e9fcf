"""Ranks entries by their worst case on boards, and builds their static site: plain pages that fetch nothing, in which
texts of entries are escaped, and a policy lets no script run but the site's own."""

import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from freqbench.analysis import groups
from freqbench.audit.checks import CHECKS
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import storage
from freqbench.core.machine import versions
from freqbench.reporting.colors import BACKGROUND, series_style
from freqbench.reporting.figures.style import legend_columns, new_figure, plain, use_style
from freqbench.reporting.leaderboard.entry_checks import examine, reasons
from freqbench.reporting.leaderboard.entry_folder import BoardEntry, Told, read_entry
from freqbench.reporting.render import csv
from freqbench.reporting.views.leaderboard import SCORE, add_tests, pair_tests, rank_rows

MARK = b'<meta name="generator" content="freqbench leaderboard">'
INK = "#010203"  # becomes the page's text colour, dark or light
COPIED = ("style.css", "site.js")
LONGER = "longer.csv"  # beside entries: rows of longer attacks on them
OF_LONGER = ["source_model", "threat_model", "budget_name", "budget", "case_id", "dsc_foreground"]
Watched = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Entries of one threat model and its bounds by rank. `rows`, Dice x100: `rank entry cases patients dsc_foreground
    low high dsc_foreground_clean drop strongest`; points `behind` the first, `behind_low`, `behind_high`; `order` with
    it, `holds` or `open`; `moved` by longer attacks, `moved_low`, `moved_high`."""

    dataset: str
    bounds: str  # threat model with its bounds, such as `linf eps=8/255`
    over: tuple[str, ...]  # bounds of the threat models that a board over all is the worst of; empty for others
    rows: pd.DataFrame


def boards_of(entries: Mapping[str, Told], longer: pd.DataFrame | None = None) -> list[Board]:
    """Makes the boards of entries, by dataset, bounds and digests of their cases. An entry's score is the mean over
    cases of the lowest foreground DSC that any attack with these bounds, its audit's too, leaves; its interval is over
    patients. Where entries share cases under several bounds, a board over those that at least half of the entries have
    comes first, with the entries that have them all. Rows of `longer` enter no score."""
    by_cases = defaultdict[Hashable, list[pd.DataFrame]](list)
    for name, told in entries.items():
        worst = _add_longer(told.worst_cases.assign(target_model=name), longer)
        for (dataset, _), part in worst.groupby(["dataset", "bounds"]):
            by_cases[dataset, frozenset(part["case_key"])].append(part)
    boards: list[tuple[tuple[str, ...], pd.DataFrame]] = []
    for parts in by_cases.values():
        rows = pd.concat(parts, ignore_index=True)
        boards += [*_overall_board(rows), *(((), of_bounds) for _, of_bounds in rows.groupby("bounds"))]
    if not boards:
        return []
    ranked = [_rank(rows.reset_index(drop=True), place) for place, (_, rows) in enumerate(boards)]
    ranks, tests = (pd.concat(parts, ignore_index=True) for parts in zip(*ranked, strict=True))
    data = add_tests(ranks, tests).rename(columns={"target_model": "entry"})
    made = []
    for (dataset, bounds, place), rows in data.groupby(["dataset", "threat_model", "budget"]):
        over = boards[int(str(place))][0]
        of_board = rows.reset_index(drop=True)
        made.append(Board(dataset=str(dataset), bounds=str(bounds), over=over, rows=of_board))
    return sorted(made, key=lambda board: (board.dataset, not board.over))


def _add_longer(worst: pd.DataFrame, longer: pd.DataFrame | None) -> pd.DataFrame:
    """Adds the lowest score that longer attacks leave of each case within its bounds; NaN without one."""
    if longer is None:
        return worst.assign(longer=np.nan)
    sets = longer["threat_model"] + " " + longer["budget_name"] + "=" + groups.budget_texts(longer).astype(str)
    least = longer.groupby([longer["source_model"], sets, longer["case_id"]])[SCORE].min()
    places = [worst["target_model"], worst["bounds"].str.split().str[:2].str.join(" "), worst["case_id"]]
    return worst.assign(longer=least.reindex(pd.MultiIndex.from_arrays(places)).to_numpy())


def _overall_board(worst: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yields the bounds of a board over all, and the worst case of each entry and case within any of them."""
    names = worst.groupby("bounds")["target_model"].unique()
    over = tuple(str(bounds) for bounds in names.index[names.map(len) * 2 >= worst["target_model"].nunique()])
    if len(over) < 2:
        return
    whole = set.intersection(*(set(names[bounds]) for bounds in over))
    if len(rows := worst[worst["target_model"].isin(whole) & worst["bounds"].isin(over)]):
        of_case = rows.groupby(["target_model", "case_key"])
        least = rows.assign(longer=of_case["longer"].transform("min")).loc[of_case[SCORE].idxmin()]
        yield over, least.assign(bounds=f"worst of {len(over)} threat models")


def _rank(worst: pd.DataFrame, place: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of a board, and the tests of all its pairs, both with its place among the boards as `budget`."""
    scores = {name: 100 * worst[name] for name in (SCORE, "dsc_foreground_clean", "longer")}
    cases = worst.assign(**scores, case_id=worst["case_key"], seed=0)
    cases["drop"] = cases["dsc_foreground_clean"] - cases[SCORE]
    cases["moved"] = (cases[SCORE] - cases["longer"]).clip(lower=0)
    facts = {"threat_model": worst["bounds"].iloc[0], "budget": place}
    rows = groups.group_means(cases, ["target_model"], SCORE, ["dsc_foreground_clean", "drop"])
    moved = groups.group_means(cases, ["target_model"], "moved").add_prefix("moved_")
    rows = rows.assign(moved=moved["moved_moved"], moved_low=moved["moved_low"], moved_high=moved["moved_high"])
    strongest = cases.groupby("target_model")["attack"].agg(lambda each: each.value_counts().index[0])
    rows = rows.assign(dataset=worst["dataset"].iloc[0], strongest=rows["target_model"].map(strongest), **facts)
    rows = rank_rows(rows).reset_index(drop=True)
    return rows, pair_tests(cases, rows["target_model"].tolist()).assign(**facts)


def _longer(path: Path) -> pd.DataFrame | None:
    """Returns rows of longer attacks on entries; None without their file. Raises UserError if it is another's."""
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path, dtype={"case_id": str})[OF_LONGER]
    except (ValueError, KeyError) as error:  # pandas' errors of parsing are ValueErrors
        got = f"got another: {one_line(error)}"
        raise UserError(f"{path}: expected a table with {', '.join(OF_LONGER)}, {got}") from None


def build_site(entries: Path, to: Path, say: Callable[[str], None], over: Watched = lambda each, _: each) -> bool:
    """Builds a site in `to` of the entries (folders) in which `examine` finds nothing wrong; True if none was refused.
    `say` gets a line for each refused, the path, and a note; `over` iterates, as `rich.progress.track` does with the
    words for it. Raises UserError for no entry, all refused, or an index.html of another maker."""
    if not entries.is_dir():
        raise UserError(f"{entries}: expected a folder of entries, found none: freqbench board entry makes them")
    places = sorted(path for path in entries.iterdir() if path.is_dir() and not path.name.startswith("."))
    accepted: list[BoardEntry] = []
    for folder in over(places, "entries"):
        try:
            entry = read_entry(folder)
            wrong = reasons(examine(entry.told))
        except UserError as error:
            wrong = [one_line(error)]
        if wrong:
            say(f"{folder}: refused: {one_line(wrong[0])}")
        else:
            accepted.append(entry)
    if not accepted:
        raise UserError(f"{entries}: expected an entry that stands, found none of {len(places)}: see the reasons above")
    storage.require_own(str(to / "index.html"), MARK)
    boards = boards_of({entry.name: entry.told for entry in accepted}, _longer(entries / LONGER))
    _write(accepted, over(boards, "boards"), to)
    say(f"written: {to / 'index.html'} ({len(accepted)} of {len(places)} entries)")
    say(f"scores are those that the entries state: freqbench board verify {entries}/NAME computes them again")
    return len(accepted) == len(places)


def _write(entries: Sequence[BoardEntry], boards: Iterable[Board], to: Path) -> None:
    environment = Environment(autoescape=True, loader=PackageLoader(__package__), trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = groups.points
    by_name = {entry.name: entry for entry in entries}
    panels: list[dict[str, Any]] = []
    for board in boards:
        told = [doubt(by_name[str(name)].told, board.dataset) for name in board.rows["entry"]]
        rows = board.rows.assign(interval=groups.bounds(board.rows), doubt=told).to_dict("records")
        panels.append({"board": board, "rows": rows, "plot": Markup(trade_off(board.rows, [*by_name]))})

    def put(name: str, template: str, root: str, **content: Any) -> None:
        page = environment.get_template(template).render(root=root, version=versions()["freqbench"], **content)
        storage.write_atomic(str(to / name), page.encode())

    put("index.html", "index.html", "", boards=panels, entries=by_name)
    for name, entry in by_name.items():
        ranks = []
        for panel in panels:
            ranks += [(panel, row) for row in panel["rows"] if row["entry"] == name]
        put(f"entries/{name}.html", "entry.html", "../", entry=entry, own=ranks)
    for name in COPIED:
        storage.write_atomic(str(to / name), resources.files(__package__).joinpath("templates", name).read_bytes())
    table = pd.concat([panel["board"].rows for panel in panels]).rename(columns={"threat_model": "bounds"})
    storage.write_atomic(str(to / "leaderboard.csv"), csv(table.drop(columns="budget")).encode())
    storage.write_atomic(str(to / ".nojekyll"), b"")


def doubt(told: Told, dataset: str) -> str:
    """Returns the first check that leaves the verdict on an entry, of which `told` are the facts, on a `dataset` in
    doubt, and what was found; empty if none does."""
    for each in told.findings:
        decides = CHECKS[each.check].is_masking or CHECKS[each.check].is_claim
        if decides and each.dataset == dataset and each.verdict == "in doubt":
            return f"it is open whether {CHECKS[each.check].should}, as {each.sentence.partition('. ')[0].rstrip('.')}."
    return ""


def trade_off(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """Draws a board's rows as SVG: clean foreground DSC against worst case, intervals; `names`: looks of all boards."""
    inks = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    sizes = dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9)
    with use_style(), mpl.rc_context({**inks, **sizes, "svg.fonttype": "none", "svg.hashsalt": "freqbench"}):
        labels = [plain(name) for name in rows["entry"]]
        columns = legend_columns(labels, 3.6)  # for letters of 6.5 points
        figure = new_figure(5.0, 2.9 + 0.2 * -(-len(rows) // columns))
        axes = figure.subplots()
        for row, label in zip(rows.to_dict("records"), labels, strict=True):
            style = series_style(names.index(row["entry"]))
            color = INK if style.color == BACKGROUND else style.color  # a dark page would swallow black
            away = [[max(0.0, row[SCORE] - row["low"])], [max(0.0, row["high"] - row[SCORE])]]
            look: dict[str, Any] = {"color": color, "marker": style.marker, "linestyle": "", "label": label}
            spread = None if np.isnan(away).any() else away
            axes.errorbar(row["dsc_foreground_clean"], row[SCORE], spread, elinewidth=0.6, **look)
        axes.set(xlabel="clean DSC fg (%)", ylabel="worst-case DSC fg (%)", ylim=(-3, 103))
        axes.margins(x=0.15)
        figure.legend(loc="outside lower center", ncols=columns, handlelength=1.2, columnspacing=1.2)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
