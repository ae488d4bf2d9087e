"""Which provider, how many workers, which batches: measurements, the choice that follows from them, and its memory."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.model_zoo.sources import cache_folder

from .errors import ProviderError

__all__ = ["Choice", "Layout", "Measurement", "choose", "forget", "recall", "remember"]

logger = logging.getLogger("fletcher.runtime.choices")

#: Of what is remembered; raised when measuring changes its meaning.
MEASURING = 1

#: How much faster a candidate must be to be taken before an earlier one: less is noise on a shared machine.
MARGIN = 1.05


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to run a graph.

    Attributes:
        provider: a name of `providers.PROVIDERS`.
        workers: batches computed at once.
        threads: processor threads of each.
        token_budget: tokens that a batch should hold.
    """

    provider: str
    workers: int
    threads: int
    token_budget: int


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a layout did on this machine.

    Attributes:
        layout: which.
        latency_ms: median of one short text, milliseconds.
        tokens_per_s: of ragged texts, all workers together.
        texts_per_s: the same in texts.
        min_cosine: of its canary's vectors against the reference, the worst.
        max_abs: their largest absolute difference.
        problem: why it cannot be used; the figures are then missing.
    """

    layout: Layout
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    texts_per_s: float | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    problem: str | None = None


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to run, and why.

    Attributes:
        layout: the chosen one.
        reason: one sentence.
    """

    layout: Layout
    reason: str


def choose(measurements: Sequence[Measurement], *, min_cosine: float) -> Choice:
    """Takes the fastest layout that is accurate enough; among equals the first.

    Accuracy is never spent unasked: what a lower bound would buy is said, not taken.

    Args:
        measurements: in the order of preference.
        min_cosine: smallest cosine that the canary's vectors may have with the reference.

    Raises:
        ProviderError: none can be used.
    """
    measured = [found for found in measurements if found.tokens_per_s is not None and found.min_cosine is not None]
    exact = [found for found in measured if _cosine(found) >= min_cosine]
    if not exact:
        problems = "; ".join(
            f"{found.layout.provider}: {found.problem or f'cosine {found.min_cosine:.6f}'}" for found in measurements
        )
        raise ProviderError(f"nothing runs this artefact here with a cosine of at least {min_cosine:g}: {problems}")
    best = exact[0]
    for found in exact[1:]:
        if _speed(found) > MARGIN * _speed(best):
            best = found
    reason = f"{_name(best.layout)} gave {_speed(best):,.0f} tokens/s at a cosine of {_cosine(best):.6f}"
    others = [found for found in exact if found.layout.provider != best.layout.provider]
    if others:
        rival = max(others, key=_speed)
        reason += f", {rival.layout.provider} {_speed(best) / _speed(rival):.2f} times less"
    faster = [found for found in measured if found not in exact and _speed(found) > MARGIN * _speed(best)]
    if faster:
        rival = max(faster, key=_speed)
        bound = int(_cosine(rival) * 10_000) / 10_000
        reason += (
            f"; {rival.layout.provider} would be {_speed(rival) / _speed(best):.2f} times as fast at "
            f"{_cosine(rival):.6f}: allow it with --min-cosine {bound:g}"
        )
    return Choice(best.layout, reason)


def _speed(found: Measurement) -> float:
    return found.tokens_per_s or 0.0


def _cosine(found: Measurement) -> float:
    return -1.0 if found.min_cosine is None else found.min_cosine


def _name(layout: Layout) -> str:
    return f"{layout.provider}, {layout.workers} x {layout.threads} threads, batches of {layout.token_budget} tokens,"


def recall(machine: str, digest: str, variant: str) -> list[Measurement] | None:
    """The measurements of an artefact on a machine, or None."""
    try:
        text = _file(machine, digest, variant).read_bytes()
        return msgspec.json.decode(text, type=list[Measurement])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.info("measurements not read", extra={"fields": {"reason": str(error)}})
        return None


def remember(machine: str, digest: str, variant: str, measurements: Sequence[Measurement]) -> None:
    """Keeps measurements for the next load; a cache that cannot be written is no reason to fail."""
    file = _file(machine, digest, variant)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(list(measurements))))
        os.replace(stream.name, file)  # noqa: PTH105  the name is a string
    except OSError as error:
        logger.info("measurements not kept", extra={"fields": {"reason": str(error)}})


def forget(machine: str, digest: str, variant: str) -> None:
    """Drops what is remembered."""
    _file(machine, digest, variant).unlink(missing_ok=True)


def _file(machine: str, digest: str, variant: str) -> Path:
    return cache_folder(None) / "devices" / f"{machine}-{digest[:16]}-{variant}.{MEASURING}.json"
