"""Files of an entry are third-party input: what does not belong there, or in its card, is refused in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reporting.leaderboard.conftest import CARD, write_card

from freqbench.core.errors import UserError
from freqbench.reporting.leaderboard import entry_folder
from freqbench.reporting.leaderboard.entry_folder import TEMPLATE, files_of, is_address, read_card, read_entry
from freqbench.reporting.leaderboard.make import seal


@pytest.fixture
def copy(entered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(entered / "entries" / "plain", tmp_path / "plain"))


def edited(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def resealed(**keys: Any) -> Callable[[Path], object]:
    return edited("entry.json", lambda text: json.dumps({**json.loads(text), **keys}))


def added(name: str, text: str = "{}") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def removed(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def linked(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(to)


def shortened(folder: Path) -> None:
    path = next((folder / "store" / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def doubled(folder: Path) -> None:
    """Each row twice, in a sound file."""
    path = next((folder / "store" / "records").iterdir())
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)
    seal(folder, "plain", json.loads((folder / SEAL).read_text())["checkpoint"])


def doubled_with_its_index(folder: Path) -> None:
    """Each row twice, and so each cell of the job's index."""
    edited("store/run.json", lambda text: json.dumps(_twice(json.loads(text))))(folder)
    doubled(folder)


def _twice(run: Any) -> Any:
    run["job"]["index"]["cells"] *= 2
    return run


CHANGED = r"expected sha256 \w{12}, got \w{12}: changed since the entry was made"
SEAL = "entry.json"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (linked("store/records/x.parquet", "/etc/passwd"), "x.parquet: expected a file, got a link, pipe or dev"),
    "a linked folder": (linked("store/pictures", "/etc"), "pictures: expected a file, got a link"),
    "a pipe": (lambda folder: os.mkfifo(folder / "store/runs/x.json"), "x.json: expected a file, got a link, pipe or"),
    "code": (added("conftest.py", "raise SystemExit"), "'conftest.py': expected no such file in an entry"),
    "a name that turns": (added("store/runs/a\u202e.json"), r"a\\u202e.json': expected no such file"),
    "a picture": (added("store/0_0_1.json", "<script>"), "expected no such file in an entry"),
    "a row": (shortened, f"parquet: {CHANGED}"),
    "rows twice": (
        doubled,
        r"store: expected a row for each of the \d+ records of its job, of at most 100,000, got \d+",
    ),
    "rows and index twice": (doubled_with_its_index, r"store: expected a row for each of the \d+ records of its job"),
    "its card": (edited("card.yaml", lambda text: text.replace("Bright", "Brighter")), f"card.yaml: {CHANGED}"),
    "an added file": (added("store/runs/x.json"), "x.json: expected sha256 none, got"),
    "a missing file": (removed("store/audit/gradients.json"), r"gradients.json: expected sha256 \w{12}, got no file"),
    "no seal": (removed(SEAL), "expected entry.json, found none"),
    "a deep seal": (added(SEAL, "[" * 10**5), "entry.json: not readable as JSON"),
    "an endless seal": (added(SEAL, " " * (entry_folder.MOST_SEAL + 1)), "entry.json: expected at most 16 MiB"),
    "a newer seal": (resealed(version=3, signature="x"), r"entry\.json: expected an entry of version 2, got 3: update"),
    "a key more": (resealed(script=1), "unknown key 'script'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_does_not_belong_is_one_line(copy: Path, what: str) -> None:
    change, complaint = WRONG[what]
    read_entry(copy)
    change(copy)
    with pytest.raises(UserError, match=complaint):
        read_entry(copy)


LIMITS = {
    "MOST_FILES": (3, "at most 3 files"),
    "MOST_BYTES": (1000, "files and 0 MiB, got more"),
    "MOST_RECORDS": (3, "records of its job, of at most 3, got"),
    "MOST_ROWS": (10, "once read, got more"),
    "MOST_UNPACKED": (1000, "once read, got more"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_too_many_or_too_large_files_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    most, complaint = LIMITS[name]
    monkeypatch.setattr(entry_folder, name, most)
    with pytest.raises(UserError, match=complaint):
        read_entry(copy)


def test_an_archive_is_not_unpacked(copy: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "plain"), "zip", copy)
    with pytest.raises(UserError, match="expected an entry's folder, got a file, a link or nothing: unpack"):
        files_of(Path(archive))


def test_a_folder_whose_name_no_page_could_have_is_refused(copy: Path) -> None:
    moved = copy.rename(copy.with_name("a<b>"))
    with pytest.raises(UserError, match="expected a name of letters"):
        read_entry(moved)


def test_a_filled_in_card_is_read(tmp_path: Path) -> None:
    write_card(tmp_path, summary=" A <b>network</b>.\nTwo lines. ", paper="https://arxiv.org/abs/1706.06083")
    card = read_card(tmp_path / "card.yaml")
    assert (card.summary, card.paper) == ("A <b>network</b>.\nTwo lines.", "https://arxiv.org/abs/1706.06083")


@pytest.mark.parametrize("key", [key for key, value in CARD.items() if value is not None])
def test_the_template_waits_to_be_filled_in(tmp_path: Path, key: str) -> None:
    write_card(tmp_path, **{**CARD, key: ""})
    with pytest.raises(UserError, match=f"card.yaml: {key}: expected"):
        read_card(tmp_path / "card.yaml")


def test_the_template_has_every_key() -> None:
    assert [line.split(":")[0] for line in TEMPLATE.splitlines()[1:]] == list(CARD)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"checkpoint": "javascript:alert(1)"}, "checkpoint: expected an https address, zoo"),
        ({"checkpoint": "file:///etc/passwd"}, "checkpoint: expected an https address, zoo"),
        ({"checkpoint": "zoo://../../x"}, "checkpoint: expected an https address, zoo"),
        ({"checkpoint": "train://../x"}, "checkpoint: expected an https address, zoo"),
        ({"paper": "http://example.org"}, "paper: expected an https address"),
        ({"paper": 'https://example.org/"onclick="x'}, "paper: expected an https address"),
        ({"contact": "data:text/html,x"}, "contact: expected a mail address or an https address"),
        ({"contact": "me@freqbench.invalid"}, "contact: expected a mail address or an https address that exists"),
        ({"title": "a\x1b[31mb"}, "not readable as YAML|expected plain text"),
        ({"title": "a\u202eb"}, "title: expected plain text"),
        ({"summary": "a" * 3001}, "summary: expected at most 3000 letters, got 3001"),
        ({"script": "x"}, "unknown key 'script'"),
        ({"license": ["MIT"]}, "license: "),
    ],
)
def test_a_hostile_card_is_one_line(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    write_card(tmp_path, **changes)
    with pytest.raises(UserError, match=complaint):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize("place", ["https://example.org/a.pt", "zoo://phantom/unet", "train://acdc/board_train/union"])
def test_a_card_tells_where_weights_are_or_which_job_trains_them(tmp_path: Path, place: str) -> None:
    write_card(tmp_path, checkpoint=place)
    assert read_card(tmp_path / "card.yaml").checkpoint == place


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "[]", "a: &a [*a]", "x" * 2**21])
def test_yaml_that_is_no_card_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=r"card\.yaml"):
        read_card(tmp_path / "card.yaml")


@pytest.mark.parametrize("text", ["https://", "https://a b", "https://me:secret@example.org", "https://[", "//a", "x"])
def test_a_text_that_is_no_address_of_a_host_is_told_apart(text: str) -> None:
    assert not is_address(text)
