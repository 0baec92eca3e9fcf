"""`bench.py audit`: what it prints, refuses and leaves with."""

import re
from pathlib import Path

import pytest
from alterations import set_first
from command_line import Bench, done, refused
from faint_balls import job
from tiny_job import execute, write

from freqbench.audit import computing
from freqbench.audit.checks import Finding
from freqbench.cli.audit import _remedies
from freqbench.cli.common import StoredOptions
from freqbench.reporting.audit import LINES
from freqbench.results import Store


@pytest.fixture(scope="module")
def audited_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("audit") / "out")
    execute(small(), place)
    return place


def small() -> dict[str, object]:
    content = job(save_adversarial="none", attacks=[{"name": "fgsm", "eps": "32/255"}])
    return {**content, "models": content["models"][:1]}


def test_audit_of_store_says_what_was_and_what_was_not_checked(audited_store: str, bench: Bench) -> None:
    out = done(bench, "audit", audited_store, "--all")
    assert "Audit: plain on balls" in out
    assert "not checked" in out
    assert "freqbench audit OUT --plan lists the cells that they need" in " ".join(out.split())


def test_first_screen_names_the_commands_with_their_cost(audited_store: str, bench: Bench) -> None:
    """The store never grants the trust that a plan of its networks takes."""
    screens = [bench("audit", audited_store, *trust)[1] for trust in ((), ("--trust-code",))]
    told = r"about \d+ minutes? on one worker; noise and null rows alone: --run --short, about 1 minute"
    for text, cost in zip(screens, ("--plan shows its cost", told), strict=True):
        assert re.search(f"^What was not checked: freqbench audit {audited_store} --run, {cost}$", text, re.MULTILINE)
    lines = screens[0].splitlines()
    assert len(lines) <= LINES
    assert lines[1].startswith("plain on balls  ")
    assert lines[-1].endswith(f"freqbench audit {audited_store} --all")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.51, -0.32, "More cases will not settle noise_l2: attacks are ahead for certain, but hardly by 0.5 points"),
        (-0.9, -0.1, "What is in doubt: 5 patients "),
        (-0.2, 0.2, "What is in doubt: 5 patients "),
    ],
)
def test_more_cases_may_settle_a_doubt(low: float, high: float, told: str, audited_store: str) -> None:
    doubt = Finding(
        check="noise_l2",
        dataset="balls",
        verdict="in doubt",
        sentence="x",
        model="plain",
        patients=5,
        cases=5,
        difference=(low + high) / 2,
        low=low,
        high=high,
    )
    first, *others = _remedies(Store(audited_store), (doubt,), StoredOptions())
    assert first.startswith(told)
    assert [line.split()[0] for line in others] == ["All"]


def test_an_audit_can_be_written_to_a_file(audited_store: str, tmp_path: Path, bench: Bench) -> None:
    place = tmp_path / "audit.md"
    done(bench, "audit", audited_store, "--format", "md", "--to", str(place))
    assert "| what should hold" in place.read_text()


def test_the_plan_needs_leave_to_run_the_store_s_code(audited_store: str, bench: Bench) -> None:
    """A store never grants it."""
    assert "trust" in refused(bench, "audit", audited_store, "--plan")


@pytest.mark.integration
def test_run_computes_what_is_missing_and_shows_it(
    audited_store: str, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "QUERIES", 10)
    options = ("--job", write(tmp_path, small()), "--cases", "1", "--eps", "0.1", "--engine", "serial")
    out = done(bench, "audit", audited_store, "--run", *options)
    assert "window passes" in out
    assert "checks hold" in out
    assert (Path(audited_store) / "audit" / "gradients.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--cases", "2"), "audit: --cases: expected --run or --plan beside it, got none: see audit --help-all"),
        (("--eps", "8/255"), "audit: --eps: expected --run or --plan beside it, got none"),
        (
            ("--set", "resources.threads=1"),
            "audit: --set: expected --run or --plan or --converge or --certify beside it, got none",
        ),
        (("--run", "--set", "resources.threads=none"), "resources.threads"),
        (("--address", "auto"), "audit: --address: expected --run or --plan beside it, got none"),
        (
            ("--run", "--plan"),
            "audit: expected one of --run, --plan, --files, --rows, --converge, --certify, got --run and --plan",
        ),
        (("--plan", "--format", "md"), "audit: --format: expected --run beside it, got --plan"),
        (("--format", "pdf"), "unknown format 'pdf'"),
    ],
)
def test_bad_options_are_one_line(audited_store: str, arguments: tuple[str, ...], complaint: str, bench: Bench) -> None:
    assert complaint in refused(bench, "audit", audited_store, *arguments)


def test_equal_rows_exit_with_0(small_store: Path, bench: Bench) -> None:
    out = done(bench, "audit", str(small_store), "--rows", "1")
    assert "equal to the bit: fgsm on a, scored on a: case phantom_2000 of phantom (" in out


def test_different_rows_exit_with_1(small_copy: Path, bench: Bench) -> None:
    set_first(small_copy, "records", linf=0.5)
    code, out, _ = bench("audit", str(small_copy), "--rows", "1")
    assert code == 1
    assert "linf" in out


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (("--rows", "000000"), "expected one row whose id begins with 000000, got none"),
        (("--rows", "abc"), "--rows: expected a number, or 6 to 16 hex digits"),
        (("--rows", "1", "--job", "gone.yaml"), "gone.yaml: expected a YAML file"),
        (("--rows", "1", "--plan"), "audit: expected one of --run, --plan, --files, --rows, "),
        (("--seed", "1"), "audit: --seed: expected --rows beside it, got none"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(small_store: Path, bench: Bench, typed: tuple[str, ...], text: str) -> None:
    assert text in refused(bench, "audit", str(small_store), *typed)


def test_files_exits_with_0_for_a_sound_store_and_1_for_another(small_copy: Path, bench: Bench) -> None:
    done(bench, "audit", str(small_copy), "--files")
    (small_copy / "records" / "torn-000000.parquet").write_bytes(b"PAR1")
    code, out, _ = bench("audit", str(small_copy), "--files")
    assert code == 1
    assert "wrong" in out


def test_a_dice_that_is_not_medpy_s_exits_with_1(small_copy: Path, bench: Bench) -> None:
    assert "dsc by MedPy" in bench("audit", str(small_copy), "--rows", "1")[1]
    set_first(small_copy, "records", dsc=0.5)
    code, out, _ = bench("audit", str(small_copy), "--rows", "1")
    assert (code, "(beyond)" in out) == (1, True)
