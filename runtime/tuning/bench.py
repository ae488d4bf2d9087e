"""`LayoutBench`: measurement of worker layouts, each compared with the default layout, the yardstick.

The default layout is measured first. It runs again before or after each run of every other candidate, and only the ratio of
the two times counts, because other work on the machine slows both runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..canary import CanaryResult, read_canary
from ..encodings import Encodings
from ..errors import FletcherError
from ..machine.machine import Machine
from ..providers.worker_layout import WorkerLayout
from .measurement import NOT_MEASURED, Measurement
from .trial import Trial, latencies, ragged_sample, short_text

__all__ = ["COPIES", "LayoutBench", "Report"]

#: Token budgets that are measured, as multiples of the default. Each direction continues while the speed grows.
SMALLER_BUDGETS, LARGER_BUDGETS = (0.5, 0.25), (2, 4)

#: Largest number of rounds in which a candidate and the yardstick run in turn.
ROUNDS = 5

#: Assumed spread of a measurement of one round: on a machine with several jobs, OpenVINO was 1.27 times as fast as MLAS in
#: one round, and 1.02 times in five rounds.
ONE_ROUND = 0.3

#: Smallest and largest number of default-sized batches of the sample per worker. A fast model gets more.
FEWEST_BATCHES, MOST_BATCHES = 1, 4

#: Number of runs of the sample that should fit into the time. If there are more candidates, the last ones are not measured.
RUNS = 24

#: Memory of two sessions while they load, as a multiple of the weights' bytes: each session has the weights in the layout
#: of the file and in the layout of the provider.
COPIES = 4

#: Function that is called with each result.
Report = Callable[[Measurement], None]


class LayoutBench:
    """`LayoutBench`: state of a measurement: the session of the yardstick, the texts, the deadline, and the results.

    Attributes:
        measurements: results so far.
    """

    def __init__(
        self, artifact: Artifact, variant: Variant, machine: Machine, seconds: float, report: Report | None
    ) -> None:
        self.measurements: list[Measurement] = []
        self._artifact = artifact
        self._variant = variant
        self._machine = machine
        self._report = report
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._canary = read_canary(artifact.canary_file)
        self._short = short_text(self._canary.encodings)
        self._accuracy: dict[str, CanaryResult] = {}
        self._opening = 0.0  # longest time to open a session, in seconds
        self._sample: Encodings | None = None
        self._yardstick: Trial | None = None
        self._yardstick_seconds = self._yardstick_latency = 0.0
        weights = artifact.manifest.files[variant.weights].size
        self._keeps_yardstick = not machine.memory or COPIES * weights <= machine.memory
        self._open = ExitStack()

    def __enter__(self) -> LayoutBench:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def record(self, measurement: Measurement) -> None:
        """Store a result, and report it."""
        self.measurements.append(measurement)
        if self._report is not None:
            self._report(measurement)

    def best(self, provider: str) -> Measurement | None:
        """Return the fastest measurement of a provider, or None."""
        measured = [
            measurement
            for measurement in self.measurements
            if measurement.layout.provider == provider and measurement.tokens_per_s
        ]
        return max(measured, key=lambda measurement: measurement.tokens_per_s or 0.0, default=None)

    def by_promise(self, providers: Sequence[str]) -> list[str]:
        """Return the providers in order: those within the variant's tolerance first, and faster ones before slower ones."""

        def promise(name: str) -> tuple[bool, float]:
            best = self.best(name)
            return not self._accuracy[name].passed, -(best.tokens_per_s or 0.0) if best else 0.0

        return sorted(providers, key=promise)

    def try_layout(self, layout: WorkerLayout, *, sharers: int) -> None:
        """Measure a layout, if there is time to open it.

        Args:
            layout: layout to measure.
            sharers: number of candidates that share the remaining time, including this one.
        """
        now = time.monotonic()
        if now + self._opening > self._deadline:
            self._leave_out(layout)
            return
        deadline = now + (self._deadline - now) / sharers
        try:
            trial = Trial(self._artifact, self._variant, layout, self._machine)
        except FletcherError as error:
            self.record(Measurement(layout=layout, problem=str(error), failed=True))
            return
        with ExitStack() as stack:
            stack.callback(trial.close)
            try:
                latency = self._latency(trial)
                self._opening = max(self._opening, time.monotonic() - now)
                if not self._can_check(trial, latency):
                    self._leave_out(layout)
                    return
                self._run(trial, layout, latency, deadline)
            except FletcherError as error:
                self.record(Measurement(layout=layout, problem=str(error), failed=True))
                return
            if self._yardstick is None and self._yardstick_seconds and self._keeps_yardstick:
                self._yardstick = trial
                self._open.push(stack.pop_all())

    def try_budgets(self, provider: str) -> None:
        """Measure other token budgets for the best layout of a provider, if there is time."""
        best = self.best(provider)
        if best is None or time.monotonic() + self._opening > self._deadline:
            return
        with ExitStack() as stack:
            try:
                trial = self._yardstick
                if trial is None or _shape(trial.layout) != _shape(best.layout):
                    trial = stack.enter_context(Trial(self._artifact, self._variant, best.layout, self._machine))
                    trial.latency(self._short)
                for budgets in (SMALLER_BUDGETS, LARGER_BUDGETS):
                    self._climb(trial, best, budgets)
            except FletcherError as error:
                self.record(Measurement(layout=best.layout, problem=str(error), failed=True))

    def _climb(self, trial: Trial, best: Measurement, budgets: Sequence[float]) -> None:
        """Measure budgets while the speed grows, time is left, and the sample has a batch for every worker."""
        sample = self._sample
        speed = best.tokens_per_s or 0.0
        for multiple in budgets:
            budget = int(best.layout.token_budget * multiple)
            layout = WorkerLayout(*_shape(best.layout), budget)
            if sample is None or sample.num_tokens < budget * layout.workers or time.monotonic() > self._deadline:
                return
            self._run(trial, layout, (best.latency_ms or 0.0) / 1000, self._deadline)
            before, speed = speed, self.measurements[-1].tokens_per_s or 0.0
            if speed < before:
                return

    def _latency(self, trial: Trial) -> float:
        """Return the seconds of the short text, corrected by the yardstick if it is open."""
        if self._yardstick is None:
            self._yardstick_latency = trial.latency(self._short)
            return self._yardstick_latency
        own, reference = latencies([trial, self._yardstick], self._short)
        return own / reference * self._yardstick_latency

    def _can_check(self, trial: Trial, latency: float) -> bool:
        """Return whether there is time to compute the canary, estimated from the latency of the short text."""
        if trial.layout.provider in self._accuracy:
            return True
        tokens = self._canary.encodings.num_tokens
        return time.monotonic() + latency * tokens / self._short.num_tokens / trial.layout.workers < self._deadline

    def _run(self, trial: Trial, layout: WorkerLayout, latency: float, deadline: float) -> None:
        """Measure an open candidate, and store the result."""
        started = time.monotonic()
        if layout.provider not in self._accuracy:
            self._accuracy[layout.provider] = trial.accuracy(self._canary)
        accuracy = self._accuracy[layout.provider]
        if self._sample is None:
            rate = self._canary.encodings.num_tokens / (time.monotonic() - started)
            fits = int(rate * self._seconds / RUNS / layout.workers / layout.token_budget)
            batches = min(max(fits, FEWEST_BATCHES), MOST_BATCHES) * layout.workers
            sample = ragged_sample(self._canary.encodings, batches * layout.token_budget)
            if time.monotonic() + sample.num_tokens / rate > self._deadline:
                self._leave_out(layout)
                return
            self._sample = sample
        sample = self._sample
        seconds, noise = self._time(trial, layout.token_budget, sample, deadline)
        self._yardstick_seconds = self._yardstick_seconds or seconds
        self.record(
            Measurement(
                layout=layout,
                latency_ms=round(1000 * latency, 3),
                tokens_per_s=round(sample.num_tokens / seconds, 1),
                texts_per_s=round(len(sample) / seconds, 1),
                min_cosine=accuracy.min_cosine,
                max_abs=accuracy.max_abs,
                noise=round(noise, 4),
            )
        )

    def _time(self, trial: Trial, token_budget: int, sample: Encodings, deadline: float) -> tuple[float, float]:
        """Return the seconds of the sample, corrected by the yardstick if it is open, and their relative spread.

        The seconds are the median of the rounds, and the spread is the median distance from it: one disturbed round of three
        changes both only a little.
        """
        yardstick = self._yardstick
        ratios: list[float] = []
        for number in range(ROUNDS):
            started = time.monotonic()
            if yardstick is None:
                ratios.append(trial.seconds(sample, token_budget))
            elif number % 2:  # the order alternates, so that neither always runs second
                reference = yardstick.seconds(sample, yardstick.layout.token_budget)
                ratios.append(trial.seconds(sample, token_budget) / reference)
            else:
                seconds = trial.seconds(sample, token_budget)
                ratios.append(seconds / yardstick.seconds(sample, yardstick.layout.token_budget))
            now = time.monotonic()
            if now + (now - started) > deadline:
                break
        median = float(np.median(ratios))
        spread = float(np.median(np.abs(np.array(ratios) / median - 1))) if len(ratios) > 1 else ONE_ROUND
        if (
            yardstick is None
        ):  # the ratios of other layouts contain the spread of the yardstick, unless it does not stay open
            return median, 0.0 if self._keeps_yardstick else spread
        return median * self._yardstick_seconds, spread

    def _leave_out(self, layout: WorkerLayout) -> None:
        """Record that there was no time for a layout, once per provider, because the provider might have been the fastest.

        If there was no time for the default layout, the other layouts are not measured either: they would have no yardstick.
        """
        if self._sample is None:
            self._deadline = time.monotonic()
        if not any(measurement.layout.provider == layout.provider for measurement in self.measurements):
            problem = (
                f"{NOT_MEASURED} within {self._seconds:g} s: give more time with fletcher-serve devices DIR --seconds"
            )
            self.record(Measurement(layout=layout, problem=problem))


def _shape(layout: WorkerLayout) -> tuple[str, int, int]:
    """Return a layout without its token budget."""
    return layout.provider, layout.workers, layout.threads
