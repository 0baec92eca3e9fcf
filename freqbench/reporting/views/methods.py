"""Networks that are replicates of one training, ranked as the method that they are."""

from collections.abc import Mapping, Sequence

import pandas as pd

from freqbench.analysis.statistics import nested_intervals

HOW = (
    "Networks that differ in the seed of their training alone are one method: its mean is over patients and networks, "
    "and its interval, like that of `behind`, holds the spread of both instead of that of patients alone (two-way "
    "random effects, Student's t with Satterthwaite's degrees of freedom)."
)
ONE_EACH = "one network a method: the order of networks, not of training methods"


def methods_of(frame: pd.DataFrame) -> dict[str, str]:
    """The method of each network by its name, called by the shortest name of its networks.

    Methods are told apart by `target_method`, not by names, so that replicates of several stores are one method and
    trainings of one name are not; a network without it is a method of its own.

    Args:
        frame: with `target_model` and `target_method`.
    """
    pairs = frame[["target_model", "target_method"]].drop_duplicates().astype(object)
    known = pairs[pairs["target_method"].notna()]
    ids = dict(known.itertuples(index=False, name=None))
    names = sorted(pairs["target_model"].unique(), key=lambda name: (len(name), name))
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(ids.get(name, f"of {name} alone"), name)
    return {name: first[ids.get(name, f"of {name} alone")] for name in names}


def are_replicated(methods: Mapping[str, str]) -> bool:
    """Whether some method has several networks."""
    return len(set(methods.values())) < len(methods)


def by_method(
    board: pd.DataFrame, minima: pd.DataFrame, methods: Mapping[str, str], scores: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """A board of networks as one of methods, tests of all pairs of methods, and which have one network.

    Args:
        board: a row a network, with `target_model`, `cases`, `seeds`, `num_attacks` and `strongest`.
        minima: a row a network and case, with `target_model`, `patient_id` and the scores.
        methods: of `methods_of`.
        scores: columns whose means are shown; the first has the interval and the rank.

    Returns:
        The columns of the board, a row a method under `target_model`, ranked, with `networks`, the number of them; and
        of every pair how far `target_model` is behind `ahead`: `mean`, `low`, `high` and `p`.
    """
    score, *others = scores
    named = minima.assign(method=minima["target_model"].astype(object).map(methods))
    own = board.assign(method=board["target_model"].map(methods)).sort_values("target_model", kind="stable")
    groups = own.groupby("method")
    found = nested_intervals(named, score).rename(columns={"mean": score}).drop(columns=["df", "p"]).set_index("method")
    for name in others:
        found[name] = nested_intervals(named, name).set_index("method")["mean"]
    for name in ("cases", "seeds", "num_attacks"):
        found[name] = groups[name].max()
    found["strongest"] = groups["strongest"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    found = found.sort_values(score, ascending=False, kind="stable")
    found["rank"] = found[score].rank(ascending=False, method="min").astype(int)
    ranked = [str(name) for name in found.index]
    tests = [
        nested_intervals(named[named["method"].isin(ranked[place:])], score, behind=ahead)
        .query("method != @ahead")
        .assign(ahead=ahead)
        for place, ahead in enumerate(ranked[:-1])
    ]
    pairs = pd.concat(tests).rename(columns={"method": "target_model"}) if tests else pd.DataFrame()
    single = [str(name) for name in found.index[found["networks"] == 1]]
    said = f"one network, so its intervals hold no spread of trainings: {', '.join(single)}" if single else ""
    return found.rename_axis("target_model").reset_index(), pairs, said
