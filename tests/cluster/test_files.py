"""The files of cluster/: what they name is there, they agree, none holds a secret."""

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from freqbench.engine.ray.ray_engine import Meters

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
README, DOCKERFILE, RAY_UP, RAYJOB = (
    (FOLDER / name).read_text(encoding="utf-8")
    for name in ("README.md", "docker/Dockerfile", "ray-up.yaml", "rayjob.yaml")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MANIFEST = yaml.safe_load(RAYJOB)
UP = yaml.safe_load(RAY_UP)
CLUSTER = MANIFEST["spec"]["rayClusterSpec"]
PODS = [group["template"] for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]

pytestmark = pytest.mark.repository


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return [" ".join(line.split()[1:]) for line in joined.splitlines() if line.startswith(f"{name} ")]


DEFAULTS = dict(argument.split("=", 1) for argument in instructions("ARG"))


def test_image_is_pinned_python_with_project_s_torch_and_extras() -> None:
    assert re.fullmatch(r"3\.11\.\d+", DEFAULTS["PYTHON"])
    assert (PROJECT["requires-python"], instructions("FROM")) == (">=3.11", ["python:${PYTHON}-slim-bookworm"])
    assert set(DEFAULTS["EXTRAS"].split(",")) == {"cluster", "s3"} <= PROJECT["optional-dependencies"].keys()
    (line,) = [run for run in instructions("RUN") if "torchvision" in run]
    (wanted,) = [each for each in PROJECT["dependencies"] if each.startswith("torch")]
    assert line.endswith(f'"{wanted}" torchvision')
    assert set(re.findall(r"\$\{?([A-Z_]+)", DOCKERFILE.partition("FROM")[2])) <= DEFAULTS.keys()


@pytest.mark.parametrize("source", [word for line in instructions("COPY") for word in line.split()[:-1]])
def test_copied_files_exist_and_are_sent_to_docker(source: str) -> None:
    assert (ROOT / source).exists()
    first, *patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert first == "*"
    assert any(fnmatch(source, pattern[1:]) for pattern in patterns if pattern.startswith("!"))


def test_pods_hold_no_secret_and_are_not_root() -> None:
    assert instructions("USER") == ["freqbench"]
    for template in PODS:
        assert template.keys() <= {"metadata", "spec"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.31", strict=True)
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert f"--uid {context['runAsUser']} " in DOCKERFILE
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "freqbench-storage"}}]
            assert not [each for each in container["env"] if re.search("KEY|SECRET|TOKEN", each["name"])]


def test_dashboard_shows_all_that_is_exported_and_nothing_else() -> None:
    """The attack is the one label that the counters have of their own."""
    text = (FOLDER / "grafana.json").read_text(encoding="utf-8")
    exported = {f"ray_{meter.info['name']}_total": meter.info["tag_keys"] for meter in vars(Meters()).values()}
    assert set(re.findall(r"ray_\w+", text)) == set(exported) == set(re.findall(r"ray_freqbench_\w+", README))
    dashboard = json.loads(text)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(set(places)) == len(places)
    assert {*re.findall(r"by \(([^)]*)\)", text)} == {*chain(*exported.values())} == {"attack"}
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == variables, "others are Grafana's own, which begin with __"


def test_manifest_runs_a_job_and_gives_it_time_to_store() -> None:
    words = shlex.split(MANIFEST["spec"]["entrypoint"])
    assert (words[:4], instructions("WORKDIR")) == (["python", "-m", "freqbench", "run"], ["/opt/freqbench"])
    assert (ROOT / Path(words[4]).relative_to("/opt/freqbench")).is_file()
    assert words[words.index("--address") + 1] == "auto"
    assert words[words.index("--out") + 1].startswith("s3://")
    assert DEFAULTS["RAY"] == CLUSTER["rayVersion"]
    environment = yaml.safe_load(MANIFEST["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}, "all can read it: nothing else, no credentials"


def test_heads_compute_nothing_and_are_seen_by_who_has_the_token() -> None:
    head: Any = CLUSTER["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert UP["available_node_types"][UP["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert "--dashboard-host=127.0.0.1" in UP["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in RAY_UP
    assert "--env RAY_AUTH_MODE=token" in UP["docker"]["run_options"]
    assert not re.search(r"(?i)(secret|access_key|password)\s*[:=]|AKIA[0-9A-Z]{16}", RAY_UP)
