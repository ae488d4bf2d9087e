"""`LayoutBench`: a measurement of layouts under way, each compared with the first one, the yardstick.

What is measured first, the default, is the yardstick: it runs again before or after each run of every other candidate, and
only their ratio counts. A second in which the machine is busy with something else slows both.
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

#: What is tried beside the default budget, in times of it, going on in a direction while it helps.
SMALLER_BUDGETS, LARGER_BUDGETS = (0.5, 0.25), (2, 4)

#: How often a candidate and the yardstick take turns, as time allows.
ROUNDS = 5

#: Spread that one round alone is taken to have: on a machine shared by several jobs, one round had OpenVINO 1.27 times as
#: fast as MLAS where five had it 1.02 times.
ONE_ROUND = 0.3

#: Batches of the default size that a worker computes of the sample: four, where the model is fast enough.
FEWEST_BATCHES, MOST_BATCHES = 1, 4

#: Runs of the sample that the time shall be enough for; with more candidates than that the last ones are left out.
RUNS = 24

#: Bytes of memory that two sessions may need while they load, by the bytes of the weights: each has them in the file's layout
#: and in its own.
COPIES = 4

#: Called with each result.
Report = Callable[[Measurement], None]


class LayoutBench:
    """A measurement under way: the yardstick's session, the texts, the clock, and the results."""

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
        self._opening = 0.0  # seconds, the longest so far
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
        """Keep a result."""
        self.measurements.append(measurement)
        if self._report is not None:
            self._report(measurement)

    def best(self, provider: str) -> Measurement | None:
        """Return the fastest measurement of a provider so far."""
        measured = [
            measurement
            for measurement in self.measurements
            if measurement.layout.provider == provider and measurement.tokens_per_s
        ]
        return max(measured, key=lambda measurement: measurement.tokens_per_s or 0.0, default=None)

    def by_promise(self, providers: Sequence[str]) -> list[str]:
        """Return the providers in order: first those that are as exact as the variant demands, and of these the fastest."""

        def promise(name: str) -> tuple[bool, float]:
            best = self.best(name)
            return not self._accuracy[name].passed, -(best.tokens_per_s or 0.0) if best else 0.0

        return sorted(providers, key=promise)

    def try_layout(self, layout: WorkerLayout, *, sharers: int) -> None:
        """Measure a layout, if there is time to open it.

        Args:
            layout: which.
            sharers: candidates that want their share of what time is left, this one included.
        """
        now = time.monotonic()
        if now + self._opening > self._deadline:
            self._leave_out(layout)
            return
        ends = now + (self._deadline - now) / sharers
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
                self._run(trial, layout, latency, ends)
            except FletcherError as error:
                self.record(Measurement(layout=layout, problem=str(error), failed=True))
                return
            if self._yardstick is None and self._yardstick_seconds and self._keeps_yardstick:
                self._yardstick = trial
                self._open.push(stack.pop_all())

    def try_budgets(self, provider: str) -> None:
        """Measure other token budgets for a provider's best layout, if there is time."""
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
        """Measure budgets while it gets faster, there is time, and the sample has a batch for every worker."""
        sample = self._sample
        speed = best.tokens_per_s or 0.0
        for times in budgets:
            budget = int(best.layout.token_budget * times)
            layout = WorkerLayout(*_shape(best.layout), budget)
            if sample is None or sample.num_tokens < budget * layout.workers or time.monotonic() > self._deadline:
                return
            self._run(trial, layout, (best.latency_ms or 0.0) / 1000, self._deadline)
            before, speed = speed, self.measurements[-1].tokens_per_s or 0.0
            if speed < before:
                return

    def _latency(self, trial: Trial) -> float:
        """Return the seconds of the short text, scaled to the yardstick if there is one."""
        if self._yardstick is None:
            self._yardstick_latency = trial.latency(self._short)
            return self._yardstick_latency
        own, beside = latencies([trial, self._yardstick], self._short)
        return own / beside * self._yardstick_latency

    def _can_check(self, trial: Trial, latency: float) -> bool:
        """Return whether the canary can be computed in time, judged by what a short text took."""
        if trial.layout.provider in self._accuracy:
            return True
        tokens = self._canary.encodings.num_tokens
        return time.monotonic() + latency * tokens / self._short.num_tokens / trial.layout.workers < self._deadline

    def _run(self, trial: Trial, layout: WorkerLayout, latency: float, ends: float) -> None:
        """Measure a candidate that is open, and keep the result."""
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
        taken, noise = self._time(trial, layout.token_budget, sample, ends)
        self._yardstick_seconds = self._yardstick_seconds or taken
        self.record(
            Measurement(
                layout=layout,
                latency_ms=round(1000 * latency, 3),
                tokens_per_s=round(sample.num_tokens / taken, 1),
                texts_per_s=round(len(sample) / taken, 1),
                min_cosine=accuracy.min_cosine,
                max_abs=accuracy.max_abs,
                noise=round(noise, 4),
            )
        )

    def _time(self, trial: Trial, token_budget: int, sample: Encodings, ends: float) -> tuple[float, float]:
        """Return the seconds of the sample, scaled to the yardstick if there is one, and their relative spread.

        The median and the median distance from it: one disturbed round in three changes neither much.
        """
        yardstick = self._yardstick
        ratios: list[float] = []
        for number in range(ROUNDS):
            started = time.monotonic()
            if yardstick is None:
                ratios.append(trial.seconds(sample, token_budget))
            elif number % 2:  # in turns, so that neither always comes second
                beside = yardstick.seconds(sample, yardstick.layout.token_budget)
                ratios.append(trial.seconds(sample, token_budget) / beside)
            else:
                taken = trial.seconds(sample, token_budget)
                ratios.append(taken / yardstick.seconds(sample, yardstick.layout.token_budget))
            now = time.monotonic()
            if now + (now - started) > ends:
                break
        median = float(np.median(ratios))
        spread = float(np.median(np.abs(np.array(ratios) / median - 1))) if len(ratios) > 1 else ONE_ROUND
        if yardstick is None:  # the yardstick itself, whose spread is in the others' ratios, or all are measured alone
            return median, 0.0 if self._keeps_yardstick else spread
        return median * self._yardstick_seconds, spread

    def _leave_out(self, layout: WorkerLayout) -> None:
        """Note that there was no time for a layout: once for a provider, since it might have been the fastest.

        Where not even the default could be timed, nothing that follows is: it would be compared with nothing.
        """
        if self._sample is None:
            self._deadline = time.monotonic()
        if not any(measurement.layout.provider == layout.provider for measurement in self.measurements):
            problem = f"{NOT_MEASURED} within {self._seconds:g} s: fletcher-serve devices DIR --seconds takes more time"
            self.record(Measurement(layout=layout, problem=problem))


def _shape(layout: WorkerLayout) -> tuple[str, int, int]:
    return layout.provider, layout.workers, layout.threads
