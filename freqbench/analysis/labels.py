"""Names attacks and models by their differences alone."""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from freqbench.analysis.precision import PLAIN
from freqbench.attacks import ATTACKS, Attack
from freqbench.attacks.core.blocks import BLOCK_CUT
from freqbench.core.documents import object_of
from freqbench.core.types import AGREEMENT

INTENSITY_PARAMETERS = frozenset({"eps", "std", "linf"})
NOTABLE = {
    *("variant", "targeted", "control", "renormalize", "band", *PLAIN),
    *("loss", "organs", "target", "restarts", "keep", "scope", "channels"),
    *("norm", "members", "losses", "threshold"),  # of ensembles
    *("label", "kind"),  # of imported volumes, of a corruption
}
RECONSTRUCTION = "reconstruction"  # of an attack that no paper describes in full: shown although it is the only variant
JOINTS = dict.fromkeys(("organs", "channels", "members", "losses", "surrogates"), "+")
JOINTS |= {"target": ":", "eps_schedule": ","}
_SETTINGS = ["attack", "variant", "params", "budget_name", "budget", "precision", "compile"]


def value_text(name: str, value: Any) -> str:
    """Writes a parameter's value as a person does: `8/255` on the intensity scale, `8x16x32` for a triple.

    >>> value_text("eps", 8 / 255), value_text("q_max", 20.0), value_text("block", [8, 16, 32])
    ('8/255', '20', '8x16x32')
    """
    if isinstance(value, list | tuple):
        return JOINTS.get(name, "x").join(value_text(name, item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        steps = round(value * 255)
        if name in INTENSITY_PARAMETERS and 0 < steps < 255 and abs(value * 255 - steps) < 1e-6:
            return f"{steps}/255"
        return f"{value:.6g}"
    return str(value)


def attack_labels(records: pd.DataFrame) -> pd.Series:
    """Labels each row of `records`: attack, budget, and the parameters that distinguish it: those of another attack
    (NOTABLE) where not the default, a reconstruction always; any other if rows of the same attack differ in it."""

    def labels(distinct: pd.DataFrame) -> list[str]:
        settings = distinct.astype(object).where(distinct.notna(), None).to_dict("records")
        by_attack: dict[str, list[dict[str, Any]]] = {}
        for setting in settings:
            by_attack.setdefault(setting["attack"], []).append(_parameters(setting))
        varying = {attack: _varying(siblings) for attack, siblings in by_attack.items()}
        return [_label(setting, varying[setting["attack"]]) for setting in settings]

    return each_distinct(records, _SETTINGS, labels)


def each_distinct(frame: pd.DataFrame, columns: list[str], texts: Callable[[pd.DataFrame], Sequence[str]]) -> pd.Series:
    """Makes one text per row of a `frame` from the distinct values of some columns, which are few: `texts` makes those
    of a frame with one row for each. Categories are sorted."""
    number = frame.groupby(columns, dropna=False, sort=False, observed=True).ngroup().to_numpy()
    distinct = frame.loc[~pd.Series(number).duplicated().to_numpy(), columns]
    categories, codes = np.unique(np.array(texts(distinct), object), return_inverse=True)
    return pd.Series(pd.Categorical.from_codes(codes[number], categories=pd.Index(categories)), index=frame.index)


def model_names(records: pd.DataFrame) -> dict[str, str]:
    """Maps the ids of source and target models of `records` to names, with the id's first digits where several share a
    name."""
    names: dict[str, str] = {}
    for role in ("source", "target"):
        pairs = records[[f"{role}_model_id", f"{role}_model"]].drop_duplicates(keep="last")  # few, of very many rows
        names |= dict(pairs.itertuples(index=False, name=None))
    taken = list(names.values())
    return {key: name if taken.count(name) == 1 else f"{name}#{key[:6]}" for key, name in names.items()}


def families(frame: pd.DataFrame) -> pd.Series:
    """Returns the `label` of each row of a `frame` without its budget, the same for all points of a curve."""
    columns = ["label", "budget_name", "budget"]
    texts = {}
    for label, name, budget in frame[columns].drop_duplicates().itertuples(index=False, name=None):
        texts[label] = label if pd.isna(budget) else label.replace(f" {name}={value_text(name, budget)}", "", 1)
    return frame["label"].astype(str).map(texts)


def parameters(attack: str, params: str, budget_name: str | None) -> dict[str, Any]:
    """Returns the parameters of a record's `attack` from `params`, a JSON object, but for its budget (`budget_name`;
    None: it has none), parameters left open, and those that follow from the source."""
    items = object_of(params, f"{attack}: params").items()
    return {name: value for name, value in items if value is not None and name not in (budget_name, BLOCK_CUT)}


def _parameters(setting: Mapping[Hashable, Any]) -> dict[str, Any]:
    settings = {name: setting[name] for name in ("variant", "precision", "compile")}
    return settings | parameters(setting["attack"], setting["params"], setting["budget_name"])


def _varying(siblings: list[dict[str, Any]]) -> set[str]:
    first = siblings[0]
    changed = set[str]()
    for each in siblings:
        changed |= first.keys() ^ each.keys()
        changed |= {name for name in first.keys() & each.keys() if first[name] != each[name]}
    return changed


def _label(setting: Mapping[Hashable, Any], varying: Collection[str]) -> str:
    words = [setting["attack"]]
    declared = fields(ATTACKS.get(setting["attack"], Attack))  # unknown attacks: the common parameters
    defaults = {**PLAIN, **{field.name: field.default for field in declared}}
    if setting["budget"] is not None:
        words.append(f"{setting['budget_name']}={value_text(setting['budget_name'], setting['budget'])}")
    for name, value in _parameters(setting).items():
        if (value == RECONSTRUCTION or value != defaults.get(name)) if name in NOTABLE else name in varying:
            words.append(f"{name}={value_text(name, value)}")
    return " ".join(words)


def name_regions(text: str) -> str:
    """Calls organs and classes in a text regions; class records keep their name.

    >>> name_regions("the classes of small organs, by class (class records)")
    'the regions of small regions, by region (class records)'
    """
    return re.sub(r"\b(?:organ|class)(e?s)?\b(?! records)", lambda found: "region" + "s" * bool(found[1]), text)


def reword_dsc(text: str, place: str = AGREEMENT) -> str:
    """Calls the score in a text agreement if its place, a dataset's name or a title with it, marks it so."""
    return text.replace("DSC", "agreement") if AGREEMENT in place else text
