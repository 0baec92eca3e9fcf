"""Windows at once: what is computed from measured bytes, what a measured step is, and what follows running out."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attacks.examples import EXAMPLES
from engine.cases import network_of, units_of
from tiny_job import noted, small

from freqbench.attacks import ATTACKS, make
from freqbench.core.errors import UserError
from freqbench.core.types import Case
from freqbench.engine import attacking, memory
from freqbench.engine.memory import MOST_WINDOWS, available_bytes, first_step, fit_memory, windows_within
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.cells import Unit
from freqbench.models import SegmentationModel

GIB = 1 << 30


@pytest.mark.parametrize(
    ("available", "one_window", "windows"),
    [
        (100 * GIB, 8 * GIB, 10),
        (9 * GIB, 8 * GIB, 1),
        (0, 8 * GIB, 1),
        (20 * GIB, 8 * GIB, 2),
        (139 * GIB, 0, MOST_WINDOWS),
    ],
)
def test_four_fifths_of_what_is_free_are_filled(available: int, one_window: int, windows: int) -> None:
    assert windows_within(available, one_window) == windows


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "share", "available"),
    [
        (80, 0, 0, 1.0, 80),  # nothing is here yet
        (70, 10, 4, 1.0, 76),  # what the process keeps for further tensors is free too
        (30, 10, 4, 1.0, 36),  # another process has the rest
        (70, 10, 4, 0.5, 36),  # a share is less than what is free
        (10, 10, 4, 0.5, 16),  # more is taken than the share leaves
        (70, 50, 45, 0.5, 0),  # the share is used up
    ],
)
def test_more_tensors_fewer_windows(free: int, reserved: int, allocated: int, share: float, available: int) -> None:
    assert available_bytes(free, 80, reserved, allocated, share) == available


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=str,
)
def test_running_out_in_whatever_words_halves_the_windows(error: RuntimeError) -> None:
    tried: list[int] = []

    def action(windows: int) -> str:
        tried.append(windows)
        if windows > 3:
            raise error
        return "done"

    assert fit_memory(action, 13) == ("done", 3)
    assert tried == [13, 6, 3]


def test_other_errors_and_a_single_window_are_not_tried_again() -> None:
    tried: list[int] = []

    def action(windows: int) -> None:
        tried.append(windows)
        raise RuntimeError("out of memory" if windows == 1 else "shapes do not fit")

    for windows in (8, 1):
        with pytest.raises(RuntimeError):
            fit_memory(action, windows)
    message = r"^expected memory for one window at once, got too little: set scope: window \(its volumes will differ\)$"
    with pytest.raises(UserError, match=message):
        fit_memory(action, 1, "set scope: window (its volumes will differ)")
    assert tried == [8, 1, 1]


def unit_of(**changes: Any) -> Unit:
    return units_of(small(**changes))[0]


@pytest.fixture
def passes() -> Iterator[list[tuple[int, bool]]]:
    """Windows of each forward pass, and whether it kept a graph."""
    seen: list[tuple[int, bool]] = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            seen.append((len(output), output.requires_grad)) if isinstance(module, SegmentationModel) else None
        )
    )
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def model_and_case() -> tuple[SegmentationModel, Case]:
    unit = unit_of()
    return network_of(unit.cell.source), unit.cell.dataset.load(unit.ref)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_measured_step_is_one_with_a_gradient_on_one_window(
    name: str, passes: list[tuple[int, bool]], model_and_case: tuple[SegmentationModel, Case]
) -> None:
    """Each surrogate counts too."""
    attack = make(name, **EXAMPLES[name])
    surrogates = [model_and_case[0]] if attack.needs_surrogates else []
    first_step(attack, *model_and_case, surrogates)
    assert all(windows == 1 for windows, _ in passes)
    backwards = attack.learning_passes[1] + attack.passes[1] + len(surrogates)
    assert [keeps for _, keeps in passes].count(True) == min(1, backwards)
    assert len(passes) <= 3 + attack.num_corners
    assert not model_and_case[0].training


def test_cpu_measures_nothing(passes: list[tuple[int, bool]], model_and_case: tuple[SegmentationModel, Case]) -> None:
    """The least likely classes are asked for first."""
    attack = make("pgd", eps=0.1, target="least-likely", scope="volume")
    assert (memory.fitting_windows(attack, *model_and_case, 1.0), passes) == (1, [])
    first_step(attack, *model_and_case)
    assert passes == [(1, False), (1, True)]


def test_each_model_and_kind_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def fit(attack: Any, model: SegmentationModel, case: Case, share: float, surrogates: Any) -> int:
        measured.append((attack.name, share))
        return 3 if attack.name == "fgsm" else 2

    monkeypatch.setattr(memory, "fitting_windows", fit)
    taken = noted(monkeypatch, attacking, "attack_case", lambda *given: given[4])
    attacks = [
        {"name": "fgsm", "eps": [0.1, 0.2]},
        {"name": "bim", "eps": 0.1, "steps": 1},
        {"name": "fgsm", "eps": 0.3},
    ]
    units = units_of(small(attacks=attacks))
    worker = Worker(WorkerSpec(run_id="r", metrics=(), gpu_share=0.5))
    outcomes = [worker.run(unit)[0] for unit in units]
    assert measured == [("fgsm", 0.5), ("bim", 0.5)]
    assert taken == [outcome.records[0]["window_batch"] for outcome in outcomes] == [3, 3, 2, 3]
    outcome, _ = Worker(WorkerSpec(run_id="r", metrics=(), window_batch=5)).run(units[0])
    assert outcome.records[0]["window_batch"] == 5
    assert len(measured) == 2, "a number in the job is not measured"


def test_running_out_halves_windows_of_volume_attacked_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is that of a run which began with as many windows as fit."""
    real = SegmentationModel.forward

    def narrow(self: SegmentationModel, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(images) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, images, *rest)

    monkeypatch.setattr(SegmentationModel, "forward", narrow)
    attack = {"name": "autoattack", "eps": 0.1, "steps": 2, "members": [["apgd-dice"]]}
    rows = {}
    for windows in (4, 2):
        outcome, _ = Worker(WorkerSpec(run_id="r", metrics=("dsc",), window_batch=windows)).run(
            unit_of(attacks=[attack])
        )
        assert not outcome.failed
        rows[windows] = outcome.records[0]
    assert rows[4]["window_batch"] == rows[2]["window_batch"] == 2
    assert rows[4]["dsc"] == rows[2]["dsc"]
