"""Which provider, how many workers, which batches: measurements, the choice that follows from them, and its memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from fletcher.model_zoo.sources.cache import cache_folder

from ..errors import ProviderError
from ..providers.registry import PROVIDERS

__all__ = [
    "NOT_MEASURED",
    "Choice",
    "Layout",
    "Measurement",
    "accuracy_of",
    "choose",
    "forget",
    "recall",
    "remember",
    "within",
]

logger = logging.getLogger("fletcher.runtime.tuning.choice")

#: Of what is remembered; raised when measuring changes its meaning.
MEASURING = 3

#: How much faster a candidate must be to be taken before an earlier one, or more where the rounds spread more: less is noise
#: on a shared machine.
MARGIN = 1.05

#: How much sooner a second session must answer to be worth its copy of the weights.
SOONER = 1.15

#: What a bound would buy is told down to this cosine; below it the vectors are another model's.
WORTH_TELLING = 0.99

#: How the problem begins of what there was no time for.
NOT_MEASURED = "not measured"

#: A damaged file must not ask for zero workers.
Count = Annotated[int, msgspec.Meta(ge=1)]


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to run a graph.

    Attributes:
        provider: a name of `providers.PROVIDERS`.
        workers: batches computed at once.
        threads: processor threads of each.
        token_budget: tokens that a batch should hold.
    """

    provider: str
    workers: Count
    threads: Count
    token_budget: Count


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a layout did on this machine.

    Attributes:
        layout: which.
        latency_ms: of one short text, milliseconds; the lower quartile of some runs.
        tokens_per_s: of ragged texts, all workers together.
        texts_per_s: the same in texts.
        min_cosine: of its canary's vectors against the reference, the worst.
        max_abs: their largest absolute difference.
        noise: how far the rounds spread, relative to their median.
        problem: why it cannot be used; the figures are then missing.
        failed: whether the problem is that it did not run, which another time it may; a package that is missing, or too
            little time to measure it, is no failure.
    """

    layout: Layout
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    texts_per_s: float | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    noise: float = 0.0
    problem: str | None = None
    failed: bool = False


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run, and why.

    Attributes:
        layout: the chosen one.
        reason: one sentence.
        alone: for a batch that runs alone, a layout of the same provider that answers sooner because it is on all processors;
            None where the chosen one is as quick.
    """

    layout: Layout
    reason: str
    alone: Layout | None = None


def choose(measurements: Sequence[Measurement], *, min_cosine: float, max_abs: float | None = None) -> Choice:
    """Takes the fastest layout that is accurate enough; among equals the first.

    Accuracy is never spent unasked: what a lower bound would buy is said, not taken.

    Args:
        measurements: in the order of preference.
        min_cosine: smallest cosine that the canary's vectors may have with the reference.
        max_abs: largest absolute difference of an element that they may have; None looks at the angle alone.

    Raises:
        ProviderError: none can be used.
    """
    measured = [found for found in measurements if found.tokens_per_s is not None and found.min_cosine is not None]
    exact = [found for found in measured if within(found, min_cosine, max_abs)]
    if not exact:
        problems = "; ".join(
            f"{found.layout.provider}: {found.problem or accuracy_of(found)}" for found in measurements
        )
        bound = "" if max_abs is None else f" and elements off by {max_abs:.0e} at most"
        raise ProviderError(
            f"nothing runs this artifact here with a cosine of at least {min_cosine:g}{bound}: {problems}"
        )
    best = exact[0]
    for found in exact[1:]:
        if _is_faster(found, best):
            best = found
    reason = f"{_name(best.layout)} gave {_speed(best):,.0f} tokens/s at a cosine of {_cosine(best):.6f}"
    others = [found for found in exact if found.layout.provider != best.layout.provider]
    if others:
        rival = max(others, key=_speed)
        ratio = _speed(best) / _speed(rival)
        told = f"{ratio:.2f} times less" if ratio >= 1 else f"{1 / ratio:.2f} times that, too little to tell from noise"
        reason += f", {rival.layout.provider} {told}"
    faster = [
        found
        for found in measured
        if found not in exact and _cosine(found) >= WORTH_TELLING and _is_faster(found, best)
    ]
    if faster:
        rival = max(faster, key=_speed)
        allowed = int(_cosine(rival) * 10_000) / 10_000
        reason += (
            f"; {rival.layout.provider} would be {_speed(rival) / _speed(best):.2f} times as fast at "
            f"{_cosine(rival):.6f}: allow it with --min-cosine {allowed:g}"
        )
    unknown = [found.layout.provider for found in measurements if (found.problem or "").startswith(NOT_MEASURED)]
    if unknown:
        reason += f"; there was no time to measure {', '.join(unknown)}: fletcher-serve devices DIR"
    alone = _alone(best, exact)
    if alone is not None:
        reason += f"; a batch that runs alone, on {alone.layout.threads} threads, is done "
        reason += f"{_latency(best) / _latency(alone):.2f} times sooner"
    return Choice(best.layout, reason, None if alone is None else alone.layout)


def _alone(best: Measurement, measurements: Sequence[Measurement]) -> Measurement | None:
    """One worker on several threads, if it is clearly sooner done with a short text than the chosen layout."""
    wide = [
        found
        for found in measurements
        if found.layout.provider == best.layout.provider and found.layout.workers == 1 and found.layout.threads > 1
    ]
    if not wide or best.layout.threads > 1:
        return None
    quickest = min(wide, key=_latency)
    return quickest if SOONER * _latency(quickest) < _latency(best) else None


def _latency(found: Measurement) -> float:
    return float("inf") if found.latency_ms is None else found.latency_ms


def _is_faster(one: Measurement, other: Measurement) -> bool:
    """By more than the noise."""
    return _speed(one) > max(MARGIN, 1 + one.noise + other.noise) * _speed(other)


def _speed(found: Measurement) -> float:
    return found.tokens_per_s or 0.0


def _cosine(found: Measurement) -> float:
    return -1.0 if found.min_cosine is None else found.min_cosine


def within(found: Measurement, min_cosine: float, max_abs: float | None) -> bool:
    """Whether a measurement's canary is near enough to the reference; one without a canary is not said to be off."""
    if found.min_cosine is None:
        return True
    return found.min_cosine >= min_cosine and (max_abs is None or (found.max_abs or 0.0) <= max_abs)


def accuracy_of(found: Measurement) -> str:
    """A measurement's canary for people."""
    return f"cosine {found.min_cosine:.6f}" + ("" if found.max_abs is None else f", max abs {found.max_abs:.1e}")


def _name(layout: Layout) -> str:
    return f"{layout.provider}, {layout.workers} x {layout.threads} threads, batches of {layout.token_budget} tokens,"


def recall(machine: str, digest: str, variant: str) -> list[Measurement] | None:
    """The measurements of an artifact on a machine, or None if there are none that can be used."""
    file = _file(machine, digest, variant)
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[Measurement])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.info("measurements not read", extra={"fields": {"reason": str(error)}})
        return None
    if not found or not {one.layout.provider for one in found} <= set(PROVIDERS):
        logger.info("measurements not read", extra={"fields": {"reason": f"{file} names no provider of this version"}})
        return None
    return found


def remember(machine: str, digest: str, variant: str, measurements: Sequence[Measurement]) -> None:
    """Keeps measurements for the next load; a cache that cannot be written is no reason to fail.

    Where something failed to run, nothing is kept: what was in its way may be gone at the next load.
    """
    if any(found.failed for found in measurements):
        return
    file = _file(machine, digest, variant)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            temporary = Path(stream.name)
            stream.write(msgspec.json.format(msgspec.json.encode(list(measurements))))
        temporary.replace(file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        logger.info("measurements not kept", extra={"fields": {"reason": str(error)}})


def forget(machine: str, digest: str, variant: str) -> None:
    """Drops what is remembered; where that cannot be done, it is logged."""
    try:
        _file(machine, digest, variant).unlink(missing_ok=True)
    except OSError as error:
        logger.info("measurements not dropped", extra={"fields": {"reason": str(error)}})


def _file(machine: str, digest: str, variant: str) -> Path:
    return cache_folder(None) / "devices" / f"{machine}-{digest[:16]}-{variant}.{MEASURING}.json"
