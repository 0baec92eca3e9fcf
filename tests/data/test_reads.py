"""Lists, folders and headers are read as often for many cases as for few."""

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
from .conftest import made, put_json
from .dicom_files import put_seg, put_series
from .downloads import put_case, volume

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


def dicom(root: Path, cases: str = "ab", images: str = "images") -> Dataset:
    for seed, case in enumerate(cases):
        voxels, label = volume(seed)
        series = put_series(root / images / case, voxels)
        put_seg(root / f"labels/{case}.dcm", series, {"liver": label == 1, "tumour": label == 2})
    return made("dicom", root=root)


def _put_synapse(root: Path, count: int) -> None:
    dataset = made("synapse", root=root, cases=count)
    downloads.synapse(root, "raw", (line.case_id for line in dataset.splits()["validation"]))


def _put_fold(root: Path, count: int) -> None:
    downloads.nnunet(root, _names(count))
    put_json(root / "splits_final.json", [{"train": [], "val": _names(count)}])


def _put_nnunet_list(root: Path, count: int) -> None:
    files = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in _names(count)}
    downloads.nnunet(root, _names(count), dataset=files)


def _put_pairs(root: Path, count: int) -> None:
    for seed, case in enumerate(_names(count)):
        put_case(root / f"{case}/t1.nii.gz", root / f"{case}/seg.nii.gz", seed)


def _put_images(root: Path, count: int) -> None:
    for seed, case in enumerate(_names(count)):
        downloads.put(root / f"{case}.nii.gz", volume(seed)[0])


LISTS: dict[str, tuple[Callable[[Path, int], object], dict[str, Any]]] = {
    "decathlon": (lambda root, n: downloads.decathlon(root, {"validation": _names(n)}), {"split": "validation"}),
    "amos": (lambda root, n: downloads.decathlon(root, {"validation": _names(n, "amos_{:04d}")}), {}),
    "msd": (lambda root, n: downloads.decathlon(root / "Task09_Spleen", {"training": _names(n)}), {"task": "spleen"}),
    "synapse": (_put_synapse, {}),
    "nnunet_raw": (lambda root, n: downloads.nnunet(root, _names(n)), {"split": "training"}),
    "nnunet_raw, a fold": (_put_fold, {"split": "validation", "fold": 0}),
    "nnunet_raw, the key dataset": (_put_nnunet_list, {"split": "training"}),
    "totalsegmentator": (
        lambda root, n: downloads.totalsegmentator(root, dict.fromkeys(_names(n, "s{:04d}"), "test")),
        {"classes": ("spleen",)},
    ),
    "pairs": (_put_pairs, {"image": "{case}/t1.nii.gz", "label": "{case}/seg.nii.gz", "labels": 3}),
    "images": (_put_images, {"reference": "prediction", "labels": 3}),
    "dicom": (lambda root, n: dicom(root, "abcdefgh"[:n]), {}),
}
"""Writers of a number of cases, with the keys that read them, by the name of a loader and of a kind of its lists."""


def listed(name: str, root: Path, count: int = 2) -> Dataset:
    put, keys = LISTS[name]
    put(root, count)
    return made(name.partition(",")[0], root=root, **keys, **({"cases": count} if name == "synapse" else {}))


def test_every_loader_of_files_is_here() -> None:
    assert {name.partition(",")[0] for name in LISTS} == DATASETS.keys() - {"phantom", "stand_in", "acdc"}  # as synapse


@pytest.mark.parametrize("name", LISTS)
def test_nothing_is_read_more_for_more_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr("freqbench.core.files.downloads.YOUNG_NS", 0)  # as on the next day
    for cases in (2, 5):
        root = tmp_path / str(cases)
        dataset = listed(name, root, cases)
        with counted() as opened:
            assert len(dataset.refs()) == cases
        counts.append({path.replace(str(root), ""): count for path, count in opened.items()})
    few, many = counts
    assert {path: (few[path], many[path]) for path in few if many.get(path, 0) > few[path]} == {}


@pytest.mark.parametrize("cases", [2, 7])
def test_nnunets_list_is_parsed_once(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = listed("nnunet_raw, the key dataset", tmp_path, cases)
    parsed = list[str]()
    read = folder.json_of
    monkeypatch.setattr(folder, "json_of", lambda content, path: (parsed.append(path), read(content, path))[1])
    dataset.refs()
    assert parsed == [str(tmp_path / "dataset.json")]


def _calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, counts: Callable[..., bool]) -> list[Any]:
    calls = list[Any]()
    real = getattr(module, name)

    def call(*given: Any) -> Any:
        if counts(*given):
            calls.append(given)
        return real(*given)

    monkeypatch.setattr(module, name, call)
    return calls


def test_a_series_is_stacked_and_swept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dicom(tmp_path, "abc")
    stacked = _calls(monkeypatch, series, "_stack_slices", lambda *_: True)
    swept = _calls(monkeypatch, series.files, "stamp_files", lambda paths, _: len(paths) > 1)  # not of a segmentation
    dataset.refs()
    assert (len(stacked), len(swept)) == (3, 3)


def test_series_is_stacked_once_for_plans_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.core.files.downloads.YOUNG_NS", 0)  # however long the first load takes
    dataset = dicom(tmp_path, "abc")
    stacked = _calls(monkeypatch, series, "_stack_slices", lambda *_: True)
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
        assert len(made("dicom", root=tmp_path, reference="prediction", labels=2).refs()) == 300
    assert len(stacked) == 300
