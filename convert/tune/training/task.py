"""`TrainingTask` and `Trained`: a training as data, and its result. The module imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

__all__ = ["Point", "Trained", "TrainingTask"]


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """`TrainingTask`: everything that a training needs besides options.

    Attributes:
        model: the model of sentence-transformers.
        loss: a loss of sentence-transformers for the columns.
        columns: texts by column, in the order that the loss takes, and `label` if it needs labels.
        validate: function that returns the metric of the model on the validation data; larger is better.
        metric: name of the metric.
        learning_rate: largest learning rate, unless the options have one.
        prompts: text before each text of a column, by column.
        unique: whether a batch must not have a text twice, because it would be its own negative.
    """

    model: Any
    loss: Any
    columns: Mapping[str, Sequence[Any]]
    validate: Callable[[Any], float]
    metric: str
    learning_rate: float
    prompts: Mapping[str, str] = field(default_factory=dict)
    unique: bool = False


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """`Point`: a step of a training.

    Attributes:
        step: number of the step, from 1.
        loss: loss of its batch, or None.
        metric: metric on the validation data after it, or None.
    """

    step: int
    loss: float | None = None
    metric: float | None = None


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """`Trained`: result of a training. The model has the weights of the best step.

    Attributes:
        metric: name of the metric.
        steps: number of steps that were computed, in all runs.
        planned: number of steps that were planned.
        best_step: step with the best metric.
        best_metric: its metric.
        resumed_from: step of the checkpoint that the last run continued from; None if it began anew.
        seconds: time of the last run.
        learning_rate: largest learning rate; None in files of earlier versions.
        log: loss of each step, and metric of the validated ones.
    """

    metric: str
    steps: int
    planned: int
    best_step: int
    best_metric: float
    resumed_from: int | None
    seconds: float
    log: tuple[Point, ...]
    learning_rate: float | None = None

    @property
    def stopped_early(self) -> bool:
        """Return whether the metric did not become better, so that the training stopped."""
        return self.steps < self.planned
