"""One keeper for a process, a node's cache and a store: a value under all that it depends on, whole, within a bound."""

import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.core.files import kept as module
from freqbench.core.files import node_cache
from freqbench.core.files.kept import Kept
from freqbench.core.identity import OfProcess

ON_DISK = ("node", "store")
Begin = Callable[[], Kept[Tensor]]


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache / "volumes"


@pytest.fixture(params=("process", *ON_DISK))
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Begin:
    """Begins as another process does: what one holds, the next does not, but files are there."""
    kept = Kept[Tensor](
        name="tensor",
        depends=("of", "libraries"),
        most=1000 if request.param == "process" else 0,
        place={"process": "", "node": "volumes/{key}.safetensors", "store": "{of}.safetensors"}[request.param],
        pack=lambda tensor: ({"sum": float(tensor.sum())}, {"x": tensor}),
        unpack=lambda facts, tensors: tensors["x"] if facts["sum"] == tensors["x"].sum() else pytest.fail("wrong"),
    )
    one = kept.anew()
    again = {"process": lambda: one, "node": kept.anew, "store": lambda: kept.anew(str(tmp_path / "out" / "learned"))}
    return again[request.param]


def files(tmp_path: Path) -> list[Path]:
    return [*tmp_path.glob("cache/volumes/*"), *tmp_path.glob("out/learned/*")]


def asked(kept: Kept[Tensor], number: float = 1, of: object = "a", **more: bool) -> tuple[float, bool]:
    """The value of a dependency, made of `number`, and if it was made."""
    made = list[Tensor]()
    value = kept.get(lambda: made.append(torch.full((3,), float(number))) or made[-1], of=of, **more)  # type: ignore[arg-type,func-returns-value]
    return float(value[0]), bool(made)


def test_value_is_made_once_for_equal_dependencies(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(begin(), 1) == (1, True)
    assert asked(begin(), 2) == (1, False)
    assert asked(begin(), 3, of="b") == (3, True)
    monkeypatch.setattr(module, "OUTSIDE", {**module.OUTSIDE, "libraries": lambda: {"torch": "9.9"}})
    assert asked(begin(), 4) == (4, True)


@pytest.mark.parametrize("given", [{}, {"of": 1, "more": 1}, {"of": 1, "libraries": 1}, {"other": None}], ids=str)
def test_a_missing_and_a_further_dependency_are_type_errors(given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"^tensor: expected of, libraries, got"):
        Kept[int](name="tensor", depends=("of", "libraries"), most=9).get(lambda: 1, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("begin", ON_DISK, indirect=True)
def test_damaged_file_is_made_anew_with_warning(begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked(begin(), 1)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    spoilt = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for other in (*spoilt, content[:-1], b""):
        caplog.clear()
        path.write_bytes(other)
        assert asked(begin(), 1) == (1, True)
        assert f"{path}: expected a tensor, got a damaged file, which is made anew" in caplog.text
        assert path.read_bytes() == content
    assert asked(begin(), 2) == (1, False)


@pytest.mark.parametrize("begin", ["node"], indirect=True)
@pytest.mark.parametrize("thing", ["a pipe", "a folder"])
def test_pipe_or_folder_in_files_place_costs_value_alone(begin: Begin, tmp_path: Path, thing: str) -> None:
    asked(begin())
    (path,) = files(tmp_path)
    path.unlink()
    os.mkfifo(path) if thing == "a pipe" else path.mkdir()
    assert [asked(begin(), number) for number in (2, 3)] == [(2, True), (3, True)]
    assert path.is_fifo() or path.is_dir()


@pytest.mark.parametrize("begin", ["store"], indirect=True)
def test_a_pipe_in_a_stores_place_is_refused(begin: Begin, tmp_path: Path) -> None:
    asked(begin())
    (path,) = files(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="expected a file, got a pipe"):
        asked(begin())


@pytest.mark.parametrize("begin", ["node"], indirect=True)
def test_full_disk_costs_time_and_is_logged(begin: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert [asked(begin(), number) for number in (1, 2)] == [(1, True), (2, True)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []
    assert "a tensor could not be kept: [Errno 27] File too large" in caplog.text


@pytest.mark.parametrize("of", [OfProcess("a"), {"deep": [OfProcess("a")]}, object()], ids=["mark", "deep", "object"])
def test_a_value_of_this_process_alone_is_never_on_a_disk(begin: Begin, tmp_path: Path, of: object) -> None:
    """A process keeps it, unless nothing tells it from others."""
    values = [asked(begin(), number, of=of) for number in (1, 2)]
    is_held = begin() is begin() and type(of) is not object
    assert (values, files(tmp_path)) == ([(1, True), (1, False) if is_held else (2, True)], [])


def test_a_value_that_does_not_stay_is_not_written(begin: Begin, tmp_path: Path) -> None:
    begin().get(lambda: torch.zeros(1), stays=lambda: False, of="a")
    assert files(tmp_path) == []


def test_a_full_process_drops_the_least_recently_used_first() -> None:
    made: list[int] = []
    kept = Kept[int](name="number", depends=("key",), most=10, size=lambda value: value)
    for key in (4, 5, 4, 3, 4, 5, 20, 4):
        kept.get(lambda key=key: made.append(key) or key, key=key)
    assert made == [4, 5, 3, 5, 20, 4], "5 goes for 3, 3 for 5, all for 20 which stays alone until 4"


@pytest.mark.parametrize("begin", ["node"], indirect=True)
def test_full_node_drops_least_recently_used_first(begin: Begin, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for second, of in enumerate("ab"):
        before = set(cache.glob("*"))
        asked(begin(), of=of)
        os.utime(*(set(cache.iterdir()) - before), (second, second))
    asked(begin(), of="a")
    monkeypatch.setenv("FREQBENCH_CACHE_GB", str(node_cache.size("volumes") / 1e9 * 1.2))
    asked(begin(), of="c")
    assert node_cache.size("volumes") <= node_cache.limit()
    assert [asked(begin(), of=of)[1] for of in "acb"] == [False, False, True]


def test_a_value_that_was_begun_is_waited_for_and_not_made_twice() -> None:
    kept = Kept[str](name="text", depends=("of",), most=9)
    made = list[str]()
    with ThreadPoolExecutor(1) as pool:
        for of in "abb":
            kept.begin(lambda of=of: pool.submit(lambda: made.append(of) or f"early {of}"), of=of)
        assert kept.get(lambda: "late b", of="b") == "early b"
        assert kept.get(lambda: "late a", of="a") == "late a", "the latest alone is waited for"
        kept.begin(lambda: pytest.fail("it is there"), of="b")
    assert made == ["a", "b"]


@pytest.mark.parametrize("begin", ["store"], indirect=True)
def test_the_first_file_counts_of_two_workers_that_make_a_value(begin: Begin) -> None:
    slow = begin()
    quick = begin()
    value = slow.get(lambda: torch.full((1,), float(asked(quick, 1)[0] + 1)), of="a")
    assert (float(value[0]), asked(begin(), 3)) == (1, (1, False))


@pytest.mark.parametrize("begin", ["store"], indirect=True)
def test_stores_file_of_anybody_else_is_for_caller_to_judge(begin: Begin, tmp_path: Path) -> None:
    asked(begin())
    (path,) = files(tmp_path)
    path.write_bytes(b"somebody's")
    seen = begin().get(lambda: pytest.fail("made"), other=lambda at, content: torch.tensor(len(content)), of="a")
    assert (int(seen), path.read_bytes()) == (10, b"somebody's")


def test_a_value_that_is_put_takes_the_place_of_another(begin: Begin) -> None:
    asked(begin(), 1)
    begin().put(torch.full((3,), 2.0), of="a")
    assert asked(begin(), 3) == (2, False)
