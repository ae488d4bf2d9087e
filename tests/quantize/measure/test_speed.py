"""Speeds that a meter computes from trials with given seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from fletcher.quantize.measure.speed import Speed, SpeedMeter, join
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.tuning.trial import Trial


def rows(count: int, length: int) -> Encodings:
    return Encodings.from_lists([np.ones(length, np.int32)] * count)


class _Clock:
    """`_Clock`: a trial that takes the given seconds: short texts, long texts and one text of each round."""

    def __init__(self, name: str, seconds: Sequence[tuple[float, float, float]], log: list[str]) -> None:
        self._name, self._left, self._log = name, list(seconds), log
        self._round = (0.0, 0.0, 0.0)

    def seconds(self, texts: Encodings, token_budget: int) -> float:
        if texts.lengths[0] == 16:
            self._round = self._left.pop(0)
            self._log.append(self._name)
            return self._round[0]
        return self._round[1]

    def latency(self, text: Encodings) -> float:
        return self._round[2]


def meter(*rounds: Sequence[tuple[float, float, float]], log: list[str] | None = None) -> SpeedMeter:
    log = [] if log is None else log
    trials = [cast(Trial, _Clock(f"{index}", seconds, log)) for index, seconds in enumerate(rounds)]
    return SpeedMeter(trials, [rows(100, 16), rows(10, 128)], rows(1, 12))


def test_ratios_are_those_within_a_round() -> None:
    ours = meter([(1.0, 2.0, 0.1), (3.0, 6.0, 0.3)], [(0.5, 0.5, 0.1), (1.0, 1.0, 0.1)])
    ours.turn()
    ours.turn()
    speed = ours.speed(1)
    assert speed.short_ratio.rounds == (2.0, 3.0) and speed.short_ratio.median == 2.5
    assert speed.long_ratio.rounds == (4.0, 6.0)
    assert speed.throughput_ratio.rounds == pytest.approx((8.0**0.5, 18.0**0.5))
    assert speed.latency_ratio.rounds == pytest.approx((1.0, 3.0))
    assert speed.short_texts_per_s.rounds == (200.0, 100.0) and speed.long_texts_per_s.rounds == (20.0, 10.0)
    assert (speed.latency_ms.low, speed.latency_ms.high) == (100.0, 100.0)
    assert (speed.short_tokens, speed.long_tokens, speed.latency_tokens, speed.num_rounds) == (16, 128, 12, 2)
    assert ours.speed(0).throughput_ratio.rounds == (1.0, 1.0)


def test_rounds_run_forward_and_backward_and_may_leave_variants_out() -> None:
    log: list[str] = []
    even = [(1.0, 1.0, 1.0)] * 9
    ours = meter(even, even, even, log=log)
    ours.turn()
    ours.turn()
    ours.turn([2])
    assert log == ["0", "1", "2", "2", "1", "0", "0", "2"]
    assert [ours.speed(index).num_rounds for index in range(3)] == [3, 2, 3]


def test_measurements_are_joined_round_by_round() -> None:
    speeds: list[Speed] = []
    for seconds in (0.5, 0.25):
        ours = meter([(1.0, 1.0, 1.0)], [(seconds, seconds, seconds)])
        ours.turn()
        speeds.append(ours.speed(1))
    joined = join(*speeds)
    assert joined.throughput_ratio.rounds == (2.0, 4.0) and joined.throughput_ratio.median == 3.0
    assert joined.num_rounds == 2 and joined.latency_ms.rounds == (500.0, 250.0)
