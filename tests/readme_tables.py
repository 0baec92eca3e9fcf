"""The README's tables, made from the code's own: `python tests/readme_tables.py` rewrites them."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tabulate import tabulate

from freqbench.attacks import ATTACKS, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.data import DATASETS
from freqbench.metrics import METRICS
from freqbench.models import MODELS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SPEED = ROOT / "reports" / "speed" / "cpu.json"

WORDS = {"band": "low", "kind": "motion"}  # of parameters without a default
METRIC_FILES = {
    "dsc": "overlap",
    "hd95": "surface",
    "ssim": "image",
    "psnr": "image",
    "lpips": "perceptual",
    "linf": "image",
    "l2": "image",
    "energy": "image",
    "seam": "image",
    "voxel_success": "overlap",
}


def first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n")[0].rstrip(".").replace("  ", " ")


def link(text: str, path: str | Path) -> str:
    relative = Path(path).resolve().relative_to(ROOT) if Path(path).is_absolute() else Path(path)
    return f"[{text}]({relative.as_posix()})"


def passes_of(name: str, required: Mapping[str, Any]) -> tuple[str, str]:
    """Forward + backward passes of one step, and of the attack with its defaults."""
    attack = make(name, **required)
    forwards, backwards = attack.passes
    whole = f"{'at most ' if attack.may_stop_early else ''}{forwards} + {backwards}"
    if isinstance(attack, Ensemble):
        return "its members'", whole
    for knob in ("steps", "queries"):
        if number := getattr(attack, knob, None):
            twice = make(name, **required, **{knob: 2 * number}).passes
            return f"{(twice[0] - forwards) // number} + {(twice[1] - backwards) // number}", whole
    return whole, whole


def cost_of(name: str) -> str:
    """What a step takes, in steps of the bare model, as measured; the most over blocks."""
    if issubclass(ATTACKS[name], Ensemble):
        return "its members'"
    rows = [row for row in json.loads(SPEED.read_text())["rows"] if row["attack"] == name]
    return f"{max(row['ratio'] / (row['spectra'] or 1) for row in rows):.2f}" if rows else "not measured"


def attacks() -> str:
    rows = []
    for name, attack in ATTACKS.items():
        module = sys.modules[attack.__module__]
        required = {f.name: WORDS.get(f.name, 0.0) for f in fields(attack) if f.default is MISSING}
        required |= {f.name: 0.0 for f in fields(attack) if f.name == attack.budget_name and f.default is None}
        step, whole = passes_of(name, required)
        rows.append(
            [
                link(f"`{name}`", module.__file__ or ""),
                make(name, **required).threat_model,
                f"`{attack.budget_name}`" if attack.budget_name else "none",
                step,
                whole,
                cost_of(name),
                first_line(module),
            ]
        )
    headers = ["attack", "threat model", "budget", "passes a step", "passes", "cost of a step", "paper"]
    return table(rows, headers)


def models() -> str:
    rows = [
        [link(f"`{name}`", "freqbench/models/networks/architectures.py"), model.title, model.citation]
        for name, model in MODELS.items()
    ]
    return table(rows, ["model", "network", "paper"])


def datasets() -> str:
    rows = [[link(f"`{name}`", inspect.getfile(loader)), first_line(loader)] for name, loader in DATASETS.items()]
    return table(rows, ["loader", "what it reads"])


def metrics() -> str:
    rows = []
    for name, metric in METRICS.items():
        columns = ", ".join(f"`{column}`" for column in metric.columns)
        rows.append(
            [link(f"`{name}`", f"freqbench/metrics/{METRIC_FILES[name]}.py"), metric.title, metric.unit, columns]
        )
    return table(rows, ["metric", "title", "unit", "columns"])


def table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


TABLES = {
    "attacks": attacks,
    "models": models,
    "datasets": datasets,
    "metrics": metrics,
}


def with_tables(text: str) -> str:
    """The README's text with every table between its markers made anew."""
    for name, make_table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda m, t=make_table: f"{m[1]}{t()}\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md: expected the markers of the table {name!r} once, found them {count} times")
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
