"""Measuring how an artefact runs here: each provider, how many workers, which batches; and settling on one.

No text is at hand when an artefact is loaded, except its canary's: real texts, by the model's own tokenizer. Ragged samples
are cut from their token ids.

What is measured first, the default, is the yardstick: it runs again before or after each run of every other candidate, and
only their ratio counts. A second in which the machine is busy with something else slows both.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from fletcher.model_zoo.card import Accuracy

from .artifact import Artifact
from .canary import CanaryResult, read_canary
from .choices import NOT_MEASURED, Choice, Layout, Measurement, accuracy_of, choose, recall, remember, within
from .encodings import Encodings
from .errors import FletcherError, ProviderError
from .gpus import SLOTS, this_gpus
from .machine import Machine, this_machine
from .manifest import Variant
from .memory import resident
from .providers import AUTO, PROVIDERS, candidates, check_provider, too_old
from .session import FALLBACK
from .trial import Trial, latencies, ragged_sample, short_text

__all__ = [
    "DEVICES_SECONDS",
    "LOAD_SECONDS",
    "TOKEN_BUDGET",
    "default_layout",
    "layouts_of",
    "measure",
    "on_fallback",
    "settle",
]

logger = logging.getLogger("fletcher.runtime.devices")

#: Tokens a CPU batch should hold where nothing was measured: small sorted batches stay in the caches. MiniLM on two workers,
#: throughput relative to this budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40 for 8192
#: (benchmarks/batching, docs/benchmarks.md).
TOKEN_BUDGET = 512

#: The same for a GPU, where a batch has to fill it (benchmarks/gpu).
GPU_TOKEN_BUDGET = 65_536

#: What is tried beside the default budget, in times of it, going on in a direction while it helps.
SMALLER_BUDGETS, LARGER_BUDGETS = (0.5, 0.25), (2, 4)

#: Seconds that a load may spend on measuring, and that `fletcher-serve devices` takes if not told otherwise.
LOAD_SECONDS, DEVICES_SECONDS = 2.5, 20.0

#: How often a candidate and the yardstick take turns, as time allows.
ROUNDS = 5

#: Spread that one round alone is taken to have: on a machine shared by several jobs, one round had OpenVINO 1.27 times as
#: fast as MLAS where five had it 1.02 times.
ONE_ROUND = 0.3

#: Batches of the default size that a worker computes of the sample: four, where the model is fast enough.
FEWEST_BATCHES, MOST_BATCHES = 1, 4

#: Runs of the sample that the time shall be enough for; with more candidates than that the last ones are left out.
RUNS = 24

#: Beyond this many processors layouts between all single threads and one wide run are tried too.
FEW_PROCESSORS = 8

#: Bytes of memory that two sessions may need while they load, by the bytes of the weights: each has them in the file's layout
#: and in its own.
COPIES = 4

#: Bytes beside those that measuring may take: other providers' libraries, and the kernels and buffers of their batches. A
#: load of all-MiniLM-L6-v2 that measured had 555 MB at its peak, of which this share is less than 150.
MEASURING_BYTES = 256 << 20

Report = Callable[[Measurement], None]


def settle(
    artifact: Artifact,
    variant: Variant,
    *,
    provider: str = AUTO,
    workers: int | None = None,
    token_budget: int | None = None,
    min_cosine: float | None = None,
    memory_limit: int | None = None,
    seconds: float = LOAD_SECONDS,
) -> Choice:
    """What to run: what the caller says, else what was measured on this machine, else what a short measurement shows.

    Args:
        artifact: the artefact.
        variant: one of its graphs.
        provider: one of `PROVIDERS`, which is then taken without a measurement, or `auto`.
        workers: batches computed at once; None leaves it open.
        token_budget: tokens that a batch should hold; None leaves it open.
        min_cosine: how far from the reference `auto` may go; None is the variant's own tolerance.
        memory_limit: bytes that the process may have resident; what is not remembered is not measured where that could take
            more. None is no limit.
        seconds: for a measurement, where nothing is remembered. A model that is too large to be measured in that time is
            run in the default way; opening its session and one short text are then what the attempt cost.

    Raises:
        InputError: there is no such provider.
        ProviderError: nothing can run it.
    """
    check_provider(provider)
    if provider == AUTO and memory_limit is not None and _is_too_much(artifact, variant, memory_limit):
        first = next((able.name for able, problem in candidates(variant, this_machine()) if problem is None), None)
        if first is not None:
            unmeasured = settle(artifact, variant, provider=first, workers=workers, token_budget=token_budget)
            why = "measuring may take more than the memory limit: fletcher-serve devices DIR"
            return Choice(unmeasured.layout, f"{first} is the default; {why}")
    machine = this_machine()
    usable = candidates(variant, machine)
    if not usable:
        raise ProviderError(
            f"the variant {variant.name} is for the target {variant.target}, which no provider here runs: "
            "load a cpu variant"
        )
    preferred = next((candidate for candidate, problem in usable if problem is None), usable[0][0])
    default = default_layout(preferred.name if provider == AUTO else provider)
    default = Layout(provider, workers or default.workers, 1, token_budget or default.token_budget)
    if provider != AUTO:
        return Choice(default, f"{provider} was asked for")
    for candidate, problem in usable:
        if problem is not None:
            level = logging.WARNING if too_old(candidate) else logging.INFO
            logger.log(level, "provider skipped", extra={"fields": {"provider": candidate.name, "reason": problem}})
    known = recall(machine.key, artifact.digest, variant.name)
    if known is None and preferred.on_gpu:
        layout = msgspec.structs.replace(default, provider=preferred.name)
        return Choice(layout, f"{layout.provider} runs this variant; fletcher-serve devices DIR measures its batches")
    if known is None:
        known = measure(artifact, variant, seconds=seconds)
        remember(machine.key, artifact.digest, variant.name, known)
    for name, reason in _faults(known, variant).items():
        logger.warning("provider skipped", extra={"fields": {"provider": name, "reason": reason}})
    tolerance = variant.tolerance if min_cosine is None else Accuracy(min_cosine=min_cosine)
    first = next((provider.name for provider, problem in usable if problem is None), None)
    if first is not None and not any(
        found.failed or (found.tokens_per_s and within(found, tolerance.min_cosine, tolerance.max_abs))
        for found in known
    ):
        layout = Layout(first, default.workers, 1, default.token_budget)
        if any(found.tokens_per_s for found in known):  # the load's own canary check says what is wrong
            return Choice(layout, f"{first} is the default; nothing here is as exact as it was asked for")
        return Choice(
            layout, f"{first} is the default; measuring takes longer than a load may: fletcher-serve devices DIR"
        )
    # So many workers have one thread each: what several threads of one would gain says nothing of them.
    comparable = [found for found in known if workers is None or found.layout.threads == 1]
    choice = choose(comparable, min_cosine=tolerance.min_cosine, max_abs=tolerance.max_abs)
    layout = Layout(
        choice.layout.provider,
        workers or choice.layout.workers,
        1 if workers else choice.layout.threads,
        token_budget or choice.layout.token_budget,
    )
    return Choice(layout, choice.reason, None if workers else choice.alone)


def _is_too_much(artifact: Artifact, variant: Variant, memory_limit: int) -> bool:
    """Whether a load would have to measure, and that may take more than the limit."""
    if recall(this_machine().key, artifact.digest, variant.name) is not None:
        return False
    weights = artifact.manifest.files[variant.weights].size
    return resident() + COPIES * weights + MEASURING_BYTES > memory_limit


def _faults(measurements: Sequence[Measurement], variant: Variant) -> dict[str, str]:
    """By provider, what is wrong with it: it did not run, or is less exact than its arithmetic is. A package that is not
    installed, or arithmetic that is known to be less exact, is no fault."""
    faults = {}
    tolerance = variant.tolerance
    for found in measurements:
        name = found.layout.provider
        exact = PROVIDERS[name].precision in (None, variant.precision)
        if found.failed:
            faults[name] = str(found.problem)
        elif exact and not within(found, tolerance.min_cosine, tolerance.max_abs):
            faults[name] = f"its canary is off: {accuracy_of(found)}"
    return faults


def measure(
    artifact: Artifact,
    variant: Variant,
    *,
    seconds: float,
    providers: Sequence[str] | None = None,
    report: Report | None = None,
) -> list[Measurement]:
    """Measures what can run here: every provider first, then other layouts of each, then other batches for its best one.

    Two sessions are in memory at once at most, the yardstick's and another; one where two might not fit.

    Args:
        artifact: the artefact.
        variant: one of its graphs.
        seconds: for all of it; a run that was begun is finished. What there was no time for is not in the result, but for
            providers: those are, as a problem.
        providers: which; None is all that run the variant.
        report: is told each result.

    Returns:
        Measurements in the order of preference: the first one with a speed is the default. What fails is a measurement
        with a problem, never an exception.

    Raises:
        InputError: there is no such provider.
        ArtifactError: the canary cannot be read.
    """
    for name in providers or ():
        check_provider(name)
    machine = this_machine()
    usable = [
        (provider.name, problem)
        for provider, problem in candidates(variant, machine)
        if providers is None or provider.name in providers
    ]
    with _Bench(artifact, variant, machine, seconds, report) as bench:
        for name, problem in usable:
            if problem is not None:
                bench.tell(Measurement(layout=default_layout(name), problem=problem))
        ready = [name for name, problem in usable if problem is None]
        for index, name in enumerate(ready):
            sharers = len(ready) - index + len(layouts_of(machine, name)[1:2])
            bench.try_layout(default_layout(name), sharers=sharers)
        ready = [name for name in ready if bench.best(name) is not None]
        layouts = {
            name: [Layout(name, *shape, default_layout(name).token_budget) for shape in layouts_of(machine, name)]
            for name in ready
        }
        rest = [
            layout
            for row in itertools.zip_longest(*(layouts[name][1:] for name in ready))
            for layout in row
            if layout is not None and _is_possible(layout.provider, layout.workers, layout.threads)
        ]
        # What a batch that runs alone may take, of the provider that leads: a load has time for this one.
        first = [layouts[name][-1] for name in bench.by_promise(ready)[:1]]
        rest.sort(key=lambda layout: layout not in first)
        for index, layout in enumerate(rest):
            bench.try_layout(layout, sharers=len(rest) - index)
        for name in bench.by_promise(ready):
            bench.try_budgets(name)
        return bench.found


def default_layout(provider: str) -> Layout:
    """How a provider runs where nothing was measured."""
    if provider != AUTO and PROVIDERS[provider].on_gpu:
        return Layout(provider, SLOTS * max(len(this_gpus().gpus), 1), 1, GPU_TOKEN_BUDGET)
    return Layout(provider, len(this_machine().processors), 1, TOKEN_BUDGET)


def on_fallback(layout: Layout, variant: Variant) -> Layout:
    """How ONNX Runtime's CPU provider stands in for a layout of a variant."""
    if variant.target != "cpu":
        return default_layout(FALLBACK)
    return msgspec.structs.replace(layout, provider=FALLBACK)


def layouts_of(machine: Machine, provider: str = FALLBACK) -> list[tuple[int, int]]:
    """Workers and threads of each that are worth a try, the default first.

    On a large machine there are layouts between: a worker for two processors, which may be two faces of one core; workers of
    four threads; a worker a NUMA node; and, last, a few processors for one batch, as a short text has no work for all.
    """
    if PROVIDERS[provider].on_gpu:
        return [(default_layout(provider).workers, 1)]
    count = len(machine.processors)
    layouts = [(count, 1), (1, count)]
    if count > FEW_PROCESSORS:
        nodes = len(machine.numa_nodes)
        layouts[1:1] = [(count // 2, 1), (count // 4, 4), (nodes, count // nodes)]
        layouts.append((1, FEW_PROCESSORS))
    return list(dict.fromkeys(layouts))


class _Bench:
    """A measurement under way: the yardstick's session, the texts, the clock, and what was found."""

    def __init__(
        self, artifact: Artifact, variant: Variant, machine: Machine, seconds: float, report: Report | None
    ) -> None:
        self.found: list[Measurement] = []
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

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def tell(self, measurement: Measurement) -> None:
        """Keeps a result."""
        self.found.append(measurement)
        if self._report is not None:
            self._report(measurement)

    def best(self, provider: str) -> Measurement | None:
        """The fastest of a provider so far."""
        measured = [found for found in self.found if found.layout.provider == provider and found.tokens_per_s]
        return max(measured, key=lambda found: found.tokens_per_s or 0.0, default=None)

    def by_promise(self, providers: Sequence[str]) -> list[str]:
        """Those first that are as exact as the variant demands, and of these the fastest."""

        def promise(name: str) -> tuple[bool, float]:
            best = self.best(name)
            return not self._accuracy[name].passed, -(best.tokens_per_s or 0.0) if best else 0.0

        return sorted(providers, key=promise)

    def try_layout(self, layout: Layout, *, sharers: int) -> None:
        """Measures a layout, if there is time to open it.

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
            self.tell(Measurement(layout=layout, problem=str(error), failed=True))
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
                self.tell(Measurement(layout=layout, problem=str(error), failed=True))
                return
            if self._yardstick is None and self._yardstick_seconds and self._keeps_yardstick:
                self._yardstick = trial
                self._open.push(stack.pop_all())

    def try_budgets(self, provider: str) -> None:
        """Measures other token budgets for a provider's best layout, if there is time."""
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
                self.tell(Measurement(layout=best.layout, problem=str(error), failed=True))

    def _climb(self, trial: Trial, best: Measurement, budgets: Sequence[float]) -> None:
        """Goes on while it gets faster, there is time, and the sample has a batch for every worker."""
        sample = self._sample
        speed = best.tokens_per_s or 0.0
        for times in budgets:
            budget = int(best.layout.token_budget * times)
            layout = Layout(*_shape(best.layout), budget)
            if sample is None or sample.num_tokens < budget * layout.workers or time.monotonic() > self._deadline:
                return
            self._run(trial, layout, (best.latency_ms or 0.0) / 1000, self._deadline)
            before, speed = speed, self.found[-1].tokens_per_s or 0.0
            if speed < before:
                return

    def _latency(self, trial: Trial) -> float:
        """Seconds of the short text, put to the yardstick's scale where there is one."""
        if self._yardstick is None:
            self._yardstick_latency = trial.latency(self._short)
            return self._yardstick_latency
        own, beside = latencies([trial, self._yardstick], self._short)
        return own / beside * self._yardstick_latency

    def _can_check(self, trial: Trial, latency: float) -> bool:
        """Whether the canary can be computed in time, by what a short text took."""
        if trial.layout.provider in self._accuracy:
            return True
        tokens = self._canary.encodings.num_tokens
        return time.monotonic() + latency * tokens / self._short.num_tokens / trial.layout.workers < self._deadline

    def _run(self, trial: Trial, layout: Layout, latency: float, ends: float) -> None:
        """Measures a candidate that is open, and keeps the result."""
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
        self.tell(
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
        """Seconds of the sample, put to the yardstick's scale where there is one, and their relative spread.

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

    def _leave_out(self, layout: Layout) -> None:
        """There was no time: said once for a provider, since it might have been the fastest.

        Where not even the default could be timed, nothing that follows is: it would be compared with nothing.
        """
        if self._sample is None:
            self._deadline = time.monotonic()
        if not any(found.layout.provider == layout.provider for found in self.found):
            problem = f"{NOT_MEASURED} within {self._seconds:g} s: fletcher-serve devices DIR --seconds takes more time"
            self.tell(Measurement(layout=layout, problem=problem))


def _is_possible(provider: str, workers: int, threads: int) -> bool:
    """ONNX Runtime's runs share their session's one pool of threads, so several runs of several threads each are no layout
    of it."""
    return PROVIDERS[provider].package != "onnxruntime" or workers == 1 or threads == 1


def _shape(layout: Layout) -> tuple[str, int, int]:
    return layout.provider, layout.workers, layout.threads
