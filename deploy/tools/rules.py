"""Write the rules of Prometheus: error budgets as recording rules, and alerts.

    python deploy/tools/rules.py

Goals: 99.9 % of the requests are answered without a failure of the server, and 99 % of HTTP requests within 250 ms. Alerts on
them follow chapter 5 of Google's Site Reliability Workbook: the budget of 30 days burns too fast in a long window and in a
short one. A test compares the file with the output of this script, and its metrics with a scrape of a running server. The
alerts have unit tests (deploy/monitoring/rules_test.yaml), which promtool runs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fletcher.serve.statuses import STATUSES

FILE: Final = Path(__file__).parents[1] / "monitoring" / "rules.yaml"

#: Failed and slow requests that the goals allow, and the bucket of a slow request in seconds.
FAILED: Final = 0.001
SLOW: Final = 0.01
SLOW_SECONDS: Final = "0.25"

#: Routes whose requests the goals count: probes, scrapes and documentation are left out.
WORK: Final = 'route!~"/|/docs|/health|/metrics|/openapi.json|/playground.*|/ready|unknown"'

#: Windows of the shares.
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d", "30d")

#: Alerts on a budget: severity, factor of the burn rate, long window, short window.
BURNS: Final = (("page", 14.4, "1h", "5m"), ("page", 6, "6h", "30m"), ("ticket", 1, "3d", "6h"))

#: Errors of Flight that are failures of the server: their HTTP status is 500 or more.
FLIGHT_FAILURES: Final = "|".join(sorted(error.__name__ for error, status in STATUSES.items() if status.http >= 500))


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert.

    Attributes:
        name: name.
        expression: query that has a sample for each firing alert.
        lasting: time for which it must hold.
        severity: `page`: a person must act now; `ticket`: within days.
        summary: what is wrong, with the labels of the sample.
        action: what to do.
    """

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    action: str


ALERTS: Final = (
    Alert(
        "FletcherDown",
        'up{job=~".*fletcher.*"} == 0',
        "2m",
        "page",
        "{{ $labels.instance }} does not answer scrapes",
        "Look at the log of the process and at its exit code. With keys, check the key of the scrape.",
    ),
    Alert(
        "FletcherModelNotReady",
        "min by (job, instance, model, version) (fletcher_model_ready) == 0",
        "1m",
        "page",
        "{{ $labels.model }}@{{ $labels.version }} on {{ $labels.instance }} is not ready",
        "GET /ready names the reason: a canary that does not pass, a device that does not answer, or changed files.",
    ),
    Alert(
        "FletcherBatchesStuck",
        "max by (job, instance) (fletcher_batches_stuck) > 0",
        "1m",
        "page",
        "The device of {{ $labels.instance }} does not answer batches",
        "Restart the server; look for errors of the driver in the kernel's log.",
    ),
    Alert(
        "FletcherOverloaded",
        'sum by (job) (rate(fletcher_admission_refused_total{reason="overloaded"}[5m]))'
        " / (sum by (job) (rate(fletcher_admission_admitted_total[5m]))"
        ' + sum by (job) (rate(fletcher_admission_refused_total{reason="overloaded"}[5m]))) > 0.01',
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are refused",
        "Add replicas or raise the limit of the autoscaler; one client may send too much.",
    ),
    Alert(
        "FletcherQueueLong",
        "max by (job, instance) (fletcher_queue_seconds) > 5",
        "5m",
        "ticket",
        "{{ $labels.instance }} has {{ $value | humanizeDuration }} of work in its queue",
        "Compare with the other replicas: all of them need more capacity, one of them a look.",
    ),
    Alert(
        "FletcherProviderFallback",
        "max by (job, instance) (fletcher_provider_fallback) > 0",
        "5m",
        "ticket",
        "A model of {{ $labels.instance }} runs on another provider than the requested one",
        "GET /ready names the reason in `fallback`; `fletcher-serve doctor` names what the provider lacks.",
    ),
    Alert(
        "FletcherDeviceOutOfService",
        "min by (job, instance, device) (fletcher_gpu_in_service) == 0",
        "5m",
        "page",
        "{{ $labels.device }} of {{ $labels.instance }} is out of service",
        "Look for Xid errors of the driver in the kernel's log.",
    ),
    Alert(
        "FletcherShadowDrift",
        "histogram_quantile(0.99, sum by (job, model, version, le) (rate(fletcher_shadow_drift_bucket[30m]))) > 0.01",
        "30m",
        "ticket",
        "Vectors of the shadow {{ $labels.model }}@{{ $labels.version }} differ by {{ $value }} (1 - cosine)",
        "Do not promote the shadow before the difference is understood.",
    ),
    Alert(
        "FletcherMemoryNearLimit",
        "sum by (job, instance) (fletcher_process_resident_bytes)"
        " / max by (job, instance) (fletcher_memory_limit_bytes) > 0.9",
        "10m",
        "ticket",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory",
        "Raise the limit of memory, or set memory_limit, cache and queue_tokens lower.",
    ),
    Alert(
        "FletcherHeapFragmented",
        "(fletcher_heap_free_bytes / fletcher_heap_held_bytes > 0.5) and (fletcher_heap_free_bytes > 536870912)",
        "1h",
        "ticket",
        "{{ $value | humanizePercentage }} of the heap of {{ $labels.instance }} ({{ $labels.process }}) is not used",
        "Compare its course with changes of models; restart the process in a quiet hour.",
    ),
    Alert(
        "FletcherQuotaRefusals",
        'sum by (job) (rate(fletcher_errors_total{type="RateLimitError"}[15m]))'
        " / sum by (job) (rate(fletcher_requests_total[15m])) > 0.05",
        "15m",
        "ticket",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are over the limits of their clients",
        "The log names the clients. Raise the limit of a key, or talk to its owner.",
    ),
    Alert(
        "FletcherCertificateExpires",
        "min by (job, instance, door) (fletcher_certificate_expiry_seconds) - time() < 1209600",
        "1h",
        "ticket",
        "The certificate of {{ $labels.door }} on {{ $labels.instance }} expires in {{ $value | humanizeDuration }}",
        "Renew the certificate; the server takes the new files without a restart.",
    ),
    Alert(
        "FletcherRevocationListExpires",
        "min by (job, instance) (fletcher_revocation_list_expiry_seconds) - time() < 21600",
        "10m",
        "page",
        "A revocation list on {{ $labels.instance }} expires in {{ $value | humanizeDuration }}",
        "Replace the file of --tls-client-crl: with an expired list, no client of its CA gets in.",
    ),
)


def failed(window: str) -> str:
    """Return the share of the requests that the server failed in a window."""
    http = f'sum by (job) (rate(fletcher_requests_total{{door="http",{WORK},status=~"5.."}}[{window}]))'
    flight = f'sum by (job) (rate(fletcher_requests_total{{door="flight",status=~"{FLIGHT_FAILURES}"}}[{window}]))'
    every = f"sum by (job) (rate(fletcher_requests_total{{{WORK}}}[{window}]))"
    return f"(({http} or 0 * {every}) + ({flight} or 0 * {every})) / ({every} > 0)"


def slow(window: str) -> str:
    """Return the share of the HTTP requests above the goal of latency in a window."""
    histogram = f'fletcher_request_duration_seconds_%s{{door="http",{WORK}%s}}[{window}]'
    goal = f',le="{SLOW_SECONDS}"'
    fast = f"sum by (job) (rate({histogram % ('bucket', goal)}))"
    every = f"sum by (job) (rate({histogram % ('count', '')}))"
    return f"1 - {fast} / ({every} > 0)"


def burn(name: str, metric: str, budget: float, text: str) -> list[dict[str, Any]]:
    """Return the alerts on an error budget."""
    rules = []
    for severity, factor, long, short in BURNS:
        limit = f"{factor * budget:g}"
        rules.append(
            rule(
                Alert(
                    name,
                    f"job:{metric}:ratio_rate{long} > {limit} and job:{metric}:ratio_rate{short} > {limit}",
                    "2m" if severity == "page" else "1h",
                    severity,
                    f"{{{{ $value | humanizePercentage }}}} of the requests to {{{{ $labels.job }}}} {text} ({long})",
                    f"The budget of 30 days burns {factor:g} times as fast as it may. The dashboard shows errors by type "
                    "and latency by stage.",
                ),
                window=long,
            )
        )
    return rules


def rule(alert: Alert, **labels: str) -> dict[str, Any]:
    """Return an alert in Prometheus' form."""
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity, **labels},
        "annotations": {"summary": alert.summary, "action": alert.action},
    }


def groups() -> dict[str, Any]:
    """Return the groups of rules."""
    records = [
        {"record": f"job:{metric}:ratio_rate{window}", "expr": make(window)}
        for metric, make in (("fletcher_errors", failed), ("fletcher_slow", slow))
        for window in WINDOWS
    ]
    burns = [
        *burn("FletcherErrorBudgetBurn", "fletcher_errors", FAILED, "fail"),
        *burn("FletcherLatencyBudgetBurn", "fletcher_slow", SLOW, f"take longer than {SLOW_SECONDS} s"),
    ]
    return {
        "groups": [
            {"name": "fletcher-shares", "interval": "30s", "rules": records},
            {"name": "fletcher-budgets", "rules": burns},
            {"name": "fletcher-alerts", "rules": [rule(alert) for alert in ALERTS]},
        ]
    }


def yaml(value: Any, indent: int = 0) -> str:
    """Return data as YAML, with every text quoted as in JSON."""
    space = "  " * indent
    if isinstance(value, dict):
        return "".join(f"{space}{key}:{_below(child, indent + 1)}" for key, child in value.items())
    lines = []
    for item in value:
        first, _, rest = yaml(item, indent + 1).partition("\n")
        lines.append(f"{space}- {first.strip()}\n{rest}")
    return "".join(lines)


def _below(value: Any, indent: int) -> str:
    if isinstance(value, dict | list):
        return f"\n{yaml(value, indent)}"
    return f" {json.dumps(value, ensure_ascii=False)}\n"


def main() -> None:
    """Write the rules."""
    FILE.write_text("# Written by deploy/tools/rules.py\n" + yaml(groups()), encoding="utf-8")
    sys.stdout.write(f"{FILE}: {len(ALERTS) + 2 * len(BURNS)} alerts\n")


if __name__ == "__main__":
    main()
