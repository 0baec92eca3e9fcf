"""Cost of a step of VAFT beside the bare model's steps, of a union beside plain training's, and waits for crops.

The bound, measured in the same run and in turns: T passes forward and back to the input, as the attack makes, and two
full steps, forward and back to the weights with Dice + cross-entropy, as the clean and the attacked crop take. The
papers' UNet (14 classes, 96^3): on the CPU at batch 1 in float32, where there is a GPU at batch 4 in bf16. `--fast`:
one round on windows of 32^3, to see that it runs; no bound is held.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from draws import seeded

from freqbench.core.config import validate
from freqbench.core.types import Shape
from freqbench.ops.dct import frequency_consistency
from freqbench.ops.losses import dice_ce
from freqbench.training import TrainJob
from freqbench.training.crops import CropSampler, load_batches
from freqbench.training.loop import ALONE, Trainer
from freqbench.training.plan import job_lists, prepare

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

STEPS = 5
CLASSES = 14
ON_GPU = torch.cuda.is_available()
BATCH, ROUNDS = (4, 15) if ON_GPU else (1, 3)
ATTACK = {"name": "vafa", "q_max": 20, "steps": STEPS, "block": 32}
UNION = [ATTACK, {"name": "sa2", "rho": 0.4, "steps": STEPS, "block": 32, "ssim_weight": 0}]


@pytest.fixture
def roi(fast: bool) -> Shape:
    return (32, 32, 32) if fast else (96, 96, 96)


def trainer(folder: Path, roi: Shape, **recipe: Any) -> Trainer:
    """The papers' UNet on a dataset of as many classes, whose cases are not read; VAFT unless the recipe differs."""
    adversary = {} if "union" in recipe else {"attack": ATTACK}
    usual = {"name": "net", "arch": "unet", "roi": roi, "start": "scratch", "objective": "vaft", **adversary}
    job = validate(
        {
            "name": "speed",
            "dataset": {"name": "phantom", "loader": "stand_in", "classes": [f"c{i}" for i in range(CLASSES)]},
            "splits": {"train": "train", "select": "validation", "test": "test"},
            "models": [{**usual, **recipe}],
            "batch_size": BATCH,
        },
        TrainJob,
        "speed",
    )
    [training] = prepare(job, str(folder)).trainings
    return Trainer(training, str(folder), ALONE)


def seconds(action: Callable[[], object]) -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def test_a_step_of_vaft(tmp_path: Path, fast: bool, roi: Shape, measured: list[dict[str, Any]]) -> None:
    generator = seeded(0)
    images = torch.rand(BATCH, 1, *roi, generator=generator)
    labels = torch.randint(0, CLASSES, images.shape, generator=generator)
    bare = trainer(tmp_path / "a", roi)
    whole = trainer(tmp_path / "b", roi, frequency_consistency={"weight": 1})
    net = bare.state.net
    on_device = [volumes.to(ALONE.device) for volumes in (images, labels)]

    def pass_to_input() -> None:
        x = on_device[0].clone().requires_grad_()
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        with torch.autocast(ALONE.device.type, dtype=torch.bfloat16, enabled=ON_GPU):
            logits = net(x)
        torch.autograd.grad(logits.float().sum(), x)
        for parameter in net.parameters():
            parameter.requires_grad_(True)

    def full_step() -> None:
        bare.state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(ALONE.device.type, dtype=torch.bfloat16, enabled=ON_GPU):
            logits = net(on_device[0])
        torch.autograd.backward(dice_ce(logits.float(), on_device[1]).mean())
        bare.state.optimizer.step()

    def bound() -> None:
        for _ in range(STEPS):
            pass_to_input()
        full_step()
        full_step()

    maps = [torch.randn(BATCH, CLASSES, *roi, device=ALONE.device, requires_grad=True) for _ in range(2)]

    def consistency() -> None:
        torch.autograd.grad(frequency_consistency(*maps, "released", None), maps)

    for action in (bound, consistency, lambda: whole.step(iter([(images, labels)]))):
        action()
    rounds = [
        (
            seconds(bound),
            seconds(full_step),
            seconds(consistency),
            seconds(lambda: whole.step(iter([(images, labels)]))),
        )
        for _ in range(1 if fast else ROUNDS)
    ]
    to_bound = statistics.median(vaft / least for least, _, _, vaft in rounds)
    to_full = statistics.median(vaft / ((STEPS + 2) * full) for _, full, _, vaft in rounds)
    share = statistics.median(term / vaft for _, _, term, vaft in rounds)
    measured.append({"what": "vaft step / (T input passes + 2 full steps)", "ratio": to_bound})
    measured.append({"what": "vaft step / (T + 2) full steps", "ratio": to_full})
    measured.append({"what": "share of the consistency in a step", "ratio": share})
    assert fast or to_full <= 1.2
    assert fast or share <= 0.05


def test_a_step_of_a_union(tmp_path: Path, fast: bool, roi: Shape, measured: list[dict[str, Any]]) -> None:
    """Two attacks of T steps; plain: the mean over a step on each alone. `random` makes T + 1 passes as they do."""
    generator = seeded(0)
    images = torch.rand(BATCH, 1, *roi, generator=generator)
    labels = torch.randint(0, CLASSES, images.shape, generator=generator)
    recipes = {f"plain{i}": {"attack": attack} for i, attack in enumerate(UNION)}
    recipes |= {mix: {"union": {"mix": mix, "attacks": UNION}} for mix in ("random", "worst", "average")}
    recipes["random, ema"] = {"ema": 0.99, **recipes["random"]}
    trainers = {name: trainer(tmp_path / name, roi, objective="at", **recipe) for name, recipe in recipes.items()}
    rounds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(2 if fast else 2 * ROUNDS + 1):
        for name, each in trainers.items():
            took = seconds(lambda each=each: each.step(iter([(images, labels)])))  # type: ignore[misc]
            if number:
                rounds[name].append(took)
    plain = statistics.mean(statistics.median(rounds[f"plain{i}"]) for i in range(2))
    ratios = {name: statistics.median(values) / plain for name, values in rounds.items() if "plain" not in name}
    for name, ratio in ratios.items():
        measured.append({"what": f"union step, {name} / plain adversarial step", "ratio": ratio})
    assert fast or ratios["random, ema"] <= 1.2


def test_crops_are_never_waited_for(roi: Shape, measured: list[dict[str, Any]]) -> None:
    """Crops of Synapse's size beside a step of half a second; the first wait comes once a training."""
    from freqbench.job.training import Augmentation

    job = validate(
        {
            "name": "speed",
            "dataset": {"name": "phantom", "shape": [224, 160, 140], "cases": 2},
            "splits": {"train": "train", "select": "validation", "test": "test"},
            "models": [{"name": "net", "arch": "unet"}],
        },
        TrainJob,
        "speed",
    )
    dataset = job_lists(job)["train"]
    sampler = CropSampler([dataset.load(ref) for ref in dataset.refs()], roi, Augmentation(), seed=0)
    batches = [range(4 * step, 4 * step + 4) for step in range(60)]
    waited = 0.0
    with load_batches(sampler, batches, loaders=1, pinned=ON_GPU) as crops:
        start = seconds(lambda: next(crops))
        began = time.perf_counter()
        for _ in batches[1:]:
            waited += seconds(lambda: next(crops))
            time.sleep(0.5)
        share = waited / (time.perf_counter() - began)
    measured.append({"what": "share of waiting for crops", "ratio": share})
    measured.append({"what": "seconds until the first ones", "ratio": start})
    assert share < 0.02
