"""`doctor --cache`: what is kept on this machine."""

from pathlib import Path

import pytest
from command_line import Bench
from data.conftest import Folder
from tiny_job import execute, small

from freqbench.core.errors import UserError
from freqbench.core.files import node_cache, storage


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1.5")
    (tmp_path / "data").mkdir()
    dataset = Folder(tmp_path / "data").dataset(pad_to=(128, 128, 64))
    for ref in dataset.refs():
        dataset.load(ref)
    place = tmp_path / "cache" / "volumes"
    size = f"{sum(path.stat().st_size for path in place.iterdir()) / 1e9:.2f}"
    assert (size, bench("doctor", "--cache", "show")[1]) == ("0.02", f"3 volumes, {size} of 1.5 GB: {place}\n")
    assert bench("doctor", "--cache", "clear")[1] == f"{size} GB freed: {place}\n"
    assert node_cache.entries("volumes") == []
    assert bench("doctor", "--cache", "show")[1] == f"0 volumes, 0.00 of 1.5 GB: {place}\n"


def test_copies_of_remote_files_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    storage.write_atomic("memory://tests-cache/a.bin", bytes(20_000_000))
    copy = storage.fetch("memory://tests-cache/a.bin")
    storage.remove("memory://tests-cache/a.bin")
    place = tmp_path / "cache" / "files"
    assert f"0.02 GB of files fetched from URIs: {place}\n" in bench("doctor", "--cache", "show")[1]
    assert f"0.02 GB freed: {place}\n" in bench("doctor", "--cache", "clear")[1]
    assert not copy.exists()


def test_compiled_functions_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    made = node_cache.part("inductor") / "ab" / "cab.py"
    made.parent.mkdir(parents=True)
    made.write_text("kernel")
    assert list(node_cache.strangers()) == []
    bench("doctor", "--cache", "clear")
    assert not made.parent.exists()


def test_bound_that_is_no_number_stops_run_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "abc")
    with pytest.raises(UserError, match=r"^FREQBENCH_CACHE_GB: expected a number of gigabytes"):
        execute(small(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
