"""Promises to clients: deadlines are kept, and a healthy model answers in time whatever happens to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...serve.fake_encoder import MAX_TOKENS
from .callers import BURST, LIMITED, PER_SECOND, SLACK, HttpCaller, ThreadCaller
from .judge import require
from .weather import ModelWeather, Weather

__all__ = ["check_promises"]

#: Codes of errors that a healthy model may answer with.
HEALTHY = {
    "",
    "overloaded",
    "rate_limit_exceeded",
    "request_too_large",
    "invalid_api_key",
    "deadline_exceeded",
    "request_timeout",
    "stopping",
}


def check_promises(
    weather: Weather,
    models: Mapping[str, ModelWeather],
    https: Sequence[HttpCaller],
    threads: Sequence[ThreadCaller],
) -> None:
    """Check the times and results of all clients of a run.

    Args:
        weather: conditions of the run.
        models: models by name.
        https: clients over HTTP.
        threads: clients on threads.
    """
    # The requests of a batch at which a library fails are computed one after the other, and such failures may open the
    # breaker. So other requests may wait for longer: one that is in no batch is dropped when a worker is free again.
    callers: list[HttpCaller | ThreadCaller] = [*https, *threads]
    broken = {caller.plan.model for caller in callers if "breaks" in caller.plan.texts}
    for caller in https:
        plan, model = caller.plan, models.get(caller.plan.model)
        if plan.timeout is not None and not plan.streams and not plan.stalls and not caller.gone:
            require(
                caller.ended - caller.begun <= plan.timeout + SLACK,
                f"a deadline of {plan.timeout} s passed {caller.ended - caller.begun - plan.timeout:.2f} s ago: {plan}",
            )
        if model is None or not model.steady or caller.gone or "poison" in plan.texts or plan.model in broken:
            continue
        require(caller.code in HEALTHY, f"a healthy model answers {caller.status} {caller.code}")
        if not plan.streams and not plan.stalls and len(plan.texts) * MAX_TOKENS <= model.budget:
            # A batch with a poison text of another client is computed again without it.
            most = 2 * weather.queue_seconds + 2 * model.batch_seconds + SLACK
            require(caller.seconds <= most, f"a healthy model answers after {caller.seconds:.2f} s: {plan}")
    _check_rate([caller.begun for caller in https if caller.plan.client == LIMITED and caller.status == 200])
    for thread in threads:
        plan, model = thread.plan, models.get(thread.plan.model)
        if model is None or plan.timeout is None or plan.streams or plan.model in broken:
            continue
        if len(plan.texts) * MAX_TOKENS > model.budget:
            continue
        if model.steady or thread.result == "DeadlineError":
            # A request is dropped when the next batch is formed, or its batch ends.
            most = plan.timeout + 2 * model.batch_seconds + SLACK
            require(
                thread.ended - thread.begun <= most or not model.healthy,
                f"a deadline of {plan.timeout} s passed unnoticed for {thread.ended - thread.begun:.2f} s: {plan}",
            )


def _check_rate(times: list[float]) -> None:
    """Check that no interval has more requests than the burst and the rate allow."""
    times.sort()
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            most = BURST + PER_SECOND * (times[last] - begin) + 1
            require(last - first + 1 <= most, f"{last - first + 1} requests in {times[last] - begin:.3f} s")
