"""Records made by hand, as views get them too, classes of records, and Student's t as scipy has it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from freqbench.analysis.statistics import DICE
from freqbench.analysis.tables import current
from freqbench.reporting.render import Section
from freqbench.results import CLASS_RECORDS, KEY, RECORDS, Store, to_table
from freqbench.results.glimpses import NO_CHANGE, STEPS, Slice, pack_planes
from freqbench.results.writer import commit, to_rows

START = datetime(2026, 1, 1, tzinfo=UTC)

LINF = {"threat_model": "linf", "budget_name": "eps", "budget": 8 / 255}
DCT = {"threat_model": "dct-quantization", "budget_name": "q_max", "budget": 20.0}
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": LINF,
    "segpgd": LINF,
    "fgsm": {"threat_model": "linf"},
    "gn": {"threat_model": "gaussian", "budget_name": "std", "budget": 8 / 255},
    "random_noise": {"threat_model": "l2", "budget_name": "l2", "budget": 20.0},
    "vafa": DCT,
    "vafa_opt": DCT,
    "dfb": {"threat_model": "none"},
    "fmn": {"threat_model": "linf-minimal"},
    "ddn": {"threat_model": "l2-minimal"},
    "corruption": {"threat_model": "corruption", "budget_name": "severity", "budget": 3.0},
    "ball": {"threat_model": "bias-field-l2", "budget_name": "radius", "budget": 0.5},
    "faa": {"threat_model": "fourier-bands", "budget_name": "portion", "budget": 0.1},
}


def row(attack: str = "pgd", params: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """A complete ok record; `source`, `target` and `case` set all columns that hang on them."""
    made: dict[str, Any] = dict.fromkeys(column.name for column in RECORDS)
    source = values.pop("source", "unet")
    target = values.pop("target", "unet")
    case = values.pop("case", 0)
    made |= {"source_model": source, "source_model_id": f"id_{source}", "target_model": target}
    made |= {"target_model_id": f"id_{target}", "case_key": f"case{case}", "case_id": f"case{case}"}
    made |= {"patient_id": f"case{case}", "dataset": "phantom", "attack": attack, "variant": "released", "seed": 0}
    made |= ATTACKS[attack] | {"precision": "fp32", "compile": False, "num_classes": 3, "status": "ok"}
    made |= {"metrics": "dsc", "run_id": "run0", "finished_at": START + timedelta(minutes=values.pop("minute", 0))}
    made |= values
    for name in ("dsc", "dsc_clean"):  # where a test gives the one, all classes score alike
        made[name.replace("dsc", "dsc_foreground")] = values.get(name.replace("dsc", "dsc_foreground"), made[name])
    budget = {made["budget_name"]: made["budget"]} if made["budget_name"] else {}
    made["params"] = json.dumps(budget | dict(params or {}))
    names = ("attack", "variant", "params", "seed", "source_model_id", "precision", "compile")
    made["cell_id"] = made["cell_id"] or "/".join(str(made[name]) for name in names)
    return made


def stored(
    *rows: dict[str, Any], root: object = None, classes: Sequence[Sequence[dict[str, Any]]] = (), name: str = "run0"
) -> Store:
    store = Store(str(root or f"memory://{uuid4().hex}"))
    commit(store.root, f"{name}-000000.parquet", to_rows(rows, classes or [()] * len(rows)))
    return store


def records(*rows: dict[str, Any]) -> pd.DataFrame:
    return to_table(RECORDS, rows).to_pandas()


def job_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A store's job that wants these rows."""
    cells = [{"cell_id": each["cell_id"], "dataset": "phantom", "targets": [each["target_model_id"]]} for each in rows]
    cases = sorted({each["case_key"] for each in rows})
    return {"spec": {"name": "mine"}, "index": {"cells": cells, "cases": {"phantom": cases}}}


def shown(*rows: dict[str, Any]) -> pd.DataFrame:
    return current(records(*rows))


def coded(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame with its texts as categoricals, of which source and target share theirs."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    texts = [name for name in texts if name not in ("finished_at", "left_out")]
    frame = frame.astype(dict.fromkeys(texts, "category"))
    models = pd.CategoricalDtype(sorted({*frame["source_model"], *frame["target_model"], "never seen"}))
    return frame.astype({"source_model": models, "target_model": models})


def classes(*scored: tuple[Mapping[str, Any], Mapping[str, tuple[float, float]]]) -> pd.DataFrame:
    """A record and its classes, `name=(dsc, dsc_clean)` from class 0 on, to a frame of class records."""
    rows = []
    voxels = {"label_voxels": 100, "pred_voxels": 80, "pred_voxels_clean": 90}
    for record, scores in scored:
        for index, (name, (dsc, clean)) in enumerate(scores.items()):
            own = dict.fromkeys(column.name for column in CLASS_RECORDS)
            own |= {key: record[key] for key in KEY}
            own |= {"run_id": record["run_id"], "finished_at": record["finished_at"]}
            rows.append(own | voxels | {"class_index": index, "class_name": name, "dsc": dsc, "dsc_clean": clean})
    return to_table(CLASS_RECORDS, rows).to_pandas()


def t_interval(*values: float, within: tuple[float, float] = DICE) -> tuple[float, float]:
    """95 % of the mean of patients: t of their logit's mean by the delta method; two patients are too few."""
    if len(values) < 3:
        return nan, nan
    low, high = within
    share = (sum(values) / len(values) - low) / (high - low)
    error = stats.sem(values) / (high - low) / (share * (1 - share))
    ends = stats.t.interval(0.95, len(values) - 1, loc=logit(share), scale=error)
    return tuple(low + (high - low) * expit(end) for end in ends)


def t_test(*values: float) -> float:
    """Two-sided p of a mean of 0."""
    return float(stats.ttest_1samp(values, 0).pvalue)


def data_lines(section: Section) -> list[dict[str, Any]]:
    return section.data.rename(columns=str).to_dict("records")


def glimpse_of(shade: int) -> Slice:
    """Slice of 16 x 16 pixels: a clean volume of this grey level, halves of everything else."""
    planes = np.full((6, 16, 16), shade, np.uint8)
    planes[1, :, 8:] = 255
    planes[2, :, :8] = NO_CHANGE - STEPS
    planes[2, :, 8:] = NO_CHANGE + STEPS
    planes[3:] = 0
    planes[3, :8] = 1
    planes[4, 8:] = 2
    planes[5, :, 8:] = 1
    captions = ["clean", "adversarial", "change, ±40/255", "label", "unet, DSC 25.0", "<b>unet</b>, clean, DSC 100.0"]
    facts = {"below": [0, 1, 0], "size": (16, 16), "aspect": 1, "full": 40 / 255, "window": (-175, 250)}
    return Slice.model_validate({"captions": captions, "planes": pack_planes(planes), **facts})
