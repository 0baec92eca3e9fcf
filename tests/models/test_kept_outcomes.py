"""A network that passed its checks is not made again on this machine; any other is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_job import ARGS, ROI

from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, ModelSpec, build, resolve, save_checkpoint, step_bytes
from freqbench.models.networks import construction
from freqbench.models.sources import source_of
from freqbench.models.sources.source import cost_of

ENTRY: dict[str, Any] = {"name": "a", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built = []
    real = construction.build

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
    assert (made, again.args, again.flops, again.model_id) == (["unet"], first.args, first.flops, first.model_id)
    assert again.name == "b"


def test_memory_of_a_network_is_kept_with_its_outcome(made: list[str]) -> None:
    """A run asks for it before its workers start: importing networks would take seconds."""
    resolved()
    again = resolved()
    known = step_bytes(again)
    assert made == ["unet"]
    assert (again.flops, known) == cost_of(again, source_of(again.arch).outline_of(again))


def test_checkpoint_is_checked_again_when_its_content_is_another(tmp_path: Path, made: list[str]) -> None:
    path = saved(tmp_path / "net.safetensors", seed=0)
    made.clear()
    first = resolved(checkpoint=path, arch=None, args={}, roi=None)
    assert (resolved(checkpoint=path, arch=None, args={}, roi=None), len(made)) == (first, 1)
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
