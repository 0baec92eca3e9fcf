"""The Slurm scripts under stubs of what they call: `srun` and `ray` run what they are given, `python` is the driver."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TEXT, NODE = ((Path(__file__).parents[2] / "cluster" / n).read_text("utf-8") for n in ("slurm.sh", "slurm-node.sh"))
PATIENCE_S = 30

STUBS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"',
    "ray": 'while [ "$1" != -- ]; do shift; done; shift; "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "node-7\\nnode-8\\n"; fi',
}
"""Commands that each runs after it has noted its arguments in LOG."""

WORKS = 'trap "echo flushed >> $LOG; exit $DRIVER_EXIT" TERM; touch "$STARTED"; while :; do sleep 0.05; done'
HANGS = 'exec 2> /dev/null; trap "" TERM; touch "$STARTED"; for _ in {1..36}; do sleep 0.05; done'

Start = Callable[..., "Job"]


class Job:
    """The script as Slurm would run it in an allocation of two nodes."""

    def __init__(self, place: Path, driver: str, code: int, script: str, array: dict[str, int]) -> None:
        self.log = place / "log"
        self.started = place / "started"
        folder = place / "bin"
        folder.mkdir()
        for name, does in {**STUBS, "python": driver}.items():
            stub = folder / name
            stub.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$LOG"\n{does}\n', encoding="utf-8")
            stub.chmod(0o755)
        (place / "job.yaml").write_text("name: job\n", encoding="utf-8")
        (place / "slurm.sh").write_text(script, encoding="utf-8")
        self.number = os.getpid()
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "STARTED": str(self.started),
            "DRIVER_EXIT": str(code),
            "SLURM_JOB_ID": str(self.number),
        }
        environment |= {
            "SLURM_JOB_NODELIST": "node-[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_SUBMIT_DIR": str(place),
            **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()},
        }
        command = ["bash", "slurm.sh", "job.yaml", "s3://lab/out", "--set", "seeds=[1]"]
        self.process = subprocess.Popen(
            command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def send(self, number: signal.Signals) -> None:
        """A signal to the script alone, once its driver works."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.started.exists() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, error

    def calls(self, name: str) -> list[str]:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]

    def requeued(self) -> bool:
        return f"requeue {self.number}" in self.calls("scontrol")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    jobs: list[Job] = []

    def begin(driver: str = 'exit "$DRIVER_EXIT"', code: int = 0, script: str = TEXT, **array: int) -> Job:
        jobs.append(Job(tmp_path, driver, code, script, array))
        return jobs[-1]

    yield begin
    for job in jobs:
        try:
            os.killpg(job.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("code", [0, 1, 2])
def test_ended_run_keeps_its_exit_code_and_is_not_requeued(start: Start, code: int) -> None:
    """The run joins the Ray of the first node, on a port of the job, and gets the further arguments."""
    job = start(code=code)
    assert job.end()[0] == code
    assert not job.requeued()
    (call,) = job.calls("ray")
    port = 20_000 + job.number % 10_000
    assert call.startswith(f"symmetric-run --address node-7:{port} --min-nodes 2 --num-cpus 32 -- ")
    assert job.calls("python") == ["-m freqbench run job.yaml --address auto --out s3://lab/out --set seeds=[1]"]


@pytest.mark.parametrize("code", [0, 2])
def test_one_node_run_keeps_its_exit_code_and_its_own_ray(start: Start, code: int) -> None:
    job = start('env | grep "^RAY_" >> "$LOG"; exit "$DRIVER_EXIT"', code, NODE)
    assert (job.end()[0], job.requeued()) == (code, False)
    assert job.calls("python") == ["-m freqbench run job.yaml --out s3://lab/out --set seeds=[1]"]
    assert not [*job.calls("ray"), *job.calls("srun")]
    (folder,) = re.findall(r"^RAY_TMPDIR=(.+)$", job.log.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert folder.startswith(f"/tmp/freqbench-{job.number}.")
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("script", "driver", "code", "sent", "expected", "is_requeued"),
    [
        pytest.param(TEXT, WORKS, 130, signal.SIGUSR1, 130, True, id="near the time limit"),
        pytest.param(TEXT, WORKS, 0, signal.SIGUSR1, 0, False, id="done meanwhile"),
        pytest.param(TEXT, WORKS, 1, signal.SIGUSR1, 1, False, id="failed meanwhile"),
        pytest.param(TEXT, HANGS, 0, signal.SIGUSR1, 124, True, id="does not end in time"),
        pytest.param(TEXT, WORKS, 130, signal.SIGTERM, 130, False, id="cancelled"),
        pytest.param(NODE, WORKS, 130, signal.SIGUSR1, 130, True, id="one node, near the time limit"),
        pytest.param(NODE, WORKS, 130, signal.SIGTERM, 130, False, id="one node, cancelled"),
    ],
)
def test_signalled_run_stores_and_is_requeued_unless_ended(
    start: Start, script: str, driver: str, code: int, sent: signal.Signals, expected: int, is_requeued: bool
) -> None:
    job = start(driver, code, script.replace("FLUSH_S=200", "FLUSH_S=0") if driver == HANGS else script)
    job.send(sent)
    assert (job.end()[0], job.requeued()) == (expected, is_requeued)
    lines = job.log.read_text(encoding="utf-8").splitlines()
    assert ("flushed" in lines) == (driver == WORKS)
    if driver == WORKS and is_requeued:
        assert lines.index("flushed") < lines.index(f"scontrol requeue {job.number}")


@pytest.mark.parametrize(
    ("script", "first", "task", "shard"), [(TEXT, 1, 8, "8/8"), (TEXT, 0, 0, "1/8"), (NODE, 1, 8, "8/8")]
)
def test_an_array_gives_each_task_its_shard(start: Start, script: str, first: int, task: int, shard: str) -> None:
    job = start(script=script, ID=task, MIN=first, MAX=first + 7, COUNT=8)
    job.end()
    assert f" --shard {shard} " in job.calls("python")[0]


def test_an_array_with_gaps_is_refused(start: Start) -> None:
    job = start(ID=3, MIN=3, MAX=5, COUNT=2)
    code, error = job.end()
    assert code == 2
    assert "expected an array without gaps such as --array=1-8, got 2 tasks from 3 to 5" in error
    assert not job.calls("srun")


def test_the_token_is_ours_alone_and_gone_with_the_job(start: Start, tmp_path: Path) -> None:
    job = start('stat -c "mode %a" "$RAY_AUTH_TOKEN_PATH" >> "$LOG"; wc -c < "$RAY_AUTH_TOKEN_PATH" >> "$LOG"')
    job.end()
    lines = job.log.read_text(encoding="utf-8").split("\n")
    assert "mode 600" in lines
    assert "64" in lines
    assert not list(tmp_path.glob(".freqbench-*"))
    assert not Path(f"/tmp/freqbench-{job.number}").exists()


@pytest.mark.parametrize(
    ("script", "own"),
    [(TEXT, {"exclusive", "ntasks-per-node=1"}), (NODE, {"nodes=1", "ntasks=1"})],
    ids=["nodes", "one"],
)
def test_slurm_is_asked_for_signal_and_nodes(script: str, own: set[str]) -> None:
    asked = set(re.findall(r"^#SBATCH --(\S+)", script, flags=re.MULTILINE))
    assert {"requeue", "signal=B:USR1@240", "open-mode=append", *own} <= asked
    assert ("exclusive" in asked) == (script == TEXT)
    seconds = int(re.search(r"^FLUSH_S=(\d+)", script, flags=re.MULTILINE)[1])  # type: ignore[index]
    assert 60 < seconds < 240, "a minute for what is in flight, and done before the limit"
