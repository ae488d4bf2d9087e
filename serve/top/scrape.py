"""`Scrape`: the values of one page of metrics, and `read_page`, which asks a server for it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

from fletcher.runtime.errors import InputError, ServiceError

__all__ = ["Labels", "Scrape", "parse_page", "read_page"]

#: Labels of a value, sorted by name.
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The values of a page of metrics.

    Attributes:
        time: seconds of a clock that does not go back, when the page was asked for.
        values: values by name and labels.
    """

    time: float
    values: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str) -> Mapping[Labels, float]:
        """Return the values of a name by labels; none if the server does not have it."""
        return self.values.get(name, {})

    def total(self, name: str) -> float:
        """Return the sum of the values of a name, 0 if the server does not have it."""
        return sum(self.of(name).values())

    def by_label(self, name: str, label: str) -> Iterator[tuple[str, float]]:
        """Yield the value of one label and the value of the metric, for each set of labels that has it."""
        for labels, value in self.of(name).items():
            for key, text in labels:
                if key == label:
                    yield text, value


def parse_page(text: str, at: float) -> Scrape:
    """Return the values of a page in Prometheus' text format.

    Args:
        text: the page.
        at: time of the scrape in seconds.

    Raises:
        ServiceError: the page has another format.
    """
    values: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                values.setdefault(sample.name, {})[labels] = float(sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise ServiceError(f"the answer is not a page of Prometheus metrics: {error}") from error
    return Scrape(at, values)


def read_page(url: str, api_key: str | None, timeout: float) -> Scrape:
    """Return the metrics of a server now.

    Args:
        url: address of the server, with its prefix if it has one.
        api_key: key of the server, or None.
        timeout: seconds to wait for the answer.

    Raises:
        InputError: the address is not one of HTTP.
        ServiceError: the server cannot be reached, or does not answer with metrics of Fletcher.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} is not an address: it begins with http:// or https://")
    page = f"{url.rstrip('/').removesuffix('/metrics')}/metrics"
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    at = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(page, headers=headers), timeout=timeout) as answer:
            scrape = parse_page(answer.read().decode("utf-8"), at)
    except urllib.error.HTTPError as error:
        advice = ": set --api-key" if error.code in (401, 403) else ""
        raise ServiceError(f"{page} answered {error.code}{advice}") from None
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise ServiceError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from None
    if not any(name.startswith("fletcher_") for name in scrape.values):
        raise ServiceError(f"{page} has no metrics of Fletcher")
    return scrape
