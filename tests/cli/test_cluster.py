"""`cluster submit`, `status` and `stop` as they are typed; `tests/remote` has a real head."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import Bench, done, refused
from ray.dashboard.modules.job import cli as ray_job

from freqbench.core import __version__
from freqbench.engine import provenance
from freqbench.remote import jobs

URL = "http://head:8265"
ID = "freqbench-a-1"
Words = list[tuple[str, ...]]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    """The words with which `ray job` is called, on a cluster of one node."""
    called: Words = []
    monkeypatch.setattr(jobs.Dashboard, "ray_job", lambda head, *words: called.append(words))
    monkeypatch.setattr(jobs.Dashboard, "job_lines", lambda head: {ID: f"{ID}: running, s3://lab/a"})
    monkeypatch.setattr(jobs.Dashboard, "num_nodes", 1)
    monkeypatch.delenv(jobs.SERVER, raising=False)
    return called


@pytest.fixture
def small_job(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(small_copy.parent)
    return small_copy.parent


def test_ray_gets_options_files_and_store(small_job: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    """Read by Ray's own command, of which only the connection is left out."""
    given: dict[str, Any] = {}

    class Client:
        def submit_job(self, **facts: Any) -> str:
            given.update(facts, files=sorted(path.name for path in Path(facts["runtime_env"]["working_dir"]).iterdir()))
            return str(facts["submission_id"])

        def get_version(self) -> str:
            return "4"

    def call(head: jobs.Dashboard, *words: str) -> None:
        assert CliRunner().invoke(ray_job.job_cli_group, [*words], catch_exceptions=False).exit_code == 0

    monkeypatch.setattr(ray_job, "_get_sdk_client", lambda *_, **__: Client())
    monkeypatch.setattr(jobs.Dashboard, "ray_job", call)
    monkeypatch.setattr(jobs.Dashboard, "num_nodes", 1)
    bench("cluster", "submit", "job.yaml", "--out", "out", "--shard", "1/2", "--set", "seeds=[3]", "--address", URL)
    out = str(small_job / "out")
    command = shlex.split("exec python -m freqbench run job.yaml --address auto --engine ray --out")
    assert shlex.split(given["entrypoint"]) == [*command, out, "--set", "seeds=[3]", "--shard", "1/2"]
    assert given["submission_id"].startswith("freqbench-tiny-")
    assert given["metadata"] == {"name": "tiny", "out": out, "version": __version__}
    assert given["files"] == ["job.yaml"]
    assert given["runtime_env"]["py_modules"] == [str(Path(jobs.__file__).parents[1])]
    assert given["runtime_env"]["env_vars"].keys() == {"RAY_JOB_STOP_WAIT_TIME_S", provenance.SENT_CODE}


@pytest.mark.parametrize("address", [URL, None])
def test_submit_ends_with_what_to_type_next(
    address: str | None, small_job: Path, words: Words, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """The address stands there unless the shell has it."""
    if not address:
        monkeypatch.setenv(jobs.SERVER, URL)
    code, said, _ = bench("cluster", "submit", "job.yaml", *(["--address", address] if address else []))
    ((_, no_wait, _, job_id, *_),) = words
    assert (code, no_wait) == (0, "--no-wait")
    first, *after = said.splitlines()
    assert first.startswith(f"{job_id}; files that travel: 1 (")
    assert after == [
        f"next: freqbench cluster status {small_job / 'runs' / 'tiny'}",
        f"      freqbench cluster status {job_id} --follow{f' --address {URL}' if address else ''}",
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("submit", "job.yaml", "--follow"), ("submit", "--submission-id")),  # without --no-wait
        (("status", ID, "--follow"), ("logs", ID, "--follow")),
        (("stop", ID), ("stop", ID)),
    ],
    ids=" ".join,
)
def test_a_command_is_that_of_ray(
    typed: tuple[str, ...], expected: tuple[str, ...], small_job: Path, words: Words, bench: Bench
) -> None:
    done(bench, "cluster", *typed, "--address", URL)
    ((*called,),) = words
    assert tuple(called[: len(expected)]) == expected


def test_status_answers_first_and_shows_the_output_after(words: Words, bench: Bench) -> None:
    assert bench("cluster", "status", ID, "--address", URL) == (0, f"{ID}: running, s3://lab/a\n", "")
    assert words == [("logs", ID)]
    assert (bench("cluster", "status", "--address", URL)[1], len(words)) == (f"{ID}: running, s3://lab/a\n", 1)
    assert "unknown job 'freqbench-b-2'" in refused(bench, "cluster", "status", "freqbench-b-2", "--address", URL)


def test_a_store_named_like_a_job_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freqbench-runs").mkdir()
    assert "freqbench-runs/run.json: expected a result store" in refused(bench, "cluster", "status", "freqbench-runs")
