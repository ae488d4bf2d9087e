"""`NamedModel`: a served model with its versions, and the table that finds models and versions by name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fletcher.model_zoo.card import Output
from fletcher.runtime.errors import InputError

from .version import ModelVersion

__all__ = ["NamedModel", "group", "table_of"]


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model with its versions.

    Attributes:
        name: name of the model.
        versions: all versions: those that answer, the shadow, and those with the weight 0.
        answering: the versions that answer; the first one describes the model.
        weights: cumulative sums of the weights of the answering versions.
        shadow: the version that gets copies of requests, or None.
    """

    name: str
    versions: tuple[ModelVersion, ...]
    answering: tuple[ModelVersion, ...]
    weights: tuple[float, ...]
    shadow: ModelVersion | None

    @classmethod
    def of(cls, name: str, versions: Sequence[ModelVersion]) -> NamedModel:
        """Return a model from its versions."""
        answering = [version for version in versions if not version.spec.shadow and version.spec.weight > 0]
        sums, total = [], 0.0
        for version in answering:
            total += version.spec.weight
            sums.append(total)
        shadow = next((version for version in versions if version.spec.shadow), None)
        return cls(name, tuple(versions), tuple(answering), tuple(sums), shadow)

    @property
    def output(self) -> Output:
        """Return the output of the model."""
        return self.answering[0].description.output

    def gives(self, outputs: Sequence[Output]) -> bool:
        """Return whether the model has one of the outputs."""
        return self.output in outputs or not self.answering[0].description.further.isdisjoint(outputs)

    def choose(self) -> ModelVersion:
        """Return a version that answers, chosen at random by weight."""
        if len(self.answering) == 1:
            return self.answering[0]
        position = random.random() * self.weights[-1]
        return next(version for version, end in zip(self.answering, self.weights, strict=True) if position < end)


def group(versions: Sequence[ModelVersion]) -> tuple[NamedModel, ...]:
    """Group versions by name. Return the models in the order of their first versions."""
    names = dict.fromkeys(version.spec.name for version in versions)
    return tuple(NamedModel.of(name, [version for version in versions if version.spec.name == name]) for name in names)


def table_of(models: Sequence[NamedModel]) -> dict[str, NamedModel | ModelVersion]:
    """Return the model or the version for each name. Names from the operator have precedence over names from cards.

    Raises:
        InputError: two models have the same alias.
    """
    table: dict[str, NamedModel | ModelVersion] = {model.name: model for model in models}
    for model in models:
        for version in model.versions:
            for alias in version.spec.aliases:
                if table.setdefault(alias, model) is not model:
                    raise InputError(
                        f"{model.name!r} has the alias {alias!r}, which is also a name of another model: choose another alias"
                    )
            table[f"{model.name}@{version.spec.version}"] = version
    for model in models:
        for version in model.versions:
            for name in version.description.names:
                table.setdefault(name, model)
    return table
