"""Fixtures that the engine's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_job import noted


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without LPIPS's weights and without a network."""
    from freqbench.metrics import weights

    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights.trunk.cache_clear()


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from freqbench.engine import attacking

    return noted(
        monkeypatch, attacking, "attack_case", lambda attack, model, case, *_: f"{attack.name} {case.ref.case_id}"
    )
