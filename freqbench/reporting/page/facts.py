"""Says what was run and how, what was found, and what to keep in mind when reading it, for the page's data."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import metadata
from typing import Any

import pandas as pd
import yaml

from freqbench.analysis.groups import NULL_ROW, by_dataset, is_minimal, is_null_row, is_white_box
from freqbench.analysis.labels import reword_dsc
from freqbench.attacks import ATTACKS
from freqbench.audit.checks import Finding, titled, verdicts
from freqbench.reporting.audit import HOW, MODELS, RUN
from freqbench.reporting.views.overview import OWN_FORMS
from freqbench.reporting.views.transfer import DROP, MIN_DROP
from freqbench.results.store import index_keys

Facts = Sequence[Mapping[str, Any]]
Part = dict[str, Any]
NOTES = (
    "DSC, SSIM and 1-LPIPS are x100 and higher is better; drop is points of foreground DSC lost against clean volumes. "
    "DSC with background and HD95 follow the published convention: all classes with the background, so a total failure "
    "still scores about 6 where these are 14, and 25 where they are 4.",
    "An empty cell was not computed, not asked for, or is undefined on these volumes; it is never 0, it drops out of "
    "means, and the reason stands in the cell's tooltip and in the row's details.",
    "Rows of different threat models bound different things and are never ranked by DSC alone: read the distances in "
    "the same row (L-inf, L2, SSIM, 1-LPIPS).",
)
CAUTIONS = (
    "HD95 leaves classes out that the prediction or the label lacks, so a stronger attack can look better in it: read "
    "the undefined classes beside it, or HD95 penalised, where a missed class counts the volume's diagonal.",
    "Frequency attacks that cannot change constant air keep a whole-volume SSIM and LPIPS that noise loses in the air: "
    "compare attacks by the columns inside the body. VAFA and SA2 optimise SSIM, so SSIM does not rank them.",
    "Part of a frequency attack's damage needs no optimisation: VAFA's min-max stretch and SA2's random start do much "
    "alone. Credit a drop to the optimisation only beside the attack's null rows (control=uniform, control=random).",
    "PGD need not beat FGSM at small budgets: with eps 4/255 a step of 0.01 is 64 % of the radius.",
    "Published numbers: several rows look copied or swapped (SA2's ACDC rows of SwinUNETR under SegPGD, CosPGD, VAFA "
    "and FAA; Synapse UNet under AutoAttack), one setting is printed as 32.40 and 32.2, and where parameters are not "
    "printed they can only be guessed (starred). The authors' own two runs of one setting differ by 0.5 DSC, 4.6 HD95 "
    "and 0.7 LPIPS.",
    "A match with published numbers is judged by the difference against rounding, the spread between seeds and the "
    "authors' reruns; with retrained checkpoints the numbers are not comparable.",
)
_COPIED = ("status", "started_at", "heartbeat", "warnings", "versions", "code", "host", "devices", "engine")


def attacks(names: Iterable[str]) -> Part:
    """Returns the paper of each attack of these `names` that freqbench has; its module's first line ends with it."""
    found = {}
    for name in ATTACKS.keys() & set(names):
        paper = (sys.modules[ATTACKS[name].__module__].__doc__ or "").partition("\n")[0].partition(".  ")[2].rstrip(".")
        link = f"https://arxiv.org/abs/{number[1]}" if (number := re.search(r"arXiv:(\d{4}\.\d{4,5})", paper)) else None
        found[name] = {"paper": paper, "link": link, "is_own": name in OWN_FORMS}
    return dict(sorted(found.items()))


def audit(findings: tuple[Finding, ...]) -> Part:
    """Returns the verdict on each model, and the findings."""

    def fields_of(each: Any, *names: str) -> Part:
        return {name: getattr(each, name) for name in ("dataset", "model", "verdict", "sentence", *names)}

    models = [fields_of(each, "label") for each in verdicts(findings)]
    shown = [fields_of(each, "check", "subject") | {"should": titled(each.check)} for each in findings]
    return {"models": models, "findings": shown, "notes": [MODELS, HOW, RUN]}


def docs() -> str | None:
    """Address of the documentation, of the package's `[project.urls]`."""
    urls = (line.partition(", ") for line in metadata("freqbench").get_all("Project-URL", ()))
    return next((url for name, _, url in urls if name.lower() == "documentation" and url.startswith("https://")), None)


def title(facts: Facts) -> str:
    """Title of the page: the names of the jobs in `facts`, or the stores' roots where a job has none."""
    names = dict.fromkeys(_spec(each).get("name") or each["store"] for each in facts)
    return ", ".join(str(name) for name in names) or "freqbench"


def runs(facts: Facts, records: pd.DataFrame) -> list[Part]:
    """Lists every run in `facts` of stores, with the progress of its store by those of its `records` that the page
    shows."""
    is_ok = records["status"] == "ok"
    entries = list[Part]()
    for each in facts:
        planned = len(index_keys(each["job"]["index"]))
        is_of_store = records["run_id"].isin([run["run_id"] for run in each["runs"]])
        done = int((is_of_store & is_ok).sum())
        failed = int((is_of_store & ~is_ok).sum())
        progress = {"store": str(each["store"]), "planned": planned, "done": done, "failed": failed}
        entries += [progress | _run(run) for run in each["runs"]]
    return entries


def jobs(facts: Facts) -> list[Part]:
    """Returns the job of every store in `facts` as YAML, without empty keys."""
    dump: Any = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True, width=100)
    return [
        {"store": str(each["store"]), "name": str(spec.get("name", "")), "text": dump(_drop_empty(spec))}
        for each in facts
        if (spec := _spec(each))
    ]


def _spec(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Content of the job; empty where somebody took it out of the store."""
    return spec if isinstance(spec := facts["job"].get("spec"), Mapping) else {}


def _run(run: Mapping[str, Any]) -> Part:
    models = [{"id": key, **facts} for key, facts in (run.get("models") or {}).items()]
    datasets = [
        {"name": name, "cases": len(facts.get("cases") or {}), "recipe": facts.get("recipe")}
        for name, facts in (run.get("datasets") or {}).items()
    ]
    seeds = (run.get("job") or {}).get("seeds")
    copied = {name: run.get(name) for name in _COPIED}
    return {"run_id": run["run_id"], **copied, "models": models, "datasets": datasets, "seeds": seeds}


def _drop_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop_empty(item) for key, item in value.items() if item not in (None, {}, [])}
    return [_drop_empty(item) for item in value] if isinstance(value, list) else value


def sentences(rows: pd.DataFrame) -> list[Part]:
    """Returns for each dataset and threat model the largest white-box drop of foreground DSC, how much of it transfers
    and how much needs no optimisation; and the model that keeps most under all attacks. The rows are those of
    `tables.summary` without clean ones, with their place as `row` and the attack's `label`."""
    entries = list[Part]()
    for dataset, of_dataset in by_dataset(rows):
        white_box = of_dataset[is_white_box(of_dataset) & of_dataset[DROP].notna()]
        attacks = white_box[~is_null_row(white_box) & ~is_minimal(white_box)]
        leading = attacks.loc[attacks.groupby("threat_model", observed=True)[DROP].idxmax()]
        texts = [(row, _strongest(row, of_dataset)) for _, row in leading.iterrows() if row[DROP] >= MIN_DROP]
        texts += _most_robust(attacks)
        for row, text in texts:
            entries.append({"dataset": dataset, "row": int(row["row"]), "text": reword_dsc(text, dataset)})
    return entries


def _strongest(row: pd.Series, rows: pd.DataFrame) -> str:
    """States what the strongest attack of a threat model takes, what transfers, and what it takes unoptimised."""
    source = row["source_model"]
    label = str(row["label"])
    drop = row[DROP]
    n = f"mean of {row['cases']} cases" if row["cases"] > 1 else "one case"
    text = (
        f"{row['threat_model']}: {label} takes {drop:.1f} points of foreground DSC from {source} "
        f"({row['dsc_foreground'] + drop:.1f} to {row['dsc_foreground']:.1f}, {n})"
    )
    same = rows[(rows["source_model"] == source) & (rows["label"].astype(str) == label) & ~is_white_box(rows)]
    if len(same := same[same[DROP].notna()]):
        most = same.loc[same[DROP].idxmax()]
        text += f", {max(0, round(100 * most[DROP] / drop))} % of which transfers to {most['target_model']}"
        text += "" if len(same) == 1 else f", the most of {len(same)} models"
    nulls = rows[(rows["source_model"] == source) & is_white_box(rows) & is_null_row(rows) & rows[DROP].notna()]
    if len(nulls := nulls[nulls["label"].astype(str).str.startswith(label + NULL_ROW)]):
        null = nulls.loc[nulls[DROP].idxmax()]
        control = str(null["label"]).partition(NULL_ROW)[2].split()[0]
        text += f"; the same change without optimisation ({control}) takes {null[DROP]:.1f}"
    return f"{text}."


def _most_robust(attacks: pd.DataFrame) -> Iterator[tuple[pd.Series, str]]:
    """Yields the model whose largest drop is the smallest, if several met the same attacks."""
    met = [frozenset(group["label"].astype(str)) for _, group in attacks.groupby("source_model", observed=True)]
    if len(met) < 2 or len(set(met)) > 1:
        return
    worst = attacks.loc[attacks.groupby("source_model", observed=True)[DROP].idxmax()].sort_values(DROP)
    least = worst.iloc[0]
    most = worst.iloc[-1]
    kept = f"none of the {len(met[0])} attacks takes more than {max(0.0, least[DROP]):.1f} points from it"
    lost = f"{most['source_model']} loses up to {most[DROP]:.1f} ({most['label']})"
    yield least, f"{least['source_model']} keeps most: {kept} ({least['label']}); {lost}."
