"""Makes the attacks of a job, and derives their identities."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from freqbench.attacks import Attack, attack_class, make, with_indices
from freqbench.core import names
from freqbench.core.code import provenance
from freqbench.core.threat_models import MINIMAL
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.ops.heads import HEADS


def attack_of(name: str | type[Attack], written: Mapping[str, Any], dataset: Dataset, place: str) -> Attack:
    """Makes an attack, by name, path or class, from the parameters `written` in a file, for a dataset whose classes it
    takes. Raises UserError, whose line begins with `place`, for an unknown attack, or parameters that it or the dataset
    refuses."""
    parameters = {key: sweep.parse_value(value) for key, value in written.items()}
    sweep.require_untargeted(parameters.get("targeted"), place)
    with sweep.prefix_errors(place):
        owner = attack_class(names.meant_name("attacks", name)) if isinstance(name, str) else name
    with sweep.prefix_errors(place, f"{dataset.name}: "):
        parameters = with_indices(owner.name, parameters, dataset.class_names)
    with sweep.prefix_errors(place):
        if (attack := make(owner, **parameters)).moves_labels:
            dataset.require_labels(attack.name, "which move with the organs")
    with sweep.prefix_errors(place, f"{dataset.name}: "):
        attack.check_classes(len(dataset.classes))
        attack.check_head(HEADS[dataset.classes.head])
        attack.check_channels(dataset.num_channels)
    return attack


def attack_identity(attack: Attack) -> dict[str, Any]:
    """Returns name, revision and parameters that differ from their default: a new parameter changes no old id."""
    values = {field: getattr(attack, field.name) for field in fields(attack)}
    changed = {
        field.name: float(value) if field.type is float else value  # 0 and 0.0 are one budget
        for field, value in values.items()
        if field.default is MISSING or value != field.default
    }
    return {"name": attack.name, "revision": attack.revision, **changed, **provenance(type(attack))}


def attack_params(attack: Attack, **besides: int | str | Sequence[str]) -> str:
    """Returns all parameters of an attack as JSON text; `besides` adds to them or replaces some."""
    return json.dumps({field.name: getattr(attack, field.name) for field in fields(attack)} | besides, sort_keys=True)


def attack_entry(attack: Attack) -> dict[str, Any]:
    """Returns an attack as a job file would write it: its name and the parameters that differ from their default."""
    identity = attack_identity(attack)
    hidden = ("name", "revision", "class", "code", "package")
    changed = {key: value for key, value in identity.items() if key not in hidden}
    written = {key: [list(value)] if isinstance(value, tuple) else value for key, value in changed.items()}
    return {"name": identity.get("class", attack.name)} | written


def counted_entry(attack: Attack) -> dict[str, Any] | None:
    """Returns an attack's entry with its budget after the name and its effort, `steps` or `queries`, at the end; None
    for an attack without either, null rows, and attacks whose steps make the change smaller."""
    values = {each.name: getattr(attack, each.name) for each in fields(attack)}
    (forwards, backwards) = attack.passes
    lengths = [key for key, runs in (("steps", backwards), ("queries", forwards)) if key in values and runs > 0]
    if not lengths or attack.threat_model.endswith(MINIMAL) or getattr(attack, "control", "none") != "none":
        return None
    written = attack_entry(attack)
    name = written.pop("name")
    budget = attack.budget_name
    effort = {key: values[key] for key in (lengths[0], "loss", "restarts") if key in values}
    if "loss" in effort:
        effort["loss"] = getattr(attack, "loss_name", effort["loss"])  # the field is None if the variant sets the loss
    others = {key: value for key, value in written.items() if key not in {budget, *effort}}
    return {"name": name, **({budget: getattr(attack, budget)} if budget else {}), **others, **effort}
