"""The KubeRay manifest: its pods are what Kubernetes knows, and none holds a secret."""

import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.31"


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text(encoding="utf-8"))


def pods(manifest: Any) -> list[Any]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_its_pods_are_valid(manifest: Any) -> None:
    for template in pods(manifest):
        assert template.keys() <= {"metadata", "spec"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_entrypoint_runs_a_job_of_the_image_on_the_cluster_that_is_there(manifest: Any) -> None:
    words = shlex.split(manifest["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "freqbench", "run"]
    in_image = Path(words[4]).relative_to("/opt/freqbench")
    assert (ROOT / in_image).is_file()
    assert "WORKDIR /opt/freqbench" in (ROOT / "cluster" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert words[words.index("--address") + 1] == "auto"
    assert words[words.index("--out") + 1].startswith("s3://")


def test_the_ray_is_that_of_the_image(manifest: Any) -> None:
    version = manifest["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ARG RAY={version}\n" in (ROOT / "cluster" / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_a_driver_that_is_told_to_stop_has_time_to_store(manifest: Any) -> None:
    environment = yaml.safe_load(manifest["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}, "all can read it: nothing else, no credentials"


def test_credentials_come_from_a_secret_only(manifest: Any) -> None:
    for template in pods(manifest):
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "freqbench-storage"}}]
            assert not [
                each for each in container["env"] if any(word in each["name"] for word in ("KEY", "SECRET", "TOKEN"))
            ]


def test_the_head_computes_nothing_and_is_not_seen_from_outside(manifest: Any) -> None:
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    assert "nvidia.com/gpu" not in str(head)
    assert manifest["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_containers_are_not_root(manifest: Any) -> None:
    dockerfile = (ROOT / "cluster" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for template in pods(manifest):
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert f"--uid {context['runAsUser']} " in dockerfile


def test_nodes_come_and_go(manifest: Any) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert 0 == group["minReplicas"] < group["maxReplicas"]
    assert manifest["spec"]["backoffLimit"] > 0
    assert manifest["spec"]["shutdownAfterJobFinishes"]
