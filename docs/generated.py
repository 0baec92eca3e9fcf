"""Makes what the reference takes from the code: tables, the command line, job keys, and pictures of attacks.

Pages include the files that `write` leaves in `docs/generated`, which git ignores.
"""

import inspect
import itertools
import json
import re
import shutil
import tomllib
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from pydantic import BaseModel
from scipy.linalg import block_diag
from tabulate import tabulate
from torch import Tensor
from typer.cli import get_docs_for_click

from freqbench.analysis import certificates
from freqbench.analysis.frames import records_frame
from freqbench.analysis.groups import (
    bounds,
    budget_texts,
    group_means,
    is_undirected,
    points,
    select_scored,
)
from freqbench.analysis.statistics import SIGNIFICANCE, Array, auroc, holm, statistic_intervals, t_intervals
from freqbench.analysis.tables import current
from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.declared import declared
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.audit import card, checks
from freqbench.audit.card import Measurement
from freqbench.audit.checks import CHECKS
from freqbench.cli import app, catalogue, show_hidden
from freqbench.core.names import packaged_jobs
from freqbench.core.threat_models import WORDS
from freqbench.data import DATASETS, Dataset
from freqbench.job.json_schema import schema_of
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import parse_value
from freqbench.metrics import METRICS
from freqbench.models import ModelEntry, SegmentationModel, load, resolve
from freqbench.models.packaged import WORST_CASES
from freqbench.reporting.leaderboard.entry_folder import BoardEntry, read_entry
from freqbench.reporting.leaderboard.site import LONGER, Board, boards_of
from freqbench.reporting.render import csv
from freqbench.reporting.report import FORMATS
from freqbench.reporting.views.ejection import ejection_section
from freqbench.reporting.views.leaderboard import SCORE, pair_tests
from freqbench.results import CLASS_RECORDS, RECORDS, Column
from freqbench.results.store import Store, index_keys
from freqbench.training import TrainJob

ROOT = Path(__file__).parents[1]
SPEED = ROOT / "reports" / "speed" / "cpu.json"
CARDS = (card.REFERENCE, *sorted((ROOT / "reports" / "speed" / "cards").glob("*.json")))
GPU_SPEED = SPEED.with_name("gpu.json")
COVERAGE = ROOT / "reports" / "intervals" / "coverage.json"
ALIKE = ROOT / "reports" / "pipelines" / "alike.csv"
NNUNET = ROOT / "reports" / "nnunet" / "README.md"
QUICKSTART = ROOT / "reports" / "quickstart" / "tables.md"
BOUNDS = ROOT / "reports" / "bounds" / "README.md"
ENTRIES = ROOT / "reports" / "leaderboard"
BOARD_PAGE = ENTRIES / "README.md"
ACDC_ENTRIES = ROOT / "reports" / "acdc" / "board"
ACDC_PAGE = ACDC_ENTRIES / "README.md"
DETECTION = ROOT / "reports" / "detection" / "README.md"
EJECTION = ROOT / "reports" / "acdc" / "ejection.md"
SURE = 98  # AUROC x100 of a detector that misses next to nothing
NNUNET_STEPS = 20  # of each attack, as hippocampus/nnunet has it
WAYS = {"window": "window by window", "joint": "joined windows"}
MIRRORED = "joined, through mirror images"
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
NUMBERS += ("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
BOARD_OF_README = (  # ten lines: the clean network and nine trained on attacks
    *("union-larger", "union-wide", "union", "at-sa2-opt", "at-vafa-opt"),
    *("at-sa2", "at-pgd", "trades", "vaft", "unet"),
)
JOBS_PAGE = """# Jobs

`freqbench run phantom/suite` runs a job of this folder from anywhere, or trains its networks where the first word is
*Trains*; `plan` takes the same names. `freqbench list jobs` lists them, `freqbench list jobs phantom/suite` shows one,
`freqbench list keys` every key by an example. A job is one YAML file, and its first comment says more. Costs are those
that the files state; `freqbench plan JOB` estimates yours. Data are looked for under `$FREQBENCH_DATA`: [your own
data](../docs/how-to/own-data.md). Jobs of `research` are those of this project's own reports.

This page is made from the files by `python docs/generated.py`.

"""
PAGES: Mapping[str, str] = {  # where the site has what the repository has elsewhere
    "docs/": "",
    "reports/": "generated/reports/",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "../CITATION.cff",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "CONTRIBUTING.md": "contributing.md",
}

QUICK: dict[str, Any] = {  # of the pictures
    **{"steps": 4, "queries": 20, "num_spectra": 2, "bands": 24},
    **{"members": ("apgd-dice", "square"), "losses": ("mask-ce",)},  # of the ensembles
}
QUICK_TOO: dict[str, dict[str, Any]] = {
    "sa2_2d": {"ssim_weight": 0.0},  # its SSIM asks for a cube
    "bases": {"queries": 3},  # a query is four steps of two networks
}


def write(folder: Path) -> None:
    """Write all snippets, and the pictures that are not there; what is as it was stays untouched."""
    for pages in ("attacks", "job", "training-job"):
        (folder / pages).mkdir(parents=True, exist_ok=True)
    for tree in ("cluster", "reports"):
        shutil.copytree(ROOT / tree, folder / tree, dirs_exist_ok=True)
    snippets = {
        "readme": re.sub(r"<!-- badge -->.*?<!-- /badge -->\n+", "", on_site("README.md"), flags=re.DOTALL),
        "contributing": on_site("CONTRIBUTING.md"),
        "code-of-conduct": on_site("CODE_OF_CONDUCT.md"),
        "changelog": on_site("CHANGELOG.md"),
        "attack-table": attack_table(),
        "threat-models": threat_table(),
        **attack_pages(),
        "models": model_table(),
        "datasets": dataset_table(),
        "dataset-classes": "\n".join(_documented(loader) for loader in DATASETS.values()),
        "gpu-speed": gpu_tables(GPU_SPEED),
        "cards": card.table_of(Measurement.model_validate_json(path.read_text("utf-8")) for path in CARDS),
        "coverage": coverage_table(),
        "alike-nnunetv2": alike_table("nnunetv2"),
        "alike-monai": alike_table("monai"),
        "bounds": section_of(BOUNDS, "Both ends"),
        "metrics": metric_table(),
        "checks": table([[f"`{name}`", check.should] for name, check in CHECKS.items()], ["check", "what should hold"]),
        "quickstart-attacks": section_of(QUICKSTART, "phantom: attacks on unet, white-box"),
        "quickstart-transfer": "\n".join(
            line
            for line in section_of(QUICKSTART, "phantom: foreground DSC x100").splitlines()
            if re.match(r"\| (attack|clean|sa2 rho=0.4 |sa2_opt|pgd)|\|:", line) and "control" not in line
        ),
        "records": column_table(RECORDS),
        "class-records": column_table(CLASS_RECORDS),
        "command-line": command_line(),
        **{f"job/{name}": text for name, text in key_pages(JobSpec, "A job")},
        **{f"training-job/{name}": text for name, text in key_pages(TrainJob, "A training job")},
        "packaged-jobs": job_tables(),
    }
    snippets["reports/quickstart/tables"] = f"# The quick start, all tables\n\n{QUICKSTART.read_text(encoding='utf-8')}"
    for name, text in snippets.items():
        _put(folder / f"{name}.md", text + "\n")
    for name in ATTACKS:
        picture = folder / "attacks" / f"{name}.png"
        if not picture.exists():
            draw(name).savefig(picture, dpi=80)
    (folder / "notebooks").mkdir(exist_ok=True)
    for path in (ROOT / "docs" / "tutorials").glob("*.py"):
        _put(folder / "notebooks" / f"{path.stem}.ipynb", notebook(path))
    rooms((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")).savefig(folder / "rooms.svg")


def on_site(name: str) -> str:
    """A file of the repository's top, its links and pictures as the site has them."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for there, here in PAGES.items():
        text = text.replace(f"]({there}", f"]({here}")
    return text


def places() -> Mapping[str, str]:
    """Addresses of `[project.urls]` by name; empty until there is a public place."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})


def front_page() -> str:
    """The README with the addresses that there are, and a badge if the repository is on GitHub."""
    urls = places()
    tests = f"{urls.get('Repository', '')}/actions/workflows/ci.yml"
    badge = f"[![tests]({tests}/badge.svg)]({tests})\n" if "//github.com/" in tests else ""
    found = ", ".join(f"{name}: <{urls[name]}>" for name in ("Repository", "Documentation") if name in urls)
    lines = [line for line in (found and f"{found}.", image_line()) if line]
    parts = {"badge": badge, "addresses": "".join(f"{line}\n" for line in lines), "board": board_table(BOARD_OF_README)}
    return filled((ROOT / "README.md").read_text(encoding="utf-8"), parts)


def image_line() -> str:
    """How to run the published image; empty if there is none."""
    image = places().get("Image", "").removeprefix("https://")
    run = f"`docker run --rm --shm-size=1g -w /tmp {image}:cpu freqbench run quickstart`"
    return f"Without an installation: {run}." if image else ""


def citation() -> str:
    """CITATION.cff with the addresses that there are."""
    keys = {"repository-code": "Repository", "url": "Documentation"}
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.partition(":")[0] not in keys]
    return "\n".join([*lines, *(f"{key}: {places()[name]}" for key, name in keys.items() if name in places()), ""])


def install_page() -> str:
    """The page on installation with the published image, if there is one."""
    image = image_line()
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    return filled(page, {"image": f"{image}\n" if image else ""})


@cache
def stored_entries(folder: Path = ENTRIES) -> Mapping[str, BoardEntry]:
    """Entries of a folder of the repository, by name."""
    return {path.name: read_entry(path) for path in sorted(folder.iterdir()) if path.is_dir()}


@cache
def stored_boards(folder: Path = ENTRIES) -> tuple[Board, list[Board]]:
    """The board over all threat models of a folder's entries, and those of one each."""
    boards = boards_of(
        {name: entry.told for name, entry in stored_entries(folder).items()}, pd.read_csv(folder / LONGER)
    )
    (whole,) = (board for board in boards if board.over)
    return whole, [board for board in boards if board.bounds in whole.over]


def worst_cases() -> str:
    """CSV of what the board over all threat models says of the package's networks."""
    whole, _ = stored_boards()
    rows = [
        {
            "checkpoint": stored_entries()[row["entry"]].card.checkpoint,
            "worst_case": f"{row['dsc_foreground'] / 100:.6f}",
            "threat_models": "; ".join(whole.over),
        }
        for row in whole.rows.to_dict("records")
    ]
    return csv(pd.DataFrame(rows).sort_values("checkpoint"))


def board_table(names: Sequence[str] = (), folder: Path = ENTRIES) -> str:
    """The board over all threat models, of these networks or of all; foreground DSC x100."""
    whole, _ = stored_boards(folder)
    rows = [
        [
            str(row["rank"]),
            f"`{row['entry']}`",
            stored_entries(folder)[row["entry"]].card.title,
            f"{row['dsc_foreground_clean']:.1f}",
            f"{row['dsc_foreground']:.1f} [{row['low']:.1f}, {row['high']:.1f}]{not_converged(row['moved'])}",
            row["strongest"].partition(" ")[0],
            audit_word(stored_entries(folder)[row["entry"]]),
        ]
        for row in whole.rows.to_dict("records")
        if not names or row["entry"] in names
    ]
    return table(rows, ["rank", "network", "made by", "clean", "worst case", "mostly by", "audit"]) + "\n"


def not_converged(moved: float) -> str:
    """A mark behind a number that six times the steps lower by more than a point."""
    return " not converged" if moved > 1 else ""


def longer_table(folder: Path = ENTRIES) -> str:
    """A row a network and set with longer attacks: what the board's attacks leave, and what these leave beside them."""
    whole, boards = stored_boards(folder)
    cells = []
    for board in (whole, *boards):
        rows = board.rows[board.rows["moved"].notna()].sort_values("moved", ascending=False)
        for row, interval in zip(rows.to_dict("records"), bounds(rows, "moved_low", "moved_high"), strict=True):
            left, moved = row["dsc_foreground"], row["moved"]
            texts = [f"{left:.1f}", f"{left - moved:.1f}", f"{moved:.1f} {interval}{not_converged(moved)}"]
            cells.append([set_name(board), f"`{row['entry']}`", *texts])
    return table(cells, ["set", "network", "20 steps", "with 120 steps", "moved"]) + "\n"


def entry_rows(entry: BoardEntry) -> pd.DataFrame:
    """Rows of an entry that count; foreground DSC x100."""
    return select_scored(current(records_frame([entry.store])))


def audit_word(entry: BoardEntry) -> str:
    """The verdict of an entry's audit in a word, with the number of checks that hold."""
    evidence = checks.gathered([entry.store], index_keys(entry.store.job()["index"]))
    (verdict,) = checks.verdicts(checks.audited(evidence))
    return verdict.label


def board_matrix(folder: Path = ENTRIES) -> str:
    """What each threat model leaves of each network, in the order of the board over all; a column's most is bold."""
    whole, boards = stored_boards(folder)
    left = {"clean": whole.rows.set_index("entry")["dsc_foreground_clean"]}
    marks = {"clean": dict.fromkeys(whole.rows["entry"], "")}
    for board in [*boards, whole]:
        rows = board.rows.set_index("entry")
        left[set_name(board)], marks[set_name(board)] = rows["dsc_foreground"], rows["moved"].map(not_converged)
    rows = []
    for name in whole.rows["entry"]:
        scores = [f"{each[name]:.1f}" if each[name] < each.max() else f"**{each[name]:.1f}**" for each in left.values()]
        marked = [f"{score}{mark[name]}" for score, mark in zip(scores, marks.values(), strict=True)]
        rows.append([f"`{name}`", *marked])
    return table(rows, ["network", *left]) + "\n"


def leads_table(folder: Path = ENTRIES) -> str:
    """A row a threat model: the first, who is in open order with it, and who of these is ahead of every other network.

    Tests are those of the site: paired over patients, Holm-corrected over all pairs of networks of all boards.
    """
    whole, boards = stored_boards(folder)
    pairs = pd.concat([_pairs(board, folder) for board in (whole, *boards)])
    holds = pairs.assign(holds=holm(pairs["p"]) < SIGNIFICANCE).set_index(["set", "ahead", "target_model"])["holds"]
    rows = []
    for board in (whole, *boards):
        place, order = set_name(board), list(board.rows["entry"])
        ahead = {(a, b) for a, b in itertools.combinations(order, 2) if holds[place, a, b]}
        lead = [name for name in order if (order[0], name) not in ahead]
        others = [name for name in order if name not in lead]
        ours = [name for name in lead if all((name, other) in ahead for other in others)]
        names = [", ".join(f"`{name}`" for name in each) for each in (lead[1:], ours)]
        rows.append([place, f"`{lead[0]}`", names[0], "all" if ours == lead else names[1]])
    return table(rows, ["set", "first", "in open order with the first", "of these, ahead of every other"]) + "\n"


def _pairs(board: Board, folder: Path) -> pd.DataFrame:
    """Tests of all pairs of a board's networks, the one with the higher mean `ahead`."""
    order = list(board.rows["entry"])
    scores = pd.DataFrame(_scores(board.over or (board.bounds,), order, folder).T, columns=order)
    minima = scores.rename_axis("case_id").reset_index().melt("case_id", var_name="target_model", value_name=SCORE)
    return pair_tests(minima.assign(patient_id=minima["case_id"]), order).assign(set=set_name(board))


def set_name(board: Board) -> str:
    """A board's threat model and budget in two words."""
    return "worst" if board.over else " ".join(re.sub(r" \w+=", " ", board.bounds).split()[:2])


def orders_table() -> str:
    """A row a threat model: Kendall's tau between the orders of the same recipes on two organs, and pairs turned."""
    whole, boards = stored_boards(ACDC_ENTRIES)
    names, rows = sorted(stored_entries(ACDC_ENTRIES)), []
    for board in (whole, *boards):
        one, other = (_scores(board.over or (board.bounds,), names, folder) for folder in (ENTRIES, ACDC_ENTRIES))
        tau, low, high = rank_correlation(one, other)
        means = dict(zip(names, zip(one.mean(axis=1), other.mean(axis=1), strict=True), strict=True))
        turned = [
            f"`{a}` and `{b}`"
            for a, b in itertools.combinations(names, 2)
            if (means[a][0] - means[b][0]) * (means[a][1] - means[b][1]) < 0
        ]
        rows.append([set_name(board), f"{tau:.2f} [{low:.2f}, {high:.2f}]", str(len(turned)), ", ".join(turned)])
    return table(rows, ["set", "tau", "turned", "pairs of networks in another order"]) + "\n"


def rank_correlation(one: Array, other: Array) -> Array:
    r"""Compares the orders of the same methods on two sets of patients, by their mean scores: Kendall's tau-b.

    .. math:: \tau = \frac{\sum_{i<j} s_{ij} t_{ij}}{\sqrt{\sum s_{ij}^2 \sum t_{ij}^2}}, \qquad
              s_{ij} = \mathrm{sign}(m_i - m_j)

    t is that of the other set (Kendall, Biometrika 1945). Methods of two patients or more on each set, `one` and
    `other`, [methods, patients].

    Returns:
        [3]: estimate, low and high, by `statistic_intervals` over the patients of both sets.
    """
    sums, counts = (block_diag(*parts) for parts in ((one, other), (np.ones_like(one), np.ones_like(other))))
    i, j = np.triu_indices(len(one), 1)

    def tau(means: Array) -> Array:
        s, t = (np.sign(part[i] - part[j]) for part in (means[: len(one)], means[len(one) :]))
        return ((s * t).sum(0) / np.sqrt((s**2).sum(0) * (t**2).sum(0)))[None]

    return statistic_intervals(sums, counts, tau, np.array([sums.shape[1]]))[0]


def _scores(sets: Sequence[str], networks: Sequence[str], folder: Path) -> Array:
    """The lowest foreground DSC x100 of each network on each patient within some sets, [networks, patients]."""
    lowest = []
    for network in networks:
        worst = pd.DataFrame(stored_entries(folder)[network].told.worst_cases)
        lowest.append(100 * worst[worst["bounds"].isin(sets)].groupby("patient_id")["dsc_foreground"].min())
    return np.stack([each.to_numpy() for each in lowest])


@cache
def null_draws(folder: Path = ENTRIES) -> pd.DataFrame:
    """The `mean` and `strongest` foreground DSC x100 that changes without optimisation leave, by network and set.

    Draws are the entry's own and its audit's, of a board's sets and on all its patients. The strongest is each
    patient's lowest.
    """
    whole, boards = stored_boards(folder)
    means = {}
    for name, entry in stored_entries(folder).items():
        rows = select_scored(current(records_frame([entry.store, Store(f"{entry.store.root}/audit")])))
        rows = rows[is_undirected(rows)]
        sets = rows["threat_model"].astype(str) + " " + budget_texts(rows).astype(str)
        for board in boards:
            of_case = rows[sets == set_name(board)].groupby("case_id", observed=True)["dsc_foreground"]
            if len(of_case) == whole.rows["cases"].iloc[0]:
                means[name, set_name(board)] = {"mean": of_case.mean().mean(), "strongest": of_case.min().mean()}
    return pd.DataFrame.from_dict(means, orient="index")


def null_table(folder: Path = ENTRIES) -> str:
    """What changes without optimisation leave of each network, kind by kind: the mean over draws, and the strongest."""
    whole, boards = stored_boards(folder)
    texts = {place: f"{row['mean']:.1f}, {row['strongest']:.1f}" for place, row in null_draws(folder).iterrows()}
    kinds = [kind for kind in map(set_name, boards) if any(place[1] == kind for place in texts)]
    cells = [[f"`{name}`", *(texts.get((name, kind), "") for kind in kinds)] for name in whole.rows["entry"]]
    return table(cells, ["network", *kinds]) + "\n"


def filled(text: str, parts: Mapping[str, str]) -> str:
    """A page with new content between the two comments of each name."""
    for name, content in parts.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{content}\g<2>", text, flags=re.DOTALL)
    return text


def said() -> Mapping[Path, Sequence[str]]:
    """Sentences of the reports that stored rows decide, with the numbers and the order that these have, by page."""
    reports = ROOT / "reports"
    return {
        ROOT / "README.md": [*_said_of_readme()],
        BOARD_PAGE: [*_said_of_board(), *_said_of_mirrored(), _said_of_orders()],
        NNUNET: [*_said_of_nnunet()],
        reports / "acdc" / "README.md": [_said_of_floor()],
        BOUNDS: [*_said_of_bounds()],
        DETECTION: [*_said_of_detection()],
        reports / "strongest" / "README.md": [*_said_of_starts()],
    }


def _said_of_readme() -> Iterator[str]:
    whole, _ = stored_boards()
    plain, best = whole.rows.set_index("entry").loc["unet"], whole.rows["dsc_foreground"].max()
    yield (
        f"a UNet with a clean Dice of {plain['dsc_foreground_clean']:.1f} keeps {plain['dsc_foreground']:.1f} under "
        f"the strongest attacks of {NUMBERS[len(whole.over)]} kinds; the best of {NUMBERS[len(whole.rows)]} networks "
        f"keeps {best:.1f}"
    )
    plan, report = ((ROOT / "reports" / "hippocampus" / name).read_text("utf-8") for name in ("plan.txt", "README.md"))
    found = (r"0 of (\d+) records", r"about (\d+) minutes left on one worker", r"([\d.]+) at 2.5/h")
    records, minutes, price = (re.findall(each, plan)[0] for each in found)
    yield f"({int(records):,} records) it estimates {minutes} minutes of one worker, or {price}"
    (took,) = re.findall(rf"The {int(records):,} records took ([\d,]+) s of attacking and ([\d,]+) s", report)
    yield f"the run took {sum(int(seconds.replace(',', '')) for seconds in took) / 60:.0f} minutes"


def _said_of_mirrored() -> Iterator[str]:
    for name, rows in pd.read_csv(ENTRIES / "mirrored.csv").groupby("source_model"):
        patients = rows.groupby("case_id")
        worst, clean = 100 * patients["dsc"].min().mean(), 100 * patients["dsc_clean"].first().mean()
        yield f"| `{name}`, mirrored | {clean:.2f} | {worst:.2f} |"


def _said_of_bounds() -> Iterator[str]:
    yield "on {} of these {} volumes it leaves more than no change".format(*_weak_certificates())
    rows = certificates.means(pd.read_csv(BOUNDS.with_name("bounds.csv")))
    rows = rows[(rows["radius"] == rows["sigma"]) & (rows["sigma"] < 1) & rows["target_model"].str.startswith("unet-")]
    gaps = rows["attacked"] - rows["certified"]
    yield f"At a radius of one sigma, attack and certificate are {gaps.min():.1f} to {gaps.max():.1f} points"


def _said_of_board() -> Iterator[str]:
    whole, boards = stored_boards()
    moved = {set_name(board): board.rows.set_index("entry")["moved"].dropna() for board in (whole, *boards)}
    worst, stretched = moved["worst"], moved["dct-quantization-stretched 20"]
    yield f"{NUMBERS[(worst > 1).sum()]} of {NUMBERS[len(worst)]} move by more than a point"
    first = stretched[whole.rows["entry"][:4]]
    yield (
        f"under stretched quantisation {'all ' if (stretched > 1).all() else ''}{NUMBERS[(stretched > 1).sum()]} do, "
        f"the first four of the board by {first.min():.1f} to {first.max():.1f} points"
    )
    last = worst[["union-wide", "union-larger"]]
    after = whole.rows.set_index("entry")["dsc_foreground"][last.index] - last
    places = "change places" if after["union-wide"] > after["union-larger"] else "keep their places"
    yield f"`union-wide` and `union-larger` move by {last.iloc[0]:.1f} and {last.iloc[1]:.1f} points, and {places}"
    unions = worst.filter(like="union").drop(last.index)
    yield f"those of the other unions move by {unions.min():.1f} to {unions.max():.1f} points"
    rows = entry_rows(stored_entries()["at-sa2"]).query("label == 'vafa_opt q_max=20 loss=horizon'")
    yield f"where `horizon` leaves {rows['dsc_foreground'].mean():.2f}"
    far = pd.read_csv(ENTRIES / LONGER).query("source_model == 'at-sa2-opt' and budget_name == 'q_max'")
    three = 100 * far.set_index("case_id")["dsc_foreground"][[f"hippocampus_{each}" for each in (350, 372, 292)]]
    yield "where `horizon` leaves {:.1f}, {:.1f} and {:.1f}".format(*three)
    draws = null_draws().loc["at-sa2-opt", "dct-scaling 0.4"]
    clean = whole.rows.set_index("entry")["dsc_foreground_clean"]["at-sa2-opt"]
    yield (
        f"Under scaling 0.4 the strongest leaves {draws['strongest']:.1f} of the {clean:.1f} of `at-sa2-opt`, where a "
        f"draw leaves {draws['mean']:.1f} in the mean"
    )
    rows = certificates.means(pd.read_csv(BOUNDS.with_name("board.csv")))
    yield "attacks in these balls leave {:.1f} and {:.1f}".format(*rows["attacked"])
    yield "on {} of {} volumes they leave more than no change does".format(*_weak_certificates())
    yield "So {:.1f} and {:.1f} points lie between".format(*rows["attacked"] - rows["certified"])


def _said_of_orders() -> str:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in leads_table().splitlines()[2:]]
    whole = " and ".join(row[0] for row in rows if row[3] == "all")
    (stretched,) = (row for row in rows if row[0] == "dct-quantization-stretched 20")
    (board,) = (board for board in stored_boards()[1] if set_name(board) == stretched[0])
    return (
        f"**In {whole} all named are; in {stretched[0]} {stretched[3]} alone is**: its second by the mean, "
        f"`{board.rows['entry'][1]}`, is behind it, and {stretched[2]} in open order with it."
    )


def _weak_certificates() -> tuple[int, int]:
    """How many of the attacks on the board's first leave more than no change, and of how many."""
    rows = pd.read_csv(BOUNDS.with_name("board.csv")).query("score == @SCORE")
    return int((rows["attacked"] > rows["clean"]).sum()), len(rows)


def _said_of_nnunet() -> Iterator[str]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in nnunet_hidden().splitlines()[2:]]
    left = {(place, way, loss): (text.split()[0], passes) for place, way, loss, passes, text in cells}
    beside, through, (coarse, fine) = WAYS["joint"], MIRRORED, ("`dct-quantization` 20", "`linf` 2/255")
    low, far = left[coarse, through, "`auto`"]
    losses = ("`auto`", "`dice`", "lower of both")
    (auto, one), (dice, _), (both, two) = (left[coarse, beside, loss] for loss in losses)
    yield (
        f"Within quantisation {far} passes through all eight mirror images leave {low}, by `auto`; beside the "
        f"mirroring {one} passes leave {auto} by `auto` and {dice} by `dice`, and the lower of both {both} in {two} "
        "passes"
    )
    mirrored, both_beside = (left[place][0] for place in ((fine, through, "`dice`"), (fine, beside, "lower of both")))
    yield f"Within 2/255 {far} passes leave {mirrored}, by `dice`, and {two} leave {both_beside}."


def _said_of_detection() -> Iterator[str]:
    robust, plain, heart = (detection_cells(name) for name in ("union-larger", "unet", "acdc-unet"))

    def means(cells: pd.DataFrame, way: str, detector: str) -> pd.Series:
        return cells[way].xs(detector, level=1).map(lambda cell: cell[0])

    least, sets = means(plain, "clean", "change"), len(plain.index.levels[0])
    sure = (least >= SURE).sum()
    yield f"tells apart with an AUROC of {SURE} or more in {NUMBERS[sure]} of {NUMBERS[sets]} sets on the clean UNet"
    hidden = (means(robust, "clean", "change") < 75).sum()
    yield f"on `union-larger` it is below 75 in {NUMBERS[hidden]}"
    highest = max(means(plain, "known", each).max() for each in ("change", "energy", "features"))
    yield f"is told from clean volumes with an AUROC of at most {highest:.0f} on the clean UNet"
    kept, same = (means(plain, way, "change")["dct-scaling 0.4"] for way in ("kept", "same"))
    yield f"leaves {kept:.1f} under scaling 0.4 beside the change of the prediction, one who does not {same:.1f}"
    others = sorted(means(plain, "kept", each)["dct-scaling 0.4"] for each in ("energy", "features"))
    yield "beside the other two {:.1f} and {:.1f}".format(*others)
    noise = means(robust, "null", "energy")["linf 8/255"]
    yield f"an AUROC of {noise:.0f} against noise within 8/255 on `union-larger`: the noise is the more suspicious"
    lost = (means(heart, "kept", "energy") - means(heart, "same", "energy"))[["linf 2/255", "linf 4/255", "linf 8/255"]]
    yield f"On the heart {lost.min():.0f} to {lost.max():.0f} points more are left beside the energy within voxels"


def _said_of_floor() -> str:
    rows = pd.concat([entry_rows(entry) for entry in stored_entries(ACDC_ENTRIES).values()])
    rows = rows[rows["dsc_foreground"] == 0]
    return f"volumes of which no voxel of the heart is found score {rows['dsc'].min():.1f} to {rows['dsc'].max():.1f}"


def _said_of_starts() -> Iterator[str]:
    rows = pd.read_csv(ROOT / "reports" / "strongest" / "horizon.csv")
    gains = rows[["horizon", "dice"]].min(axis=1) - rows[["horizon", "horizon_second"]].min(axis=1)
    rows = rows.assign(gain=gains, patient_id=rows["case"])

    def text(part: pd.DataFrame) -> tuple[str, str]:
        (row,) = t_intervals(part.assign(all=0), ["all"], "gain").to_dict("records")
        return f"{abs(row['mean']):.2f}", f"[{points(row['low'], 2)}, {points(row['high'], 2)}]"

    of_network = {name: text(part) for name, part in rows.groupby("network")}
    (one, one_bounds), (other, other_bounds), (last, last_bounds) = (
        of_network[name] for name in ("union-wide", "at-sa2-opt", "unet")
    )
    yield (
        f"`horizon` beside the Dice leaves {one} points more than two starts of `horizon` on `union-wide` "
        f"{one_bounds}, {other} more on `at-sa2-opt` {other_bounds} and {last} less on `unet` {last_bounds}"
    )
    scaling, stretched = (
        text(rows[(rows["network"] == name) & (rows["set"] == place)])
        for name, place in (("union-wide", "scaling, rho 0.4"), ("at-sa2-opt", "stretched quantisation, q_max 20"))
    )
    yield (
        f"under scaling at rho 0.4 on `union-wide` {' more '.join(scaling)}, and under stretched quantisation on "
        f"`at-sa2-opt` {' more '.join(stretched)}"
    )


def leaderboard_page() -> str:
    """The report on the entries, with its tables."""
    tables = {"board": board_table(), "matrix": board_matrix(), "longer": longer_table()}
    tables |= {"leads": leads_table(), "null": null_table()}
    return filled(BOARD_PAGE.read_text(encoding="utf-8"), tables)


def acdc_page() -> str:
    """The report on the second board, with its tables and the orders of both."""
    tables = {"board": board_table((), ACDC_ENTRIES), "matrix": board_matrix(ACDC_ENTRIES)}
    tables |= {"longer": longer_table(ACDC_ENTRIES), "leads": leads_table(ACDC_ENTRIES)}
    tables |= {"null": null_table(ACDC_ENTRIES), "orders": orders_table()}
    return filled(ACDC_PAGE.read_text(encoding="utf-8"), tables)


def ejection_page() -> str:
    """The report on ejection fractions, with its table."""
    rows = pd.read_csv(EJECTION.with_suffix(".csv"))
    (text,) = (FORMATS["markdown"]([ejection_section(str(dataset), part)]) for dataset, part in rows.groupby("dataset"))
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("|"))
    return filled(EJECTION.read_text(encoding="utf-8"), {"ejection": lines})


def nnunet_rows() -> pd.DataFrame:
    """Rows of the report on nnU-Net; foreground DSC x100, and the set of each in words."""
    rows = pd.read_csv(NNUNET.with_name("attacked.csv"))
    rows["dsc_foreground"] *= 100
    sets = "`" + rows["threat_model"] + "` " + budget_texts(rows).astype(str)
    return rows.assign(set=sets, patient_id=rows["case_id"], seed=0)


def lowest(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over patients of the lowest DSC in each set, with its interval, by set."""
    minima = rows.groupby(["set", "case_id", "patient_id", "seed"], as_index=False)["dsc_foreground"].min()
    return group_means(minima, ["set"], "dsc_foreground").set_index("set")


def nnunet_attacks() -> str:
    """What null rows, each loss and the better one of each patient leave of nnU-Net's network in each set."""
    rows = nnunet_rows().query("source_model == 'nnunet'")
    rows = rows[rows["case_id"].groupby(rows["label"]).transform("nunique") == rows["case_id"].nunique()]
    is_null = is_undirected(rows)
    parts = {"null row": rows[is_null], **{f"`{loss}`": rows[rows["loss"] == loss] for loss in ("auto", "dice")}}
    means = {name: lowest(part)["dsc_foreground"] for name, part in parts.items()}
    left = lowest(rows[~is_null]).sort_values("dsc_foreground", ascending=False, kind="stable")
    texts = [points(value) for value in left["dsc_foreground"]]
    cells = [
        [name, *(points(each.get(name, float("nan"))) for each in means.values()), f"{text} {interval}"]
        for name, text, interval in zip(left.index, texts, bounds(left), strict=True)
    ]
    clean = pd.read_csv(NNUNET.with_name("clean.csv")).assign(
        set="clean", seed=0, patient_id=lambda rows: rows["case_id"]
    )
    clean["dsc_foreground"] = 100 * clean["freqbench"]
    for place, part in ((0, clean), (len(cells) + 1, rows[~is_null].assign(set="the worst of all"))):
        mean = lowest(part)
        cells.insert(place, [mean.index[0], "", "", "", f"{points(mean['dsc_foreground'].iloc[0])} {bounds(mean)[0]}"])
    return table(cells, ["set", *means, "lowest, interval"]) + "\n"


def nnunet_hidden() -> str:
    """What attacks leave of five patients beside the mirroring and through it: by each loss, and the lower of both."""
    rows = nnunet_rows().query("control != 'random' and source_model != 'unet' and loss == loss")
    sets = rows.query("source_model == 'mirrored'")[["set", "case_id"]].drop_duplicates()
    rows = rows.merge(sets)
    cells = []
    for (place, mirrored, scope), part in rows.groupby(["set", rows["source_model"] == "mirrored", "scope"]):
        way = MIRRORED if mirrored else WAYS[scope]
        losses = {f"`{loss}`": of_loss for loss, of_loss in part.groupby("loss")}
        for name, of_loss in losses.items() if len(losses) == 1 else {**losses, "lower of both": part}.items():
            passes = NNUNET_STEPS * of_loss["loss"].nunique() * (8 if mirrored else 1)
            left = lowest(of_loss)
            text = f"{points(left['dsc_foreground'].iloc[0])} {bounds(left)[0]}"
            cells.append([place, way, name, f"{passes}", text])
    return table(cells, ["set", "attack", "loss", "passes", "left"]) + "\n"


def nnunet_transfer() -> str:
    """What volumes leave that were made on nnU-Net's network, and those made on the package's `unet`."""
    foreign, own = _alike("unet")
    return _side_by_side({"made on `nnunet`": own[own["scope"] == "joint"], "made on `unet`": foreign})


def _alike(source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of attacks on a source, and of those on nnU-Net's network in the same sets, by the same losses and cases."""
    rows = nnunet_rows().query("control != 'random'")
    theirs, own = (rows[rows["source_model"] == name] for name in (source, "nnunet"))
    keys = ["set", "loss", "case_id"]
    return theirs, own.merge(theirs[keys])


def _side_by_side(ways: Mapping[str, pd.DataFrame]) -> str:
    texts = {}
    for name, part in ways.items():
        means = lowest(part)
        cells = zip(map(points, means["dsc_foreground"]), bounds(means), strict=True)
        texts[name] = dict(zip(means.index, map(" ".join, cells), strict=True))
    sets = sorted({each for of_way in texts.values() for each in of_way})
    return table([[each, *(way.get(each, "") for way in texts.values())] for each in sets], ["set", *texts]) + "\n"


def nnunet_clean() -> str:
    """The clean Dice of each patient as freqbench and as nnU-Net's own commands have it."""
    rows = pd.read_csv(NNUNET.with_name("clean.csv"))
    cells = [
        [case, *(f"{value:.6f}" for value in scores), str(voxels)]
        for case, *scores, voxels in rows.itertuples(index=False)
    ]
    headers = ["patient", "freqbench", "`nnUNetv2_predict`", "the same, float32", "voxels that float16 turns"]
    apart, exact = ((rows["freqbench"] - rows[name]).abs().max() for name in ("nnunetv2", "nnunetv2_float32"))
    turned = (rows["voxels_of_float16"] > 0).sum()
    said = (
        f"Largest difference from freqbench: {apart:.6f}, by float16 in {turned} of {len(rows)} patients; {exact:.6f}"
    )
    return f"{table(cells, headers)}\n\n{said} in float32.\n"


def nnunet_page() -> str:
    """The report on nnU-Net, with its tables."""
    made = {"attacks": nnunet_attacks, "hidden": nnunet_hidden, "transfer": nnunet_transfer, "clean": nnunet_clean}
    return filled(NNUNET.read_text(encoding="utf-8"), {name: make() for name, make in made.items()})


def detection_rows() -> pd.DataFrame:
    """Rows of networks beside a detector, by network; DSC x100, the set and the kind of volume of each in words."""
    parts = [pd.read_csv(path).assign(network=path.stem) for path in sorted(DETECTION.parent.glob("*.csv"))]
    rows = pd.concat(parts, ignore_index=True)
    rows["dsc_foreground"] *= 100
    is_null = rows["control"] | (rows["attack"] == "random_noise")
    kinds = np.select([is_null, rows["source_model"] == "plain"], ["null", "unaware"], "aware")
    names = rows["threat_model"] + " " + budget_texts(rows).astype(str)
    return rows.assign(set=names, kind=kinds, patient_id=rows["case_id"], seed=0)


@cache
def detection_cells(network: str) -> pd.DataFrame:
    """Means with their bounds, by set and detector.

    AUROC x100 of volumes of an attacker who does not know the detector against `clean` volumes and `null` rows, and of
    one who does, `known`; the DSC that both leave: `left`, `same` on the patients of the other, and `kept`.
    """
    rows = detection_rows().query("network == @network")
    made = {}
    for (name, detector), part in rows.groupby(["set", "target_model"]):
        null, blind, knows = (part[part["kind"] == kind] for kind in ("null", "unaware", "aware"))
        clean = blind.groupby("case_id")["suspicion_clean"].first()
        pairs = {"clean": (blind, clean), "null": (blind, null.groupby("case_id")["suspicion"].mean())}
        cell = {}
        for way, (volumes, other) in (pairs | {"known": (knows, clean)}).items():
            of_case = volumes.groupby("case_id")["suspicion"].mean()
            paired = pd.DataFrame({"one": of_case, "other": other}).dropna()
            cell[way] = auroc(paired["one"].to_numpy(), paired["other"].to_numpy())
        of_same = blind[blind["case_id"].isin(knows["case_id"])]
        for way, volumes in (("left", blind), ("same", of_same), ("kept", knows)):
            cell[way] = tuple(lowest(volumes)[["dsc_foreground", "low", "high"]].iloc[0])
        made[name, detector] = cell
    return pd.DataFrame.from_dict(made, orient="index")


def detection_tables(network: str) -> tuple[str, str]:
    """Two tables of a network: whom detectors tell apart, and what an attacker who knows each one leaves."""
    cells = detection_cells(network)
    seen, known = [], []
    for name, of_set in cells.groupby(level=0):
        of_all = of_set.iloc[0]
        texts = {
            way: [f"{m:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for m, low, high in of_set[way]]
            for way, digits in (("clean", 0), ("null", 0), ("known", 0), ("kept", 1))
        }
        seen.append(
            [f"`{name}`", points(of_all["left"][0]), *itertools.chain(*zip(texts["clean"], texts["null"], strict=True))]
        )
        known.append(
            [f"`{name}`", points(of_all["same"][0]), *itertools.chain(*zip(texts["kept"], texts["known"], strict=True))]
        )
    detectors = [*cells.index.get_level_values(1).unique()]
    heads = [f"{each}, {what}" for each in detectors for what in ("clean", "null")]
    both = [f"{each}, {what}" for each in detectors for what in ("left", "AUROC")]
    return table(seen, ["set", "left", *heads]) + "\n", table(known, ["set", "left, unaware", *both]) + "\n"


def detection_page() -> str:
    """The report on detectors, with its tables."""
    made = {}
    for network in detection_rows()["network"].unique():
        made[f"seen-{network}"], made[f"known-{network}"] = detection_tables(network)
    return filled(DETECTION.read_text(encoding="utf-8"), made)


def notebook(path: Path) -> str:
    """A tutorial as a notebook without outputs; its cells have the same ids each time."""
    import jupytext  # of the extra `docs`, which the page of jobs does not need

    made = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return str(jupytext.writes(made, fmt="ipynb"))


def rooms(text: str) -> Figure:
    """The graph of Mermaid in a page, each node just above the first that it points to."""
    graph = nx.DiGraph(re.findall(r"^    (\w+) --> (\w+)$", text, flags=re.MULTILINE))
    layers = [*nx.topological_generations(graph.reverse())][::-1]
    places: dict[str, tuple[float, float]] = {}
    for depth, names in enumerate(layers):
        above = {
            name: sum(places[each][0] for each in graph.pred[name]) / max(1, len(graph.pred[name])) for name in names
        }
        for number, name in enumerate(sorted(names, key=lambda name: (above[name], name))):
            places[name] = ((number + 1) / (len(names) + 1), -float(depth))
    figure = Figure(figsize=(8, 0.8 * len(layers)), layout="constrained")
    ax = figure.subplots()
    for start, end in graph.edges:
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "#888888", "shrinkA": 12, "shrinkB": 12}
        if places[start][1] - places[end][1] > 1:  # past another layer: around its nodes
            side = 1 if places[start][0] <= places[end][0] else -1
            arrow["connectionstyle"] = f"arc3,rad={0.35 * side}"
        ax.annotate("", places[end], places[start], arrowprops=arrow)
    for name, (x, y) in places.items():
        ax.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#2a6f97"},
        )
    ax.set(xlim=(0, 1), ylim=(0.5 - len(layers), 0.5))
    ax.set_axis_off()
    return figure


def section_of(path: Path, title: str) -> str:
    """The text below the heading of a report that begins with `title`."""
    (text,) = re.findall(
        rf"^## {re.escape(title)}[^\n]*\n\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.M | re.S
    )
    return str(text).rstrip()


def attack_table() -> str:
    """A row an attack: threat model, budget, passes, cost of a step as measured, paper."""
    rows = []
    for name in ATTACKS:
        made = example(name)
        step, whole = passes_of(name)
        budget = f"`{made.budget_name}`" if made.budget_name else "none"
        paper = catalogue.attack(name).facts["paper"]
        rows.append([f"[`{name}`](#{name})", f"`{made.threat_model}`", budget, step, whole, cost_of(name), paper])
    headers = ["attack", "threat model", "budget", "passes a step", "passes", "cost of a step", "paper"]
    return table(rows, headers)


def threat_table() -> str:
    """A row a threat model: its name, and that in words."""
    return table([[f"`{name}`", words] for name, words in WORDS.items()], ["threat model", "in words"])


def attack_pages() -> dict[str, str]:
    """A page an attack by its file: its picture, its docstring, its parameters."""
    pages = {}
    for name, attack in ATTACKS.items():
        rows = [
            [f"`{key}`", default if default == catalogue.REQUIRED else f"`{default}`", meaning]
            for key, default, meaning in catalogue.attack_rows(attack)
        ]
        picture = f"```{{image}} {name}.png\n:alt: what {name} does to a volume\n```\n"
        parameters = table(rows, ["parameter", "default", "meaning"])
        pages[f"attacks/{name}"] = f"({name})=\n# `{name}`\n\n{picture}\n{_documented(attack)}\n{parameters}"
    return pages


def model_table() -> str:
    """A row a network."""
    rows = [[f"`{name}`", title, citation] for name, title, citation in catalogue.model_rows()]
    return table(rows, ["`arch`", "network", "paper"])


def dataset_table() -> str:
    """A row a loader."""
    rows = [[f"`{name}`", line] for name, line in catalogue.dataset_rows()]
    return table(rows, ["`loader`", "what it reads"])


def metric_table() -> str:
    """A row a metric, with the columns that it fills."""
    rows = [
        [f"`{name}`", *facts, ", ".join(f"`{column}`" for column in METRICS[name].columns)]
        for name, *facts in catalogue.metric_rows()
    ]
    return table(rows, ["metric", "title", "unit", "better", "columns"])


def column_table(columns: Sequence[Column]) -> str:
    """A row a column of a result store."""
    rows = [[f"`{each.name}`", str(each.type), each.unit, each.direction, each.mark, each.meaning] for each in columns]
    return table(rows, ["column", "type", "unit", "better", "mark", "meaning"])


def job_tables() -> str:
    """A table a group of jobs, a row a job: question, networks, cost."""
    tables = []
    for folder, title in {**catalogue.GROUPS, catalogue.RESEARCH: "Research of this project"}.items():
        jobs = [name for name in packaged_jobs() if catalogue.group_of(name) == folder]
        rows = [[f"`{name}`", *job_row(name)] for name in jobs]
        tables.append(f"**{title}**\n\n{table(rows, ['job', 'question', 'networks', 'cost'])}\n")
    return "\n".join(tables)


def job_row(name: str) -> tuple[str, str, str]:
    """What a job asks, its networks and its cost."""
    job = catalogue.job(name)
    names = job.facts["models"].split(", ")
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return catalogue.question(job), ", ".join(names[: 3 if more else 4]) + more, job.facts["cost"]


def jobs_page() -> str:
    """The text of `jobs/README.md`."""
    return JOBS_PAGE + re.sub(r"^\| `([\w/]+)`", r"| [`\1`](\1.yaml)", job_tables(), flags=re.MULTILINE)


def command_line() -> str:
    """All commands as Typer documents them, one level of headings down."""
    command = typer.main.get_command(app)
    show_hidden(command)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="freqbench"), name="freqbench")
    return text.partition("\n## ")[1].lstrip() + text.partition("\n## ")[2]


def key_pages(model: type[BaseModel], title: str) -> Iterator[tuple[str, str]]:
    """A page a part of a job by its name, as its JSON Schema has it; attacks and datasets have pages of their own."""
    schema = schema_of(model)
    own = ChainMap(*(catalogue.attributes(inspect.getdoc(base) or "") for base in model.__mro__))
    elsewhere = {loader.__name__ for loader in DATASETS.values()}
    parts = {title: schema} | {
        name: part
        for name, part in schema.get("$defs", {}).items()
        if part.get("properties") and name not in elsewhere and not name.startswith("attack-")
    }
    for name, part in parts.items():
        meanings = own if name == title else catalogue.attributes(part.get("description", ""))
        rows = []
        for key, value in part["properties"].items():
            whole = schema.get("$defs", {}).get(value.get("$ref", "").rpartition("/")[2], {}) | value
            meaning = meanings.get(key) or whole.get("description", "").partition("\n")[0]
            rows.append([f"`{key}`", values(value), default_of(key, part), meaning])
        yield name.replace(" ", "-"), f"# {name}\n\n{table(rows, ['key', 'values', 'default', 'meaning'])}"


def default_of(key: str, part: Mapping[str, Any]) -> str:
    """Value of a key that a job leaves out."""
    if key in part.get("required", ()):
        return "required"
    value = part["properties"][key].get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def values(schema: Mapping[str, Any]) -> str:
    """Values that a key takes, in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(values, schema["anyOf"]))))
    if schema.get("type") == "array":
        items = values(schema.get("items", {}))
        return f"a list of {items}" if items else "a list"
    words = {"object": "keys and values", "string": "text", "null": "nothing", "boolean": "true or false"}
    kind = schema.get("type", "")
    return words.get(kind, kind)


def example(name: str, **quick: Any) -> Attack:
    """An attack with its defaults, but for parameters that have none and for `quick`, as far as it has them."""
    attack = ATTACKS[name]
    given = {key: parse_value(value) for key, value in catalogue.example(declared(name)).items()}
    return make(name, **given, **{f.name: quick[f.name] for f in fields(attack) if f.name in quick})


def passes_of(name: str) -> tuple[str, str]:
    """Forward + backward passes of one step, and of the attack with its defaults."""
    attack = example(name)
    forwards, backwards = attack.passes
    whole = f"{'at most ' if attack.may_stop_early else ''}{forwards} + {backwards}"
    if isinstance(attack, Ensemble):
        return "its members'", whole
    if attack.needs_surrogates:
        return "1 + 0", f"{whole}, of each surrogate {' + '.join(map(str, attack.surrogate_passes))}"
    for knob in ("steps", "queries"):
        if number := getattr(attack, knob, None):
            twice = example(name, **{knob: 2 * number}).passes
            return f"{(twice[0] - forwards) // number} + {(twice[1] - backwards) // number}", whole
    return whole, whole


def cost_of(name: str) -> str:
    """Measured cost of a step in steps of the bare model; the largest over blocks."""
    if issubclass(ATTACKS[name], Ensemble):
        return "its members'"
    rows = [row for row in json.loads(SPEED.read_text())["rows"] if row["attack"] == name]
    return f"{max(row['ratio'] / (row['spectra'] or 1) for row in rows):.2f}" if rows else "not measured"


def gpu_tables(path: Path) -> str:
    """Tables of what a file holds of a GPU: steps, then all other measurements; a sentence if there is no file."""
    if not path.exists():
        return "Nothing is measured yet."
    measured = json.loads(path.read_text())
    machine, steps, others = measured["machine"], [], []
    for row in measured["rows"]:
        if "attack" not in row:
            values = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))
            others.append([row["what"], row.get("model") or "", values, row["date"]])
            continue
        block = f" {row['block']}" if row["block"] else ""
        numbers = [1000 * row["bare step, s"], 1000 * row["attack step, s"], row["ratio"], row["bound"]]
        numbers += [row["bare peak, GiB"], row["attack peak, GiB"]]
        cells = ["" if number is None else f"{number:.3g}" for number in numbers]
        steps.append([f"`{row['attack']}`{block}", row["model"], *cells, row["date"]])
    headers = [
        "attack",
        "network",
        "bare step, ms",
        "step, ms",
        "ratio",
        "bound",
        "bare peak, GiB",
        "peak, GiB",
        "date",
    ]
    where = f"{machine['gpu']}, driver {machine['driver']}, torch {machine['torch']}."
    parts = [table(steps, headers)] if steps else []
    return "\n\n".join([where, *parts, table(others, ["what", "network", "measured", "date"])])


def coverage_table() -> str:
    """A row a distribution of DSC and number of patients: per cent of intervals that hold the mean, by method."""
    methods = ("t", "t on logits", "percentile", "BCa")
    rows = json.loads(COVERAGE.read_text())["rows"]
    cells = [[row["what"], str(row["patients"]), *(f"{100 * row[name]:.1f}" for name in methods)] for row in rows]
    return table(cells, ["DSC of a patient", "patients", *methods])


def alike_table(toolchain: str) -> str:
    """A row a configuration: per cent of the file's voxels that freqbench labels as the toolchain itself does."""
    rows = pd.read_csv(ALIKE)
    rows = rows[rows["toolchain"].str.startswith(f"{toolchain} ")]
    (release,) = rows["toolchain"].unique()
    shares = ["alike", "alike_off_ties", "toolchain_alike_in_float16"]
    headers = {"alike": "alike, %", "alike_off_ties": "off ties, %", "toolchain_alike_in_float16": "float16, %"}
    known = [share for share in shares if rows[share].notna().all()]
    cells = [
        [row["configuration"], f"{row['voxels']:,}", str(row["ties"]), *(f"{100 * row[share]:.2f}" for share in known)]
        for _, row in rows.iterrows()
    ]
    return table(cells, [f"configuration ({release})", "voxels", "ties", *(headers[share] for share in known)])


def draw(name: str) -> Figure:
    """One slice of a phantom: clean, attacked in a few steps on the packaged UNet, and the change."""
    image, label = _slab(0)
    attack = example(name, **(QUICK | QUICK_TOO.get(name, {})))
    model, other = _network("unet"), _slab(1)
    given = attack.supplied(
        reference=lambda: other[0],
        learned=lambda: attack.learn(model, [(other[0][0], other[1][0])], model.roi),
        surrogates=lambda: [_network("unet-vaft"), _network("segresnet")],
    )
    adversarial = attack(model, image, label, **given).adversarial
    change = (adversarial - image)[0, 0, :, :, 8]
    bound = max(float(change.abs().max()), 1 / 255)
    figure = Figure(figsize=(7.5, 2.7))
    panels = [(image, "gray", (0, 1), "clean"), (adversarial, "gray", (0, 1), f"after {name}")]
    *axes, bar = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.06))
    figure.subplots_adjust(left=0.01, right=0.92, bottom=0.04, top=0.92, wspace=0.04)
    for ax, (volume, cmap, limits, title) in zip(axes[:2], panels, strict=True):
        ax.imshow(volume[0, 0, :, :, 8].T, cmap=cmap, vmin=limits[0], vmax=limits[1], origin="lower")
        ax.set_title(title, fontsize=10)
    shown = axes[2].imshow(change.T, cmap="RdBu_r", vmin=-bound, vmax=bound, origin="lower")
    axes[2].set_title("change", fontsize=10)
    figure.colorbar(shown, cax=bar)
    for ax in axes:
        ax.set_axis_off()
        ax.invert_xaxis()  # the patient's right on the left, as in every other picture
    return figure


@cache
def _phantom() -> Dataset:
    return DATASETS["phantom"](name="phantom", cases=2)


@cache
def _network(name: str) -> SegmentationModel:
    entry = ModelEntry(name=name, checkpoint=f"zoo://phantom/{name}")
    return load(resolve(entry, len(_phantom().classes)), torch.device("cpu"))


@cache
def _slab(number: int) -> tuple[Tensor, Tensor]:
    """The middle of a phantom, `[1, 1, 64, 64, 16]`: quick to attack."""
    case = _phantom().load(_phantom().refs()[number])
    return case.image[None, :, 8:72, :, 8:24], case.label[None, :, 8:72, :, 8:24].long()


def table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    escaped = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    return tabulate(escaped, headers=headers, tablefmt="pipe", disable_numparse=True)


def _documented(cls: type) -> str:
    return f"```{{eval-rst}}\n.. autoclass:: {cls.__module__}.{cls.__qualname__}\n```\n"


def _put(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _put(ROOT / "jobs" / "README.md", jobs_page())
    _put(ROOT / "README.md", front_page())
    _put(ROOT / "CITATION.cff", citation())
    _put(ROOT / "docs" / "install.md", install_page())
    _put(BOARD_PAGE, leaderboard_page())
    _put(ACDC_PAGE, acdc_page())
    _put(EJECTION, ejection_page())
    _put(NNUNET, nnunet_page())
    _put(DETECTION, detection_page())
    _put(WORST_CASES, worst_cases())
