"""Frames of a generated grid as the page is given them, and a headless browser to read the page in."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reporting.handmade import row

from freqbench.analysis import tables
from freqbench.reporting.page.data import page_data
from freqbench.results import CLASS_RECORDS, RECORDS

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
FINISHED = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = "dsc,hd95,ssim,psnr,lpips"
KINDS = (
    ("pgd", "linf", "eps", 255),
    ("gn", "gaussian", "std", 255),
    ("vafa", "dct-quantization", "q_max", 1),
    ("sa2", "dct-scaling", "rho", 100),
)
_WHOLE = {"hd95_undefined_classes", "missed_classes", "hallucinated_classes", "num_forwards", "num_backwards"}


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs a browser: {CHROMIUM} is not there")
    sync.expect.set_options(timeout=60_000)  # a machine may have other work
    with sync.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


def grid(
    settings: int, models: Sequence[str], targets: Sequence[str], cases: int, classes: int, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and class records of settings x models x cases x targets, every score random, the KINDS in turns."""
    rng = np.random.default_rng(seed)
    shape = (settings, len(models), cases, len(targets))
    setting, source, case, target = (axis.ravel() for axis in np.indices(shape))
    count = setting.size
    names, threats, parameters, units = (np.array(part)[setting % len(KINDS)] for part in zip(*KINDS, strict=True))
    budgets = (1 + setting // len(KINDS)) / units
    volume = np.ravel_multi_index((setting, source, case), shape[:3])
    values: dict[str, Any] = {}
    for column in RECORDS:
        if column.mark == "result" and str(column.type) == "double":
            by_volume = column.name.startswith(("ssim", "lpips", "psnr", "l2", "linf", "energy"))
            values[column.name] = rng.random(volume.max() + 1)[volume] if by_volume else rng.random(count)
        else:
            values[column.name] = rng.integers(0, 3, count) if column.name in _WHOLE else None
    clean = rng.random((len(targets), cases))[target, case]
    source_names = np.array(models)[source]
    target_names = np.array(targets)[target]
    values |= {name: clean for name in values if name.endswith("_clean")}
    values |= {
        "cell_id": [f"{cell:016x}" for cell in np.ravel_multi_index((setting, source), shape[:2])],
        "case_key": [f"case{number}" for number in case],
        "case_id": [f"case{number:03d}" for number in case],
        "patient_id": [f"patient{number:03d}" for number in case],
        "source_model": source_names,
        "source_model_id": source_names,
        "target_model": target_names,
        "target_model_id": target_names,
        "dataset": "synapse",
        "attack": names,
        "variant": "released",
        "budget_name": parameters,
        "budget": budgets,
        "threat_model": threats,
        "params": [json.dumps({name: value}) for name, value in zip(parameters, budgets.tolist(), strict=True)],
        "precision": "fp32",
        "compile": False,
        "num_classes": classes,
        "status": "ok",
        "metrics": METRICS,
        "run_id": "run0",
        "finished_at": FINISHED,
    }
    records = pd.DataFrame(values)
    of_class = records.loc[records.index.repeat(classes), ["cell_id", "case_key", "target_model_id", "run_id"]]
    rows = len(of_class)
    scores = {c.name: rng.random(rows) for c in CLASS_RECORDS if str(c.type) == "double"}
    index = np.tile(np.arange(classes), count)
    counts = {name: rng.integers(0, 10_000, rows) for name in ("label_voxels", "pred_voxels", "pred_voxels_clean")}
    names_of = [f"organ {number}" for number in index]
    frame = of_class.assign(class_index=index, class_name=names_of, finished_at=FINISHED, **counts, **scores)
    return records, frame.reset_index(drop=True)


FACTS = [
    {
        "store": "runs/generated",
        "job": {"spec": {"name": "generated", "seeds": [0]}, "index": {"cells": [], "cases": {}}},
        "runs": [{"run_id": "run0", "status": "done", "heartbeat": "2026-01-01T00:00:00+00:00", "warnings": ["slow"]}],
    }
]


EVIL = "<img src=x onerror=alert(1)>"
DEFENCE = '{"name": "bit_depth", "bits": 3, "adaptive": ADAPTIVE, "undefended": "id"}'


def robustness_rows() -> list[dict[str, Any]]:
    """A corrupted and attacked model of a hostile name, and a defence under the naive and the adaptive attacker."""
    hostile = {"source": EVIL, "target": EVIL}
    made = [
        row("corruption", {"kind": "blur"}, **hostile, budget=budget, dsc=0.9 - budget / 100, case=case)
        for budget, case in product((1.0, 2.0), (0, 1))
    ]
    made += [row("pgd", **hostile, dsc=0.5, case=case) for case in (0, 1)]
    for name, dsc, adaptive in (("bits", 0.4, "true"), ("naive", 0.88, "false")):
        defences = dict.fromkeys(("source_defence", "target_defence"), DEFENCE.replace("ADAPTIVE", adaptive))
        made.append(row("pgd", source=name, target=name, dsc=dsc, **defences))
    kind = {"kind": "bias_field", "control": "none"}
    smooth = {"source": "smooth", "target": "smooth", "target_defence": '{"kind": "bias_field", "sigma": 0.5}'}
    for radius, draws in ((0.0, [0.5 + i / 2500 for i in range(1000)]), (0.5, [0.7] * 1000), (1.0, [0.6] * 1000)):
        scores = json.dumps({"dsc_foreground": draws})
        made.append(row("ball", kind, **smooth, budget=radius, dsc=draws[0], draws=scores))
    return [row | dict.fromkeys(("dsc_clean", "dsc_foreground_clean"), 0.9) for row in made]


def data_of(records: pd.DataFrame, classes: pd.DataFrame | None) -> dict[str, Any]:
    """The page's data of these rows, checked and labelled as the report does it."""
    return page_data(tables.current(records), classes, FACTS)
