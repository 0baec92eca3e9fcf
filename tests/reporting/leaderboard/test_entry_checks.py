"""`board verify`: what can be computed again stands; changed rows and masked gradients are refused in words."""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from alterations import Rows, alter, alter_json, run_file, set_first
from audit import planted
from command_line import bench
from faint_balls import Bright
from pandas import DataFrame
from reporting.leaderboard.conftest import job
from rich.console import Console
from tiny_job import write

from freqbench.audit import checks, computing
from freqbench.audit.checks import audited, verdicts
from freqbench.reporting.leaderboard import entry_checks
from freqbench.reporting.leaderboard.entry_checks import Recomputation, examine, reasons, recompute
from freqbench.reporting.leaderboard.entry_folder import BoardEntry, Told, read_entry

Verify = Callable[..., tuple[int, str, str]]
Given = tuple[str, ...]
ASKED: dict[str, Any] = {"share": 1.0, "cases": 2, "engine": "serial", "trust_code": True}


def copied(made: Path, to: Path, change: Callable[[Path], Any], name: str = "plain") -> BoardEntry:
    """A copy of an entry whose store was changed."""
    folder = Path(shutil.copytree(made / "entries" / name, to / name))
    change(folder / "store")
    return read_entry(folder)


def computed(entry: BoardEntry, made: Path, **asked: Any) -> list[str]:
    """The reasons of `recompute` with the checkpoint that the entry is of."""
    weights = {"checkpoint": str(made / f"{entry.name}.pt")}
    return reasons(recompute(entry, Console(file=io.StringIO()), Recomputation(**{**ASKED, **weights, **asked})))


@pytest.fixture
def given(entered: Path) -> tuple[str, ...]:
    """Options with the checkpoint that the entry is of."""
    return ("--checkpoint", str(entered / "plain.pt"), "--trust-code")


@pytest.fixture
def verify(plain: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Options of `board verify` to its exit code, stdout and stderr."""
    return partial(bench, capsys, "board", "verify", str(plain))


@pytest.fixture
def without_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audit without findings, which tests of other things need not compute."""
    monkeypatch.setattr(computing, "compute_missing", lambda *args, **options: 0)
    monkeypatch.setattr(entry_checks, "check_audit", lambda store: entry_checks.Check("audit", "ok", ""))


def test_rows_whose_audit_stands_pass(entry: BoardEntry) -> None:
    assert reasons(examine(entry.told)) == []


def test_audit_of_an_entry_is_computed_once(entry: BoardEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count()
    monkeypatch.setattr(checks, "audited", lambda evidence: (next(calls), audited(evidence))[1])
    assert examine(entry.told)[-1].text
    assert entry.told.verdicts
    assert next(calls) == 1


def test_equal_input_gives_equal_rows(entry: BoardEntry, without_audit: None, verify: Verify, given: Given) -> None:
    before = {path: path.read_bytes() for path in entry.folder.rglob("*") if path.is_file()}
    code, said, _ = verify(*given, "--engine", "serial", "--share", "1")
    assert (code, said.splitlines()[-1]) == (0, f"{entry.folder}: verified")
    assert {path: path.read_bytes() for path in entry.folder.rglob("*") if path.is_file()} == before


def test_spot_check_computes_as_many_rows_as_asked_and_no_audit(
    entered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify, given: Given
) -> None:
    monkeypatch.setattr(computing, "compute_missing", lambda *args, **options: pytest.fail("an audit"))
    asked = (*given, "--rows", "1", "--seed", "3")
    code, said, _ = verify(*asked)
    assert (code, re.findall(r"^row \w+: ([\w ]+):", said, flags=re.MULTILINE)) == (0, ["equal to the bit"])
    assert said.splitlines()[-1].endswith("plain: these rows agree; without --rows all is verified")
    for beside in (("--cases", "1"), ("--share", "1")):
        code, _, err = verify(*asked, *beside)
        assert (code, "--rows: expected neither --share nor --cases beside it" in err) == (2, True)
    (reason,) = computed(copied(entered, tmp_path, forged), entered, rows=1)
    assert re.match(r"reproduce: 1 rows: 1 DIFFERENT, of 2 ", reason)


def test_weights_that_a_job_trains_are_asked_for(entered: Path, tmp_path: Path) -> None:
    entry = copied(entered, tmp_path, lambda store: None)
    entry = replace(entry, card=entry.card.model_copy(update={"checkpoint": "train://acdc/board_train/union"}))
    (result,) = recompute(entry, Console(), Recomputation(checkpoint=None, **{**ASKED, "cases": None}))
    asked = "train://acdc/board_train/union: freqbench run acdc/board_train trains union: give its file by --checkpoint"
    assert (result.verdict, result.text) == ("wrong", asked)


def test_a_row_that_computing_contradicts_is_refused(entered: Path, tmp_path: Path, without_audit: None) -> None:
    entry = copied(entered, tmp_path, lambda store: set_first(store, "records", ssim=0.5))
    assert reasons(examine(entry.told)) == []
    (reason,) = computed(entry, entered, seed=3)
    assert reason == "reproduce: 2 rows: 1 equal to the bit, 1 DIFFERENT, of 2 with 0 worst cases (seed 3)"


def forged(store: Path, number: int | None = None) -> None:
    """Class rows and records that agree: each case, or one that the audit has not attacked, keeps all of its Dice."""

    def change(rows: Rows, keep: bool = True) -> None:
        cases = sorted({row["case_key"] for row in rows})
        for row in [row for row in rows if number is None or row["case_key"] == cases[number]]:
            row |= {name: row[name + "_clean"] for name in ("dsc", "dsc_foreground") if name in row}
            rows[:] = [each for each in rows if keep or each is not row]

    for kind in ("records", "class_records"):
        alter(store, kind, change)
    if number is not None:
        alter(store / "audit", "records", lambda rows: change(rows, keep=False))


def test_forgeries_alike_are_found_by_computing(entered: Path, tmp_path: Path, without_audit: None) -> None:
    entry = copied(entered, tmp_path, forged)
    assert reasons(examine(entry.told)) == []
    (reason,) = computed(entry, entered, share=0.1)
    assert re.match(r"reproduce: 1 rows: 1 DIFFERENT, of 2 ", reason)


@pytest.mark.integration
@pytest.mark.parametrize("number", [0, 1])
def test_deciding_forgery_is_always_found(number: int, entered: Path, tmp_path: Path, without_audit: None) -> None:
    (reason,) = computed(copied(entered, tmp_path, lambda store: forged(store, number)), entered, share=0.1, seed=3)
    assert "1 DIFFERENT, of 2 with 1 worst cases (seed 3)" in reason


@pytest.fixture
def other(tmp_path: Path) -> str:
    torch.save({name: 1.1 * weight for name, weight in Bright(2).state_dict().items()}, tmp_path / "other.pt")
    return str(tmp_path / "other.pt")


def test_another_checkpoint_is_refused(plain: Path, entry: BoardEntry, other: str, verify: Verify) -> None:
    code, said, _ = verify("--checkpoint", other, "--trust-code", "--share", "1")
    assert (code, "reproduce: 2 rows: 2 DIFFERENT, of 2 with " in said.splitlines()[-1]) == (1, True)
    digest = entry.facts.checkpoint
    assert f"checkpoint of plain: {digest[:12]}" in said


def test_a_checkpoint_that_cannot_be_had_is_refused(entry: BoardEntry, entered: Path, tmp_path: Path) -> None:
    (reason,) = computed(entry, entered, checkpoint=str(tmp_path / "none.pt"))
    assert "none.pt" in reason


def test_third_party_code_needs_leave(entry: BoardEntry, entered: Path) -> None:
    (reason,) = computed(entry, entered, trust_code=False)
    assert "needs --trust-code" in reason


def test_other_data_are_refused(entered: Path, tmp_path: Path, verify: Verify, given: Given) -> None:
    content = job(entered)
    content["datasets"] = [{**content["datasets"][0], "side": 18}]
    code, said, _ = verify(*given, "--share", "1", "--job", write(tmp_path, content))
    assert (code, "reproduce: 2 rows: 2 DIFFERENT, of 2 with " in said.splitlines()[-1]) == (1, True)
    assert "recipe of balls: side: 16 then, 18 now" in said


def test_missing_data_speak_against_no_entry(
    plain: Path, entered: Path, tmp_path: Path, verify: Verify, given: Given
) -> None:
    content = job(entered)
    content["datasets"] = [{"name": "balls", "loader": "decathlon", "root": str(tmp_path / "none")}]
    code, said, _ = verify(*given, "--job", write(tmp_path, content))
    last = said.splitlines()[-1]
    assert code == 1
    assert last.startswith(f"{plain}: not verified, as its data are missing here, with no sign against it: ")
    assert str(tmp_path / "none") in last
    assert "refused" not in said


def test_rows_of_another_job_are_refused(entered: Path, tmp_path: Path) -> None:
    def other_steps(store: Path) -> None:
        for path in (store / "run.json", run_file(store)):
            alter_json(path, lambda given: (given["job"].get("spec") or given["job"])["attacks"][0].update(steps=9))

    (reason,) = computed(copied(entered, tmp_path, other_steps), entered)
    assert reason.startswith("reproduce: 2 rows: 2 DIFFERENT, of 2 with ")


def test_masked_gradients_are_refused_in_words(entered: Path) -> None:
    (reason,) = reasons(examine(read_entry(entered / "entries" / "rounded").told))
    assert reason.startswith("audit: Masked gradients on balls: flagged: ")
    flag = r"gradients are not zero.* signs? of masked gradients in \d+ checks"
    assert re.search(rf"flagged: it does not hold that .*{flag}", reason)


@pytest.mark.integration
def test_masked_gradients_are_found_by_computing(entered: Path) -> None:
    (reason,) = computed(read_entry(entered / "entries" / "rounded"), entered)
    assert reason.startswith("audit: Masked gradients on balls: flagged: ")


@pytest.mark.integration
def test_row_of_its_audit_that_computing_contradicts_is_refused(entered: Path, tmp_path: Path) -> None:
    entry = copied(
        entered, tmp_path, lambda store: set_first(store / "audit", "records", {"attack": "fgsm"}, dsc_foreground=0.8)
    )
    (reason,) = computed(entry, entered)
    assert re.fullmatch(r"audit: fgsm on \w+: expected a foreground DSC of 0\.8000, got \d\.\d{4}", reason)


def test_an_audit_that_was_not_run_is_refused(entered: Path, tmp_path: Path) -> None:
    (reason,) = reasons(examine(copied(entered, tmp_path, lambda store: shutil.rmtree(store / "audit")).told))
    assert "Not audited on balls: its gradients were not measured: freqbench audit OUT --run." in reason
    assert "linf eps=32/255: apgd (horizon), apgd (dice) not run: freqbench audit OUT --run." in reason


def test_weak_settings_are_refused_in_words() -> None:
    rows = planted.healthy()
    findings = audited(planted.evidence(rows, added=planted.but_for(rows, "fgsm"), gradients=(planted.gradients(),)))
    facts = Told(cases={}, worst_cases=DataFrame(), findings=findings, verdicts=(*verdicts(findings),), lacking=())
    (reason,) = entry_checks._refusals(facts)
    fallen = "flagged: it does not hold that no attack with the same bounds is stronger (a stronger attack with"
    assert reason.startswith(f"Weak settings on phantom: {fallen}")
    assert "report the stronger attack" in reason


def test_a_share_that_is_none_is_one_line(verify: Verify) -> None:
    code, _, err = verify("--share", "0")
    assert (code, err) == (2, "error: --share: expected a number in (0, 1], got 0: 0.1 is a tenth of the rows\n")
