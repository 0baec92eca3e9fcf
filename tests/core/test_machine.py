"""Cores, threads and memory that a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from freqbench.core import machine
from freqbench.core.errors import UserError


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores, whose files on control groups a test writes into this folder."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/", "groups/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "groups/cpu.max": "150000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "groups/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "groups/a/b/cpu.max": "max 100000", "groups/a/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/1",
                "groups/cpu/cpu.cfs_quota_us": "200000",
                "groups/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/",
                "groups/cpu/cpu.cfs_quota_us": "-1",
                "groups/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_cores_are_those_of_affinity_or_the_quota(group: Path, files: dict[str, str], cores: int) -> None:
    write(group, files)
    assert machine.available_cores() == cores


@pytest.mark.parametrize(
    ("stated", "threads"), [(None, 8), ("", 8), ("2", 2), ("4,2", 4), ("64", 8), ("0", 8), ("many", 8)]
)
@pytest.mark.usefixtures("group")
def test_threads_are_cores_or_as_stated(stated: str | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if stated is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert machine.available_threads() == threads


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS"])
@pytest.mark.parametrize(("stated", "left"), [("2,1", "2"), (" 3 , 2,1", "3"), ("4", "4"), ("", None), (" ", None)])
def test_libraries_see_first_of_list(name: str, stated: str, left: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's list has a number a level; this process is the first."""
    monkeypatch.setenv(name, stated)
    machine.settle_threads()
    assert os.environ.get(name) == left


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS"])
@pytest.mark.parametrize("stated", ["abc", "2,abc", "2,", "0", "-1", "2.5", "1e3", "99999999999999999999", "٣"])
def test_threads_that_are_no_number_are_refused(name: str, stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, stated)
    with pytest.raises(UserError, match=rf"^{name}: expected a whole number from 1 to 9999, .*, got '{stated}': "):
        machine.settle_threads()


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("freqbench.api", marks=pytest.mark.slow),
        pytest.param("freqbench.engine.ray.ray_workers", marks=pytest.mark.integration),
        pytest.param("freqbench.training", marks=pytest.mark.slow),
    ],
)
def test_import_of_libraries_reads_the_first_thread_number(module: str) -> None:
    """From Python, and in the workers of a cluster, whose machines have variables of their own."""
    command = [sys.executable, "-c", f"import {module}, pandas, torch; print(torch.get_num_threads())"]
    run = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1,2"}, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("1\n", 0), run.stderr


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "groups/memory.max": "max", "groups/memory.current": "10"}, None),
        ({"proc/self/cgroup": "0::/", "groups/memory.max": "1000", "groups/memory.current": "400"}, 600),
        (
            {
                "proc/self/cgroup": "4:memory:/x",
                "groups/memory/x/memory.limit_in_bytes": "500",
                "groups/memory/x/memory.usage_in_bytes": "700",
            },
            0,
        ),
    ],
)
def test_memory_is_that_of_machine_or_less_by_container_s_limit(
    group: Path, files: dict[str, str], free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(group, files)
    machine_s_own = psutil.virtual_memory()
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: machine_s_own)
    assert machine.available_memory() == (machine_s_own.available if free is None else free)


def test_slowdown_is_the_wait_of_all_threads_for_a_core(group: Path) -> None:
    """Two threads ran 3 s and waited 6 s; then one of them has ended. Where nothing is counted nothing has waited."""
    assert machine.slowdown(machine.core_seconds()) == 1
    write(group, {"proc/self/task/1/schedstat": "1000000000 0 5", "proc/self/task/2/schedstat": "0 1000000000 5"})
    before = machine.core_seconds()
    assert before == (1, 1)
    write(group, {"proc/self/task/1/schedstat": "2000000000 4000000000 9"})
    write(group, {"proc/self/task/2/schedstat": "2000000000 3000000000 9"})
    assert (machine.slowdown(before), machine.slowdown((5, 5))) == (3, 1)
