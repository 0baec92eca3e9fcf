"""Preprocessed volumes on disk: the same case, by content, whole, within a bound."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.cases import case_of

from freqbench.core.errors import DataError
from freqbench.core.files import kept as kept_module
from freqbench.core.files import node_cache
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Case, CaseRef, NativeCase
from freqbench.data import cache, image_files
from freqbench.data.headers import Header
from freqbench.data.loaders.decathlon import Decathlon

from .conftest import Folder
from .downloads import LPS, TURN, volume


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FREQBENCH_CACHE_GB")
    return tmp_path / "cache" / "volumes"


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes reading voxels fail the test from its call on."""
    return lambda: monkeypatch.setattr(image_files, "read_image", lambda header: pytest.fail("voxels were read"))


def the_same(first: Case, second: Case) -> bool:
    def bits(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return type(value), value.dtype, value.shape, value.stride(), value.numpy().tobytes()
        return (value.dtype, value.tobytes()) if isinstance(value, np.ndarray) else value

    return all(bits(getattr(first, f.name)) == bits(getattr(second, f.name)) for f in fields(Case))


def load(dataset: Decathlon, number: int = 0) -> Case:
    return dataset.load(dataset.refs()[number])


def test_kept_case_is_the_case(folder: Folder, no_reading: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = volume()
    folder.write("a", np.stack([image, 7 - image], axis=-1), label, TURN @ LPS)
    dataset = folder.dataset(cases=("a",), spacing=(0.9, 1.3, 1.7))
    with monkeypatch.context() as patch:
        patch.setenv("FREQBENCH_CACHE_GB", "0")
        plain = load(dataset)
    made = load(dataset)
    no_reading()
    assert the_same(plain, made)
    assert the_same(plain, load(dataset))


def test_a_case_is_found_from_another_place_under_another_name(folder: Folder, no_reading: Callable[[], None]) -> None:
    first = load(folder.dataset())
    for place in ("imagesTr", "labelsTr"):
        (folder.root / place / "a.nii.gz").rename(folder.root / place / "z.nii.gz")
    folder.list(validation=[{"image": "imagesTr/z.nii.gz", "label": "labelsTr/z.nii.gz", "patient": "p"}])
    no_reading()
    second = load(folder.dataset(name="other"))
    assert (second.ref.case_id, second.ref.patient_id) == ("z", "p")
    assert the_same(first, replace(second, ref=first.ref))


def test_a_models_own_space_is_kept_apart(folder: Folder) -> None:
    dataset = folder.dataset()
    (ref, *_) = dataset.refs()
    space = Preprocess(intensity="minmax", crop_foreground=False)
    for _ in range(2):
        assert dataset.load(ref).native_ranges != dataset.load(ref, space).native_ranges
        assert dataset.load(ref, space).image.shape == (1, *ref.shape)
    assert the_same(folder.dataset(intensity="minmax", crop_foreground=False).load(ref), dataset.load(ref, space))


class Darker(Decathlon):
    """Somebody's dataset that reads the same files in another way."""

    def native(self, ref: CaseRef) -> NativeCase:
        native = super().native(ref)
        return replace(native, image=native.image / 2)


def test_other_releases_and_classes_are_apart(folder: Folder, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"name": "x", "root": str(folder.root), "split": "validation"}
    bright = load(Decathlon(**arguments))
    dark = load(Darker(**arguments))
    assert dark.native_ranges[0][1] == pytest.approx(bright.native_ranges[0][1] / 2)
    monkeypatch.setattr(kept_module, "OUTSIDE", {**kept_module.OUTSIDE, "libraries": lambda: "9.9"})
    load(Decathlon(**arguments))
    assert len(list(kept.iterdir())) == 3


def test_content_that_changed_after_planning_is_refused(folder: Folder) -> None:
    dataset = folder.dataset()
    (ref, *_) = dataset.refs()
    dataset.load(ref)
    folder.put("labelsTr/a.nii.gz", volume(9)[1][::-1])
    with pytest.raises(DataError, match="expected the content that was planned, got another: plan the job again"):
        dataset.load(ref)
    (folder.root / "labelsTr/a.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr/a\.nii\.gz: expected a file of case a, found no file"):
        dataset.load(ref)


def test_a_limit_of_zero_turns_the_cache_off(folder: Folder, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder.dataset())
    (path,) = kept.iterdir()
    path.write_bytes(b"")
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "0")
    for number in range(2):
        load(folder.dataset(), number)
    assert (list(kept.iterdir()), path.read_bytes()) == ([path], b"")


def test_dead_writers_files_are_swept_and_clear_empties(folder: Folder, kept: Path) -> None:
    """Only old half-written files go, as another process may be writing; `clear` says how much it removed."""
    assert node_cache.clear("volumes") == node_cache.size("volumes") == 0
    kept.mkdir(parents=True)
    for name, age in {".freqbench-dead.tmp": 4000, ".freqbench-alive.tmp": 0}.items():
        (kept / name).write_bytes(b"half")
        os.utime(kept / name, (time.time() - age, time.time() - age))
    for number in range(2):
        load(folder.dataset(), number)
    assert not (kept / ".freqbench-dead.tmp").exists()
    assert (kept / ".freqbench-alive.tmp").exists()
    assert len(node_cache.entries("volumes")) == 2
    taken = node_cache.size("volumes")
    assert taken == sum(path.stat().st_size for path in kept.glob("*.safetensors")) > 0
    assert (node_cache.clear("volumes"), list(kept.iterdir())) == (taken + 4, [])


ROUNDS = 16
VOLUMES = 4
PROCESSES = 3


def numbered(number: int) -> Case:
    """A volume of 1.3 MB that holds its number throughout."""
    return case_of(torch.full((1, 64, 64, 64), float(number)), torch.full((1, 64, 64, 64), number), "0" * 16)


def take_part(process: int) -> tuple[int, list[str]]:
    """Fill, read and now and then clear the cache; how many volumes were read, and what was warned of."""
    warned: list[str] = []
    made: list[int] = []
    kept_module.logger.addFilter(lambda record: warned.append(record.getMessage()))  # type: ignore[arg-type]

    def make() -> Case:
        made.append(number)
        return numbered(number)

    for step in range(ROUNDS):
        number = (step // 2 + process) % VOLUMES
        assert the_same(cache.cached_case(numbered(number).ref, make, case=number, space=None), numbered(number))
        assert node_cache.size("volumes") >= 0
        if step % 10 == process:
            node_cache.clear("volumes")
    return ROUNDS - len(made), warned


def test_processes_sharing_one_cache_get_whole_volumes(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache holds three of four volumes; what one process clears, another that writes it just now cannot keep."""
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "0.004")
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("fork")) as pool:
        parts = list(pool.map(take_part, range(PROCESSES)))
    warned = [text for _, texts in parts for text in texts]
    assert all("could not be kept: [Errno 2]" in text for text in warned)
    assert sum(read for read, _ in parts) > 0
    assert 0 < node_cache.size("volumes") <= node_cache.limit()
    assert not list(kept.glob("*.tmp"))


def test_label_map_replaced_in_place_is_read_anew(folder: Folder) -> None:
    path = folder.root / "labelsTr/a.nii"
    labels = [volume()[1], volume()[1][::-1].copy()]
    folder.list(validation=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii"}])
    dataset = folder.dataset(crop_foreground=False)
    seen = list[Case]()
    for label in labels:
        folder.put("labelsTr/a.nii", label)
        os.utime(path, (1e9, 1e9))
        seen.append(load(dataset))
    assert torch.equal(seen[1].label, seen[0].label.flip(1))


def test_voxels_changed_while_read_are_not_kept(folder: Folder, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = folder.dataset()
    read = image_files.read_image
    (ref, *_) = dataset.refs()
    other = (folder.root / "imagesTr/b.nii.gz").read_bytes()

    def read_other(header: Header) -> npt.NDArray[np.float32]:
        (folder.root / "imagesTr/a.nii.gz").write_bytes(other)
        return read(header)

    monkeypatch.setattr(image_files, "read_image", read_other)
    with pytest.raises(DataError, match="expected the content that was planned"):
        dataset.load(ref)
    assert not kept.exists() or list(kept.iterdir()) == []
