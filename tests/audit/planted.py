"""Rows of one healthy evaluation, which a test then breaks in one place."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import pandas as pd
from reporting import handmade

from freqbench.audit.checks import CHECKS, Evidence, Finding
from freqbench.audit.probe_files import GradientFacts, Gradients

CASES = 6
EPS = 8 / 255
CLEAN = 90.0
STEPS = {"steps": 20, "step_size": "eps/4", "restarts": 1, "loss": "dicece"}
STRONGEST = {"steps": 20, "scope": "joint", "step_rule": "cosine", "keep": "best"}
TABLE = {"q_min": 5.0, "block": 32, "renormalize": True}
PGD = {"threat_model": "linf", "budget_name": "eps", "num_backwards": 40}
VAFA = {"threat_model": "dct-quantization-stretched", "budget_name": "q_max", "num_backwards": 40}
KINDS: Mapping[str, dict[str, Any]] = {
    "pgd": PGD,
    "apgd": PGD,
    "fgsm": PGD | {"num_backwards": 1},
    "square": PGD | {"num_backwards": 0, "variant": "paper"},
    "random_noise": PGD | {"budget_name": "linf", "num_backwards": 0},
    "vafa": VAFA,
    "vafa_opt": VAFA | {"num_backwards": 60},
}
HEALTHY: Mapping[str, tuple[str, float, dict[str, Any], float]] = {
    "half": ("pgd", EPS / 2, STEPS, 60),
    "pgd": ("pgd", EPS, STEPS, 40),
    "twice": ("pgd", 2 * EPS, STEPS, 20),
    "unbounded": ("pgd", 1.0, STEPS, 8),
    "longer": ("pgd", EPS, {**STEPS, "steps": 40}, 39.7),
    "restarted": ("pgd", EPS, {**STEPS, "restarts": 3}, 39.8),
    "fgsm": ("fgsm", EPS, {"restarts": 1, "loss": "dicece"}, 65),
    "square": ("square", EPS, {"queries": 1000, "restarts": 1, "loss": "dicece"}, 80),
    "noise": ("random_noise", EPS, {}, 88),
    "vafa": ("vafa", 20.0, {"steps": 20, "control": "none"}, 70),
    "vafa uniform": ("vafa", 20.0, {"steps": 20, "control": "uniform"}, 85),
    "vafa random": ("vafa", 20.0, {"steps": 20, "control": "random"}, 87),
    "vafa_opt": ("vafa_opt", 20.0, {"loss": "horizon", **STRONGEST, **TABLE}, 69.8),
    "vafa_opt dice": ("vafa_opt", 20.0, {"loss": "dice", **STRONGEST, **TABLE}, 75),
    "horizon": ("apgd", EPS, {"loss": "horizon", **STRONGEST}, 39.7),
    "dice": ("apgd", EPS, {"loss": "dice", **STRONGEST}, 44),
}
"""Rows by name: attack, budget, parameters, and the DSC x100 that it leaves."""


def rows(
    name: str, source: str = "m", target: str = "m", cases: int = CASES, noise: float = 0.2, **changes: Any
) -> list[dict[str, Any]]:
    """The rows of one attack; cases differ by a sawtooth, a little of it the attack's own. `left` is DSC x100."""
    attack, budget, params, left = HEALTHY[name]
    left = changes.pop("left", left)
    params = {**params, **changes.pop("params", {})}
    own = noise * (1 + list(HEALTHY).index(name) % 3)
    kind = dict(KINDS[attack])
    if params.get("control", "none") != "none":
        kind["num_backwards"] = 0
    values = {"variant": "released", "l2_body": 8.0, "l2": 9.0, "linf": min(budget, 1.0), "num_windows": 1}
    made_rows = []
    for case in range(cases):
        scored = (left + (case - (cases - 1) / 2) + own * (-1) ** case) / 100
        numbers = {"dsc": scored, "dsc_foreground": scored - 0.04, "dsc_clean": CLEAN / 100}
        numbers |= {"dsc_foreground_clean": 0.86, "hd95_undefined_classes": 0, "ssim_body": 0.9}
        settings = {**values, **kind, **numbers, **changes, "budget": budget}
        made = handmade.row("pgd", params, source=source, target=target, case=case, **settings)
        made_rows.append(made | {"attack": attack, "cell_id": f"{attack}/{made['cell_id']}"})
    return made_rows


def healthy(model: str = "m", but: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Every attack of HEALTHY on one model; `but` changes some or, with None in place of changes, leaves them out."""
    changes = but or {}
    kept = [name for name in HEALTHY if changes.get(name, {}) is not None]
    return [*chain.from_iterable(rows(name, model, model, **dict(changes.get(name, {}))) for name in kept)]


def but_for(planted_rows: list[dict[str, Any]], name: str) -> frozenset[str]:
    """The cells of all other attacks than one, as if an audit had added them."""
    own = {row["cell_id"] for row in rows(name, "m", "m") + rows(name, "n", "n")}
    return frozenset(row["cell_id"] for row in planted_rows) - own


def evidence(rows: list[dict[str, Any]], **parts: Any) -> Evidence:
    return Evidence(records=handmade.shown(*rows), **parts)


def finding(check: str, rows: list[dict[str, Any]], model: str = "m", **parts: Any) -> Finding:
    (one,) = [each for each in CHECKS[check].run(evidence(rows, **parts)) if each.model == model]
    return one


def gradients(**changes: Any) -> Gradients:
    """Two windows of a deterministic model whose gradient is nowhere zero and whose loss settles."""
    facts: dict[str, Any] = {"dataset": "phantom", "model": "m", "model_id": "id_m", "case_key": "case0"}
    facts |= {"case_id": "case0", "precision": "fp32", "zero_share": 0.0, "sign_agreement": 1.0, "eps": EPS}
    facts |= {"losses": tuple(1 - 0.5**step for step in range(20))} | changes
    windows = tuple(GradientFacts(**facts, window=window) for window in range(2))
    return Gradients(steps=20, step_size="eps/4", versions={}, windows=windows)


def classes_of(rows: list[dict[str, Any]], dsc: tuple[float, ...], voxels: tuple[int, ...]) -> pd.DataFrame:
    """Class rows with the same scores and label voxels in every record."""
    keys = ("cell_id", "case_key", "target_model_id")
    names = [f"organ {number}" for number in range(len(dsc))]
    scores = pd.DataFrame({"class_index": range(len(dsc)), "class_name": names, "label_voxels": voxels, "dsc": dsc})
    return pd.DataFrame(rows)[list(keys)].merge(scores, how="cross")
