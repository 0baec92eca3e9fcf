"""Commands' front and ends: at once where the job is wrong, whole on any stream, one line whatever happens."""

import importlib
import inspect
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Bench, done, refused
from job.test_refusals import WRONG as MISTAKES
from tiny_job import JOB, job, small, write

import freqbench.core.config
from freqbench.cli import PANELS, app, report
from freqbench.core import names
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.names import packaged_jobs

ROOT = Path(__file__).parents[2]


def python(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FREQBENCH_OFFLINE": "1", **variables}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)


SPOILT = {
    **{f"mistake {number}": changes for number, changes in enumerate(MISTAKES)},
    "key": {"attack": []},
    "attack": {"attacks": [{"name": "pdg"}]},
    "loader": {"datasets": [{"name": "sinapse"}]},
    "architecture": {"models": [{"name": "a", "arch": "UNET3", "checkpoint": "random"}]},
    "metric": {"metrics": ["DCS"]},
    "number": {"seeds": [10**30]},
}
SPOILT["grid"] = {"attacks": [{"name": "pgd", "eps": [0.1] * 4000, "steps": [1] * 4000}]}
SPOILT["overlap"] = {"models": [{**JOB["models"][0], "inference": {"overlap": 1}}]}
WRONG = {name: json.dumps(job(**changes)) for name, changes in SPOILT.items()} | {"syntax": "{name: ["}
CHILD = """
import json, sys
from freqbench.cli import app
said = {}
for name in json.loads(sys.argv[1]):
    try:
        app(["plan", name], standalone_mode=False)
    except ValueError as error:
        said[name] = str(error)
heavy = {"torch", "monai", "ray", "pandas", "scipy", "nibabel", "SimpleITK", "pydicom"}
print(json.dumps([said, sorted(heavy & set(sys.modules))]))
"""


def test_wrong_job_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    for name, text in WRONG.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    said, imported = json.loads(python(tmp_path, "-c", CHILD, json.dumps([f"{name}.yaml" for name in WRONG])).stdout)
    assert set(said) == {f"{name}.yaml" for name in WRONG}
    assert imported == []


@pytest.mark.slow
def test_networks_checked_before_are_planned_without_monai(tmp_path: Path) -> None:
    """MONAI takes longer than all the rest; a network is made of it once, and what came out is remembered."""
    (tmp_path / "job.yaml").write_text(json.dumps(job()))
    large = {"monai", "torch._dynamo", "scipy.ndimage", "matplotlib", "pandas", "PIL", "ray", "nibabel", "SimpleITK"}
    code = (
        "import sys; from freqbench.cli import app; app(['plan', 'job.yaml'], standalone_mode=False); "
        f"print(sorted({large!r} & set(sys.modules)))"
    )
    kept = {"FREQBENCH_CACHE": str(tmp_path / "cache"), "FREQBENCH_CACHE_GB": "1"}
    first, second = (python(tmp_path, "-c", code, **kept).stdout.decode().splitlines() for _ in range(2))
    assert "monai" in first[-1]
    assert second[-1] == "[]"
    tables = [[line for line in said if "left on one worker" not in line][:-1] for said in (first, second)]
    assert tables[0] == tables[1]


def test_the_names_that_a_job_may_have_are_those_of_the_tables() -> None:
    from freqbench.attacks import ATTACKS
    from freqbench.attacks.corruption import KINDS
    from freqbench.data import DATASETS
    from freqbench.metrics import METRICS
    from freqbench.models import MODELS, READERS
    from freqbench.ops.dct import BANDS
    from freqbench.ops.losses import LOSSES

    tables = {
        "attacks": ATTACKS,
        "datasets": DATASETS,
        "models": (*MODELS, *READERS),
        "metrics": METRICS,
        "losses": LOSSES,
        "bands": BANDS,
        "corruptions": KINDS,
    }
    for table, known in tables.items():
        assert sorted(names.KNOWN[table]) == sorted(known)


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict"])
def test_a_stream_gets_what_it_can_encode(tmp_path: Path, encoding: str) -> None:
    code = "import sys; from freqbench.cli import main; sys.argv[1:] = ['plan', 'M\\u00fcller \\u2013.yaml']; main()"
    done = python(tmp_path, "-c", code, PYTHONIOENCODING=encoding)
    name = "M\u00fcller ?.yaml".encode("latin-1") if "latin" in encoding else b"M?ller ?.yaml"
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: " + name)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "| true", "2>&- >&-"])
def test_a_closed_stream_ends_no_command_with_a_traceback(tmp_path: Path, closed: str) -> None:
    command = f'set -o pipefail; "{sys.executable}" "{ROOT / "bench.py"}" plan --help {closed}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode in ((0, 1) if "true" in closed else (0,))


@pytest.mark.integration
def test_a_warning_of_a_library_does_not_stand_before_the_line(tmp_path: Path) -> None:
    code = (
        "import sys, warnings\nfrom freqbench.core import config\nfrom freqbench.core.errors import UserError\n"
        "def read(*_):\n    warnings.warn('a tensor of no elements')\n    raise UserError('expected one, got none')\n"
        "config.read = read\nfrom freqbench.cli import main\nsys.argv[1:] = ['plan', 'job.yaml']\nmain()"
    )
    assert python(tmp_path, "-c", code).stderr == b"error: expected one, got none\n"
    assert b"UserWarning" in python(tmp_path, "-W", "default", "-c", code).stderr


def test_a_value_of_thousands_of_letters_is_cut(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path, job(attacks=[{"name": "pgd", "eps": "4/255", "loss": 5000 * "9"}]))
    line = refused(bench, "plan", path)
    assert len(line) < 3100
    assert line.startswith(f"error: {path}: attacks[0].loss: unknown loss '99")
    assert line.endswith("mask-ce-balanced\n")


def test_defect_is_one_line_with_log_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(freqbench.core.config, "read", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code, out, err = bench("plan", "job.yaml")
    (log,) = tmp_path.glob("freqbench-*.log")
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert err.startswith("error: this is a defect, please report it: ZeroDivisionError: two lines (python 3.")
    assert f"log: {log}" in err
    assert "Traceback" in log.read_text()


def test_a_wrong_number_of_threads_is_the_user_s_mistake(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "abc")
    assert refused(bench, "plan", "quickstart").startswith("error: OMP_NUM_THREADS: expected a whole number from 1 to ")


def test_variable_refused_on_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    (tmp_path / "library.py").write_text("import os\nfloat(os.environ['LIBRARY_INTERVAL'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIBRARY_INTERVAL", "soon")
    monkeypatch.setattr(freqbench.core.config, "read", lambda *_: importlib.import_module("library"))
    got = "got 'soon' (could not convert string to float: 'soon'): correct it, or unset it\n"
    assert refused(bench, "plan", "job.yaml") == f"error: LIBRARY_INTERVAL: expected a value that libraries take, {got}"


@pytest.mark.parametrize(
    ("text", "code"), [("import sys\nsys.exit(3)\n", 3), ("import argparse\nargparse.ArgumentParser().exit(2)\n", 2)]
)
def test_code_of_others_that_ends_the_process_is_named(
    text: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """Such as a dataset that lists its cases."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ending.py").write_text(text)
    monkeypatch.delitem(sys.modules, "ending", raising=False)
    monkeypatch.setattr(freqbench.core.config, "read", lambda *_: importlib.import_module("ending"))
    expected = f"expected code that returns or raises an error, got SystemExit: {code}: mend it\n"
    assert refused(bench, "plan", "job.yaml") == f"error: ending: {expected}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "job.yaml", "--out", ""], "--out: expected a value"),
        (["run", "job.yaml", "--out="], "--out: expected a value"),
        (["cluster", "status", "  "], "status: expected a value"),
        (["run", "job.yaml", "--engine", "serial", "--address", "auto"], "--address: --engine serial"),
        (["run", "job.yaml", "--dry-data", "phantom", "--address", "auto"], "--address: --engine serial"),
        (["plan", "job.yaml", "--out", "C:\\runs\\mine"], "C:\\runs\\mine/records: expected a path of this system"),
        (["plan", "job.yaml", "--out", "~nosuchuser/x"], "~nosuchuser/x/records: expected the home of a user"),
    ],
)
def test_an_option_that_would_mean_something_else_is_refused(
    arguments: Sequence[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, job())
    assert refused(bench, *arguments).startswith(f"error: {expected}")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("path", ["~nosuchuser/a.pt", "~nosuchuser", "D:/data", "\\\\host\\share", "", " "])
def test_a_path_of_nobody_here_is_refused_wherever_it_is_opened(path: str) -> None:
    with pytest.raises(UserError, match="expected"):
        storage.exists(path)
    if path.startswith("~"):
        with pytest.raises(UserError, match="home of a user"):
            storage.filled_in(path, "model a")


def test_run_ends_with_table_page_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    code, said, _ = bench("run", write(tmp_path, job(metrics=["dsc"])), "--out", "my out", "--engine", "serial")
    assert code == 0
    lines = said[said.index("phantom: DSC under white-box attacks") :].splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not {chr(code) for code in range(0x2500, 0x2580)} & {*said}
    assert any(line.startswith("phantom: transfer of ") for line in lines)
    assert "Audit" not in said
    assert lines[-4].startswith("written: my out/report.html (")
    assert lines[-3:] == [
        "next: freqbench report 'my out' --open",
        "      freqbench report 'my out'",
        "      freqbench audit 'my out'",
    ]
    assert "freqbench-data" in (tmp_path / "my out" / "report.html").read_text()


@pytest.mark.integration
def test_no_page_and_unwritable_page_are_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    out = tmp_path / "out"
    command = ("run", write(tmp_path, small(metrics=["dsc"])), "--out", str(out), "--engine", "serial")
    done(bench, *command, "--no-page")
    assert not (out / "report.html").exists()
    (out / "report.html").write_text("not freqbench's")
    said = done(bench, *command)
    assert said.splitlines()[-4].startswith(f"no page: {out}/report.html: expected no file or one that freqbench wrote")
    assert (out / "report.html").read_text() == "not freqbench's"
    (out / "report.html").unlink()
    monkeypatch.setattr("freqbench.reporting.page.build_page", lambda *_: 1 / 0)
    said = done(bench, *command)
    assert "no page: division by zero\n" in said


@pytest.mark.integration
def test_the_page_of_a_uri_is_opened_from_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """The browser is a script that keeps what it is given."""
    out = f"memory://{tmp_path.name}-ending"
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", str(browser))
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    code, _, err = bench("report", "--open", out)
    assert (code, f"{out}/report.html: expected a page, found none" in err) == (2, True)
    done(bench, "run", write(tmp_path, small(metrics=["dsc"])), "--out", out, "--engine", "serial")
    said = done(bench, "report", "--open", out)
    file = Path(said.strip().removeprefix("opened: "))
    assert (seen.read_text().strip(), file.read_bytes()) == (file.as_uri(), storage.read_bytes(f"{out}/report.html"))


def test_place_of_page_is_said_without_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(report.sys, "platform", "linux")
    (tmp_path / "report.html").write_text("page")
    assert done(bench, "report", "--open", str(tmp_path)) == f"no browser to open it in: {tmp_path / 'report.html'}\n"


def test_a_page_older_than_the_last_run_is_opened_with_a_word(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("BROWSER", raising=False)
    page = small_copy / "report.html"
    page.write_text("page")
    warned = f"{page} is older than the last run's records: freqbench report {small_copy} --format html makes it anew\n"
    assert warned not in done(bench, "report", "--open", str(small_copy))
    os.utime(page, (1, 1))
    assert bench("report", "--open", str(small_copy))[1].startswith(warned)


def test_newer_page_with_volumes_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(report.sys, "platform", "linux")
    one = tmp_path / "report.html"
    folder = tmp_path / "report" / "index.html"
    folder.parent.mkdir()
    for file in (one, folder):
        file.write_text("page")
    for time, expected in ((2, folder), (1, one)):
        os.utime(one, (1.5, 1.5))
        os.utime(folder, (time, time))
        assert bench("report", "--open", str(tmp_path))[1] == f"no browser to open it in: {expected}\n"


@pytest.mark.integration
def test_saved_volumes_bring_a_page_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    out = tmp_path / "out"
    command = (
        "run",
        write(tmp_path, small(metrics=["dsc"], save_adversarial="nifti")),
        "--out",
        str(out),
        "--engine",
        "serial",
    )
    done(bench, *command)
    assert "freqbench viewer, sources" in (out / "report" / "index.html").read_text()
    assert "freqbench viewer, sources" not in (out / "report.html").read_text()
    assert [*(out / "report" / "volumes").glob("*.js")]
    monkeypatch.setattr(report, "MOST_BESIDE", 10)
    done(bench, *command)
    assert not (out / "report" / "index.html").exists()


def below(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the words and the command of every command and group."""
    for name, command in group.commands.items():
        yield (*before, name), command
        if hasattr(command, "commands"):
            yield from below(command, *before, name)


TOP = typer.main.get_command(app)
PATHS = dict(below(TOP))
COMMANDS = {words: command for words, command in PATHS.items() if not hasattr(command, "commands")}


def test_the_help_is_one_screen_with_every_command_in_its_panel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = done(bench, "--help")
    lines = text.splitlines()
    assert 24 <= len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert "..." not in text.partition("\n")[2], "a sentence is cut"
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].islower()][: len(OF_PANELS) + 1]
    assert names[1:] == OF_PANELS  # after the sentence at the top
    assert bench() == (2, text, "")
    assert set(OF_PANELS) == set(TOP.commands)  # type: ignore[attr-defined]


OF_PANELS = [*chain(*PANELS.values())]


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_help_of_a_command_reads_well(words: tuple[str, ...], bench: Bench) -> None:
    out = done(bench, *words, "--help")
    assert "Usage:" in out
    for option in ("--out", "--set", "--limit-cases") if words[-1] in ("plan", "run", "submit") else ():
        assert option in out


def test_the_help_shows_45_options_and_help_all_every_one(bench: Bench) -> None:
    parameters = chain.from_iterable(command.params for command in (TOP, *PATHS.values()))
    options = [each for each in parameters if hasattr(each, "is_flag")]
    assert sum(not each.hidden for each in options) <= 45
    assert len(COMMANDS) == 16
    for words, is_there in ((("--help",), False), (("--help-all",), True), (("--help",), False)):
        said = bench("run", *words)[1]
        assert ("--engine" in said, "more options: --help-all" in said) == (is_there, not is_there)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_function_of_a_command_has_at_most_seven_parameters(words: tuple[str, ...]) -> None:
    assert len(inspect.signature(inspect.unwrap(COMMANDS[words].callback)).parameters) <= 7


@pytest.mark.parametrize(
    ("path", "option", "kind"),
    [
        ("research/phantom/zoo", ("--shard", "1/2"), "a job with attacks, got a training job"),
        ("research/phantom/zoo", ("--engine", "serial"), "a job with attacks, got a training job"),
        ("quickstart", ("--only", "unet"), "a training job, got a job with attacks"),
    ],
)
def test_option_of_other_kind_of_job_is_refused(path: str, option: tuple[str, str], kind: str, bench: Bench) -> None:
    said = refused(bench, "run", path, *option)
    assert said == f"error: {packaged_jobs()[path]}: {option[0]}: expected {kind}: leave it out\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("a", "b", "--open"), "report: --open: expected one store, got 2: open one after another"),
        (("a", "--open", "--figures", "f"), "report: --figures: expected no other option beside it: run report twice"),
        (("a", "--open", "--format", "md"), "report: --open: expected no other option beside it: run report twice"),
    ],
)
def test_a_report_is_shown_one_way_at_a_time(words: tuple[str, ...], complaint: str, bench: Bench) -> None:
    assert refused(bench, "report", *words) == f"error: {complaint}\n"
