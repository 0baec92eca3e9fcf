"""Exit codes and texts of `audit --rows` and `audit --files`."""

from pathlib import Path

import pytest
from alterations import set_first
from command_line import Bench, refused


def test_equal_rows_exit_with_0(small_store: Path, bench: Bench) -> None:
    code, out, err = bench("audit", str(small_store), "--rows", "1")
    assert (code, err) == (0, "")
    assert "equal to the bit: fgsm on a, scored on a: case phantom_2000 of phantom (" in out


def test_different_rows_exit_with_1(small_copy: Path, bench: Bench) -> None:
    set_first(small_copy, "records", linf=0.5)
    code, out, _ = bench("audit", str(small_copy), "--rows", "1")
    assert code == 1
    assert "linf" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rows", "000000"), "expected one row whose id begins with 000000, got none"),
        (("--rows", "abc"), "--rows: expected a number, or 6 to 16 hex digits"),
        (("--rows", "1", "--job", "gone.yaml"), "gone.yaml: expected a YAML file"),
        (("--rows", "1", "--files"), "audit: expected one of --run, --plan, --files, "),
        (("--seed", "1"), "audit: --seed: expected --rows beside it, got none"),
    ],
)
def test_a_mistake_is_one_line_and_exits_with_2(
    small_store: Path, bench: Bench, arguments: tuple[str, ...], text: str
) -> None:
    assert text in refused(bench, "audit", str(small_store), *arguments)


def test_files_exits_with_0_for_a_sound_store_and_1_for_another(small_copy: Path, bench: Bench) -> None:
    assert bench("audit", str(small_copy), "--files")[0] == 0
    set_first(small_copy, "records", dsc=0.5)
    code, out, _ = bench("audit", str(small_copy), "--files")
    assert code == 1
    assert "wrong" in out
