"""A network that passed its checks is not made again on this machine; any other is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_job import ARGS, ROI

from freqbench.core.errors import UserError
from freqbench.core.files import node_cache
from freqbench.models import ModelEntry, ModelSpec, build, resolve, save_checkpoint, step_bytes
from freqbench.models.networks import construction
from freqbench.models.sources import source_of
from freqbench.models.sources.source import cost_of

ENTRY: dict[str, Any] = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1")
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks that were made."""
    built, real = [], construction.build

    def build(arch: str, *arguments: Any) -> Any:
        built.append(arch)
        return real(arch, *arguments)

    monkeypatch.setattr(construction, "build", build)
    return built


def resolved(num_classes: int = 3, **changes: Any) -> ModelSpec:
    return resolve(ModelEntry(**{**ENTRY, **changes}), num_classes)


def saved(path: Path, seed: int) -> str:
    args = {**ARGS, "num_res_units": 1}
    weights = build("unet", 3, (16, 16, 16), args, seed).state_dict()
    save_checkpoint(path, weights, {"arch": "unet", "args": args, "roi": ROI}, half=False)
    return str(path)


def test_the_same_network_is_made_once_and_resolves_to_the_same(made: list[str]) -> None:
    first = resolved()
    assert made == ["unet"]
    again = resolved(name="b")
    assert made == ["unet"]
    assert (again.args, again.flops, again.model_id) == (first.args, first.flops, first.model_id)
    assert again.name == "b"


def test_memory_of_a_network_is_kept_with_its_outcome(made: list[str]) -> None:
    """A run asks for it before its workers start: importing networks would take seconds."""
    resolved()
    again = resolved()
    known = step_bytes(again)
    assert made == ["unet"]
    assert (again.flops, known) == cost_of(again, source_of(again.arch).outline_of(again))


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {**ARGS, "num_res_units": 1}},
        {"roi": [32, 16, 16]},
        {"num_classes": 4},
        {"checkpoint": "random:1"},
        {"input": {"axes": "DHW"}},
    ],
    ids=str,
)
def test_any_other_network_is_made(made: list[str], changes: dict[str, Any]) -> None:
    resolved()
    resolved(**changes)
    assert len(made) == 2


def test_checkpoint_is_checked_again_when_its_content_is_another(tmp_path: Path, made: list[str]) -> None:
    path = saved(tmp_path / "net.safetensors", seed=0)
    made.clear()
    first = resolved(checkpoint=path, arch=None, args={}, roi=None)
    assert resolved(checkpoint=path, arch=None, args={}, roi=None) == first
    assert len(made) == 1
    saved(tmp_path / "net.safetensors", seed=1)
    made.clear()
    assert resolved(checkpoint=path, arch=None, args={}, roi=None).model_id != first.model_id
    assert len(made) == 1


def test_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pt")
    for _ in range(2):
        with pytest.raises(UserError, match="does not fit"):
            resolved(checkpoint=str(tmp_path / "net.pt"))
        with pytest.raises(UserError, match="unknown argument 'chanels'"):
            resolved(args={"chanels": [4, 8]})


@pytest.mark.parametrize("content", [b"", b"[]", b'{"args": {}, "migration": null, "flops": -1}'])
def test_unreadable_outcomes_are_made_anew(cache: Path, made: list[str], content: bytes) -> None:
    first = resolved()
    (kept,) = (cache / "networks").glob("*.json")
    kept.write_bytes(content)
    assert resolved() == first
    assert len(made) == 2


def test_nothing_is_kept_without_a_cache(cache: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    resolved()
    assert node_cache.clear("networks") > 0
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "0")
    resolved()
    assert len(made) == 2
    assert not list(cache.glob("networks/*"))
