"""Collects the facts of a run's file: versions, code, devices, fingerprints."""

import json
import os
import platform
import secrets
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from freqbench.core.machine import available_cores, versions
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.job.grid import Grid
from freqbench.models import ModelSpec

CPUINFO = Path("/proc/cpuinfo")
SENT_CODE = "FREQBENCH_CODE"  # variable of a job on a cluster: `git_state` of the machine that sent its code


def new_run_id() -> str:
    """Returns a unique id for a run, sortable by time, also within a second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"


def now() -> str:
    """Returns the current time in the format of run files."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def collect(grid: Grid) -> dict[str, Any]:
    """Collects versions, code, devices, and the fingerprints of the models and data of a `grid`."""
    models: dict[str, ModelSpec] = {}
    datasets: dict[str, Dataset] = {}
    for cell in grid.cells:
        models |= {model.model_id: model for model in (*cell.models, *cell.targets)}
        datasets[cell.dataset.name] = cell.dataset
    of_models = {model_id: _facts_of_model(model) for model_id, model in models.items()}
    of_datasets = {name: _facts_of_data(dataset, grid.cases[name]) for name, dataset in datasets.items()}
    return {
        "started_at": now(),
        "versions": versions(),
        "code": git_state(),
        "host": platform.node(),
        "pid": os.getpid(),
        "devices": devices(),
        "processor": processor(),
        "models": of_models,
        "datasets": of_datasets,
    }


def _facts_of_model(model: ModelSpec) -> dict[str, Any]:
    return {
        "name": model.name,
        "checkpoint": model.checkpoint,
        "sha256": model.checkpoint_sha256,
        "migration": model.migration,
        "training": model.training,
    }


def _facts_of_data(dataset: Dataset, refs: Sequence[CaseRef]) -> dict[str, Any]:
    return {
        "recipe": dataset.whole_recipe(),
        "redistributable": dataset.may_be_shared,
        "regions": dataset.classes.of_labels,
        "cases": {ref.case_id: ref.fingerprint for ref in refs},
    }


def devices() -> list[str]:
    """Returns the names of GPUs, or the CPU with its cores."""
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cpu, {available_cores()} cores"]


def processor() -> str:
    """Describes the processor as far as a sum's last bits depend on it: Linux's numbers of its model, else its name."""
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if not CPUINFO.exists():
        return kind
    first = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    facts: dict[str, str] = {}
    for line in first.splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    return " ".join([kind, *(facts[key] for key in ("vendor_id", "cpu family", "model") if key in facts)])


def git_state() -> dict[str, Any] | None:
    """Returns commit and dirty flag of the running code; None if it is no checkout and was not sent from one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        sent: dict[str, Any] | None = json.loads(os.environ.get(SENT_CODE, "null"))
        return sent
    ask = partial(subprocess.check_output, cwd=root, text=True, stderr=subprocess.DEVNULL, timeout=10)
    try:
        commit = ask(["git", "rev-parse", "HEAD"])
        status = ask(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}
