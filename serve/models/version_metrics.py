"""Metrics of the versions of a server's models: description, readiness, distance of the canary from its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..observe.metrics import Metrics
from .version import ModelVersion

__all__ = ["add_version_metrics"]

#: Labels of `fletcher_model_info`, and of the other metrics.
INFO_LABELS: Final = ("model", "version", "variant", "provider", "canary")
LABELS: Final = ("model", "version")


def add_version_metrics(metrics: Metrics, versions: Callable[[], Sequence[ModelVersion]]) -> None:
    """Add the metrics of versions.

    Args:
        metrics: metrics of the server.
        versions: returns the present versions of all models.
    """

    def infos() -> Iterator[tuple[tuple[str, ...], float]]:
        for version in versions():
            each = version.description
            yield (each.name, each.version, each.variant, each.provider, each.canary), 1.0

    def ready() -> Iterator[tuple[tuple[str, ...], float]]:
        for version in versions():
            readiness = version.readiness
            yield _labels(version), float(readiness is None or not readiness.known_reason)

    def distances() -> Iterator[tuple[tuple[str, ...], float]]:
        for version in versions():
            readiness = version.readiness
            if readiness is not None and (distance := readiness.distance) is not None:
                yield _labels(version), distance

    metrics.described("fletcher_model_info", "Served models", INFO_LABELS, infos)
    metrics.described(
        "fletcher_model_ready",
        "1 if the canary of a version passed at its latest run and its device answers, else 0",
        LABELS,
        ready,
    )
    metrics.described(
        "fletcher_canary_distance",
        "Largest difference of an element between the latest run of a version's canary and its reference",
        LABELS,
        distances,
    )
    metrics.gauge(
        "fletcher_models_awake",
        "Models that are in memory",
        lambda: float(sum(version.engine is not None for version in versions())),
    )


def _labels(version: ModelVersion) -> tuple[str, str]:
    return version.spec.name, version.spec.version
