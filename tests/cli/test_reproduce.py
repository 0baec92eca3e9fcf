"""Exit codes and texts of `reproduce` and `verify`."""

from pathlib import Path

import pytest
from altered import copied, set_first
from called import Bench
from tiny import execute, small


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    execute(small(), folder)
    return folder


def test_equal_is_0(store: Path, bench: Bench) -> None:
    code, out, err = bench("reproduce", str(store), "--random", "1")
    assert (code, err) == (0, "")
    assert "equal to the bit: fgsm on a, scored on a: case phantom_2000 of phantom (" in out


def test_different_is_1(store: Path, tmp_path: Path, bench: Bench) -> None:
    altered = copied(store, tmp_path)
    set_first(altered, "records", linf=0.5)
    code, out, _ = bench("reproduce", str(altered), "--random", "1")
    assert code == 1
    assert "linf" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--row", "000000"), "expected one row whose id begins with 000000, got none"),
        (("--row", "abc"), "--row: expected 6 to 16 hex digits"),
        (("--random", "1", "--job", "gone.yaml"), "gone.yaml: expected a YAML file"),
    ],
)
def test_a_mistake_is_one_line_and_2(store: Path, bench: Bench, arguments: tuple[str, ...], text: str) -> None:
    code, out, err = bench("reproduce", str(store), *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_a_sound_store_is_0_and_another_1(store: Path, tmp_path: Path, bench: Bench) -> None:
    assert bench("verify", str(store))[0] == 0
    altered = copied(store, tmp_path)
    set_first(altered, "records", dsc=0.5)
    code, out, _ = bench("verify", str(altered))
    assert code == 1
    assert "wrong" in out
