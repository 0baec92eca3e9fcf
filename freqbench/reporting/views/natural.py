"""Compares natural with adversarial robustness: the DSC that corruptions leave of each model, and that attacks do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from freqbench.analysis.groups import COUNTS, bounds, by_dataset, is_minimal
from freqbench.reporting.figure_data import NUMBERS, intervals, places, shown_rows
from freqbench.reporting.render import Section

COLUMNS = tuple(name for name in NUMBERS if name != "budget")
CORRUPTION = "corruption"
GROUPS = {"natural": "corruptions", "attack": "attacks"}

HOW = (
    "What scanners and patients do to a volume beside what attackers do, on the models that had both, over settings "
    "and cases that all of them have. Corruptions count by their mean over kinds and severities, as they are drawn by "
    "nature; attacks, white-box, by the worst of each case, as they are chosen. Severities of two kinds are no equal "
    "steps. DSC is that of the foreground; the papers', with the background, stands last, of the same volumes. "
)


@dataclass(frozen=True)
class NaturalComparison:
    """Both kinds of robustness, in points or foreground DSC x100; means with 95 % intervals as of `intervals`."""

    clean: pd.DataFrame  # of the DSC of clean volumes, by `target_model`
    by_severity: pd.DataFrame  # of `drop`, by `target_model` and `budget`: mean over kinds
    by_row: pd.DataFrame  # of `drop`, by `target_model`, `group` (of GROUPS) and `row`: a kind, or an attack
    left: pd.DataFrame  # of the DSC left, by `target_model` and `group`: mean of corruptions, each case's worst attack
    papers: pd.DataFrame  # of the papers' DSC of the same volumes, clean ones too
    rows: tuple[tuple[str, str], ...]  # (group, row) in the order of the report
    models: tuple[str, ...]
    n: int  # cases


def compare_models(rows: pd.DataFrame) -> NaturalComparison | str:
    """Compares corruptions and white-box attacks on the models that had both, by the settings of all and the cases that
    have these on every model, or says why it cannot. Of several sources of a corrupted volume a model's own row counts.
    Seeds are averaged, but the worst attack is that of any seed. The rows are those of `shown_rows`."""
    scored = rows[rows["drop"].notna()]
    is_natural = scored["threat_model"].astype(str) == CORRUPTION
    corrupted = scored[is_natural].sort_values("is_white_box", ascending=False, kind="stable")
    natural = corrupted.drop_duplicates(["target_model", "label", "case_key", "seed"])
    attacks = scored[~is_natural & scored["is_white_box"] & ~is_minimal(scored)]
    if not (models := sorted(set(natural["target_model"].astype(str)) & set(attacks["target_model"].astype(str)))):
        return "no model was both corrupted and attacked: run the attack `corruption` beside others"
    parts = [_shared_rows(part[part["target_model"].isin(models)], len(models)) for part in (natural, attacks)]
    if not (cases := set(parts[0]["case_key"]) & set(parts[1]["case_key"])):
        return "no case has the same corruptions and the same attacks on every model"
    natural, attacks = (part[part["case_key"].isin(cases)] for part in parts)
    return _comparison(natural, attacks, models)


def _comparison(natural: pd.DataFrame, attacks: pd.DataFrame, models: Sequence[str]) -> NaturalComparison:
    """Means the shared rows of both kinds, which are of the same models and cases."""
    natural = natural.assign(group="natural", row=_kinds(natural["family"]))
    attacks = attacks.assign(group="attack", row=attacks["label"].astype(str))
    keys = ["target_model", "case_key", "patient_id"]
    worst = attacks.sort_values("dsc_foreground", kind="stable").drop_duplicates(keys)
    both = pd.concat([natural, attacks])
    clean = both.drop_duplicates(keys)
    left = pd.concat([natural, worst])
    of_papers = pd.concat([clean.assign(dsc=clean["dsc_clean"], group="clean"), left])
    kinds = product(["natural"], _kinds(pd.Series([*places(natural, "family")])))
    labels = product(["attack"], places(attacks, "label"))
    by_group = ["target_model", "group"]
    return NaturalComparison(
        clean=intervals(clean, ["target_model"], "dsc_foreground_clean"),
        by_severity=intervals(natural, ["target_model", "budget"], "drop"),
        by_row=intervals(both, [*by_group, "row"], "drop"),
        left=intervals(left, by_group, "dsc_foreground"),
        papers=intervals(of_papers, by_group, "dsc"),
        rows=(*kinds, *labels),
        models=tuple(models),
        n=clean["case_key"].nunique(),
    )


def _shared_rows(part: pd.DataFrame, models: int) -> pd.DataFrame:
    """Selects the rows of settings that `models` models have, and of cases that have all of these on each."""
    texts = part.astype({"label": str, "target_model": str})
    part = part[(texts.groupby("label")["target_model"].transform("nunique") == models).to_numpy()]
    counts = part.drop_duplicates(["target_model", "label", "case_key"]).groupby("case_key", observed=True).size()
    return part[part["case_key"].isin(counts.index[counts == models * part["label"].nunique()])]


def _kinds(families: pd.Series) -> pd.Series:
    """Shortens `corruption kind=blur` to `blur`."""
    return families.astype(str).str.removeprefix(f"{CORRUPTION} ").str.replace("kind=", "", n=1)


def applies(records: pd.DataFrame) -> bool:
    """True if a volume of the `records` was corrupted."""
    return bool((records["threat_model"] == CORRUPTION).any())


def natural(records: pd.DataFrame) -> list[Section]:
    """Makes two tables per dataset of `records` with COLUMNS: the DSC that corruptions and attacks leave of each model,
    and the drop by each."""
    sections = []
    for dataset, rows in by_dataset(shown_rows(records)):
        if isinstance(comparison := compare_models(rows), str):
            text = f"{comparison[0].upper()}{comparison[1:]}."
            sections.append(Section(f"{dataset}: natural beside adversarial robustness", text=text))
        else:
            sections += [_left_section(dataset, comparison), _drops(dataset, comparison)]
    return sections or [Section("Natural beside adversarial robustness", text="No record is ok.")]


def _left_section(dataset: str, comparison: NaturalComparison) -> Section:
    clean = _reindex(comparison, comparison.clean)["mean"]
    table = pd.DataFrame({"model": comparison.models, "dsc_foreground_clean": clean})
    for group, name in GROUPS.items():
        part = _reindex(comparison, comparison.left[comparison.left["group"] == group])
        table[f"under {name}\nforeground DSC"] = part["mean"]
        table[f"under {name}\ninterval"] = bounds(part)
    for severity, rows in comparison.by_severity.groupby("budget"):
        table[f"drop at severity\n{severity:g}"] = _reindex(comparison, rows)["mean"]
    for group, name in {"clean": "clean", **GROUPS}.items():
        table[f"DSC\n{name}"] = _reindex(comparison, comparison.papers[comparison.papers["group"] == group])["mean"]
    by_severity = comparison.by_severity.assign(group="natural")
    data = pd.concat([comparison.clean.assign(group="clean"), comparison.left, by_severity])
    text = f"{HOW}{comparison.n} cases; {COUNTS}"
    return Section(f"{dataset}: natural beside adversarial robustness", table, text, data.assign(dataset=dataset))


def _drops(dataset: str, comparison: NaturalComparison) -> Section:
    table = pd.DataFrame([(GROUPS[group], row) for group, row in comparison.rows], columns=["of", "what"])
    places = pd.MultiIndex.from_tuples(comparison.rows)
    for model in comparison.models:
        part = comparison.by_row[comparison.by_row["target_model"] == model].set_index(["group", "row"]).reindex(places)
        table[f"{model}\ndrop"] = part["mean"].to_numpy()
        table[f"{model}\ninterval"] = bounds(part)
    title = f"{dataset}: drop of foreground DSC by each corruption (mean over severities) and attack, points"
    return Section(title, table, data=comparison.by_row.assign(dataset=dataset))


def _reindex(comparison: NaturalComparison, rows: pd.DataFrame) -> pd.DataFrame:
    """Reindexes to one row per model, in the order of the comparison."""
    return rows.set_index("target_model").reindex(comparison.models).reset_index()
