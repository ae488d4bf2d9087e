"""`distinguish`: measures recipes of overlapping speeds in more rounds, until they are distinguished or the time is over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence

import msgspec

from fletcher.runtime.errors import FletcherError

from ..measure.runnable_variant import RunnableVariant
from ..measure.speed import Speed, join, open_meter
from .inputs import SweepInputs, runnable_of
from .recommendation import eligible, reason_to_drop
from .results import Candidate
from .state import WORK, StateFile
from .ties import rivals

__all__ = ["distinguish", "measure_rivals"]


def distinguish(inputs: SweepInputs, file: StateFile, names: Sequence[str]) -> None:
    """Measure the fastest recipes within the bounds in more rounds, while their speeds overlap and time is left.

    Args:
        inputs: the inputs of the run.
        file: the state, whose candidates get the speeds over all rounds.
        names: the recipes of this run.
    """
    state, options = file.state, inputs.options
    while True:
        able = {
            candidate.name: candidate
            for candidate in state.candidates
            if candidate.name in names
            and not candidate.dropped
            and eligible(candidate, options.min_cosine, options.min_overlap)
        }
        speeds = {name: candidate.speed for name, candidate in able.items() if candidate.speed is not None}
        close = [able[name] for name in rivals(speeds)]
        seconds = _seconds_left(inputs, file, close)
        if not close or seconds <= 0:
            return
        inputs.progress.line(f"the speeds of {', '.join(candidate.name for candidate in close)} overlap: more rounds")
        started = time.monotonic()
        try:
            speeds = _measure_again(inputs, close, seconds)
        except FletcherError as error:
            inputs.progress.warn(f"the speeds that overlap were not measured again: {error}")
            return
        state.tie_seconds += time.monotonic() - started
        state.candidates = [
            _with_speed(candidate, speeds[candidate.name]) if candidate.name in speeds else candidate
            for candidate in state.candidates
        ]
        file.save()


def _with_speed(candidate: Candidate, speed: Speed) -> Candidate:
    candidate = msgspec.structs.replace(candidate, speed=speed)
    return msgspec.structs.replace(candidate, dropped=reason_to_drop(candidate))


def _seconds_left(inputs: SweepInputs, file: StateFile, close: Sequence[Candidate]) -> float:
    """Return the time for further rounds; the sweep's budget also pays for quantizing the recipes again."""
    options = inputs.options
    left = options.tie_seconds - file.state.tie_seconds
    if options.budget_seconds is None:
        return left
    return min(left, options.budget_seconds - file.elapsed - sum(candidate.seconds for candidate in close))


def _measure_again(inputs: SweepInputs, close: Sequence[Candidate], seconds: float) -> dict[str, Speed]:
    """Quantize candidates again, and return their speeds over the rounds so far and new ones."""
    work = inputs.output / WORK
    try:
        runnables = {
            candidate.name: runnable_of(inputs, candidate.recipe, work / candidate.name)
            for candidate in close
            if candidate.recipe is not None
        }
        speeds = {candidate.name: candidate.speed for candidate in close if candidate.speed is not None}
        return measure_rivals(inputs, runnables, speeds, seconds)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure_rivals(
    inputs: SweepInputs, runnables: Mapping[str, RunnableVariant], speeds: Mapping[str, Speed], seconds: float
) -> dict[str, Speed]:
    """Run variants in turns with each other and with float32 until none is a rival of the fastest one any more.

    Args:
        inputs: the float32 variant, the texts and the progress.
        runnables: the variants by name; all of them are in memory at the same time.
        speeds: their speeds so far.
        seconds: no round begins after this time.

    Returns:
        The speeds over the rounds so far and the new ones.

    Raises:
        FletcherError: a variant cannot be opened, or computes NaN or infinity.
    """
    names = list(runnables)
    joined = dict(speeds)
    started = time.monotonic()

    def note() -> str:
        left = max(seconds - (time.monotonic() - started), 0)
        return f"{len(rivals(joined))} recipes not distinguished, at most {left:,.0f} s left"

    with (
        open_meter([inputs.parent, *runnables.values()], inputs.texts.measured_ids) as meter,
        inputs.progress.count("comparing speeds", units=("rounds",), note=note) as counter,
    ):
        while (undecided := rivals(joined)) and time.monotonic() - started < seconds:
            meter.turn([1 + names.index(name) for name in undecided])
            for name in undecided:
                joined[name] = join(speeds[name], meter.speed(1 + names.index(name)))
            counter.advance(1)
    return joined
