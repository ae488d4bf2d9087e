"""`NamedModel`: the versions of a model side by side, and the table of names that finds them."""

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
    """A model by its name, with its versions.

    Attributes:
        name: what it is called.
        versions: those that answer, and the shadow; the first is the one that is described.
        weights: running sums of the answering versions' shares.
        answering: the versions that answer.
        shadow: the version that gets copies.
    """

    name: str
    versions: tuple[ModelVersion, ...]
    answering: tuple[ModelVersion, ...]
    weights: tuple[float, ...]
    shadow: ModelVersion | None

    @classmethod
    def of(cls, name: str, versions: Sequence[ModelVersion]) -> NamedModel:
        """Sort a model's versions into those that answer and the shadow."""
        answering = [version for version in versions if not version.spec.shadow and version.spec.weight > 0]
        sums, total = [], 0.0
        for version in answering:
            total += version.spec.weight
            sums.append(total)
        shadow = next((version for version in versions if version.spec.shadow), None)
        return cls(name, tuple(versions), tuple(answering), tuple(sums), shadow)

    @property
    def output(self) -> Output:
        """Return the output that the model gives."""
        return self.answering[0].description.output

    def choose(self) -> ModelVersion:
        """Return a version that answers, chosen at random by weight."""
        if len(self.answering) == 1:
            return self.answering[0]
        place = random.random() * self.weights[-1]
        return next(version for version, upto in zip(self.answering, self.weights, strict=True) if place < upto)


def group(versions: Sequence[ModelVersion]) -> tuple[NamedModel, ...]:
    """Return the models of versions, in the order of their first versions."""
    names = dict.fromkeys(version.spec.name for version in versions)
    return tuple(NamedModel.of(name, [version for version in versions if version.spec.name == name]) for name in names)


def table_of(models: Sequence[NamedModel]) -> dict[str, NamedModel | ModelVersion]:
    """Return what each name stands for. The operator's names come before those of cards.

    Raises:
        InputError: two models claim a name.
    """
    table: dict[str, NamedModel | ModelVersion] = {model.name: model for model in models}
    for model in models:
        for version in model.versions:
            for alias in version.spec.aliases:
                if table.setdefault(alias, model) is not model:
                    raise InputError(f"the name {alias!r} is claimed by {model.name!r} and by another model")
            table[f"{model.name}@{version.spec.version}"] = version
    for model in models:
        for version in model.versions:
            for name in version.description.names:
                table.setdefault(name, model)
    return table
