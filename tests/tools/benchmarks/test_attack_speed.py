"""Costs of a step of every attack beside the bare model's, in time and memory.

The bare step is one forward pass and one backward pass to the input, a fixed gradient being sent back from the logits.
Both are measured in the same run, in turns, on the papers' networks (14 classes, 96^3), no parameter gradients: on the
CPU the UNet at batch 1; where there is a GPU, three networks at batch 4, with TF32 inside and in bf16, eager and
compiled, the UNet by CUDA graphs too. `--fast`: all of that once on small windows, wherever it runs, to see that it
does; no bound is held.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import pytest
import torch
from attacks.examples import takes

import freqbench as fb
from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.core.machine import keep_freed_memory
from freqbench.core.types import triple
from freqbench.engine.attacking import attack_case
from freqbench.models import SegmentationModel, build

ROUNDS = 15
STEPS = 10 if torch.cuda.is_available() else 2  # a GPU's are short beside what an attack does once
SPECTRA = 4
ROI = (96, 96, 96)
GIB = 2**30
EPS = {"eps": 8 / 255}

# Settings of an attack, and how many bare steps one of its steps may take: on a CPU, and on a GPU with TF32.
BOUNDS: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    ("pgd", EPS, (1.10, 1.08)),
    ("bim", EPS, (1.10, 1.08)),
    # Its Dice alone takes 0.07 of a step; the best volume costs a forward pass more at the end.
    ("apgd", {**EPS, "keep": "last"}, (1.15, 1.10)),
    *((("vafa", {"block": block}, (1.15, 1.20))) for block in (32, 8)),
    *((("sa2", {"block": block}, (1.15, 1.20))) for block in (16, 8)),
    # Without the forward pass that the best volume costs at the end, as apgd.
    *((("vafa_opt", {"block": block, "keep": "last"}, (1.15, 1.20))) for block in (32, 8)),
    *((("sa2_opt", {"block": block, "keep": "last"}, (1.15, 1.20))) for block in (16, 8)),
    # Two Fourier transforms of the window, in complex numbers, each way.
    ("kspace", {"eps_k": 0.1, "keep": "last"}, (1.30, 1.30)),
    ("bias_field", {"log_amplitude": 0.2, "keep": "last"}, (1.30, 1.20)),
    ("intensity_curve", {"deviation": 0.1, "keep": "last"}, (1.30, 1.20)),
    # The determinants at every voxel, twice a step, and the volume read between voxels, each way. What is done once (a
    # projection, a volume, the check of both bounds) counts half here, as there are two steps.
    ("deformation", {"max_mm": 3, "keep": "last"}, (1.45, 1.45)),
    ("universal", EPS, (1.15, 1.15)),
    ("segpgd", EPS, (1.12, 1.12)),
    ("cospgd", EPS, (1.12, 1.12)),
    ("ssa", {**EPS, "num_spectra": SPECTRA}, (1.15 * SPECTRA, 1.20 * SPECTRA)),
]
OTHERS: dict[str, dict[str, Any]] = {
    "gn": {"std": 8 / 255},
    "random_noise": {"linf": 8 / 255},
    "sinogram": {"eps_p": 0.02, "keep": "last"},
    "dfb": {"band": "low"},
    "corruption": {"kind": "motion", "severity": 3},
    "dfb_2d": {"band": "low"},
    "ssa_2d": {**EPS, "num_spectra": SPECTRA},
    "bases": {**EPS, "queries": 1},
}
BOUNDED = {name for name, _, _ in BOUNDS}
# Ensembles take the steps of their members.
UNBOUNDED = [name for name, attack in ATTACKS.items() if name not in BOUNDED and not issubclass(attack, Ensemble)]


MODES = {"": "", "default": ", compiled", "reduce-overhead": ", CUDA graphs"}


@dataclass(frozen=True)
class Setting:
    """Way in which the bare model runs; `str` of it is a row's `model`, but for the device."""

    arch: str = "unet"
    precision: str = "fp32"
    compiled: str = ""  # mode of torch.compile; empty: eager
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.arch}, batch {self.batch}, {self.precision}{MODES[self.compiled]}"


FAST: dict[str, dict[str, Any]] = {  # arguments of networks that are small, and quick to compile
    "unet": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    "unetr": {"hidden_size": 96, "num_heads": 4, "mlp_dim": 128},
    "swin_unetr": {"feature_size": 12},
}
ON_CPU = Setting()
WAYS = product(("unet", "unetr", "swin_unetr"), ("tf32", "bf16"), ("", "default"))
ON_GPU = [Setting(*way, batch=4) for way in WAYS]
ON_GPU.insert(2, Setting("unet", "tf32", "reduce-overhead", batch=4))
EAGER = [setting for setting in ON_GPU if setting.precision == "tf32" and not setting.compiled]


class Bench:
    """A network, a batch and the two actions that are measured in turns."""

    def __init__(self, setting: Setting, fast: bool) -> None:
        keep_freed_memory()  # as `run` does, for both that are compared
        roi = triple([64 if setting.arch == "swin_unetr" else 32] * 3) if fast else ROI
        self.device = torch.device("cuda" if torch.cuda.is_available() and setting != ON_CPU else "cpu")
        self.name = f"{setting}, {self.device.type}{', small network' if fast else ''}"
        self.fast = fast
        net = build(setting.arch, 14, roi, FAST[setting.arch] if fast else {})
        model = SegmentationModel(net, roi, setting.precision, bool(setting.compiled))
        if setting.compiled:
            net.compile(mode=setting.compiled)
        self.model = model.to(self.device).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        batch = 1 if fast else setting.batch
        self.images = torch.rand(batch, 1, *roi, generator=generator).to(self.device)
        self.labels = torch.randint(0, 14, self.images.shape, generator=generator).to(self.device)
        self.upstream = torch.randn(batch, 14, *roi, generator=generator).to(self.device)

    def bare(self, steps: int) -> None:
        for _ in range(steps):
            x = self.images.clone().requires_grad_()
            torch.autograd.grad(self.model(x), x, self.upstream)

    def attack(self, attack: Attack) -> None:
        if attack.needs_learned:  # to learn is what takes steps
            attack.learn(self.model, list(zip(self.images, self.labels, strict=True)), self.model.roi)
            return
        given = attack.supplied(reference=lambda: self.images.flip(2), surrogates=lambda: [self.model])
        attack(self.model, self.images, self.labels, **given)

    def compare(self, attack: Attack, steps: int, rounds: int) -> tuple[float, float, float]:
        """Seconds of a bare step and of the attack's, and the median of their ratios."""
        self.bare(steps), self.attack(attack)
        turns = (lambda: self.bare(steps), lambda: self.attack(attack))
        pairs = [tuple(map(self.seconds, turns)) for _ in range(rounds)]
        bare, own = (statistics.median(column) / steps for column in zip(*pairs, strict=True))
        return bare, own, statistics.median(b / a for a, b in pairs)

    def seconds(self, action: Callable[[], object]) -> float:
        self.wait()
        started = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self, action: Callable[[], object]) -> float | None:
        """GiB of a GPU that were held at once while an action ran; None on a CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() / GIB


@lru_cache(maxsize=1)  # a network at a time, as tests are in the order of their settings
def bench(setting: Setting, fast: bool) -> Bench:
    return Bench(setting, fast)


@pytest.fixture
def at(setting: Setting, fast: bool) -> Bench:
    """Bench to measure on; the settings of a GPU on the CPU too where they are small."""
    if setting != ON_CPU and not (fast or torch.cuda.is_available()):
        pytest.skip("no GPU here")
    if setting.compiled and fast and setting.arch != "unet":
        pytest.skip("compiling takes minutes on a CPU: the UNet is enough to see that it works")
    return bench(setting, fast)


def few_steps(name: str, **parameters: Any) -> Attack:
    """An attack of STEPS steps, where it takes any."""
    knob = next((knob for knob in ("steps", "queries") if takes(name, knob)), None)
    return make(name, **({knob: STEPS} if knob else {}), **parameters)


def row(at: Bench, attack: Attack, steps: int, rounds: int, bound: float | None) -> dict[str, Any]:
    bare, own, ratio = at.compare(attack, steps, 1 if at.fast else rounds)
    block, spectra = (getattr(attack, field, None) for field in ("block", "num_spectra"))
    return {
        "attack": attack.name,
        "block": block,
        "spectra": spectra,
        "model": at.name,
        "bare step, s": bare,
        "attack step, s": own,
        "ratio": ratio,
        "bound": bound,
        "rounds": rounds,
        "bare peak, GiB": at.peak(lambda: at.bare(steps)),
        "attack peak, GiB": at.peak(lambda: at.attack(attack)),
    }


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "parameters", "bounds"), BOUNDS)
@pytest.mark.parametrize("setting", [ON_CPU, *ON_GPU], ids=str)
def test_a_step_costs_hardly_more_than_the_bare_step(
    at: Bench, setting: Setting, name: str, parameters: dict[str, Any], bounds: tuple[float, float], measured: list[Any]
) -> None:
    """Bounds are held in float32 on a CPU and by eager networks with TF32 on a GPU; of faster ones it is recorded."""
    bound = bounds[setting != ON_CPU] if setting in (ON_CPU, *EAGER) and not at.fast else None
    measured.append(row(at, few_steps(name, **parameters), STEPS, ROUNDS if setting == ON_CPU else ROUNDS // 5, bound))
    assert bound is None or measured[-1]["ratio"] <= bound


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.parametrize("setting", [ON_CPU, *EAGER], ids=str)
def test_a_step_of_other_attacks_is_measured_without_a_bound(at: Bench, name: str, measured: list[Any]) -> None:
    """An attack without steps counts as one step."""
    attack = few_steps(name, **OTHERS.get(name, EPS if takes(name, "eps") else {}))
    measured.append(row(at, attack, STEPS if takes(name, "steps") or takes(name, "queries") else 1, ROUNDS // 3, None))


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["pgd", "vafa_opt", "sa2_opt"])
def test_pass_of_joint_windows_costs_hardly_more(name: str, measured: list[Any]) -> None:
    """A phantom's volume, all graphs kept: seconds per forward or backward pass, in turns."""
    model = fb.load_model("zoo://phantom/unet").network
    case = fb.load_dataset("phantom", split="test", cases=1)[0].volume
    keep = {"keep": "last"} if takes(name, "keep") and name != "pgd" else {}

    def seconds(scope: str) -> float:
        attack = make(name, steps=5, scope=scope, **(EPS if takes(name, "eps") else {}), **keep)
        started = time.perf_counter()
        facts = attack_case(attack, model, case, 0, 1, kept=99).facts
        return (time.perf_counter() - started) / (facts.num_forwards + facts.num_backwards)

    pairs = [(seconds("window"), seconds("joint")) for _ in range(ROUNDS // 3 + 1)][1:]
    ratio = statistics.median(joint / alone for alone, joint in pairs)
    measured.append({"attack": name, "model": "joint / window by window, a pass", "ratio": ratio, "bound": 1.2})
    assert ratio <= 1.2


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["vafa", "vafa_opt", "sa2", "sa2_opt"])
def test_a_step_takes_hardly_more_memory_than_the_bare_step(name: str) -> None:
    """Peak memory of two processes, one that takes bare steps and one that attacks."""
    peaks = [
        int(subprocess.run([sys.executable, __file__, what], capture_output=True, text=True, check=True).stdout)
        for what in ("bare", name)
    ]
    bare, own = (peak / GIB for peak in peaks)
    print(f"\n{name}: bare step {bare:.2f} GiB, attack {own:.2f} GiB")
    assert own - bare <= 0.6


def peak_bytes(what: str) -> int:
    """The most memory that this process held, after the bare steps or after an attack with blocks of 8."""
    if what == "bare":
        bench(ON_CPU, fast=False).bare(STEPS)
    else:
        bench(ON_CPU, fast=False).attack(make(what, steps=STEPS, block=8))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(peak_bytes(sys.argv[1]))
