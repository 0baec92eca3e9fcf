"""The fields of KubeRay's RayJob (ray.io/v1, operator 1.5) as a JSON schema that refuses any other.

Embedded pod templates are Kubernetes' own and validated by its schema.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
YES_NO: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
SHARE: dict[str, Any] = {"type": "number", "minimum": 0}
WORDS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
OTHERS: dict[str, Any] = {"type": "object"}
LIST: dict[str, Any] = {"type": "array"}


def strict(fields: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": fields, "required": list(required)}


AUTOSCALER = strict(
    {
        "resources": OTHERS,
        "image": TEXT,
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "securityContext": OTHERS,
        "idleTimeoutSeconds": COUNT,
        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
        "version": {"enum": ["v1", "v2"]},
        "env": LIST,
        "envFrom": LIST,
        "volumeMounts": LIST,
    }
)
HEAD = strict(
    {
        "template": OTHERS,
        "headService": OTHERS,
        "enableIngress": YES_NO,
        "rayStartParams": WORDS,
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    },
    required=("template",),
)
WORKERS = strict(
    {
        "groupName": TEXT,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "numOfHosts": {"type": "integer", "minimum": 1},
        "idleTimeoutSeconds": COUNT,
        "rayStartParams": WORDS,
        "template": OTHERS,
        "scaleStrategy": strict({"workersToDelete": LIST}),
        "suspend": YES_NO,
    },
    required=("groupName", "maxReplicas", "minReplicas", "template"),
)
CLUSTER = strict(
    {
        "suspend": YES_NO,
        "managedBy": TEXT,
        "autoscalerOptions": AUTOSCALER,
        "headServiceAnnotations": WORDS,
        "enableInTreeAutoscaling": YES_NO,
        "gcsFaultToleranceOptions": OTHERS,
        "headGroupSpec": HEAD,
        "rayVersion": TEXT,
        "workerGroupSpecs": {"type": "array", "items": WORKERS},
        "authOptions": strict({"mode": {"enum": ["disabled", "token"]}}),
    },
    required=("headGroupSpec",),
)
SPEC = strict(
    {
        "activeDeadlineSeconds": COUNT,
        "backoffLimit": COUNT,
        "rayClusterSpec": CLUSTER,
        "submitterPodTemplate": OTHERS,
        "metadata": WORDS,
        "clusterSelector": WORDS,
        "submitterConfig": strict({"backoffLimit": COUNT}),
        "managedBy": TEXT,
        "deletionStrategy": OTHERS,
        "entrypoint": TEXT,
        "runtimeEnvYAML": TEXT,
        "jobId": TEXT,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "entrypointResources": TEXT,
        "entrypointNumCpus": SHARE,
        "entrypointNumGpus": SHARE,
        "ttlSecondsAfterFinished": COUNT,
        "shutdownAfterJobFinishes": YES_NO,
        "suspend": YES_NO,
    }
)
RAY_JOB = strict(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": OTHERS,
        "spec": SPEC,
    },
    required=("apiVersion", "kind", "metadata", "spec"),
)
