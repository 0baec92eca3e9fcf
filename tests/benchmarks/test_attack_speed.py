"""What a step of every attack costs beside the bare model's, in time and memory.

`pytest -m benchmark -s tests/benchmarks/test_attack_speed.py --json speed.json`: a table, and the same as JSON.

The bare step is one forward pass and one backward pass to the input, a fixed gradient being sent back from the logits.
Both are measured in the same run, in turns, on the papers' networks (14 classes, 96^3), no parameter gradients: on the
CPU the UNet at batch 1; where there is a GPU, UNet and UNETR at batch 4 with TF32 inside the network.
"""

import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import torch

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.models import SegmentationModel, build

ROUNDS = 15
STEPS = 2
SPECTRA = 4
ROI = (96, 96, 96)
GIB = 2**30
EPS = {"eps": 8 / 255}

# Settings of an attack, and how many bare steps one of its steps may take: CPU, GPU with UNet, GPU with UNETR.
BOUNDS: list[tuple[str, dict[str, Any], tuple[float, float, float]]] = [
    ("pgd", EPS, (1.10, 1.10, 1.05)),
    ("bim", EPS, (1.10, 1.10, 1.05)),
    # Its Dice alone takes 0.07 of a step; the best volume costs a forward pass more at the end.
    ("apgd", {**EPS, "keep": "last"}, (1.15, 1.10, 1.05)),
    *((("vafa", {"block": block}, (1.15, 1.20, 1.10))) for block in (32, 8)),
    *((("sa2", {"block": block}, (1.15, 1.20, 1.10))) for block in (16, 8)),
    # Without the forward pass that the best volume costs at the end, as apgd.
    *((("vafa_opt", {"block": block, "keep": "last"}, (1.15, 1.20, 1.10))) for block in (32, 8)),
    *((("sa2_opt", {"block": block, "keep": "last"}, (1.15, 1.20, 1.10))) for block in (16, 8)),
    # Two Fourier transforms of the window, in complex numbers, each way.
    ("kspace", {"eps_k": 0.1, "keep": "last"}, (1.30, 1.30, 1.20)),
    ("bias_field", {"log_amplitude": 0.2, "keep": "last"}, (1.30, 1.20, 1.10)),
    ("intensity_curve", {"deviation": 0.1, "keep": "last"}, (1.30, 1.20, 1.10)),
    ("segpgd", EPS, (1.12, 1.12, 1.06)),
    ("cospgd", EPS, (1.12, 1.12, 1.06)),
    ("ssa", {**EPS, "num_spectra": SPECTRA}, (1.15 * SPECTRA, 1.20 * SPECTRA, 1.20 * SPECTRA)),
]
OTHERS: dict[str, dict[str, Any]] = {
    "gn": {"std": 8 / 255},
    "random_noise": {"linf": 8 / 255},
    "sinogram": {"eps_p": 0.02, "keep": "last"},
    "dfb": {"band": "low"},
    "corruption": {"kind": "motion", "severity": 3},
    "dfb_2d": {"band": "low"},
    "ssa_2d": {**EPS, "num_spectra": SPECTRA},
}
BOUNDED = {name for name, _, _ in BOUNDS}
# Ensembles take the steps of their members.
UNBOUNDED = [name for name, attack in ATTACKS.items() if name not in BOUNDED and not issubclass(attack, Ensemble)]
DEVICES = ["cpu", *(["unet", "unetr"] if torch.cuda.is_available() else [])]


class Bench:
    """A network, a batch and the two actions that are measured in turns."""

    def __init__(self, arch: str = "unet", batch: int = 1, device: str = "cpu", precision: str = "fp32") -> None:
        net = build(arch, 14, ROI, {})
        self.name = f"{arch}, batch {batch}, {precision}, {device}"
        self.model = SegmentationModel(net, ROI, precision).to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(batch, 1, *ROI, generator=generator).to(device)
        self.labels = torch.randint(0, 14, self.images.shape, generator=generator).to(device)
        self.upstream = torch.randn(batch, 14, *ROI, generator=generator).to(device)

    def bare(self, steps: int) -> None:
        for _ in range(steps):
            x = self.images.clone().requires_grad_()
            torch.autograd.grad(self.model(x), x, self.upstream)

    def attack(self, attack: Attack) -> None:
        reference = self.images.flip(2) if attack.needs_reference else None
        attack(self.model, self.images, self.labels, reference=reference)

    def compare(self, attack: Attack, steps: int, rounds: int) -> tuple[float, float, float]:
        """Seconds of a bare step and of the attack's, and the median of their ratios."""
        self.bare(steps), self.attack(attack)
        pairs = [
            (self.seconds(lambda: self.bare(steps)), self.seconds(lambda: self.attack(attack))) for _ in range(rounds)
        ]
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


@cache
def bench(where: str) -> Bench:
    return Bench() if where == "cpu" else Bench(where, batch=4, device="cuda", precision="tf32")


def takes(name: str, parameter: str) -> bool:
    return parameter in {field.name for field in fields(ATTACKS[name])}


def few_steps(name: str, **parameters: Any) -> Attack:
    """An attack of STEPS steps, where it takes any."""
    knob = next((knob for knob in ("steps", "queries") if takes(name, knob)), None)
    return make(name, **({knob: STEPS} if knob else {}), **parameters)


def row(where: str, attack: Attack, steps: int, rounds: int, bound: float | None) -> dict[str, Any]:
    bare, own, ratio = bench(where).compare(attack, steps, rounds)
    block, spectra = (getattr(attack, field, None) for field in ("block", "num_spectra"))
    return {
        "attack": attack.name,
        "block": block,
        "spectra": spectra,
        "model": bench(where).name,
        "bare step, s": bare,
        "attack step, s": own,
        "ratio": ratio,
        "bound": bound,
        "rounds": rounds,
    }


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize(("name", "parameters", "bounds"), BOUNDS)
def test_a_step_costs_hardly_more_than_the_bare_step(
    where: str, name: str, parameters: dict[str, Any], bounds: tuple[float, float, float], measured: list[Any]
) -> None:
    bound = bounds[("cpu", "unet", "unetr").index(where)]
    measured.append(row(where, few_steps(name, **parameters), STEPS, ROUNDS, bound))
    assert measured[-1]["ratio"] <= bound


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_a_step_of_the_others_costs(where: str, name: str, measured: list[Any]) -> None:
    """No bound is set. An attack without steps is one."""
    attack = few_steps(name, **OTHERS.get(name, EPS if takes(name, "eps") else {}))
    measured.append(row(where, attack, STEPS if takes(name, "steps") or name == "square" else 1, ROUNDS // 3, None))


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("name", "parameters"), [(name, parameters) for name, parameters, _ in BOUNDS])
def test_no_step_waits_for_the_device(name: str, parameters: dict[str, Any]) -> None:
    """Longer attacks make the host wait no more often: what it waits for is before and after the steps."""

    def waits(steps: int) -> int:
        attack = make(name, steps=steps, **parameters)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                bench("unet").attack(attack)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    waits(2)
    assert waits(6) == waits(2)


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
        bench("cpu").bare(STEPS)
    else:
        bench("cpu").attack(make(what, steps=STEPS, block=8))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(peak_bytes(sys.argv[1]))
