"""The files of cluster/: what they name is there, they agree, none holds a secret."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
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
MANIFEST, UP = yaml.safe_load(RAYJOB), yaml.safe_load(RAY_UP)
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
    assert PROJECT["requires-python"] == ">=3.11"
    assert instructions("FROM") == ["python:${PYTHON}-slim-bookworm"]
    assert set(DEFAULTS["EXTRAS"].split(",")) == {"cluster", "s3"} <= PROJECT["optional-dependencies"].keys()
    (line,) = [run for run in instructions("RUN") if "torchvision" in run]
    (wanted,) = [each for each in PROJECT["dependencies"] if each.startswith("torch")]
    assert line.endswith(f'"{wanted}" torchvision')
    assert set(re.findall(r"\$\{?([A-Z_]+)", DOCKERFILE.partition("FROM")[2])) <= DEFAULTS.keys()


@pytest.mark.parametrize(("index", "words"), [("", []), ("https://cpu/wheels", ["--index-url", "https://cpu/wheels"])])
def test_torch_comes_from_index_that_is_given_else_from_pips_own(index: str, words: list[str]) -> None:
    (line,) = [run for run in instructions("RUN") if "torchvision" in run]
    command = ["sh", "-c", f"pip() {{ printf '%s\\n' \"$@\"; }}\n{line}"]
    said = subprocess.run(command, env={"TORCH_INDEX": index}, capture_output=True, text=True, check=True).stdout
    assert [each for each in said.splitlines() if not each.startswith(("torch", "install", "--no-cache"))] == words
    assert DEFAULTS["TORCH_INDEX"] == ""
    assert not re.search(r"https?://", DOCKERFILE)


@pytest.mark.parametrize(
    ("urls", "name"), [('Image = "https://ghcr.io/lab/image"', "ghcr.io/lab/image"), ("", "freqbench")]
)
def test_workflow_builds_tries_and_pushes_the_named_image(tmp_path: Path, urls: str, name: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text(encoding="utf-8"))
    steps = {step["name"]: step for step in workflow["jobs"]["image"]["steps"] if "run" in step}
    environment = {"PATH": os.environ["PATH"], "GITHUB_ENV": str(tmp_path / "env")}
    (tmp_path / "pyproject.toml").write_text(f"[project.urls]\n{urls}\n")
    subprocess.run(["bash", "-ec", steps["name"]["run"]], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "env").read_text() == f"IMAGE={name}\n"
    assert (
        steps["push"]["if"] == "startsWith(github.ref, 'refs/tags/') && env.IMAGE != 'freqbench'"
    )  # no place, no push
    environment |= {"IMAGE": "registry:5000/lab/image", "KIND": "cpu", "INDEX": "https://cpu", "GITHUB_REF_NAME": "v1"}
    environment |= {"REGISTRY_USER": "me", "REGISTRY_TOKEN": "secret"}
    said = [
        subprocess.run(
            ["bash", "-ec", f"docker() {{ echo docker \"$@\"; }}\n{steps[each]['run']}"],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for each in ("build", "try", "push")
    ]  # fmt: skip
    image = "registry:5000/lab/image"
    assert said == [
        [f"docker build -f cluster/docker/Dockerfile --build-arg TORCH_INDEX=https://cpu -t {image}:cpu ."],
        [f"docker run --rm --shm-size=1g -w /tmp {image}:cpu freqbench run quickstart --limit-cases 1"],
        [
            "docker login registry:5000 --username me --password-stdin",
            f"docker tag {image}:cpu {image}:v1-cpu",
            f"docker push --all-tags {image}",
        ],
    ]


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
    used = {label for by in re.findall(r"by \(([^)]*)\)", text) for label in by.split(",")}
    assert used == {label for labels in exported.values() for label in labels} == {"attack"}
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == variables, "others are Grafana's own, which begin with __"


def test_manifest_runs_a_job_and_gives_it_time_to_store() -> None:
    words = shlex.split(MANIFEST["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "freqbench", "run"]
    assert instructions("WORKDIR") == ["/opt/freqbench"]
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


def test_workers_come_and_go() -> None:
    (group,), spot = CLUSTER["workerGroupSpecs"], UP["available_node_types"]["gpu-spot"]
    assert CLUSTER["enableInTreeAutoscaling"]
    assert 0 == group["minReplicas"] < group["maxReplicas"]
    assert MANIFEST["spec"]["shutdownAfterJobFinishes"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 == spot["min_workers"] < spot["max_workers"] <= UP["max_workers"]
    assert UP["setup_commands"] == UP["initialization_commands"] == [], "they would install another Ray"


def test_the_readme_names_what_is_there() -> None:
    for path in re.findall(r"(?:cluster|jobs)/[\w./-]+\.(?:yaml|sh)", README):
        assert (ROOT / path).is_file(), path
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert {file for file in files if f"({file})" not in README} == {"README.md"}
    script = (FOLDER / "local.sh").read_text(encoding="utf-8")
    used = set(re.findall(r"local\.sh (\w+)", README))
    assert {"up", "env", "kill", "down"} <= used <= set(re.findall(r"^    (\w+)\) ", script, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh", "slurm-node.sh"])
def test_scripts_can_be_run(name: str) -> None:
    assert (FOLDER / name).stat().st_mode & 0o111
