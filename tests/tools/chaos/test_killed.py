"""A driver that is killed or loses its Ray: nothing that was stored is lost, and no process stays."""

import os
import secrets
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import Bench, done
from engine.ray_session import start
from engine.test_driver_faults import wait_for
from models import nifti_tool, onnx_file
from tiny_job import JOB, ROI, class_rows, execute, job, rows, small

from freqbench.engine.ray.ray_cleanup import MARK
from freqbench.results import KEY, Store

TEST = "FREQBENCH_TEST"
"""A variable of the environment that tells whose a process is."""


def ray_processes(name: str = "") -> list[psutil.Process]:
    """Processes of the own Ray of a driver of this test, by how its name begins: others may have theirs."""
    processes = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            is_ours = MARK in variables and variables.get(TEST) == os.environ[TEST]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE and process.name().startswith(name):
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


@pytest.fixture(autouse=True)
def no_process_stays_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(TEST, secrets.token_hex(8))
    yield
    wait_for(lambda: not ray_processes(), 10)


@pytest.fixture
def slow_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A model that waits before each pass for as long as there is a file `slow`, and is found by `sys.path`."""
    slow = tmp_path / "slow"
    slow.touch()
    (tmp_path / "slow_net.py").write_text(
        "import os, time\nfrom toy.net import Tiny\nclass Slow(Tiny):\n    def forward(self, images):\n"
        f"        time.sleep(0.2 * os.path.exists({str(slow)!r}))\n        return super().forward(images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return {"name": "slow", "arch": "slow_net:Slow", "checkpoint": "random", "args": {"classes": 6}, "roi": ROI}


def committed(folder: Path) -> bool:
    """Rows are in the store."""
    return any((folder / "out" / "records").glob("*.parquet"))


def stamps(folder: Path) -> dict[Any, Any]:
    """Times at which records were finished: one that is computed again has a later time."""
    records = Store(str(folder / "out")).records((*KEY, "finished_at", "status")).to_pylist()
    key_of = itemgetter(*KEY)
    return {key_of(row): row["finished_at"] for row in records if row["status"] == "ok"}


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_certificate_goes_on_after_a_killed_driver(tmp_path: Path, slow_net: dict[str, Any], bench: Bench) -> None:
    smoothing = {"name": "smoothing", "kind": "bias_field", "sigma": 0.5, "samples": 20, "eot": 1}
    ball = {"name": "ball", "kind": "bias_field"}
    attacks = [ball | {"radius": 0, "control": "random"}, ball | {"radius": 0.2, "steps": 2, "random_start": False}]
    changes = {"models": [slow_net | {"defence": smoothing}], "seeds": list(range(30)), "trust_code": True}
    content = small(attacks=attacks, targets="source", metrics=["dsc"], **changes)
    process = start(tmp_path, content, "--engine", "ray")
    wait_for(lambda: committed(tmp_path) or process.poll() is not None, 240)
    process.kill()
    process.wait()
    wait_for(lambda: not ray_processes())
    kept = stamps(tmp_path)
    assert 0 < len(kept) < 31
    (tmp_path / "slow").unlink()
    assert start(tmp_path, content, "--engine", "serial").wait(240) == 0, log_of(tmp_path)
    assert kept.items() <= stamps(tmp_path).items()
    execute(content, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    done(bench, "audit", str(tmp_path / "out"), "--certify", "--trust-code")
    written = (tmp_path / "out" / "bounds.csv").read_text().splitlines()
    (bound,) = (line for line in written if ",dsc_foreground," in line)
    assert ",600," in bound


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_regions_on_ray_survive_killed_worker_and_killed_driver(tmp_path: Path) -> None:
    """Four channels, three nested regions, joint windows, transfer from one sigmoid network to another."""
    lesions = {"name": "lesions", "loader": "phantom", "regions": True, "shape": [48, 32, 16], "cases": 2}
    models = [
        {"name": name, "checkpoint": f"zoo://lesions/{name}", "roi": [32, 32, 16], "expected_dice": 0.01}
        for name in ("unet", "segresnet")
    ]
    attacks = [
        {"name": "pgd", "eps": ["4/255", "8/255"], "steps": 60},
        {"name": "vafa", "q_max": 20, "steps": 4, "block": 8},
        {"name": "sa2", "rho": 0.4, "steps": 1},
        {"name": "vafa_opt", "q_max": 20, "steps": 6, "block": 8, "scope": "joint"},
    ]
    content = job(
        datasets=[lesions],
        models=models,
        attacks=[attack | {"sources": "unet"} for attack in attacks],
        metrics=["dsc", "hd95", "brats", "lesion"],
        resources={"workers": 2, "threads": 1},
    )
    process = start(tmp_path, content, "--engine", "ray")
    wait_for(lambda: len(stamps(tmp_path)) > 2 and bool(ray_processes("ray::RemoteWorker")), 240)
    ray_processes("ray::RemoteWorker")[0].kill()
    wait_for(lambda: "its worker died" in log_of(tmp_path))
    process.kill()
    process.wait()
    wait_for(lambda: not ray_processes())
    kept = stamps(tmp_path)
    assert 2 < len(kept) < 20
    assert start(tmp_path, content, "--engine", "ray").wait(240) == 0, log_of(tmp_path)
    assert kept.items() <= stamps(tmp_path).items()
    execute(content, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert (class_rows(tmp_path / "out"), len(rows(tmp_path / "out"))) == (class_rows(tmp_path / "whole"), 20)


@pytest.mark.integration
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("raylet", "Ray's node process has died, and all workers"),
        pytest.param("gcs_server", "Ray's head process (gcs_server) has died", marks=pytest.mark.slow),
    ],
)
def test_broken_own_ray_frees_the_store(tmp_path: Path, name: str, complaint: str, slow_net: dict[str, Any]) -> None:
    """Ray itself would wait for ever; attacks that were in flight begin again by the same command."""
    attacks = [{"name": "pgd", "eps": 0.02, "steps": [20000, 20001]}]
    content = small(models=[slow_net], attacks=attacks, metrics=["dsc"], trust_code=True)
    process = start(tmp_path, content, "--engine", "ray")
    wait_for(lambda: len(ray_processes("ray::RemoteWorker")) > 0)
    for part in ray_processes(name):
        part.kill()
    assert process.wait(60) == 1
    assert log_of(tmp_path).splitlines()[-1] == f"error: {complaint}: the same command goes on"
    assert not list((tmp_path / "out" / "leases").iterdir())


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_black_box_targets_go_on_after_a_killed_driver(tmp_path: Path) -> None:
    """An ONNX file and a command, under volumes of a white box. The command is slow until the driver is killed."""
    temporary = tmp_path / "temporary"
    slow = tmp_path / "slow"
    temporary.mkdir()
    slow.touch()
    script = f"import os, time; time.sleep(0.8 * os.path.exists({str(slow)!r}))\n{nifti_tool.script('int(value > 0)')}"
    (tmp_path / "tool.py").write_text(script)
    models = [
        {**JOB["models"][0], "name": "white"},
        {"name": "onnx", "arch": "onnx", "checkpoint": onnx_file.write(tmp_path / "net.onnx", classes=6), "roi": ROI},
    ]
    models += [
        {"name": "tool", "command": [sys.executable, str(tmp_path / "tool.py"), "{image}", "{labels}"]},
    ]
    attacks = [{"name": "pgd", "eps": [f"{n}/255" for n in range(1, 5)], "steps": 2, "sources": "white"}]
    content = job(models=models, attacks=attacks, targets=["onnx", "tool"], metrics=["dsc", "hd95"], trust_code=True)

    process = start(tmp_path, content, "--engine", "ray", TMPDIR=str(temporary), RAY_TMPDIR="/tmp")
    wait_for(lambda: committed(tmp_path) or process.poll() is not None, 240)
    process.kill()
    process.wait()
    wait_for(lambda: not ray_processes() and not list(temporary.glob("freqbench-*")))
    kept = stamps(tmp_path)
    assert 0 < len(kept) < 16
    slow.unlink()
    assert start(tmp_path, content, "--engine", "ray").wait(240) == 0, log_of(tmp_path)
    assert len(stamps(tmp_path)) == 16
    assert kept.items() <= stamps(tmp_path).items()
    execute(content, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
