"""Lists, folders and headers are read as often for many cases as for few."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from freqbench.data import DATASETS
from freqbench.data.base import Dataset
from freqbench.data.dicom import series
from freqbench.data.loaders import folder

from . import downloads
from .conftest import made
from .dicom_files import put_series
from .downloads import put_case, volume
from .test_incomplete import dicom as put_dicom

_opened: list[Counter[str]] = []


def _heed(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | Path):
        _opened[-1][f"{event} {arguments[0]}"] += 1


sys.addaudithook(_heed)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    _opened.append(Counter())
    yield _opened[-1]
    _opened.pop()


def _names(count: int, pattern: str = "c{}") -> list[str]:
    return [pattern.format(number) for number in range(1, count + 1)]


def _decathlon(root: Path, count: int) -> Dataset:
    downloads.decathlon(root, {"validation": _names(count)})
    return made("decathlon", root=str(root), split="validation")


def _amos(root: Path, count: int) -> Dataset:
    downloads.decathlon(root, {"validation": _names(count, "amos_{:04d}")})
    return made("amos", root=str(root))


def _msd(root: Path, count: int) -> Dataset:
    downloads.decathlon(root / "Task09_Spleen", {"training": _names(count)})
    return made("msd", root=str(root), task="spleen")


def _synapse(root: Path, count: int) -> Dataset:
    dataset = made("synapse", root=str(root), cases=count)
    downloads.synapse(root, "raw", (line.case_id for line in dataset.splits()["validation"]))
    return dataset


def _nnunet(root: Path, count: int) -> Dataset:
    downloads.nnunet(root, _names(count))
    return made("nnunet_raw", root=str(root), split="training")


def _nnunet_fold(root: Path, count: int) -> Dataset:
    downloads.nnunet(root, _names(count))
    (root / "splits_final.json").write_text(json.dumps([{"train": [], "val": _names(count)}]))
    return made("nnunet_raw", root=str(root), split="validation", fold=0)


def _nnunet_list(root: Path, count: int) -> Dataset:
    files = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in _names(count)}
    downloads.nnunet(root, _names(count), dataset=files)
    return made("nnunet_raw", root=str(root), split="training")


def _totalsegmentator(root: Path, count: int) -> Dataset:
    downloads.totalsegmentator(root, dict.fromkeys(_names(count, "s{:04d}"), "test"))
    return made("totalsegmentator", root=str(root), classes=("spleen",))


def _pairs(root: Path, count: int) -> Dataset:
    for seed, case in enumerate(_names(count)):
        put_case(root / f"{case}.nii.gz", root / f"{case}_seg.nii.gz", seed)
    return made("pairs", root=str(root), image="{case}.nii.gz", label="{case}_seg.nii.gz", labels=3)


def _images(root: Path, count: int) -> Dataset:
    for seed, case in enumerate(_names(count)):
        downloads.put(root / f"{case}.nii.gz", volume(seed)[0])
    return made("images", root=str(root), reference="prediction", labels=3)


def _dicom(root: Path, count: int) -> Dataset:
    return put_dicom(root, "".join("abcdefgh"[:count]))


LISTS: dict[str, Callable[[Path, int], Dataset]] = {
    "decathlon": _decathlon, "amos": _amos, "msd": _msd, "synapse": _synapse, "nnunet_raw": _nnunet,
    "nnunet_raw, a fold": _nnunet_fold, "nnunet_raw, the key dataset": _nnunet_list,
    "totalsegmentator": _totalsegmentator, "pairs": _pairs, "images": _images, "dicom": _dicom,
}  # fmt: skip


def test_every_loader_of_files_is_here() -> None:
    assert {name.partition(",")[0] for name in LISTS} == DATASETS.keys() - {"phantom", "stand_in", "acdc"}  # as synapse


@pytest.mark.parametrize("name", LISTS)
def test_nothing_is_read_more_for_more_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr("freqbench.core.files.downloads.YOUNG_NS", 0)  # as on the next day
    for cases in (2, 5):
        root = tmp_path / str(cases)
        dataset = LISTS[name](root, cases)
        with counted() as opened:
            assert len(dataset.refs()) == cases
        counts.append({path.replace(str(root), ""): count for path, count in opened.items()})
    few, many = counts
    assert {path: (few[path], many[path]) for path in few if many.get(path, 0) > few[path]} == {}


@pytest.mark.parametrize("cases", [2, 7])
def test_nnunets_list_is_parsed_once(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, parsed, read = _nnunet_list(tmp_path, cases), list[str](), folder.json_of
    monkeypatch.setattr(folder, "json_of", lambda content, path: (parsed.append(path), read(content, path))[1])
    dataset.refs()
    assert parsed == [str(tmp_path / "dataset.json")]


def _calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, counts: Callable[..., bool]) -> list[Any]:
    calls, real = list[Any](), getattr(module, name)

    def call(*given: Any) -> Any:
        if counts(*given):
            calls.append(given)
        return real(*given)

    monkeypatch.setattr(module, name, call)
    return calls


def test_a_series_is_stacked_and_swept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, stacked = put_dicom(tmp_path, "abc"), _calls(monkeypatch, series, "_stack_slices", lambda *_: True)
    swept = _calls(monkeypatch, series.files, "stamp_files", lambda paths, _: len(paths) > 1)  # not of a segmentation
    dataset.refs()
    assert (len(stacked), len(swept)) == (3, 3)


def test_series_is_stacked_once_for_plans_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, stacked = put_dicom(tmp_path, "abc"), _calls(monkeypatch, series, "_stack_slices", lambda *_: True)
    scanned = _calls(monkeypatch, series, "read_file", lambda *_: True)
    for _ in range(2):
        for ref in dataset.refs():
            dataset.load(ref)
    assert (len(stacked), len(scanned)) == (3, len([*(tmp_path / "images").rglob("*.dcm")]))


@pytest.mark.integration
def test_headers_of_hundreds_of_series_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan lists the cases in turn, so that a cache of fewer would keep none until the next turn."""
    for number in range(300):
        put_series(tmp_path / f"{number:03}", volume()[0][:4, :4, :2] + number)
    monkeypatch.setattr("freqbench.core.files.downloads.YOUNG_NS", 0)  # files of a minute ago
    stacked = _calls(monkeypatch, series, "_stack_slices", lambda *_: True)
    for _ in range(2):
        assert len(made("dicom", root=str(tmp_path), reference="prediction", labels=2).refs()) == 300
    assert len(stacked) == 300
