"""Write Grafana's dashboard from the tables below.

    python deploy/tools/dashboard.py

A row of a table is a panel: title, unit, and queries with their legends. `$job` and `$instance` are variables.
A test compares the file with the output of this script, and every metric with a scrape of a running server.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rules import FAILED, SLOW, SLOW_SECONDS, WORK

FILE: Final = Path(__file__).parents[1] / "monitoring" / "dashboard.json"

#: Columns of Grafana's grid, and columns and rows of a panel.
GRID, WIDTH, HEIGHT = 24, 8, 7

#: Interval of rates: Grafana makes it at least four scrapes.
RATE: Final = "$__rate_interval"

#: Series of the chosen servers.
HERE: Final = 'job=~"$job",instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of time series.

    Attributes:
        title: title.
        unit: unit of Grafana: `s`, `bytes`, `reqps`, `percentunit`, `short`, ….
        queries: queries and their legends.
        text: description, which Grafana shows on request.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""


def rate(metric: str, *matchers: str) -> str:
    """Return the rate of a counter."""
    return f"rate({metric}{{{','.join((HERE, *matchers))}}}[{RATE}])"


def total(metric: str, *matchers: str, by: str = "") -> str:
    """Return the rate of a counter, summed over everything but the labels `by`."""
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, *matchers)})"


def percentiles(metric: str, *matchers: str) -> tuple[tuple[str, str], ...]:
    """Return the 50th, 95th and 99th percentile of a histogram."""
    return tuple(
        (f"histogram_quantile({share}, {total(f'{metric}_bucket', *matchers, by='le')})", name)
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


def gauge(metric: str, by: str = "") -> str:
    """Return a gauge, summed over everything but the labels `by`."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{HERE}}})"


def worst(metric: str, by: str) -> str:
    """Return the largest value of a gauge by labels."""
    return f"max by ({by}) ({metric}{{{HERE}}})"


def share(part: str, *wholes: str) -> str:
    """Return the quotient of a rate and the sum of others."""
    return f"{part} / ({' + '.join(wholes)})"


REQUESTS = (
    Panel("Requests by status", "reqps", ((total("fletcher_requests_total", WORK, by="status"), "{{status}}"),)),
    Panel(
        "Requests by route",
        "reqps",
        ((total("fletcher_requests_total", WORK, by="door, route"), "{{door}} {{route}}"),),
    ),
    Panel("Latency of HTTP", "s", percentiles("fletcher_request_duration_seconds", 'door="http"', WORK)),
    Panel("Errors by type", "reqps", ((total("fletcher_errors_total", by="type"), "{{type}}"),)),
    Panel(
        "Refused requests",
        "reqps",
        (
            (total("fletcher_admission_refused_total", by="reason"), "{{reason}}"),
            (total("fletcher_errors_total", 'type="RateLimitError"'), "over the limits of the client"),
        ),
        "overloaded: the queue is full or too slow. Limits of clients are quotas of their keys.",
    ),
    Panel(
        "Requests that nobody waits for, or that were joined",
        "reqps",
        (
            (total("fletcher_requests_cancelled_total"), "client left"),
            (total("fletcher_requests_joined_total"), "shared another's computation"),
        ),
    ),
)

GOALS = (
    Panel(
        f"Share of failed requests (goal: {100 * FAILED:g} %)",
        "percentunit",
        tuple(
            (f'job:fletcher_errors:ratio_rate{window}{{job=~"$job"}}', window) for window in ("5m", "1h", "6h", "3d")
        ),
        "Answers with a status of 500 and more, and Flight calls that the server failed. deploy/monitoring/rules.yaml.",
    ),
    Panel(
        f"Share of HTTP requests above {1000 * float(SLOW_SECONDS):g} ms (goal: {100 * SLOW:g} %)",
        "percentunit",
        tuple((f'job:fletcher_slow:ratio_rate{window}{{job=~"$job"}}', window) for window in ("5m", "1h", "6h", "3d")),
    ),
    Panel(
        "Error budget of 30 days that is left",
        "percentunit",
        (
            (f'1 - job:fletcher_errors:ratio_rate30d{{job=~"$job"}} / {FAILED:g}', "failed"),
            (f'1 - job:fletcher_slow:ratio_rate30d{{job=~"$job"}} / {SLOW:g}', "slow"),
        ),
    ),
)

STAGES = (
    Panel("Queue", "s", percentiles("fletcher_queue_duration_seconds"), "From admission to the first batch."),
    Panel("Tokenizing", "s", percentiles("fletcher_tokenization_duration_seconds")),
    Panel("Batch", "s", percentiles("fletcher_batch_duration_seconds"), "Computation of one batch on the session."),
    Panel("Output", "s", percentiles("fletcher_output_duration_seconds"), "From the model's output to the vectors."),
    Panel(
        "Seconds of work per second",
        "short",
        tuple(
            (total(f"fletcher_{stage}_duration_seconds_sum"), stage)
            for stage in ("queue", "tokenization", "batch", "output")
        ),
        "The stage that takes the time. Queue: seconds that all requests together wait.",
    ),
)

QUEUE = (
    Panel(
        "Seconds of work in the queue",
        "s",
        ((worst("fletcher_queue_seconds", "instance"), "{{instance}}"),),
        "Waiting tokens over the present speed. Autoscaling follows it.",
    ),
    Panel("Tokens in the queue", "short", ((gauge("fletcher_queue_tokens", "instance"), "{{instance}}"),)),
    Panel(
        "Open requests",
        "short",
        (
            (gauge("fletcher_open_requests"), "admitted"),
            (gauge("fletcher_parked_requests"), "parked parts of streams"),
            (gauge("fletcher_http_connections"), "HTTP connections"),
        ),
    ),
    Panel("Predicted memory of open requests", "bytes", ((gauge("fletcher_open_request_bytes"), "bytes"),)),
)

BATCHES = (
    Panel(
        "Filling of batches",
        "percentunit",
        (
            (
                share(total("fletcher_tokens_processed_total"), total("fletcher_batch_budget_tokens_total")),
                "tokens / budget",
            ),
        ),
    ),
    Panel(
        "Padding",
        "percentunit",
        (
            (
                share(
                    total("fletcher_padding_tokens_total"),
                    total("fletcher_padding_tokens_total"),
                    total("fletcher_tokens_processed_total"),
                ),
                "share of the computed positions",
            ),
        ),
    ),
    Panel(
        "Throughput",
        "short",
        (
            (total("fletcher_tokens_processed_total"), "tokens/s"),
            (total("fletcher_vectors_processed_total"), "vectors/s"),
            (total("fletcher_tokens_dropped_total"), "tokens/s cut by truncation"),
        ),
    ),
    Panel(
        "Size of batches",
        "short",
        (
            (share(total("fletcher_batch_tokens_sum"), total("fletcher_batch_tokens_count")), "tokens"),
            (share(total("fletcher_batch_texts_sum"), total("fletcher_batch_texts_count")), "texts"),
        ),
    ),
    Panel(
        "Faults of batches",
        "short",
        (
            (total("fletcher_batches_retried_total"), "retried on the spare device, per s"),
            (gauge("fletcher_batches_stuck"), "stuck"),
        ),
    ),
    Panel(
        "Tokenizer",
        "short",
        (
            (
                share(total("fletcher_tokenizer_tokens_total"), total("fletcher_tokenizer_seconds_total")),
                "tokens per s of it",
            ),
        ),
    ),
)

CACHES = tuple(
    Panel(
        f"Hits of the {name} cache",
        "percentunit",
        (
            (
                share(
                    total(f"fletcher_{key}_cache_hits_total"),
                    total(f"fletcher_{key}_cache_hits_total"),
                    total(f"fletcher_{key}_cache_misses_total"),
                ),
                "hits / lookups",
            ),
        ),
    )
    for name, key in (("vector", "vector"), ("tokenizer", "tokenizer"))
)

MODELS = (
    Panel(
        "Ready",
        "short",
        ((f"min by (model, version) (fletcher_model_ready{{{HERE}}})", "{{model}}@{{version}}"),),
        "1: the canary passed at its latest run and the device answers.",
    ),
    Panel(
        "Distance of the canary",
        "short",
        ((worst("fletcher_canary_distance", "model, version"), "{{model}}@{{version}}"),),
        "Largest difference of an element from the reference vectors.",
    ),
    Panel(
        "Drift of shadow versions (p99)",
        "short",
        (
            (
                f"histogram_quantile(0.99, {total('fletcher_shadow_drift_bucket', by='le, model, version')})",
                "{{model}}@{{version}}",
            ),
        ),
        "1 - cosine of the shadow's vector and the answered one.",
    ),
    Panel(
        "Requests by version",
        "reqps",
        ((total("fletcher_model_requests_total", by="model, version"), "{{model}}@{{version}}"),),
    ),
    Panel(
        "Changes and fallbacks",
        "short",
        (
            (f"sum by (kind) (increase(fletcher_model_changes_total{{{HERE}}}[{RATE}]))", "{{kind}}"),
            (gauge("fletcher_provider_fallback"), "models on another provider"),
            (gauge("fletcher_models_awake"), "models in memory"),
        ),
    ),
    Panel(
        "Copies that were not compared",
        "short",
        ((total("fletcher_shadow_skipped_total", by="model, version, reason"), "{{model}}@{{version}} {{reason}}"),),
    ),
)

GPU = (
    Panel(
        "Busy",
        "percentunit",
        ((total("fletcher_gpu_busy_seconds_total", by="instance, device"), "{{instance}} {{device}}"),),
    ),
    Panel(
        "Memory",
        "bytes",
        (
            (gauge("fletcher_vram_allocated_bytes", "device"), "{{device}} allocated"),
            (gauge("fletcher_gpu_memory_predicted_bytes", "device"), "{{device}} predicted for batches"),
            (gauge("fletcher_gpu_memory_measured_bytes", "device"), "{{device}} held for batches"),
        ),
    ),
    Panel("Tokens by device", "short", ((total("fletcher_gpu_tokens_total", by="device"), "{{device}}"),)),
    Panel("Share of the work", "percentunit", ((f"avg by (device) (fletcher_gpu_weight{{{HERE}}})", "{{device}}"),)),
    Panel(
        "In service",
        "short",
        ((f"min by (instance, device) (fletcher_gpu_in_service{{{HERE}}})", "{{instance}} {{device}}"),),
    ),
    Panel(
        "Faults",
        "short",
        (
            (total("fletcher_gpu_failures_total", by="device"), "{{device}} failed batches"),
            (total("fletcher_gpu_outages_total", by="device"), "{{device}} outages"),
            (total("fletcher_gpu_batches_split_total", by="device"), "{{device}} splits for memory"),
        ),
    ),
)

MEMORY = (
    Panel(
        "Resident memory",
        "bytes",
        (
            (worst("fletcher_process_resident_bytes", "instance, process"), "{{instance}} {{process}}"),
            (worst("fletcher_memory_limit_bytes", "instance"), "{{instance}} limit"),
        ),
    ),
    Panel(
        "Heap",
        "bytes",
        (
            (gauge("fletcher_heap_held_bytes", "process"), "{{process}} held"),
            (gauge("fletcher_heap_free_bytes", "process"), "{{process}} free"),
        ),
    ),
    Panel(
        "Fragmentation of the heap",
        "percentunit",
        (
            (
                share(gauge("fletcher_heap_free_bytes", "process"), gauge("fletcher_heap_held_bytes", "process")),
                "{{process}}",
            ),
        ),
        "Bytes that the C library holds and no object uses, of all that it holds.",
    ),
    Panel("Arenas of the heap", "short", ((worst("fletcher_heap_arenas", "process"), "{{process}}"),)),
)

ACCESS = (
    Panel(
        "Days until a certificate expires",
        "d",
        (
            (
                f"min by (instance, door) (fletcher_certificate_expiry_seconds{{{HERE}}} - time()) / 86400",
                "{{instance}} {{door}}",
            ),
        ),
    ),
    Panel(
        "Refused callers",
        "reqps",
        (
            (
                total("fletcher_errors_total", 'type=~"UnauthorizedError|ForbiddenError|RateLimitError"', by="type"),
                "{{type}}",
            ),
        ),
    ),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Requests", REQUESTS),
    ("Goals", GOALS),
    ("Latency by stage", STAGES),
    ("Queue", QUEUE),
    ("Batches", BATCHES),
    ("Caches", CACHES),
    ("Models", MODELS),
    ("GPUs", GPU),
    ("Memory", MEMORY),
    ("Access", ACCESS),
)


def variable(name: str, query: str) -> dict[str, Any]:
    """Return a variable whose values are those of a label."""
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS:
        place = {"x": 0, "y": top, "w": GRID, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": place, "panels": []})
        top += 1
        for index, panel in enumerate(members):
            column, line = index % (GRID // WIDTH) * WIDTH, index // (GRID // WIDTH) * HEIGHT
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "timeseries",
                    "title": panel.title,
                    "description": panel.text,
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "gridPos": {"x": column, "y": top + line, "w": WIDTH, "h": HEIGHT},
                    "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                    "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
                    "targets": [
                        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend}
                        for number, (query, legend) in enumerate(panel.queries)
                    ],
                }
            )
        top += -(-len(members) // (GRID // WIDTH)) * HEIGHT
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": "fletcher",
        "title": "Fletcher",
        "tags": ["fletcher", "embeddings"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                source,
                variable("job", "label_values(fletcher_model_info, job)"),
                variable("instance", 'label_values(fletcher_model_info{job=~"$job"}, instance)'),
            ]
        },
        "panels": panels,
    }


def main() -> None:
    """Write the dashboard."""
    FILE.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{FILE}: {sum(len(members) for _, members in ROWS)} panels\n")


if __name__ == "__main__":
    main()
