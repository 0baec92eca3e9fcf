"""Exit codes and texts of `reproduce` and `verify`."""

from pathlib import Path

import pytest
from alterations import set_first
from command_line import Bench, refused


def test_equal_rows_exit_with_0(small_store: Path, bench: Bench) -> None:
    code, out, err = bench("reproduce", str(small_store), "--random", "1")
    assert (code, err) == (0, "")
    assert "equal to the bit: fgsm on a, scored on a: case phantom_2000 of phantom (" in out


def test_different_rows_exit_with_1(small_copy: Path, bench: Bench) -> None:
    set_first(small_copy, "records", linf=0.5)
    code, out, _ = bench("reproduce", str(small_copy), "--random", "1")
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
def test_mistake_is_refused_with_code_2(small_store: Path, bench: Bench, arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(bench, "reproduce", str(small_store), *arguments)


def test_verify_exits_with_0_for_a_sound_store_and_1_for_another(small_copy: Path, bench: Bench) -> None:
    assert bench("verify", str(small_copy))[0] == 0
    set_first(small_copy, "records", dsc=0.5)
    code, out, _ = bench("verify", str(small_copy))
    assert code == 1
    assert "wrong" in out
