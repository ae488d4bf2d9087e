"""The Helm chart: Helm accepts it, Kubernetes accepts what it renders, and its parts agree with each other and the code."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fletcher.serve.cluster.config import MODEL_HEADER

from .tooling import CHART, helm_path, ran, tool

#: Values without which the chart refuses to render.
NEEDED = {
    "models": [{"path": "minilm", "name": "minilm", "precision": "int8", "aliases": ["a", "b"], "weight": 0.5}],
    "keys": {"existingSecret": "fletcher-keys"},
    "artifacts": {"existingClaim": "artifacts"},
}

#: Everything that can be turned on.
ALL: dict[str, Any] = {
    **NEEDED,
    "artifacts": {"urls": [{"name": "minilm", "url": "https://example.org/minilm.tar.gz", "sha256": "0" * 64}]},
    "gpu": {"count": 1},
    "ingress": {"enabled": True, "host": "example.org", "tlsSecret": "tls"},
    "autoscaling": {"kind": "hpa", "queueSeconds": 0.25},
    "monitoring": {"serviceMonitor": True, "prometheusRule": True, "dashboard": True, "keySecret": "scrape"},
    "bulk": {
        "enabled": True,
        "parts": 4,
        "claim": "data",
        "args": ["embed", "/artifacts/minilm", "--input=/data/$(PART)"],
    },
    "networkPolicy": {"egress": [{"ports": [{"port": 4318}]}]},
    "env": [{"name": "OTEL_SERVICE_NAME", "value": "fletcher"}],
    "server": {
        "drain_seconds": 20.5,
        "lame_duck_seconds": 5,
        "trusted_proxy": ["10.0.0.0/8"],
        "otlp": "http://otel:4318",
    },
}
ANONYMOUS: dict[str, Any] = {**NEEDED, "keys": {}, "allowAnonymous": True, "flight": {"enabled": False}}
GATEWAY: dict[str, Any] = {
    **NEEDED,
    "models": [*NEEDED["models"], {"path": "s3://models/next", "name": "minilm", "version": "2"}],
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["embed.example.org"]},
}
URLS: dict[str, Any] = {"models": [{"path": "s3://models/prod.json", "name": "minilm"}], "keys": NEEDED["keys"]}
KEDA: dict[str, Any] = {**NEEDED, "autoscaling": {"kind": "keda", "minReplicas": 1}}

#: Kinds of the cluster's extensions, for which `kubernetes-validate` has no schema.
EXTENSIONS = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute", "GRPCRoute"}


def rendered(values: dict[str, Any], folder: Path) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of `helm template`."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    result = ran(helm_path(), "template", "web", CHART, "--namespace", "ml", "--values", file)
    return result.returncode, result.stdout, result.stderr


def objects(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the rendered objects by kind and name."""
    code, output, errors = rendered(values, folder)
    assert code == 0, errors
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(output) if each}


def server_of(found: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = found["Deployment/web-fletcher"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("values", [NEEDED, ALL, ANONYMOUS, KEDA], ids=["needed", "all", "anonymous", "keda"])
def test_kubernetes_accepts_what_the_chart_renders(values: dict[str, Any], tmp_path: Path) -> None:
    found = objects(values, tmp_path)
    core = [each for each in found.values() if each["kind"] not in EXTENSIONS]
    (tmp_path / "core.yaml").write_text(yaml.safe_dump_all(core))
    result = ran(tool("kubernetes-validate", "PyPI"), "--strict", tmp_path / "core.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_helm_finds_no_fault(tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(ALL))
    result = ran(helm_path(), "lint", "--strict", CHART, "--values", tmp_path / "values.json")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"server": {"quue_seconds": 3}}, "'quue_seconds' not allowed"),
        ({"server": {"queue_seconds": "soon"}}, "/server/queue_seconds"),
        ({"server": {"http": "0.0.0.0:1"}}, "'http' not allowed"),
        ({"models": [{"path": "a", "presicion": "int8"}]}, "'presicion' not allowed"),
        ({"replicsa": 3}, "'replicsa' not allowed"),
        ({"autoscaling": {"kind": "vpa"}}, "/autoscaling/kind"),
        ({"artifacts": {"urls": [{"name": "a", "url": "b"}]}}, "missing property 'sha256'"),
        ({"models": []}, "models: name at least one"),
        ({"keys": {}}, "keys.existingSecret: name a secret"),
        ({"allowAnonymous": True}, "exclude each other"),
        ({"artifacts": {}}, "artifacts: name a volume"),
        ({"monitoring": {"serviceMonitor": True}}, "monitoring.keySecret"),
        ({"bulk": {"enabled": True}}, "bulk.args"),
        ({"gateway": {"enabled": True}}, "gateway.parentRefs"),
        ({"gateway": {**GATEWAY["gateway"], "hostname": "x"}}, "'hostname' not allowed"),
        ({"models": [{"path": "a"}], "gateway": GATEWAY["gateway"]}, "models.name"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str, tmp_path: Path) -> None:
    code, _, errors = rendered({**NEEDED, **values}, tmp_path)
    assert code != 0
    assert named in errors


def test_the_parts_agree(tmp_path: Path) -> None:
    found = objects(ALL, tmp_path)
    pod = server_of(found)
    container = pod["containers"][0]
    table = tomllib.loads(found["ConfigMap/web-fletcher"]["data"]["fletcher.toml"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (table["run"]["http"], table["run"]["flight"]) == (f"0.0.0.0:{ports['http']}", f"0.0.0.0:{ports['flight']}")
    assert table["run"]["trusted_proxy"] == ["10.0.0.0/8"]
    assert table["models"] == [
        {"path": "/artifacts/minilm", "name": "minilm", "precision": "int8", "aliases": ["a", "b"], "weight": 0.5}
    ]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert table["run"]["keys"].startswith("/run/secrets/fletcher/") and mounts["/run/secrets/fletcher"] == "keys"
    assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}
    labels = found["Deployment/web-fletcher"]["spec"]["template"]["metadata"]["labels"]
    for name in ("Service/web-fletcher", "Service/web-fletcher-flight"):
        assert found[name]["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in found[name]["spec"]["ports"]} <= set(ports)
    for name in ("PodDisruptionBudget/web-fletcher", "NetworkPolicy/web-fletcher", "Deployment/web-fletcher"):
        spec = found[name]["spec"]
        assert (spec.get("podSelector") or spec["selector"])["matchLabels"].items() <= labels.items()
    assert found["ServiceMonitor/web-fletcher"]["spec"]["selector"]["matchLabels"].items() <= (
        found["Service/web-fletcher"]["metadata"]["labels"].items()
    )
    assert (
        found["HorizontalPodAutoscaler/web-fletcher"]["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "250m"
    )
    assert "replicas" not in found["Deployment/web-fletcher"]["spec"]
    assert pod["initContainers"][0]["command"][0] == "python"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    groups = found["PrometheusRule/web-fletcher"]["spec"]["groups"]
    assert {group["name"] for group in groups} == {"fletcher-shares", "fletcher-budgets", "fletcher-alerts"}
    assert json.loads(found["ConfigMap/web-fletcher-dashboard"]["data"]["fletcher.json"])["uid"] == "fletcher"


def test_a_pod_has_the_time_to_answer_what_it_admitted(tmp_path: Path) -> None:
    pod = server_of(objects(ALL, tmp_path))
    assert pod["terminationGracePeriodSeconds"] == 26 + 10  # 20.5 + 5 rounded up, and 10
    container = pod["containers"][0]
    assert container["startupProbe"]["httpGet"]["path"] == container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] == 300


def test_every_pod_is_restricted(tmp_path: Path) -> None:
    found = objects(ALL, tmp_path)
    pods = [server_of(found), found["Job/web-fletcher-bulk"]["spec"]["template"]["spec"]]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod["initContainers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_a_bulk_job_gives_each_part_its_index(tmp_path: Path) -> None:
    job = objects(ALL, tmp_path)["Job/web-fletcher-bulk"]["spec"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", 4)
    container = job["template"]["spec"]["containers"][0]
    part = next(variable for variable in container["env"] if variable["name"] == "PART")
    assert "job-completion-index" in part["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["args"][-1] == "--input=/data/$(PART)"


def test_keda_asks_for_the_queue_of_this_release(tmp_path: Path) -> None:
    trigger = objects(KEDA, tmp_path)["ScaledObject/web-fletcher"]["spec"]["triggers"][0]
    assert trigger["type"] == "prometheus"
    assert 'namespace="ml",service="web-fletcher"' in trigger["metadata"]["query"]


def test_routes_of_the_gateway_name_the_models_and_the_services_of_the_release(tmp_path: Path) -> None:
    found = objects(GATEWAY, tmp_path)
    (rule,) = found["HTTPRoute/web-fletcher"]["spec"]["rules"]
    assert [match["headers"][0]["value"] for match in rule["matches"]] == ["minilm", "a", "b"]
    assert {match["headers"][0]["name"].lower() for match in rule["matches"]} == {MODEL_HEADER}
    (backend,) = rule["backendRefs"]
    ports = {port["port"] for port in found[f"Service/{backend['name']}"]["spec"]["ports"]}
    assert backend["port"] in ports
    (rule,) = found["GRPCRoute/web-fletcher"]["spec"]["rules"]
    assert [match["headers"][0]["value"] for match in rule["matches"]] == ["minilm", "a", "b"]
    (backend,) = rule["backendRefs"]
    (port,) = found[f"Service/{backend['name']}"]["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (backend["port"], "kubernetes.io/h2c")
    default = objects({**GATEWAY, "gateway": {**GATEWAY["gateway"], "default": True}}, tmp_path)
    (rule,) = default["HTTPRoute/web-fletcher"]["spec"]["rules"]
    assert rule["matches"][-1] == {"path": {"type": "PathPrefix", "value": "/"}}


def test_a_model_by_url_needs_no_volume_of_artifacts(tmp_path: Path) -> None:
    table = tomllib.loads(objects(URLS, tmp_path)["ConfigMap/web-fletcher"]["data"]["fletcher.toml"])
    assert table["models"][0]["path"] == "s3://models/prod.json"
    table = tomllib.loads(objects(GATEWAY, tmp_path)["ConfigMap/web-fletcher"]["data"]["fletcher.toml"])
    assert [model["path"] for model in table["models"]] == ["/artifacts/minilm", "s3://models/next"]
