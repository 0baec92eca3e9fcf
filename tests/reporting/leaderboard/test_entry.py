"""An entry's files are third-party input: what does not belong there is refused in one line, before it is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from freqbench.core.errors import UserError
from freqbench.reporting.leaderboard import entry as entries
from freqbench.reporting.leaderboard.entry import files_of, read_entry


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """An entry that stands."""
    return Path(shutil.copytree(made / "entries" / "plain", tmp_path / "plain"))


def a_link(folder: Path) -> None:
    (folder / "store" / "records" / "x.parquet").symlink_to("/etc/passwd")


def a_linked_folder(folder: Path) -> None:
    shutil.rmtree(folder / "store" / "glimpses", ignore_errors=True)
    (folder / "store" / "glimpses").symlink_to("/etc")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "store" / "runs" / "x.json")


def code(folder: Path) -> None:
    (folder / "conftest.py").write_text("raise SystemExit")


def a_name_that_turns(folder: Path) -> None:
    (folder / "store" / "runs" / "a\u202e.json").write_text("{}")


def no_picture(folder: Path) -> None:
    (folder / "store" / "glimpses").mkdir(exist_ok=True)
    (folder / "store" / "glimpses" / "0_0_1.webp").write_text("<script>")


def a_row(folder: Path) -> None:
    path = next((folder / "store" / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def its_card(folder: Path) -> None:
    path = folder / "card.yaml"
    path.write_text(path.read_text().replace("Bright", "Brighter"))


def an_added_file(folder: Path) -> None:
    (folder / "store" / "runs" / "x.json").write_text("{}")


def a_missing_file(folder: Path) -> None:
    (folder / "store" / "audit" / "gradients.json").unlink()


def no_seal(folder: Path) -> None:
    (folder / "entry.json").unlink()


def a_deep_seal(folder: Path) -> None:
    (folder / "entry.json").write_text("[" * 10**5)


def an_endless_seal(folder: Path) -> None:
    (folder / "entry.json").write_bytes(b" " * (entries.MOST_SEAL + 1))


def a_key_more(folder: Path) -> None:
    path = folder / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "script": 1}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (a_link, "x.parquet: expected a file, got a link, pipe or device"),
        (a_linked_folder, "glimpses: expected a file, got a link"),
        (a_pipe, "x.json: expected a file, got a link, pipe or device"),
        (code, "'conftest.py': expected no such file in an entry"),
        (a_name_that_turns, r"a\\u202e.json': expected no such file"),
        (no_picture, "expected a WebP picture"),
        (a_row, r"parquet: expected sha256 \w{12}, got \w{12}: changed since the entry was made"),
        (its_card, r"card.yaml: expected sha256 \w{12}, got \w{12}: changed since the entry was made"),
        (an_added_file, "x.json: expected sha256 none, got"),
        (a_missing_file, r"gradients.json: expected sha256 \w{12}, got no file"),
        (no_seal, "expected entry.json, found none"),
        (a_deep_seal, "entry.json: not readable as JSON"),
        (an_endless_seal, "entry.json: expected at most 16 MiB"),
        (a_key_more, "unknown key 'script'"),
    ],
)
def test_what_does_not_belong_is_one_line(copy: Path, change: Callable[[Path], None], complaint: str) -> None:
    read_entry(copy)
    change(copy)
    with pytest.raises(UserError, match=complaint) as caught:
        read_entry(copy)
    assert "\n" not in str(caught.value)


def test_too_many_or_too_large_files_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_FILES", 3)
    with pytest.raises(UserError, match="at most 3 files"):
        read_entry(copy)
    monkeypatch.setattr(entries, "MOST_FILES", 2000)
    monkeypatch.setattr(entries, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="got more"):
        read_entry(copy)


@pytest.mark.parametrize(("name", "value"), [("MOST_ROWS", 10), ("MOST_UNPACKED", 1000)])
def test_parquet_files_that_unpack_to_much_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(entries, name, value)
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
