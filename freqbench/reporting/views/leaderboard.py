"""Ranks models, or the methods that trained them, by their foreground DSC under the worst of several attacks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from freqbench.analysis import certificates, groups
from freqbench.analysis.frames import plain
from freqbench.analysis.labels import value_text
from freqbench.analysis.statistics import SIGNIFICANCE, holm, nested_intervals, t_tests
from freqbench.analysis.tables import case_minima, comparable
from freqbench.reporting.render import Section

SCORE = "dsc_foreground"
KEYS = ["threat_model", "budget_name", "budget_text"]
HOW = (
    "Models are ranked by the mean over cases of the lowest foreground DSC that any attack (and seed) of one threat "
    "model and budget leaves on them, white-box; higher is more robust, and the other scores are of the same volumes. "
    "Ranks are within a threat model and budget only, over the attacks and cases that all its models have. `behind` is "
    "points behind the first, paired by case, with its own interval (Student's t, not corrected); the order of the two "
    "holds where the t-test over patients, Holm-corrected over all pairs of models of all threat models and budgets "
    "of this table, has p below 0.05, else it is open. With few or weak attacks all numbers are upper bounds of the "
    "robustness. "
)
HOW_METHODS = (
    "Networks that differ in the seed of their training alone are one method: its mean is over patients and networks, "
    "and its interval, like that of `behind`, holds the spread of both instead of that of patients alone (two-way "
    "random effects, Student's t with Satterthwaite's degrees of freedom)."
)
CERTIFIED = (
    " `certified`: no change of this threat model and budget takes the median score of a randomised network below; "
    "see the table of certificates."
)
ONE_EACH = "One network a method: the order of networks, not of training methods."


def leaderboard(records: pd.DataFrame) -> list[Section]:
    """Makes one table per dataset of `records` with `target_method` and certificates.COLUMNS: models ranked within each
    threat model and budget."""
    frame = groups.select_scored(records, ["target_method"])
    frame = frame[groups.is_white_box(frame) & (frame["budget"] > 0) & frame[SCORE].notna() & ~groups.is_minimal(frame)]
    if frame.empty:
        text = "No white-box attack with a budget was scored, so there is nothing to rank by."
        return [Section("Leaderboard", text=text)]
    frame = frame.assign(_score=frame[SCORE], budget_text=groups.budget_texts(frame))
    proven = certificates.means(certificates.brackets(plain(records[records["left_out"] == ""])))
    return [_section(dataset, group, proven) for dataset, group in groups.by_dataset(frame)]


def _section(dataset: str, frame: pd.DataFrame, proven: pd.DataFrame) -> Section:
    boards = []
    pairs = []
    notes = []
    methods = methods_of(frame)
    replicated = len(set(methods.values())) < len(methods)
    for (threat_model, name, value), rows in frame.groupby(KEYS, observed=True):
        board, tests, note = _board(rows, methods if replicated else None)
        place = {"threat_model": str(threat_model), "budget": f"{name}={value}"}
        boards.append(board.assign(**place))
        pairs.append(tests.assign(**place))
        if note:
            notes.append(f"{threat_model}, {name}={value}: {note}.")
    data = pd.concat([board for board in boards if len(board)] or boards, ignore_index=True)
    title = f"{dataset}: {'training methods' if replicated else 'models'} by the worst case"
    if data.empty:
        return Section(title, text=" ".join(notes))
    data = add_tests(data, pd.concat(pairs, ignore_index=True)).assign(dataset=dataset)
    about = HOW_METHODS if replicated else ONE_EACH if len(methods) > 1 else ""
    text = " ".join(filter(None, [HOW + groups.counts_text(data), about, *notes]))
    table = _table(data)
    if len(proven):
        budgets = [f"radius={value_text('radius', radius)}" for radius in proven["radius"]]
        bounds = proven.assign(budget=budgets)[proven["dataset"] == dataset]
        keys = ["threat_model", "budget", "target_model"]
        table["certified\nat least"] = data[keys].merge(bounds[[*keys, "certified"]], how="left")["certified"]
        text += CERTIFIED
    return Section(title, table, text, data)


def _table(data: pd.DataFrame) -> pd.DataFrame:
    counts = ["cases", "seeds", "patients", "num_attacks"]
    if "networks" in data:
        counts.insert(0, "networks")
    table = data[["threat_model", "budget", "target_model", "rank", *counts, SCORE]]
    table = table.rename(columns={"target_model": "model"}).assign(interval=groups.bounds(data), behind=data["behind"])
    table["behind interval"] = groups.bounds(data, "behind_")
    others = groups.side_columns(data, "dsc", "dsc_foreground_drop", "strongest")
    return table.assign(order=data["order"], **others)


def _board(rows: pd.DataFrame, methods: Mapping[str, str] | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Ranks models, or their `methods`, of one budget; returns also tests of all pairs, and a note on what lacks."""
    models = rows["target_model"].nunique()
    runs = plain(rows[["target_model", "label"]].drop_duplicates()).groupby("label").size()
    lacking = list(runs.index[runs < models])
    notes = ["one model only, so the rank says nothing"] if models == 1 else []
    notes += [f"not run on every model, so not counted: {', '.join(lacking)}"] if lacking else []
    complete = comparable(rows)
    if (minima := plain(case_minima(complete, ["target_model"]))).empty:
        note = "; ".join([*notes, "no case that every model and attack has a score for, so no ranks"])
        return pd.DataFrame(), pd.DataFrame(), note
    if left_out := rows["case_id"].nunique() - minima["case_id"].nunique():
        notes.append(f"{left_out} cases left out that not every model and attack has a score for")
    means = ["dsc_foreground_clean", "dsc_foreground_drop", "hd95_penalised", "dsc"]
    board = groups.group_means(minima.assign(seed=0), ["target_model"], SCORE, means)
    singles = complete.groupby(["target_model", "label"], observed=True)[SCORE].mean()
    strongest = {model: means.droplevel(0).idxmin() for model, means in singles.groupby("target_model", observed=True)}
    names = board["target_model"].map(strongest)
    board = board.assign(seeds=complete["seed"].nunique(), strongest=names, num_attacks=complete["label"].nunique())
    board = rank_rows(board).reset_index(drop=True)
    if methods is not None:
        board, tests, note = _merge_methods(board, minima, methods, means)
        return board, tests, "; ".join([*notes, note] if note else notes)
    return board, pair_tests(minima, board["target_model"].tolist()), "; ".join(notes)


def rank_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Orders rows by SCORE, the highest first, and adds their `rank`, the smallest among equals."""
    rows = rows.sort_values(SCORE, ascending=False, kind="stable")
    return rows.assign(rank=rows[SCORE].rank(ascending=False, method="min").astype(int))


def pair_tests(minima: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """Tests how many points of SCORE a model is `behind` each model `ahead` of it, paired by case. `minima` has one row
    per case and model; `models` are ordered, the first ahead."""
    wide = minima.pivot(index=["case_id", "patient_id"], columns="target_model", values=SCORE).reset_index()
    if len(models) < 2:
        return pd.DataFrame()
    first, second = np.triu_indices(len(models), 1)
    names = np.array(models, dtype=object)
    scores = wide[models].to_numpy(float)
    pairs = {name: np.repeat(names[at], len(wide)) for name, at in (("ahead", first), ("target_model", second))}
    behind = (scores[:, first] - scores[:, second]).ravel("F")
    frame = pd.DataFrame({**pairs, "behind": behind, "patient_id": np.tile(wide["patient_id"].to_numpy(), len(first))})
    return t_tests(frame, ["ahead", "target_model"], "behind")


def add_tests(data: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Adds to `data`, boards one below the other, the test against the first of each board; `tests`, of all pairs of
    all boards, are corrected together. Boards differ in `threat_model` and `budget`."""
    columns = {"mean": "behind", "low": "behind_low", "high": "behind_high", "p": "p", "p_holm": "p_holm"}
    if "p" not in tests:
        return data.assign(**dict.fromkeys(columns.values(), np.nan), order="")
    place = ["threat_model", "budget"]
    first = data[data["rank"].groupby([data[name] for name in place]).cumcount() == 0]
    against = tests.assign(p_holm=holm(tests["p"])).rename(columns=columns)
    against = against.merge(first[[*place, "target_model"]].rename(columns={"target_model": "ahead"}))
    data = data.merge(against[[*place, "target_model", *columns.values()]], on=[*place, "target_model"], how="left")
    order = np.where(data["p_holm"] < SIGNIFICANCE, "holds", "open")
    return data.assign(order=np.where(data["behind"].notna(), order, ""))


def methods_of(frame: pd.DataFrame) -> dict[str, str]:
    """Maps the name of each network in `frame` to its method, called by the shortest name of its networks. Methods
    differ by `target_method`, so that replicates of several stores are one; a network without it is a method of its
    own."""
    pairs = frame[["target_model", "target_method"]].drop_duplicates().astype(object)
    ids = dict(pairs[pairs["target_method"].notna()].itertuples(index=False, name=None))
    ids = {name: ids.get(name, f"of {name} alone") for name in pairs["target_model"].unique()}
    first: dict[str, str] = {}
    for name in sorted(ids, key=lambda name: (len(name), name)):
        first.setdefault(ids[name], name)
    return {name: first[method] for name, method in ids.items()}


def _merge_methods(
    board: pd.DataFrame, minima: pd.DataFrame, methods: Mapping[str, str], means: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Turns a board of networks into one of methods, as `target_model`; returns also what `_board` returns."""
    named = minima.assign(method=minima["target_model"].astype(object).map(methods))
    networks = board.assign(method=board["target_model"].map(methods)).sort_values("target_model", kind="stable")
    of_method = networks.groupby("method")
    rows = nested_intervals(named, SCORE).rename(columns={"mean": SCORE}).drop(columns=["df", "p"]).set_index("method")
    for name in means:
        rows[name] = nested_intervals(named, name).set_index("method")["mean"]
    for name in ("cases", "seeds", "num_attacks"):
        rows[name] = of_method[name].max()
    rows["strongest"] = of_method["strongest"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    rows = rank_rows(rows)
    order = [str(name) for name in rows.index]
    tests = []
    for place, ahead in enumerate(order[:-1]):
        rest = nested_intervals(named[named["method"].isin(order[place:])], SCORE, behind=ahead)
        tests.append(rest[rest["method"] != ahead].assign(ahead=ahead))
    pairs = pd.concat(tests).rename(columns={"method": "target_model"}) if tests else pd.DataFrame()
    single = [str(name) for name in rows.index[rows["networks"] == 1]]
    note = f"one network, so its intervals hold no spread of trainings: {', '.join(single)}" if single else ""
    return rows.rename_axis("target_model").reset_index(), pairs, note
