"""Attacks of whatever threat model compared where their distances agree: the only fair ranking across threat models."""

import numpy as np
import pandas as pd

from freqbench.analysis.frames import plain
from freqbench.analysis.groups import ATTACK, bounds, points, with_settings
from freqbench.analysis.statistics import SIGNIFICANCE, t_tests
from freqbench.reporting.render import Section

TOLERANCE = 0.1
NAMES = {"ssim_body": "1 - SSIM body", "lpips_body": "LPIPS body", "l2_body": "L2 body"}
_DISTANCES = list(NAMES)
MOST_MATCHES = 100
HOW = (
    "Each row sets two different attacks side by side whose mean distance inside the body is about the same, within 10 "
    "% of the larger: 1 - SSIM, LPIPS or L2. Drops are points of foreground DSC of models that the volumes were not "
    "made on, over the same cases, sources and targets; the stronger attack stands first. Its order holds where "
    "Student's t over patients, Holm-corrected over all pairs of attacks of this table, has p below 0.05, else it is "
    "open; the interval is t of the row alone, not corrected. An attack that optimises SSIM looks good at equal SSIM: "
    "believe an order that two distances agree on. "
)


def matched_by_distance(dataset: str, frame: pd.DataFrame) -> Section:
    """Pairs of attacks at equal distance, the one with the larger transferred drop first.

    Args:
        dataset: its name, for the title.
        frame: its transferred rows, of `rows.scored`, with `ssim_body`, `lpips_body` and `l2_body`.
    """
    title = f"{dataset}: transferred drop of attacks matched by distance"
    groups = frame.groupby(ATTACK, observed=True)
    means = plain(groups[_DISTANCES].mean().reset_index()).astype(dict.fromkeys(_DISTANCES, float))
    means = means.assign(number=np.arange(len(means)), ssim_body=1 - means["ssim_body"])
    settings = with_settings(means, frame)
    attacks = settings.sort_values("number")["attack"].to_numpy()
    found = [_matches(name, means[name].to_numpy(), attacks) for name in _DISTANCES]
    matches = pd.concat([each for each, _ in found], ignore_index=True)
    rows = _compared(matches, frame, groups.ngroup().to_numpy(), len(means)) if len(matches) else matches
    rows = rows[rows["n"] > 0] if len(rows) else rows
    if rows.empty:
        return Section(
            title,
            text="No two different attacks have a mean distance inside the body that agrees within 10 % and "
            "share cases, so attacks cannot be compared across threat models here.",
        )
    left_out = sum(count for _, count in found)
    more = f" The {left_out} pairs that agree less well are left out." if left_out else ""
    data = _named(rows, means).assign(dataset=dataset)
    return Section(title, _table(data), HOW.strip() + more, data)


def _matches(name: str, distances: np.ndarray, attacks: np.ndarray) -> tuple[pd.DataFrame, int]:
    """Numbers of settings that agree in a distance, the best agreement first, and how many pairs are left out."""
    a, b = np.triu_indices(len(distances), 1)
    larger = np.maximum(distances[a], distances[b])
    gap = np.abs(distances[a] - distances[b]) / np.where(larger > 0, larger, np.nan)
    agree = (gap <= TOLERANCE) & (attacks[a] != attacks[b])
    order = np.argsort(gap[agree], kind="stable")
    pairs = pd.DataFrame({"distance": name, "a": a[agree][order], "b": b[agree][order]})
    return pairs.head(MOST_MATCHES), max(len(pairs) - MOST_MATCHES, 0)


def _compared(matches: pd.DataFrame, frame: pd.DataFrame, number: np.ndarray, count: int) -> pd.DataFrame:
    """The matches with both drops over what both were scored on, their difference and its test over patients.

    A pair of attacks that agrees in two distances is one test.
    """
    keys = ["source_model", "target_model", "case_id"]
    groups = frame.groupby(keys, observed=True)
    cell, cells = groups.ngroup().to_numpy(), groups.ngroups
    values = frame["dsc_foreground_drop"].to_numpy()
    defined = ~np.isnan(values)
    place = number[defined] * cells + cell[defined]
    total = np.bincount(place, weights=values[defined], minlength=count * cells)
    with np.errstate(invalid="ignore"):
        drops = (total / np.bincount(place, minlength=count * cells)).reshape(count, cells)
    patients = groups["patient_id"].first().to_numpy()
    pairs = matches[["a", "b"]].drop_duplicates(ignore_index=True)
    first, second = drops[pairs["a"]], drops[pairs["b"]]
    both = ~np.isnan(first - second)
    match, column = np.nonzero(both)
    long = pd.DataFrame({"match": match, "patient_id": patients[column], "a": first[both], "b": second[both]})
    long["difference"] = long["a"] - long["b"]
    rows = t_tests(long, ["match"], "difference").set_index("match")
    rows[["drop_a", "drop_b"]] = long.groupby("match")[["a", "b"]].mean()
    compared = matches.merge(pairs.join(rows), on=["a", "b"])
    return _stronger_first(compared.assign(n=compared["n"].fillna(0).astype(int)))


def _stronger_first(rows: pd.DataFrame) -> pd.DataFrame:
    """With a and b exchanged where b drops more."""
    swap = rows["mean"] < 0
    turned = rows.rename(
        columns={"a": "b", "b": "a", "drop_a": "drop_b", "drop_b": "drop_a", "low": "high", "high": "low"}
    )
    turned = turned.assign(mean=-turned["mean"], low=-turned["low"], high=-turned["high"])
    return rows.where(~swap, turned[rows.columns])


def _named(rows: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """Numbers as the attacks' labels, threat models and distances."""
    data = pd.DataFrame({"distance": rows["distance"]})
    column = [_DISTANCES.index(name) for name in rows["distance"]]
    for side in ("a", "b"):
        own = means.iloc[rows[side].astype(int)].reset_index(drop=True)
        data[f"attack_{side}"], data[f"threat_model_{side}"] = own["label"].to_numpy(), own["threat_model"].to_numpy()
        data[f"distance_{side}"] = own[_DISTANCES].to_numpy()[np.arange(len(own)), column]
        data[f"drop_{side}"] = rows[f"drop_{side}"].astype(float)
    numbers = {"difference": "mean", "low": "low", "high": "high", "p": "p", "p_holm": "p_holm"}
    data = data.assign(**{name: rows[column].astype(float) for name, column in numbers.items()})
    return data.assign(n=rows["n"].astype(int), patients=rows["clusters"].astype(int))


def _table(data: pd.DataFrame) -> pd.DataFrame:
    sides = zip(data["distance"], data["distance_a"], data["distance_b"], strict=True)
    drops = zip(data["drop_a"], data["drop_b"], strict=True)
    return pd.DataFrame(
        {
            "at equal": data["distance"].map(NAMES),
            "attack": data["attack_a"] + " (" + data["threat_model_a"] + ")",
            "against": data["attack_b"] + " (" + data["threat_model_b"] + ")",
            "distances": [" / ".join(_distance(name, value) for value in pair) for name, *pair in sides],
            "drops": [" / ".join(map(points, pair)) for pair in drops],
            "difference": data["difference"],
            "interval": bounds(data),
            "order": np.where(data["p_holm"] < SIGNIFICANCE, "holds", "open"),
            "pairs": data["n"],
            "patients": data["patients"],
        }
    )


def _distance(name: str, value: float) -> str:
    """SSIM and LPIPS as x100, as in the other tables."""
    return f"{value if name == 'l2_body' else 100 * value:.2f}"
