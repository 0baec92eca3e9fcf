"""Reads entries of a leaderboard. An entry is a folder: `card.yaml`, statements of a person; `store/`, the rows of one
network attacked, and of its audit, from which all numbers follow; `entry.json`, the SHA-256 of its weights."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator

from freqbench.analysis.frames import plain
from freqbench.analysis.tables import case_minima
from freqbench.audit import checks
from freqbench.audit.checks import Finding, ModelVerdict
from freqbench.audit.checks.contrasts import FAILURE
from freqbench.audit.checks.strongest import claims_of
from freqbench.core import config
from freqbench.core.config import Strict
from freqbench.results import Store, index_keys

CARD = "card.yaml"
FACTS = "entry.json"
STORE = "store"
TEMPLATE = """\
# What people read about the network. Fill in every key; contact, paper and bibtex may stay null.
title: {title}
authors: ""      # who made it
summary: ""      # what it is: architecture, size, what makes it robust
data: ""         # what it was trained on, and where to get that
training: ""     # how: steps, loss, augmentation, attacks
license: ""      # of the weights, such as Apache-2.0
contact: null    # a mail address, or an https address
checkpoint: {checkpoint}   # where to get the weights: an https address, zoo://DATASET/NAME, or train://JOB/NAME
paper: null      # an https address
bibtex: null     # how to cite it
"""
_CASE = ["dataset", "bounds", "case_id", "case_key", "patient_id"]
_WORST = [*_CASE, "attack", "cell_id", "dsc_foreground", "dsc_foreground_clean"]


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a text, got none: fill it in")
    return text.strip()


Text = Annotated[str, AfterValidator(_filled)]


class Card(Strict):
    """A model card: plain texts."""

    title: Text
    authors: Text
    summary: Text
    data: Text
    training: Text
    license: Text  # of the weights
    checkpoint: Text  # place of the weights; train://JOB/NAME is the packaged job that trains those not passed on
    contact: Text | None = None
    paper: Text | None = None
    bibtex: Text | None = None


class EntryFacts(Strict):
    """Content of the file FACTS."""

    checkpoint: str  # SHA-256 of the network's weights, hex
    versions: dict[str, str]  # of the software that made the entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """Facts of an entry's rows. `worst_cases`: by case, threat model, `bounds` the attack of lowest foreground DSC."""

    cases: Mapping[str, Mapping[str, str]]  # digests by dataset and case
    worst_cases: pd.DataFrame
    findings: tuple[Finding, ...]  # of its audit
    verdicts: tuple[ModelVerdict, ...]  # one for each dataset
    lacking: tuple[str, ...]  # sentences on the strongest attacks, within its own bounds, that its audit did not run


@dataclass(frozen=True, kw_only=True)
class BoardEntry:
    """Entry of a leaderboard."""

    folder: Path
    card: Card
    facts: EntryFacts

    @property
    def name(self) -> str:
        """Name on boards and pages: that of its folder."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """Store of the entry's rows."""
        return Store(str(self.folder / STORE))

    @cached_property
    def told(self) -> Told:
        """Facts that follow from its rows."""
        return told_by(self.store)


def read_entry(folder: Path) -> BoardEntry:
    """Reads the entry in a `folder`, whose name is the entry's; raises UserError if its card or facts are missing or
    others."""
    card = config.load(str(folder / CARD), Card)
    facts = config.load(str(folder / FACTS), EntryFacts)  # JSON is YAML
    return BoardEntry(folder=folder, card=card, facts=facts)


def told_by(store: Store) -> Told:
    """Derives cases, threat models, worst cases and the audit's verdicts from a store's rows and those of its audit."""
    evidence = checks.gathered([store], index_keys(store.job()["index"]))
    records = plain(evidence.records[["dataset", "case_id", "case_key"]].drop_duplicates())
    digests = {(dataset, case): key for dataset, case, key in records.itertuples(index=False, name=None)}
    worst = [pd.DataFrame(columns=_WORST)]
    lacking = list[str]()
    for on in evidence.models:
        for claim in claims_of(on):
            if not claim.forms:
                continue  # an audit knows no strongest attack: weak settings would rank highest
            labels = [each.label for each in (*claim.own, *claim.added)]
            rows = on.rows[on.rows["label"].isin(labels) & on.rows["fg"].notna()]
            least = case_minima(rows.assign(_score=rows["fg"]), [])
            case_keys = [digests[on.dataset, case] for case in least["case_id"]]
            least = least.assign(dataset=on.dataset, bounds=claim.subject, attack=least["label"], case_key=case_keys)
            worst.append(least[_WORST])
            if claim.lacking and claim.left.min() > FAILURE:
                subject = claim.subject
                forms = ", ".join(claim.lacking)
                lacking.append(f"Not audited on {on.dataset}: {subject}: {forms} not run: freqbench audit OUT --run.")
    cases = defaultdict[str, dict[str, str]](dict)
    for (dataset, case), key in sorted(digests.items()):
        cases[str(dataset)][str(case)] = str(key)
    findings = checks.audited(evidence)
    ranked = plain(pd.concat(worst[1:] or worst, ignore_index=True))
    verdicts = tuple(checks.verdicts(findings))
    return Told(cases=cases, worst_cases=ranked, findings=findings, verdicts=verdicts, lacking=tuple(lacking))


def locate_weights(spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns `spec`, a stored job of one network, with its weights at another `place`: a path or an address."""
    (model,) = spec["models"]
    if trained := model.get("trained"):
        return {**spec, "models": [{**model, "trained": {**trained, "checkpoint": place}}]}
    return {**spec, "models": [{**model, "bundle" if model.get("bundle") else "checkpoint": place}]}


def place_of(spec: Mapping[str, Any]) -> str:
    """Returns the place of the weights in `spec`, a stored job of one network."""
    (model,) = spec["models"]
    return str((model.get("trained") or model).get("checkpoint") or model.get("bundle"))
