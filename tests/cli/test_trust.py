"""Exit codes and texts of `reproduce` and `verify`."""

import signal
import sys
from pathlib import Path

import pytest
from altered import copied, set_first
from tiny import execute, small

from freqbench.cli import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    execute(small(), folder)
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    signal.signal(signal.SIGTERM, before)
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_equal_is_0(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "reproduce", str(store), "--random", "1")
    assert (code, err) == (0, "")
    assert "equal to the bit: fgsm on a, scored on a: case phantom_2000 of phantom (" in out


def test_different_is_1(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    altered = copied(store, tmp_path)
    set_first(altered, "records", linf=0.5)
    code, out, _ = call(capsys, "reproduce", str(altered), "--random", "1")
    assert code == 1
    assert "linf" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--row", "000000"), "expected one row whose id begins with 000000, got none"),
        (("--row", "abc"), "--row: expected 6 to 16 of the hex digits"),
        ((), "expected one of --row ID and --random N, got none"),
        (("--random", "1", "--job", "gone.yaml"), "gone.yaml: expected a YAML file"),
    ],
)
def test_a_mistake_is_one_line_and_2(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = call(capsys, "reproduce", str(store), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_a_sound_store_is_0_and_another_1(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "verify", str(store))[0] == 0
    altered = copied(store, tmp_path)
    set_first(altered, "records", dsc=0.5)
    code, out, _ = call(capsys, "verify", str(altered))
    assert code == 1
    assert "wrong" in out


def test_no_store_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "verify", str(tmp_path / "gone"))
    assert code == 2
    assert "expected a result store, found no such file" in err


@pytest.mark.parametrize("command", ["reproduce", "verify"])
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert "Usage:" in out
