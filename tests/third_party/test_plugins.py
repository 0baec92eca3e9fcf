"""Packages that add an attack, a dataset and a network by entry points, by the template in the docs."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from command_line import Bench, refused
from safetensors.torch import save_file

from freqbench.core import plugins
from freqbench.results import Store

TEMPLATE = Path(__file__).parents[2] / "docs" / "plugin"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path in which the template is installed as pip lays it out: the package and its metadata."""
    folder = tmp_path / "site"
    shutil.copytree(TEMPLATE / "freqbench_example", folder / "freqbench_example")
    about = folder / "freqbench_example-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: freqbench-example\nVersion: 1.0\n")
    points = {
        "attacks": "two_steps = freqbench_example.attack:TwoSteps",
        "datasets": "spheres = freqbench_example.dataset:Spheres",
        "models": "two_layers = freqbench_example.network:TwoLayers",
    }
    lines = "".join(f"[freqbench.{table}]\n{point}\n" for table, point in points.items())
    (about / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(folder)
    plugins._entry_points.cache_clear()
    yield folder
    plugins._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "freqbench_example"]:
        del sys.modules[name]


def written(folder: Path) -> str:
    """A job that names all three as freqbench's own; the network's weights lie beside it."""
    from freqbench_example.network import TwoLayers

    torch.manual_seed(0)
    save_file(TwoLayers().state_dict(), folder / "net.safetensors")
    model = {"name": "net", "arch": "two_layers", "checkpoint": str(folder / "net.safetensors"), "roi": [16, 16, 16]}
    content = {
        "name": "by_name",
        "datasets": [{"name": "spheres", "cases": 1}],
        "models": [{**model, "min_dice": 0}],
        "attacks": [{"name": "two_steps", "eps": 0.1}],
        "metrics": ["dsc"],
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "job.yaml")


@pytest.mark.usefixtures("site")
def test_an_installed_package_s_names_are_in_jobs_without_trust_and_its_version_in_identities(
    tmp_path: Path, bench: Bench
) -> None:
    code, _, err = bench("run", written(tmp_path), "--engine", "serial", "--out", str(tmp_path / "out"), "--no-page")
    assert (code, err) == (0, "")
    (row,) = Store(str(tmp_path / "out")).records().to_pylist()
    assert (row["attack"], row["dataset"], row["status"]) == ("two_steps", "spheres", "ok")
    assert row["linf"] == pytest.approx(0.1, abs=1e-6)
    from freqbench_example.attack import TwoSteps

    assert plugins.provenance(TwoSteps)["package"] == "freqbench-example 1.0"


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        ("attacks", "two_steps", "Two steps of FGSM"),
        ("datasets", "spheres", "voxels of a volume along each axis"),
        ("models", "two_layers", "Two convolutions"),
    ],
)
@pytest.mark.usefixtures("site")
def test_commands_list_and_describe_an_installed_package_s_names(
    table: str, name: str, text: str, bench: Bench
) -> None:
    assert name in bench(table)[1]
    code, out, _ = bench(table, name)
    assert (code, text in out) == (0, True)


@pytest.mark.usefixtures("site")
def test_the_same_class_by_its_path_is_trusted_and_another_of_the_package_is_not(bench: Bench) -> None:
    assert bench("attacks", "freqbench_example.attack:TwoSteps")[0] == 0
    assert "needs --trust-code" in refused(bench, "attacks", "freqbench_example.attack:GradientAttack")


def test_names_of_a_package_that_is_not_installed_are_unknown(bench: Bench) -> None:
    assert "unknown attack 'two_steps'" in refused(bench, "attacks", "two_steps")


@pytest.mark.integration
def test_the_template_is_built_and_installed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(TEMPLATE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    (points,) = target.glob("freqbench_example-1.0.dist-info/entry_points.txt")
    assert "[freqbench.models]\ntwo_layers = freqbench_example.network:TwoLayers" in points.read_text()
