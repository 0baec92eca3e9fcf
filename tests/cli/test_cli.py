"""Exit codes, streams and texts of `python bench.py`, and what is kept on this machine."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from command_line import Bench, done, refused, wait_for
from data.conftest import Folder
from tiny_job import execute, expanded, job, rows, small, write
from typer.testing import CliRunner

import freqbench
from freqbench.attacks import ATTACKS
from freqbench.cli import app
from freqbench.cli.common import StoredOptions
from freqbench.core.errors import UserError
from freqbench.core.files import node_cache, storage
from freqbench.core.terminal import amount
from freqbench.reporting import tracker
from freqbench.results import Lease, Store

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """One thread, no network, a cache of its own, the package of this checkout."""
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR", "FREQBENCH_DATA")}
    own = {"OMP_NUM_THREADS": "1", "FREQBENCH_OFFLINE": "1", "FREQBENCH_CACHE": str(folder / "cache")}
    return {**kept, **own, "PYTHONPATH": str(ROOT)}


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def test_plan_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.chdir(tmp_path)
    out = done(bench, "plan", write(tmp_path, job()))
    assert "0 of 24 records are in runs/tiny\n" in out
    assert "left on one worker" in out
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_plan_as_json_is_all_of_stdout(tmp_path: Path, bench: Bench) -> None:
    """All else, such as budgets that are to be matched here, is on stderr."""
    out = str(tmp_path / "out")
    said = done(bench, "plan", write(tmp_path, job()), "--out", out, "--json", "--price", "2/h")
    outlook = json.loads(said)
    assert [(row["attack"], row["cells"], row["cases"], row["window_passes"]) for row in outlook["grid"]][:2] == [
        ("pgd", 2, 2, 64),
        ("fgsm", 1, 2, 16),
    ]
    assert (outlook["job"], outlook["out"], outlook["records_done"], outlook["records_left"]) == ("tiny", out, 0, 24)
    assert outlook["cost"] == pytest.approx(2 * outlook["hours_left"])
    missing = small(datasets=[{"name": "mine", "loader": "decathlon", "root": str(tmp_path / "none")}], **MATCHED)
    code, said, err = bench("plan", write(tmp_path, missing), "--out", out, "--json")
    outlook = json.loads(said)
    assert (code, outlook["missing"][0]["what"], outlook["records_left"]) == (0, "dataset mine", None)
    assert "budgets are not known yet" in err


@pytest.mark.parametrize("price", ["2.5", "cheap", "-1/h", "nan/h", "2.5/d", "٣/h"])
def test_a_price_that_is_none_an_hour_is_refused(price: str, bench: Bench) -> None:
    expected = f"error: --price: expected the cost of one worker for an hour, such as 2.5/h, got {price!r}\n"
    assert refused(bench, "plan", "no.yaml", "--price", price) == expected


@pytest.mark.integration
def test_run_says_in_plain_lines_what_it_did(tmp_path: Path) -> None:
    result = call(tmp_path, "run", write(tmp_path, small()), "--out", "out")
    said = result.stdout
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in said
    assert "\r" not in said
    waits = [line for line in said.splitlines() if line.startswith("waiting for ")]
    assert waits[-1] == "waiting for the first network and case to load"
    assert "1 of 1 records stored" in said
    assert "DSC" in said
    assert re.search(r"^1 record in \d+ s, 0 were there before: out/records$", said, re.MULTILINE)
    assert len(rows(tmp_path / "out")) == 1


def test_a_second_run_says_that_nothing_is_left(small_copy: Path, bench: Bench) -> None:
    out = done(bench, "run", str(small_copy.with_name("job.yaml")), "--out", str(small_copy))
    assert "\n0 records in 0 s, 1 were there before: " in out


def test_status_as_json_is_all_of_stdout(small_store: Path, bench: Bench) -> None:
    out = done(bench, "cluster", "status", str(small_store), "--json")
    status = json.loads(out)
    assert status["records"] == {"wanted": 1, "ok": 1, "failed": 0, "left": 0}
    assert status["attacks"] == [{"attack": "fgsm", "source": "a", "ok": 1, "failed": 0}]
    (run,) = status["runs"]
    assert (run["status"], run["records"], run["failed"], run["warnings"]) == ("done", 1, 0, 0)
    assert status["workers"] in ([], [{"run_id": run["run_id"], "workers": status["workers"][0]["workers"]}])


def test_a_shell_completes_commands_jobs_stores_and_names(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_copy.parent.name
    monkeypatch.chdir(small_copy.parent.parent)
    for words, expected in (
        (f"freqbench plan {folder}/j", f"{folder}/job.yaml"),
        (f"freqbench report {folder}", f"{folder}/out"),
        (f"freqbench run job.yaml --out {folder}/", f"{folder}/out"),
        ("freqbench au", "audit"),
        ("freqbench list attacks tifg", "tifgsm"),
        ("freqbench list jobs quick", "quickstart"),
    ):
        asked = {"_FREQBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = CliRunner().invoke(app, [], env=asked, prog_name="freqbench")
        assert (result.stdout.split(), result.stderr) == ([expected], "")


def test_bf16_alone_is_left_out_and_a_csv_says_so_on_stderr(tmp_path: Path, bench: Bench) -> None:
    execute(small(precision="bf16", metrics=["dsc"]), tmp_path)
    line = "- phantom: fgsm eps=8/255 precision=bf16 on a: not run in fp32 on the same cases"
    assert line in bench("report", str(tmp_path), "--table", "all")[1]
    code, out, err = bench("report", str(tmp_path), "--format", "csv")
    assert (code, len(out.splitlines()), err.splitlines()[0]) == (0, 1, "left out:")
    assert err.splitlines()[1].startswith(line)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "none.yaml"], "error: none.yaml: expected a YAML file, found none"),
        (["run", "{job}", "--set", "attacks.0.eps=8"], "Did you mean 8/255?"),
        (["run", "{job}", "--set", "attacks.9.eps=8"], "error: --set attacks.9.eps=8: no such place"),
        (["run", "{job}", "--set", "atacks=[]"], "unknown key 'atacks'. Did you mean 'attacks'?"),
        (["plan", "{job}", "--set", "datasets.0.split=tset"], "datasets[0]: phantom: unknown split 'tset'."),
        (["report", "{out}", "--format", "nonsense"], "unknown format 'nonsense'"),
        (["report", "nowhere"], "nowhere/run.json: expected a result store, found no such file"),
        (["cluster", "status", "runs/nowhere"], "runs/nowhere/run.json: expected a result store, found no such file"),
        (["score", "{out}", "--targets", "nobody"], "error: targets: unknown model 'nobody'"),
        (["score", "{out}", "--targets", "zoo://phantom/unet"], "expected saved volumes of this job, found none"),
        (["run", "{job}", "--shard", "9/8"], "error: --shard: expected NUMBER/COUNT such as 2/8"),
    ],
)
def test_mistake_is_one_line_and_code_2(small_copy: Path, bench: Bench, arguments: list[str], expected: str) -> None:
    shutil.rmtree(small_copy / "volumes")
    places = {"job": str(small_copy.with_name("job.yaml")), "out": str(small_copy)}
    err = refused(bench, *(argument.format(**places) for argument in arguments))
    assert err.startswith("error: ")
    assert expected in err


@pytest.mark.parametrize("change", ["seeds=[0]", "seeds=[]"])
def test_garbage_is_collected_again_once_a_job_is_read(small_store: Path, bench: Bench, change: str) -> None:
    bench("plan", str(small_store.with_name("job.yaml")), "--set", change)
    assert gc.isenabled()


def test_a_mistake_has_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = call(tmp_path, "run", write(tmp_path, small(attacks=[{"name": "pdg"}])))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith(
        f"job.yaml: attacks[0]: unknown attack 'pdg'. Did you mean 'pgd'? All {len(ATTACKS)}: freqbench list attacks\n"
    )
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["run"], ["nonsense"], ["run", "x.yaml", "--limit-cases", "0"], ["run", "-z"]])
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str], bench: Bench) -> None:
    assert bench(*arguments)[0] == 2


def test_failed_records_are_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr("freqbench.engine.attacking.attack_case", lambda *args: 1 / 0)
    code, out, _ = bench("run", write(tmp_path, small()), "--out", str(tmp_path / "out"))
    assert code == 1
    assert "failed: ZeroDivisionError: division by zero" in out
    assert out.splitlines()[-1] == "1 record failed: the same command tries them again"


def test_limit_cases_and_set_reach_the_run(tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "out"
    changes = ["--set", "attacks=[{name: gn, std: [0.1, 0.2]}]", "--set", "metrics=[dsc]", "--limit-cases", "1"]
    done(bench, "run", write(tmp_path, job()), "--out", str(out), "--engine", "serial", *changes)
    assert {(row["attack"], row["case_id"]) for row in rows(out).values()} == {("'gn'", "'phantom_2000'")}
    assert len(rows(out)) == 2 * 2 * 2


@pytest.mark.integration
def test_a_shard_is_a_part_and_force_goes_past_another_run(tmp_path: Path, bench: Bench) -> None:
    content = small(attacks=[{"name": "gn", "std": [0.01 * i for i in range(1, 9)]}], metrics=["dsc"])
    command = ["run", write(tmp_path, content), "--out", str(tmp_path / "out"), "--engine", "serial"]
    Lease(str(tmp_path / "out"), "other").take()
    expected = f"error: {tmp_path / 'out'}: expected no other run on these cells, got run other on shard 1/1"
    assert refused(bench, *command, "--shard", "1/2").startswith(expected)
    done(bench, *command, "--shard", "1/2", "--force")
    cells = expanded(content)[1].cells
    wanted = {cell.cell_id for cell in cells if int(cell.cell_id, 16) % 2 == 0}
    assert {row[0] for row in rows(tmp_path / "out")} == wanted
    assert 0 < len(wanted) < len(cells)


SAVED = {
    "models": job()["models"],
    "targets": "source",
    "save_adversarial": "nifti",
    "resources": {"workers": 1, "threads": 1},  # what Ray would do in a run is tested elsewhere
}


MATCHED = {"attacks": [{"name": "gn", "match": {"metric": "l2_body", "value": 1.5}}], "metrics": ["dsc"]}


@pytest.mark.integration
def test_matched_budgets_are_planned_found_run_kept_and_scored(tmp_path: Path, bench: Bench) -> None:
    path = write(tmp_path, small(**MATCHED, **SAVED))
    out = tmp_path / "out"
    code, said, _ = bench("plan", path, "--out", str(out))
    assert (code, out.exists()) == (0, False)
    assert said.startswith("2 of 2 budgets are not known yet: run finds them before anything else\n")
    said = done(bench, "run", path, "--out", str(out))
    assert [line.split("=")[0] for line in said.splitlines()[:2]] == ["gn on a, phantom: std", "gn on b, phantom: std"]
    budgets = {record["source"]: record["budget"] for record in json.loads((out / "match.json").read_text()).values()}
    assert {*Store(str(out)).rows(("source_model", "budget"))} == {*budgets.items()}
    code, said, _ = bench("run", path, "--out", str(out))
    assert "\n0 records in 0 s, 2 were there before: " in said
    assert "asked" not in said
    done(bench, "score", str(out), "--targets", "a", "--job", path)
    (out / "match.json").unlink()
    (tmp_path / "job.yaml").unlink()
    said = done(bench, "score", str(out), "--targets", "b")
    assert "phantom: transfer of gn std=" in said
    assert len(rows(out)) == 4


def test_ctrl_c_while_matching_is_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("freqbench.engine.attacking.attack_case", interrupt)
    code, said, _ = bench("run", write(tmp_path, small(**MATCHED)), "--out", str(tmp_path / "out"))
    assert code == 130
    assert said == "stopped while budgets were matched: results are kept, and the same command goes on\n"


def test_doctor_runs(bench: Bench) -> None:
    out = done(bench, "doctor")
    for word in ("devices:", "versions:", "torch", "LPIPS weights:", "attacks:", "pgd", "phantom/unet", "datasets:"):
        assert word in out


def test_signal_stores_what_is_done_and_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """SIGTERM, which a queue sends; `tests/tools/chaos/test_driver.py` sends both signals to Ray's driver."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, small(attacks=[{"name": "gn", "std": [i / 1000 for i in range(1, 1000)]}], metrics=["dsc"]))

    def stop() -> None:
        wait_for(lambda: any((tmp_path / "out" / "runs").glob("2*.json")))
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop).start()
    code, out, err = bench("run", path, "--out", "out", "--engine", "serial")
    assert (code, err) == (130, "")
    stored = len(rows(tmp_path / "out"))
    assert out.splitlines()[-1] == f"stopped: {amount(stored, 'record')} kept in out; the same command goes on"
    (run,) = [json.loads(file.read_text()) for file in (tmp_path / "out" / "runs").glob("2*.json")]
    assert (run["status"], run["records"]) == ("interrupted", stored)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "file").write_text("in the way")
    err = refused(bench, "run", write(tmp_path, small()), "--out", str(tmp_path / "file" / "out"))
    assert err.startswith("error: ")
    assert err.rstrip().endswith("check the path and its permissions")


@pytest.mark.integration
def test_a_path_outside_ascii_is_said_in_the_c_locale_too(tmp_path: Path) -> None:
    bare = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    command = [sys.executable, str(ROOT / "bench.py"), "cluster", "status", "größe"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path) | bare, capture_output=True, check=False)
    assert result.stderr.decode().startswith("error: größe/run.json: expected a result store")


def test_an_argument_that_is_no_utf8_is_one_line(bench: Bench) -> None:
    expected = "error: b'runs/gr\\xf6': expected UTF-8, got other bytes: rename the file or folder\n"
    assert refused(bench, "cluster", "status", "runs/gr\udcf6") == expected


def test_a_tracker_that_fails_loses_nothing(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, out: str) -> str:
        raise UserError("--log mlflow: expected a server that answers, got none")

    monkeypatch.setattr(tracker, "log", refuse)
    given = (write(tmp_path, small()), "--out", str(tmp_path / "out"), "--log", "tensorboard", "--engine", "serial")
    said = done(bench, "run", *given, "--no-page")
    assert "not logged: --log mlflow: expected a server that answers, got none: all rows are in" in said


def test_the_version_is_shown(bench: Bench) -> None:
    assert bench("--version")[:2] == (0, f"freqbench {freqbench.__version__}\n")


def test_job_in_place_of_stores_own_may_be_packaged_one() -> None:
    assert StoredOptions(job="quickstart").spec("").name == "quickstart"
    with pytest.raises(UserError, match="unknown packaged job 'quickstarts'"):
        StoredOptions(job="quickstarts").spec("")


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "1.5")
    (tmp_path / "data").mkdir()
    dataset = Folder(tmp_path / "data").dataset(pad_to=(128, 128, 64))
    for ref in dataset.refs():
        dataset.load(ref)
    place = tmp_path / "cache" / "volumes"
    size = f"{sum(path.stat().st_size for path in place.iterdir()) / 1e9:.2f}"
    assert (size, bench("doctor", "--cache", "show")[1]) == ("0.02", f"3 volumes, {size} of 1.5 GB: {place}\n")
    assert bench("doctor", "--cache", "clear")[1] == f"{size} GB freed: {place}\n"
    assert node_cache.entries("volumes") == []
    assert bench("doctor", "--cache", "show")[1] == f"0 volumes, 0.00 of 1.5 GB: {place}\n"


def test_copies_of_remote_files_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    storage.write_atomic("memory://tests-cache/a.bin", bytes(20_000_000))
    copy = storage.fetch("memory://tests-cache/a.bin")
    storage.remove("memory://tests-cache/a.bin")
    place = tmp_path / "cache" / "files"
    assert f"0.02 GB of files fetched from URIs: {place}\n" in bench("doctor", "--cache", "show")[1]
    assert f"0.02 GB freed: {place}\n" in bench("doctor", "--cache", "clear")[1]
    assert not copy.exists()


def test_compiled_functions_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    made = node_cache.part("inductor") / "ab" / "cab.py"
    made.parent.mkdir(parents=True)
    made.write_text("kernel")
    assert list(node_cache.strangers()) == []
    bench("doctor", "--cache", "clear")
    assert not made.parent.exists()


def test_bound_that_is_no_number_stops_run_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE_GB", "abc")
    with pytest.raises(UserError, match=r"^FREQBENCH_CACHE_GB: expected a number of gigabytes"):
        execute(small(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
