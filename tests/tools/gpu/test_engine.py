"""Units of work on a device of its own: rows, memory, and how far rows may be from those of another kind of device."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from engine.cases import units_of
from tiny_job import ARGS, small
from torch import Tensor, nn

from freqbench import models
from freqbench.audit.reproduce import compare
from freqbench.engine import attacking, memory
from freqbench.engine.rows import add_surfaces
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit
from freqbench.models import SegmentationModel, Wanted, prediction, sliding_windows
from freqbench.models.defences.base import Defence
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.smoothing import Smoothing
from freqbench.testing import SmallNet

METRICS = ("dsc", "hd95", "ssim", "psnr")
ATTACKS: list[dict[str, Any]] = [
    {"name": "pgd", "eps": 0.1, "steps": 2},
    {"name": "pgd", "eps": 0.1, "steps": 2, "scope": "volume"},
    {"name": "vafa", "q_max": 20, "steps": 2, "block": 8},
    {"name": "faa", "portion": 0.3, "bands": 16, "steps": 2},
]
FIRST, *MORE = ATTACKS


def unit_of(attack: Mapping[str, Any], shape: Sequence[int] = (24, 20, 16), roi: int = 16) -> Unit:
    datasets = [{"name": "phantom", "shape": list(shape), "cases": 2}]
    net = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": [roi] * 3}
    return units_of(small(attacks=[dict(attack)], datasets=datasets, models=[net]))[0]


def rows(unit: Unit, device: torch.device) -> tuple[Any, Any]:
    """A unit's record and those of its classes, as a worker on the device makes them."""
    spec = WorkerSpec(run_id="r", metrics=METRICS, device=device.type, threads=1, window_batch=2)
    outcome = add_surfaces(unit, *Worker(spec).run(unit))
    assert not outcome.failed, outcome.records[0]["error"]
    return outcome.records[0], outcome.class_records[0]


@pytest.mark.parametrize("attack", [FIRST, *(pytest.param(each, marks=pytest.mark.integration) for each in MORE)])
def test_a_row_is_that_of_the_cpu_within_the_tolerances(attack: dict[str, Any], device: torch.device) -> None:
    """On the stand-in to the bit: nothing but the arithmetic of kernels may make a difference."""
    unit = unit_of(attack)
    differences = compare(*rows(unit, torch.device("cpu")), *rows(unit, device)).differences
    assert not [each for each in differences if not each.is_tolerated or device.type == "meta"]


@pytest.mark.gpu
def test_fitting_windows_fit_and_a_share_of_memory_holds_less(cuda: torch.device) -> None:
    unit = unit_of(FIRST)
    model = models.load(unit.cell.source, cuda)
    case = unit.cell.dataset.load(unit.ref)
    windows = memory.fitting_windows(unit.cell.attack, model, case, 1.0)
    assert windows > 1
    attacking.attack_case(unit.cell.attack, model, case, 0, windows)
    assert memory.fitting_windows(unit.cell.attack, model, case, 1e-6) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("roi", "windows", "mib"), [(16, 2048, 512), (64, None, 512)])
def test_running_out_leaves_a_row_that_is_ok(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch, roi: int, windows: int | None, mib: int
) -> None:
    """2048 windows at once take above 800 MiB, the volume's logits above 128; `auto` promises four times what is."""
    monkeypatch.setattr(memory, "HEADROOM", 4.0)
    share = mib * 2**20 / torch.cuda.get_device_properties(cuda).total_memory
    spec = WorkerSpec(run_id="r", metrics=(), device="cuda", window_batch=windows, gpu_share=share)
    outcome, _ = Worker(spec).run(unit_of(FIRST, (256, 256, 128), roi=roi))
    assert not outcome.failed, outcome.records[0]["error"]
    assert outcome.records[0]["window_batch"] < (windows or memory.MOST_WINDOWS)


ROI = (8, 8, 8)
SHAPE = (12, 8, 8)


@pytest.mark.parametrize(
    ("defence", "draws"),
    [
        (Smoothing(kind="voxels", sigma=0.4, samples=7), [3, 3, 1, 1]),  # the last is the median draw, once more
        (RandomizedSmoothing(sigma=0.4, selection_samples=4, samples=7), [3, 1, 3, 3, 1]),
    ],
)
def test_draws_fill_batch_and_are_those_of_cpu(defence: Defence, draws: list[int], device: torch.device) -> None:
    sizes: list[int] = []

    def sized(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    windows = len(sliding_windows(SHAPE, ROI))
    net = SmallNet().eval()
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))

    def predicted(where: torch.device) -> tuple[Tensor, object]:
        model = SegmentationModel(net.to(where), ROI, defence=defence)
        wanted = Wanted(judge=shares)
        made = prediction(model, image, 3 * windows + 1, wanted=wanted)
        return made.labels, made.draws

    expected, scores = predicted(torch.device("cpu"))
    net.register_forward_pre_hook(sized)
    labels, same = predicted(device)
    assert sizes == [windows * count for count in draws]
    assert torch.equal(labels, expected)
    assert same == scores


def shares(labels: Tensor) -> dict[str, float]:
    return {"share": float(labels.float().mean())}
