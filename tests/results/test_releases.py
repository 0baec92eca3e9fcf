"""Rows that several releases or commits made are told of in a line, others are not."""

from typing import Any

from freqbench.results.releases import MOST_KINDS, mixture

OLD = "monai 1.5.1, torch 2.13.0"
NEW = "monai 1.6.0, torch 2.13.0"


def run(run_id: str = "r", commit: str | None = None, dirty: bool = False, **versions: str) -> dict[str, Any]:
    return {"run_id": run_id, "versions": versions, "code": commit and {"commit": commit, "dirty": dirty}}


def test_rows_of_one_release_have_no_line() -> None:
    assert mixture({(NEW, "a"): 3, (NEW, "b"): 2}, [run("a"), run("b")]) is None


def test_rows_of_two_releases_are_counted_by_what_differs_alone() -> None:
    line = mixture({(OLD, "a"): 12, (NEW, "b"): 30, (NEW, "c"): 6}, []) or ""
    assert line.startswith("rows of several releases: 36 rows with monai 1.6.0; 12 rows with monai 1.5.1: ")


def test_toolchain_that_other_rows_did_not_need_is_no_difference() -> None:
    assert mixture({(NEW, "a"): 1, (f"{NEW}, nnunetv2 2.6.2", "a"): 1}, []) is None


def test_rows_without_releases_have_those_of_their_run() -> None:
    runs = [run("a", monai="1.5.1", ray="2.50"), run("b", monai="1.6.0", ray="2.60")]
    line = mixture({(None, "a"): 1, (None, "b"): 2, (NEW, "b"): 4, (None, "lost"): 8}, runs) or ""
    assert "6 rows with monai 1.6.0; 1 row with monai 1.5.1: " in line


def test_rows_of_two_commits_of_freqbench_are_told_apart() -> None:
    same = "freqbench 0.3.0"
    line = mixture({(same, "a"): 1, (same, "b"): 2}, [run("a", "0" * 40), run("b", "f" * 40, dirty=True)]) or ""
    assert f"2 rows with freqbench 0.3.0 at {'f' * 12}, with files changed; 1 row with freqbench 0.3.0 at 000" in line


def test_a_line_names_a_few_kinds_of_rows_and_counts_the_rest() -> None:
    line = mixture({(f"monai 1.{number}", ""): 1 + number for number in range(9)}, []) or ""
    assert line.count("rows with monai") == MOST_KINDS
    assert "5 more kinds" in line
