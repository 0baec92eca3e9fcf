"""Every golden file of an attack is tested, or left out by name with the reason (models/ has tests of its own)."""

import importlib
from pathlib import Path

import pytest

LEFT_OUT = {
    "inputs": "no attack: the network and the volumes of all files",
    "oracles": "no attack: building blocks, tested in tests/ops",
    "pgdplus_bmvc_e8_s5": (
        "PGD+ hands its noise from window to window: a universal noise, whose result hangs on the order of windows and "
        "cases; on a single window its gradient passes through the clamp, and so it is no variant of pgd"
    ),
}


def covered() -> list[str]:
    """The golden files of all test modules here; each names its own as `FILES`."""
    modules = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).stem}
    return [name for module in sorted(modules) for name in importlib.import_module(f"golden.{module}").FILES]


@pytest.fixture
def there(shared: Path) -> set[str]:
    return {path.stem for path in (shared / "golden").glob("*.npz")}


def test_every_file_is_tested_or_left_out_with_a_reason(there: set[str]) -> None:
    assert there - {*covered()} - {*LEFT_OUT} == set()


def test_every_name_is_that_of_a_file(there: set[str]) -> None:
    assert {*covered(), *LEFT_OUT} - there == set()


def test_no_file_is_listed_twice_or_both_tested_and_left_out() -> None:
    listed = [*covered(), *LEFT_OUT]
    assert sorted(listed) == sorted(set(listed))
