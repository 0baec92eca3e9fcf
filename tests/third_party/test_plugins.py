"""Packages that add an attack, a dataset, a network and a metric, and classes in modules beside a job."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import Bench, refused
from engine.cases import stored
from safetensors.torch import save_file
from scipy.ndimage import binary_erosion
from third_party.packages import lay_out, on_path
from tiny_job import rows

from freqbench import testing
from freqbench.core.code import provenance

TEMPLATE = Path(__file__).parents[2] / "docs" / "plugin"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path in which the template is installed."""
    folder = tmp_path / "site"
    shutil.copytree(TEMPLATE / "freqbench_example", folder / "freqbench_example")
    points = {
        "attacks": "two_steps = freqbench_example.attack:TwoSteps",
        "datasets": "spheres = freqbench_example.dataset:Spheres",
        "models": "two_layers = freqbench_example.network:TwoLayers",
        "metrics": "boundary = freqbench_example.metric:BoundaryDice",
    }
    lay_out(folder, "freqbench-example", "1.0", points)
    with on_path(folder, "freqbench_example"):
        yield folder


def written(folder: Path) -> str:
    """A job that names all four as freqbench's own; the network's weights lie beside it."""
    from freqbench_example.network import TwoLayers

    torch.manual_seed(0)
    save_file(TwoLayers().state_dict(), folder / "net.safetensors")
    model = {"name": "net", "arch": "two_layers", "checkpoint": str(folder / "net.safetensors"), "roi": [16, 16, 16]}
    content = {
        "name": "by_name",
        "datasets": [{"name": "spheres", "cases": 1}],
        "models": [{**model, "expected_dice": 0.01}],
        "attacks": [{"name": "two_steps", "eps": 0.1}],
        "metrics": ["dsc", "boundary"],
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "job.yaml")


with_the_template = pytest.mark.usefixtures("site")


@with_the_template
def test_installed_packages_names_need_no_trust(tmp_path: Path, bench: Bench) -> None:
    code, _, err = bench("run", written(tmp_path), "--engine", "serial", "--out", str(tmp_path / "out"), "--no-page")
    assert (code, err) == (0, "")
    (row,) = stored(tmp_path / "out")
    assert (row["attack"], row["dataset"], row["status"]) == ("two_steps", "spheres", "ok")
    assert row["linf"] == pytest.approx(0.1, abs=1e-6)
    assert re.fullmatch(r"dsc,boundary@freqbench-example 1\.0 [0-9a-f]{8}", row["metrics"])
    assert json.loads(row["added_metrics"]).keys() == {"boundary", "boundary_clean"}
    from freqbench_example.attack import TwoSteps

    assert provenance(TwoSteps)["package"] == "freqbench-example 1.0"


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        ("attacks", "two_steps", "Two steps of FGSM"),
        ("datasets", "spheres", "voxels of a volume along each axis"),
        ("models", "two_layers", "Two convolutions"),
        ("metrics", "boundary", "freqbench-example 1.0"),
    ],
)
@with_the_template
def test_commands_list_and_describe_installed_package_s_names(table: str, name: str, text: str, bench: Bench) -> None:
    assert name in bench("list", table)[1]
    code, out, _ = bench("list", table, name)
    assert (code, text in out) == (0, True)


@with_the_template
def test_templates_metric_is_scipys_dice_of_the_bands() -> None:
    from freqbench_example.metric import BoundaryDice

    testing.check_metric(BoundaryDice())
    pred, label = (torch.zeros(16, 12, 10, dtype=torch.uint8) for _ in range(2))
    label[3:13, 2:10, 2:9] = 1
    pred[5:14, 2:11, 1:9] = 1
    pred[0, 0, 0] = 2
    maps = [volume.numpy() == 1 for volume in (pred, label)]
    boxes = np.ones((7, 5, 5))  # three voxels of 1 mm, two of 1.5 and of 1.6
    first, second = (mask & ~binary_erosion(mask, boxes, border_value=1) for mask in maps)
    values = BoundaryDice().score(pred, label, 3, (1.0, 1.5, 1.6))
    assert values[1] == 2 * (first & second).sum() / (first.sum() + second.sum())
    assert 0 < values[1] < 1
    assert np.isnan(values[2])


@with_the_template
def test_class_is_trusted_by_its_own_path_alone(bench: Bench) -> None:
    assert bench("list", "attacks", "freqbench_example.attack:TwoSteps")[0] == 0
    assert "needs --trust-code" in refused(bench, "list", "attacks", "freqbench_example.attack:GradientAttack")


def test_names_of_a_package_that_is_not_installed_are_unknown(bench: Bench) -> None:
    assert "unknown attack 'two_steps'" in refused(bench, "list", "attacks", "two_steps")


@pytest.mark.integration
def test_template_is_installed_and_its_metric_in_rows(tmp_path: Path, bench: Bench) -> None:
    source = tmp_path / "source"
    target = tmp_path / "target"
    shutil.copytree(TEMPLATE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    (points,) = target.glob("freqbench_example-1.0.dist-info/entry_points.txt")
    assert "[freqbench.models]\ntwo_layers = freqbench_example.network:TwoLayers" in points.read_text()
    out = str(tmp_path / "out")
    with on_path(target, "freqbench_example"):
        assert bench("run", written(tmp_path), "--engine", "serial", "--out", out, "--no-page")[0] == 0
    (row,) = stored(out)
    assert json.loads(row["added_metrics"]).keys() == {"boundary", "boundary_clean"}


ROOT = Path(__file__).parents[2]
YAML = re.compile(r"```yaml\n(name: toy\n.*?)```", re.DOTALL)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The job of the how-to, with copies of the toy package's modules beside it under another name."""
    (tmp_path / "mine" / "beside").mkdir(parents=True)
    for path in (ROOT / "tests" / "toy_package" / "toy").glob("*.py"):
        (tmp_path / "mine" / "beside" / path.name).write_text(path.read_text().replace("toy.", "beside."))
    (text,) = YAML.findall((ROOT / "docs" / "how-to" / "own-classes.md").read_text())
    path = tmp_path / "mine" / "job.yaml"
    path.write_text(text.replace("toy.", "beside.").replace("side: 24", "side: 16, cases: 1"))
    return path


def freqbench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose Python does not look into the tests' folders."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "freqbench", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_plan_reads_the_how_to_s_job_from_another_folder(job: Path, tmp_path: Path) -> None:
    made = freqbench("plan", "mine/job.yaml", "--json", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert [row["attack"] for row in json.loads(made.stdout)["grid"]] == ["walk"]


def test_modules_beside_a_job_are_not_imported_without_trust(job: Path, tmp_path: Path) -> None:
    job.write_text(job.read_text().replace("trust_code: true\n", ""))
    (tmp_path / "mine" / "beside" / "data.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    assert "needs --trust-code" in freqbench("plan", "mine/job.yaml", folder=tmp_path).stderr
    assert not (tmp_path / "sprung").exists()


def test_a_module_beside_a_job_hides_none_that_is_installed(job: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "monai.py").write_text("raise SystemExit(3)\n")
    assert freqbench("plan", "mine/job.yaml", folder=tmp_path).returncode == 0


@pytest.mark.integration
def test_ray_s_workers_import_what_lies_beside_a_job(job: Path, tmp_path: Path) -> None:
    made = freqbench("run", "mine/job.yaml", "--out", "out", "--engine", "ray", "--no-page", folder=tmp_path)
    assert made.returncode == 0, made.stderr + made.stdout
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"'ok'"}
