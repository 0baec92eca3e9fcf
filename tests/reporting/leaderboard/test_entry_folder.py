"""An entry's files are third-party input: what does not belong there is refused in one line, before it is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from freqbench.core.errors import UserError
from freqbench.reporting.leaderboard import entry_folder
from freqbench.reporting.leaderboard.entry_folder import files_of, read_entry


@pytest.fixture
def copy(entered: Path, tmp_path: Path) -> Path:
    """An entry that stands."""
    return Path(shutil.copytree(entered / "entries" / "plain", tmp_path / "plain"))


def edited(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def shortened(folder: Path) -> None:
    path = next((folder / "store" / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def with_a_linked_folder(folder: Path) -> None:
    shutil.rmtree(folder / "store" / "glimpses", ignore_errors=True)
    (folder / "store" / "glimpses").symlink_to("/etc")


def with_no_picture(folder: Path) -> None:
    (folder / "store" / "glimpses").mkdir(exist_ok=True)
    (folder / "store" / "glimpses" / "0_0_1.webp").write_text("<script>")


CHANGED = r"expected sha256 \w{12}, got \w{12}: changed since the entry was made"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (
        lambda folder: (folder / "store/records/x.parquet").symlink_to("/etc/passwd"),
        "x.parquet: expected a file, got a link, pipe or device",
    ),
    "a linked folder": (with_a_linked_folder, "glimpses: expected a file, got a link"),
    "a pipe": (lambda folder: os.mkfifo(folder / "store/runs/x.json"), "x.json: expected a file, got a link, pipe or"),
    "code": (
        lambda folder: (folder / "conftest.py").write_text("raise SystemExit"),
        "'conftest.py': expected no such file in an entry",
    ),
    "a name that turns": (
        lambda folder: (folder / "store/runs/a\u202e.json").write_text("{}"),
        r"a\\u202e.json': expected no such file",
    ),
    "no picture": (with_no_picture, "expected a WebP picture"),
    "a row": (shortened, f"parquet: {CHANGED}"),
    "its card": (edited("card.yaml", lambda text: text.replace("Bright", "Brighter")), f"card.yaml: {CHANGED}"),
    "an added file": (
        lambda folder: (folder / "store/runs/x.json").write_text("{}"),
        "x.json: expected sha256 none, got",
    ),
    "a missing file": (
        lambda folder: (folder / "store/audit/gradients.json").unlink(),
        r"gradients.json: expected sha256 \w{12}, got no file",
    ),
    "no seal": (lambda folder: (folder / "entry.json").unlink(), "expected entry.json, found none"),
    "a deep seal": (edited("entry.json", lambda _: "[" * 10**5), "entry.json: not readable as JSON"),
    "an endless seal": (
        edited("entry.json", lambda _: " " * (entry_folder.MOST_SEAL + 1)),
        "entry.json: expected at most 16 MiB",
    ),
    "a newer seal": (
        edited("entry.json", lambda text: json.dumps({**json.loads(text), "version": 2, "signature": "x"})),
        r"entry\.json: expected an entry of version 1, got 2: update freqbench$",
    ),
    "a key more": (
        edited("entry.json", lambda text: json.dumps({**json.loads(text), "script": 1})),
        "unknown key 'script'",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_belong_is_one_line(copy: Path, what: str) -> None:
    change, complaint = WRONG[what]
    read_entry(copy)
    change(copy)
    with pytest.raises(UserError, match=complaint) as caught:
        read_entry(copy)
    assert "\n" not in str(caught.value)


def test_too_many_or_too_large_files_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_folder, "MOST_FILES", 3)
    with pytest.raises(UserError, match="at most 3 files"):
        read_entry(copy)
    monkeypatch.setattr(entry_folder, "MOST_FILES", 2000)
    monkeypatch.setattr(entry_folder, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="got more"):
        read_entry(copy)


@pytest.mark.parametrize(("name", "value"), [("MOST_ROWS", 10), ("MOST_UNPACKED", 1000)])
def test_parquet_files_that_unpack_to_much_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(entry_folder, name, value)
    with pytest.raises(UserError, match="once read, got more"):
        read_entry(copy)


def test_an_archive_is_not_unpacked(copy: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "plain"), "zip", copy)
    with pytest.raises(UserError, match="expected an entry's folder, got a file, a link or nothing: unpack"):
        files_of(Path(archive))


def test_a_folder_whose_name_no_page_could_have_is_refused(copy: Path) -> None:
    moved = copy.rename(copy.with_name("a<b>"))
    with pytest.raises(UserError, match="expected a name of letters"):
        read_entry(moved)
