"""Write the schema of the chart's values, so that Helm refuses an unknown or mistyped value by name.

    python deploy/tools/values_schema.py

The schema of the chart's own values is below. The options of the server and of its models come from their structs, so they
are those of the code. A test compares the file with the output of this script.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from fletcher.runtime.options.struct import Field, fields_of
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

CHART = Path(__file__).parents[1] / "helm" / "fletcher"

#: Options of the server that the chart sets from other values.
SET_BY_CHART = ("http", "flight", "keys", "allow_anonymous", "socket_mode", "name")

WORDS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SIZE: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti)?$"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MANY: Schema = {"type": "integer", "minimum": 1}
#: Objects of Kubernetes, which its own API checks.
FREE: Schema = {"type": "object"}
TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
FREE_LIST: Schema = {"type": "array", "items": {"type": "object"}}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
RESOURCES: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": FREE, "limits": FREE, "claims": {"type": "array"}},
}


def strict(properties: Schema, *required: str) -> Schema:
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"required": list(required)} if required else {}),
    }


def of_field(field: Field) -> Schema:
    """Return the schema of an option."""
    schema = of_type(field.type)
    if field.choices:
        schema = {"enum": list(field.choices)}
    for name, key in (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"), ("lt", "exclusiveMaximum")):
        if (bound := getattr(field.meta, name)) is not None:
            schema[key] = bound
    return schema | {"description": field.meta.description or ""}


def of_type(kind: Any) -> Schema:
    """Return the schema of a type: text, number, truth value, list of texts, or one of several."""
    if get_origin(kind) in (Union, UnionType):
        return {"type": [WORDS[part] for part in get_args(kind) if part in WORDS]}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": TEXT}
    return {"type": WORDS[kind]} if kind in WORDS else {}


def options_of(struct: type[msgspec.Struct], without: tuple[str, ...] = ()) -> Schema:
    """Return the schemas of the options of a struct, by name."""
    fields = [field for field in fields_of(struct) if not (field.meta.extra or {}).get("hidden")]
    return {field.name: of_field(field) for field in fields if field.name not in without}


def schema() -> Schema:
    """Return the schema of the values."""
    artifact = {"name": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"}, "url": TEXT}
    artifact["sha256"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    volume = {"existingClaim": TEXT, "sizeLimit": SIZE}
    properties = {
        "image": strict(
            {
                "repository": TEXT,
                "tag": TEXT,
                "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
            }
        ),
        "imagePullSecrets": FREE_LIST,
        "nameOverride": TEXT,
        "fullnameOverride": TEXT,
        "replicas": COUNT,
        "models": {"type": "array", "items": strict(options_of(ModelSpec), "path")},
        "server": strict(options_of(ServerOptions, SET_BY_CHART)),
        "keys": strict({"existingSecret": TEXT, "key": TEXT}),
        "allowAnonymous": FLAG,
        "artifacts": strict({**volume, "urls": {"type": "array", "items": strict(artifact, *artifact)}}),
        "cache": strict(volume),
        "gpu": strict({"count": COUNT, "resource": TEXT}),
        "resources": RESOURCES,
        "flight": strict({"enabled": FLAG}),
        "service": strict(
            {
                "type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                "port": MANY,
                "flightPort": MANY,
                "annotations": LABELS,
            }
        ),
        "ingress": strict({"enabled": FLAG, "className": TEXT, "host": TEXT, "tlsSecret": TEXT, "annotations": LABELS}),
        "gateway": strict({"enabled": FLAG, "parentRefs": FREE_LIST, "hostnames": TEXTS, "default": FLAG}),
        "startupSeconds": {"type": "number", "minimum": 5},
        "autoscaling": strict(
            {
                "kind": {"enum": ["none", "hpa", "keda"]},
                "minReplicas": MANY,
                "maxReplicas": MANY,
                "queueSeconds": {"type": "number", "minimum": 0.001},
                "scaleDownSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
                "prometheus": TEXT,
            }
        ),
        "podDisruptionBudget": strict({"enabled": FLAG, "maxUnavailable": {"type": ["integer", "string"]}}),
        "monitoring": strict(
            {
                "serviceMonitor": FLAG,
                "prometheusRule": FLAG,
                "dashboard": FLAG,
                "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                "labels": LABELS,
                "keySecret": TEXT,
                "keySecretKey": TEXT,
            }
        ),
        "networkPolicy": strict({"enabled": FLAG, "from": FREE_LIST, "egress": FREE_LIST}),
        "bulk": strict(
            {
                "enabled": FLAG,
                "parts": MANY,
                "parallelism": COUNT,
                "retries": COUNT,
                "deadlineSeconds": MANY,
                "claim": TEXT,
                "args": TEXTS,
                "resources": RESOURCES,
            }
        ),
        "env": FREE_LIST,
        "envFrom": FREE_LIST,
        "serviceAccount": strict({"create": FLAG, "name": TEXT, "annotations": LABELS}),
        "podAnnotations": LABELS,
        "podLabels": LABELS,
        "nodeSelector": LABELS,
        "tolerations": FREE_LIST,
        "affinity": FREE,
        "topologyKey": TEXT,
        "priorityClassName": TEXT,
        "global": FREE,
    }
    return {"$schema": "https://json-schema.org/draft-07/schema#", "title": "Values of the chart", **strict(properties)}


def main() -> None:
    """Write the schema."""
    text = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    (CHART / "values.schema.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{CHART / 'values.schema.json'}\n")


if __name__ == "__main__":
    main()
