"""`bench.py converge`: what it writes, that it goes on where it was, and what it refuses."""

import csv
from pathlib import Path

import pytest
import yaml
from command_line import Bench, refused
from tiny_job import expanded, rows, small, write

OPTIONS = ("--steps", "1,2", "--losses", "ce", "--restarts", "1", "--engine", "serial")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    attacks = [{"name": "pgd", "eps": "32/255"}, {"name": "gn", "std": "8/255"}]
    return write(tmp_path_factory.mktemp("converge"), small(attacks=attacks, metrics=["dsc"]))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.integration
def test_converge_shows_the_curves_writes_its_files_and_computes_nothing_twice(
    path: str, out: Path, bench: Bench
) -> None:
    code, text, _ = bench("study", "converge", path, "--out", str(out), *OPTIONS)
    assert code == 0
    assert "2 cells, 2 units, 24 window passes" in text  # 4 windows x (1 + 2) steps, there and back
    assert "left out, as more steps add nothing to their drop: gn" in text
    assert "drop against passes, attacks on a" in text
    assert all((out / f"converge.{suffix}").stat().st_size for suffix in ("csv", "yaml", "png", "pdf"))
    curve = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    assert [(row["steps"], float(row["passes"])) for row in curve] == [("1", 2), ("2", 4)]
    attacks = yaml.safe_load((out / "converge.yaml").read_text())["attacks"]
    recommended = expanded(small(attacks=attacks, metrics=["dsc"]))[1].cells
    before = rows(out)
    assert {cell.cell_id for cell in recommended} <= {key[0] for key in before}
    again = bench("study", "converge", path, "--out", str(out), *OPTIONS)
    assert again[0] == 0
    assert "2 of 2 records are in" in again[1]
    assert "records stored" not in again[1]
    assert rows(out) == before
    more = bench("study", "converge", path, "--out", str(out), *OPTIONS, "--steps", "1,2,3")[1]
    assert "2 of 3 records are in" in more


@pytest.mark.integration
def test_a_search_has_a_curve_by_queries_and_each_step_size_one_by_steps(
    tmp_path: Path, out: Path, bench: Bench
) -> None:
    """One pass a query, and of `rays` one for the clean Dice."""
    attacks = [
        {"name": "rays", "eps": "32/255"},
        {"name": "pgd", "eps": "32/255", "step_size": ["eps/2", "eps/8"]},
        {"name": "random_noise", "linf": 0.1},
    ]
    job = write(tmp_path, small(attacks=attacks, metrics=["dsc"]))
    code, text, _ = bench("study", "converge", job, "--out", str(out), *OPTIONS, "--queries", "3,12")
    assert (code, "left out, as more steps add nothing to their drop: random_noise" in text) == (0, True)
    curves = list(csv.DictReader((out / "converge.csv").read_text().splitlines()))
    points = [(row["attack"], row["steps"], float(row["passes"])) for row in curves]
    pgd = [(f"pgd step_size=eps/{part}", steps, 2.0 * int(steps)) for part in "28" for steps in "12"]
    assert sorted(points) == [*pgd, ("rays", "12", 13), ("rays", "3", 4)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--steps", "ten"), "--steps: expected whole numbers between commas, such as 5,10,20, got 'ten'"),
        (("--steps", "1_0,2_0"), "--steps: expected whole numbers between commas, such as 5,10,20, got '1_0,2_0'"),
        (("--losses", "cee"), "--losses: unknown loss 'cee'. Did you mean 'ce'?"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_computed(
    path: str, out: Path, arguments: tuple[str, ...], complaint: str, bench: Bench
) -> None:
    assert complaint in refused(bench, "study", "converge", path, "--out", str(out), *arguments)
    assert not out.exists()
