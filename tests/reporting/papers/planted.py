"""Records with the papers' numbers planted, made from the papers' jobs, and the cells that recipes find in them."""

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import START, shown

from freqbench.core import config
from freqbench.engine.rows import cell_columns
from freqbench.job.cells import Cell
from freqbench.job.grid import Grid, expand
from freqbench.job.rehearsal import add_stand_ins, missing
from freqbench.job.schema import JobSpec
from freqbench.models.sources import checkpoint
from freqbench.reporting.papers import recipes
from freqbench.reporting.papers.paper_table import Facts, paper_table
from freqbench.reporting.papers.recipes import Recipe
from freqbench.reporting.render import Section
from freqbench.results import RECORDS

FACTOR = {"dsc": 100, "ssim": 100, "lpips_similarity": 100, "hd95": 1}
MODELS = {"UNET": "unet", "UNETR": "unetr", "UNETR++": "unetr_pp", "Swin-UNETR": "swin_unetr"}
ATTACKS = {"VAFA-2D": "vafa_2d", "SSA": "ssa_2d"}  # the others by their name in small letters
UNITS = {
    "eps": ("eps", 255),
    "sigma": ("std", 255),
    "q_max": ("q_max", 1),
    "patch": ("block", 1),
    "steps": ("steps", 1),
}

JOB_OF = {**{f"vafa_table{n}": f"vafa_table{n}" for n in range(1, 7)}, "sa2_synapse": "sa2", "sa2_acdc": "sa2"}
"""Each recipe's job."""

Published = dict[str, str]
PAPERS: list[Published] = [*csv.DictReader((recipes.FOLDER / "papers.csv").read_text().splitlines())]
Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def job_of(row: Published) -> str:
    return "sa2" if row["table"] == "main" else f"vafa_table{row['table']}"


@cache
def grid(job: str) -> Grid:
    """The grid of a paper's job with its attacks, stand-ins for data and checkpoints, no network built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_agreed_args", lambda model, arch, stated, *_: stated)
        patch.setattr(checkpoint, "_check_weights", lambda source, draft, *_: replace(draft, flops=0, step_bytes=0))
        for variable in ("FREQBENCH_DATA", "FREQBENCH_CHECKPOINTS"):
            patch.delenv(variable, raising=False)
        spec = config.load(str(Path(__file__).parents[3] / "jobs" / "papers" / f"{job}.yaml"), JobSpec)
        return expand(add_stand_ins(spec, missing(spec)))


def model_of(row: Published) -> str:
    training = row["training"].lower().replace("-", "_")
    return MODELS[row["model"]] + ("" if training == "clean" else f"-{training}")


def is_for(cell: Cell, row: Published) -> bool:
    """True if a number is of a cell; one of the clean volumes is of every cell of the model."""
    if (cell.dataset.name, cell.source.name) != (row["dataset"].lower(), model_of(row)):
        return False
    if row["attack"] == "Clean":
        return True
    if cell.attack.name != ATTACKS.get(row["attack"], row["attack"].lower()):
        return False
    said = [part.replace("*", "").split("=") for part in row["params"].split(";") if "=" in part]
    return all(abs(float(getattr(cell.attack, UNITS[k][0])) - float(value) / UNITS[k][1]) < 1e-9 for k, value in said)


def of_case(cell: Cell, case: int) -> dict[str, Any]:
    patient = case // 2 if cell.dataset.name == "acdc" else case
    return {
        "case_key": f"key{case}",
        "target_model_id": cell.source.model_id,
        "case_id": f"case{case}",
        "patient_id": f"patient{patient}",
        "target_model": cell.source.name,
        "status": "ok",
        "metrics": "dsc,hd95,ssim,psnr,lpips",
        "run_id": "run0",
        "finished_at": START,
    }


@cache
def _records(job: str) -> list[dict[str, Any]]:
    lines = []
    made = grid(job)
    own = [row for row in PAPERS if job_of(row) == job]
    for cell in made.cells:
        cases = len(made.cases[cell.dataset.name])
        rows = [row for row in own if is_for(cell, row)]
        shared = dict.fromkeys(column.name for column in RECORDS) | cell_columns(cell)
        for i in range(cases):
            record = shared | of_case(cell, i)
            for row in rows:
                column = f"{row['metric']}_clean" if row["attack"] == "Clean" else row["metric"]
                record[column] = (float(row["value"]) + (i - (cases - 1) / 2) / 4) / FACTOR[row["metric"]]
            lines.append(record)
    return lines


def records(job: str, change: Change = dict) -> list[dict[str, Any]]:
    """One record a cell and case of a job, cases by a sawtooth of mean 0; `change` edits each or leaves it out."""
    return [changed for record in _records(job) if (changed := change(record)) is not None]


@cache
def frame(job: str) -> pd.DataFrame:
    """Frame of a job's records as they are planted; not to be changed."""
    return shown(*records(job))


def cells(recipe: Recipe | str, frame: pd.DataFrame, facts: Facts = ()) -> pd.DataFrame:
    data = paper_table(recipes.load(recipe) if isinstance(recipe, str) else recipe, frame, facts)[0].data
    assert data is not None
    return data


@cache
def sections(name: str) -> list[Section]:
    """The table of a recipe over the records as they are planted; not to be changed."""
    return paper_table(recipes.load(name), frame(JOB_OF[name]))


def cells_of(name: str, change: Change) -> pd.DataFrame:
    """A row a cell of a recipe by its name, over changed records."""
    return cells(name, shown(*records(JOB_OF[name], change)))


def one(data: pd.DataFrame, **labels: str) -> pd.Series:
    (line,) = [row for _, row in data.iterrows() if all(row[key] == value for key, value in labels.items())]
    return line
