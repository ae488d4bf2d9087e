"""Where a server's time goes while a load runs: means of the histograms in its /metrics, and the CPU time of its threads."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from benchmarks.serve.running import cpu_seconds, read_stat
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["STAGES", "means", "scrape", "thread_seconds"]

#: Histograms of /metrics by the name in the report. Times are in seconds there.
STAGES = {
    "request": "fletcher_request_duration_seconds",
    "tokenizing": "fletcher_tokenization_duration_seconds",
    "queue": "fletcher_queue_duration_seconds",
    "batch": "fletcher_batch_duration_seconds",
    "answer": "fletcher_output_duration_seconds",
    "texts a batch": "fletcher_batch_texts",
    "tokens a batch": "fletcher_batch_tokens",
}


def scrape(url: str) -> dict[str, tuple[float, float]]:
    """Return sum and number of the values of each histogram in /metrics, over all its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found = {name: [0.0, 0.0] for name in STAGES.values()}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            for index, suffix in enumerate(("_sum", "_count")):
                if sample.name == family.name + suffix and family.name in found:
                    found[family.name][index] += sample.value
    return {name: (total, count) for name, (total, count) in found.items()}


def means(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the mean of each histogram between two scrapes by the name in `STAGES`: milliseconds, texts or tokens."""
    result = {}
    for stage, name in STAGES.items():
        count = after[name][1] - before[name][1]
        if count:
            result[stage] = (after[name][0] - before[name][0]) / count * (1e3 if name.endswith("_seconds") else 1.0)
    return result


def thread_seconds(pid: int) -> dict[str, float]:
    """Return the user and system time of a process's threads by `name/id`; empty if it has ended."""
    found = {}
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                name, fields = read_stat(path)
                found[f"{name}/{path.name}"] = cpu_seconds(fields)
    return found
