"""Measures a machine for its attacks, `doctor --card FILE`: steps, memory, idle time, and rows beside stored ones. Bare
steps (a pass forward and back of a UNet, 14 classes, windows of 96^3) and an attack's take turns."""

import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from rich.console import Console
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from freqbench.attacks import make
from freqbench.core import config
from freqbench.core.machine import available_cores, available_memory, available_threads, keep_freed_memory, versions
from freqbench.core.names import job_file
from freqbench.core.terminal import amount
from freqbench.core.types import Case, CaseRef, triple
from freqbench.engine import memory, run
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec
from freqbench.models import SegmentationModel, build
from freqbench.ops import compiled
from freqbench.results import Store
from freqbench.results.tolerances import COMPILED, TOLERANCES

MEASURED: Mapping[str, Mapping[str, Any]] = {
    **{"pgd": {"eps": 8 / 255}, "vafa": {"block": 8}, "sa2": {"block": 16}},
    **{"vafa_opt": {"block": 8, "keep": "last"}, "sa2_opt": {"block": 16, "keep": "last"}},
}
ROI = (96, 96, 96)
CLASSES = 14
BUDGET_S = 60.0  # of all steps; rows and the start take the rest of two minutes
ROWS_OF = ("gn", "pgd", "vafa_opt", "sa2_opt")  # attacks of the quick start, on one network and one case
REFERENCE = Path(__file__).with_name("card.json")
GIB = 2**30


class Step(BaseModel, extra="forbid", strict=True, frozen=True):
    """Costs of an attack's step beside the bare one's; `idle` is the part of its time without a kernel on the card."""

    ratio: float = Field(gt=0)
    step_ms: float | None = Field(default=None, gt=0)
    peak_gib: float | None = Field(default=None, gt=0)
    idle: float | None = Field(default=None, ge=0, le=1)


class Measurement(BaseModel, extra="forbid", strict=True, frozen=True):
    """A machine's figures; null is what only a GPU has, or what an older measurement lacks."""

    version: Literal[1] = 1
    measured: date
    device: str = Field(min_length=1, max_length=80)
    kind: Literal["cpu", "cuda"]
    driver: str | None = None
    versions: dict[str, str]
    cores: int | None = Field(default=None, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)
    windows: int = Field(gt=0)  # at once, of bare and attacks' steps
    auto_windows: int | None = Field(default=None, gt=0)  # that `window_batch: auto` takes
    bare_ms: float = Field(gt=0)
    bare_peak_gib: float | None = Field(default=None, gt=0)
    steps: dict[str, Step]
    forms: dict[str, str] = {}  # of the functions that a GPU compiles
    rows: dict[str, dict[str, float]] = {}  # of the quick start's UNet and first case, by attack

    def differences(self, other: "Measurement") -> dict[str, list[str]]:
        """Returns the columns in which the rows of two cards differ by more than TOLERANCES, by attack."""
        allowed = TOLERANCES["records"]
        found = dict[str, list[str]]()
        for attack in self.rows.keys() & other.rows.keys():
            mine = self.rows[attack]
            others = other.rows[attack]
            off = [name for name in mine if not allowed[name].allows(others.get(name, float("nan")), mine[name])]
            found |= {attack: sorted(off)} if off else {}
        return found


def measure(say: Callable[[str], None], budget_s: float = BUDGET_S, roi: tuple[int, int, int] = ROI) -> Measurement:
    """Measures this machine in at most two minutes on two idle cores; `say` gets a line a part."""
    keep_freed_memory()
    torch.set_num_threads(available_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    windows, count = (4, 10) if on_gpu else (1, 2)
    model, x, y = _inputs(device, windows, roi)
    upstream = torch.rand(windows, CLASSES, *roi).to(device)

    def bare(steps: int) -> None:
        for _ in range(steps):
            given = x.clone().requires_grad_()
            torch.autograd.grad(model(given), given, upstream)

    steps = dict[str, Step]()
    bare_ms = list[float]()
    for name, parameters in MEASURED.items():
        attack = make(name, steps=count, **parameters)
        with compiled.compiling(compiled.WORTH, COMPILED):
            steps[name], seconds = _turns(partial(attack, model, x, y), bare, count, budget_s / len(MEASURED))
        bare_ms.append(1000 * seconds)
        say(f"{name}: a step takes {steps[name].ratio:.2f} bare steps")
    return Measurement(
        measured=datetime.now(UTC).date(),
        device=torch.cuda.get_device_name() if on_gpu else _processor(),
        kind="cuda" if on_gpu else "cpu",
        driver=_driver() if on_gpu else None,
        versions=versions() | ({"cuda": str(torch.version.cuda)} if on_gpu else {}),
        cores=available_cores(),
        memory_gib=round((torch.cuda.mem_get_info()[1] if on_gpu else available_memory()) / GIB, 1),
        windows=windows,
        auto_windows=_auto_windows(model, x[0].cpu(), y[0].cpu()),
        bare_ms=statistics.median(bare_ms),
        bare_peak_gib=_peak(partial(bare, 1)),
        steps=steps,
        forms=dict(compiled.FORMS),
        rows=quickstart_rows(),
    )


def _inputs(device: torch.device, windows: int, roi: tuple[int, int, int]) -> tuple[SegmentationModel, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of the network's weights
    model = SegmentationModel(build("unet", CLASSES, roi, {}), roi, "tf32" if device.type == "cuda" else "fp32", False)
    x = torch.rand(windows, 1, *roi, generator=draw)
    y = torch.randint(0, CLASSES, x.shape, generator=draw)
    return model.to(device).eval().requires_grad_(False), x.to(device), y.to(device)


def _turns(attack: Callable[[], object], bare: Callable[[int], object], steps: int, max_s: float) -> tuple[Step, float]:
    """Returns the costs of an attack's step, and the seconds of a bare one, by as many turns as the budget allows."""
    ends = time.monotonic() + max_s
    attack()  # what a process does once: it compiles, and chooses kernels
    pairs = list[tuple[float, float]]()
    while not pairs or time.monotonic() < ends:
        pairs.append((_seconds(partial(bare, steps)), _seconds(attack)))
    ratio = statistics.median(own / plain for plain, own in pairs)
    plain, own = (statistics.median(column) / steps for column in zip(*pairs, strict=True))
    return Step(ratio=ratio, step_ms=1000 * own, peak_gib=_peak(attack), idle=_idle(attack)), plain


def _seconds(action: Callable[[], object]) -> float:
    """Returns how long an action takes, with all that it asked of a GPU."""
    _settle()
    started = time.perf_counter()
    action()
    _settle()
    return time.perf_counter() - started


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak(action: Callable[[], object]) -> float | None:
    """Returns the GiB of a GPU that are held at once while an action runs; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() / GIB


def _idle(action: Callable[[], object]) -> float | None:
    """Returns the part of an action's time in which no kernel ran on the GPU; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        seconds = _seconds(action)
    busy = sum(each.time_range.elapsed_us() for each in seen.events() if each.device_type.name == "CUDA")
    return min(1.0, max(0.0, 1 - busy / 1e6 / seconds))


def _auto_windows(model: SegmentationModel, image: Tensor, label: Tensor) -> int:
    case = Case(
        ref=CaseRef(case_id="card", patient_id="card", fingerprint="0" * 16, shape=triple(image.shape[1:])),
        image=image,
        label=label.to(torch.uint8),
        spacing=(1.0, 1.0, 1.0),
        affine=np.eye(4),
        native_ranges=((0.0, 1.0),),
        original_spacing=(1.0, 1.0, 1.0),
    )
    return memory.fitting_windows(make("pgd", eps=8 / 255), model, case, share=1.0)


def _processor() -> str:
    """Returns the processor's name, as Linux tells it, and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.machine()}, {amount(available_cores(), 'core')}"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def quickstart_rows() -> dict[str, dict[str, float]]:
    """Returns the columns with a tolerance of the quick start's rows of ROWS_OF, on its first network and case."""
    job = config.load(job_file("quickstart"), JobSpec)
    chosen = {"models": job.models[:1], "attacks": [each for each in job.attacks if each.name in ROWS_OF]}
    job = job.model_copy(update={**chosen, "save_adversarial": "none", "save_only": None})
    with tempfile.TemporaryDirectory() as out:
        run.execute(expand(job, 1), out, Console(quiet=True), run.RunOptions(engine="serial"))
        rows = Store(out).records().to_pylist()
    return {row["attack"]: {name: row[name] for name in TOLERANCES["records"] if row[name] is not None} for row in rows}


def reference() -> Measurement:
    """Returns the CPU's measurement that the package has, whose rows others are held against."""
    return Measurement.model_validate_json(REFERENCE.read_text("utf-8"))


def line_of(card: Measurement) -> str:
    """Returns a card's line of the table in docs/how-to/gpu.md."""
    idle = [each.idle for each in card.steps.values() if each.idle is not None]
    outside = card.differences(reference())
    off = {column for columns in outside.values() for column in columns}
    agreement = f"{len(card.rows) - len(outside)} of {len(card.rows)}" if card.rows else ""
    cells = [
        card.device,
        ", ".join(filter(None, (f"torch {card.versions['torch']}", card.driver and f"driver {card.driver}"))),
        f"{card.windows}" + (f" ({card.auto_windows})" if card.auto_windows else ""),
        f"{card.bare_ms:.0f}",
        *[f"{card.steps[name].ratio:.2f}" if name in card.steps else "" for name in MEASURED],
        f"{min(idle):.0%} to {max(idle):.0%}" if idle else "",
        agreement + (f" ({', '.join(sorted(off))})" if off else ""),
        f"{card.measured}",
    ]
    return "| " + " | ".join(cells) + " |"


def table_of(cards: Iterable[Measurement]) -> str:
    """Returns the table of some cards, a line each."""
    heads = ["device", "versions", "windows at once (auto)", "bare step, ms"]
    heads += [f"`{name}`" for name in MEASURED] + ["idle", "rows that agree", "date"]
    return "\n".join([f"| {' | '.join(heads)} |", "| " + " | ".join(["---"] * len(heads)) + " |", *map(line_of, cards)])
