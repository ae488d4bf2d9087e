"""A model's versions side by side, and the table of names that finds them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fletcher.model_zoo.card import Output
from fletcher.runtime.errors import InputError

from .version import Version

__all__ = ["Serving", "group", "table_of"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A model by its name: its versions.

    Attributes:
        name: what it is called.
        versions: those that answer, and the shadow; the first is the one that is described.
        weights: running sums of the answering versions' shares.
        answering: the versions that answer.
        shadow: the version that gets copies.
    """

    name: str
    versions: tuple[Version, ...]
    answering: tuple[Version, ...]
    weights: tuple[float, ...]
    shadow: Version | None

    @classmethod
    def of(cls, name: str, versions: Sequence[Version]) -> Serving:
        """Sorts a model's versions."""
        answering = [version for version in versions if not version.spec.shadow and version.spec.weight > 0]
        sums, total = [], 0.0
        for version in answering:
            total += version.spec.weight
            sums.append(total)
        shadow = next((version for version in versions if version.spec.shadow), None)
        return cls(name, tuple(versions), tuple(answering), tuple(sums), shadow)

    @property
    def output(self) -> Output:
        """What it gives."""
        return self.answering[0].served.output

    def choose(self) -> Version:
        """A version that answers, by weight."""
        if len(self.answering) == 1:
            return self.answering[0]
        place = random.random() * self.weights[-1]
        return next(version for version, upto in zip(self.answering, self.weights, strict=True) if place < upto)


def group(versions: Sequence[Version]) -> tuple[Serving, ...]:
    names = dict.fromkeys(version.spec.name for version in versions)
    return tuple(Serving.of(name, [version for version in versions if version.spec.name == name]) for name in names)


def table_of(serving: Sequence[Serving]) -> dict[str, Serving | Version]:
    """Every name to what it stands for; those of cards give way to those that the operator chose.

    Raises:
        InputError: two models claim a name.
    """
    table: dict[str, Serving | Version] = {each.name: each for each in serving}
    for each in serving:
        for version in each.versions:
            for alias in version.spec.aliases:
                if table.setdefault(alias, each) is not each:
                    raise InputError(f"the name {alias!r} is claimed by {each.name!r} and by another model")
            table[f"{each.name}@{version.spec.version}"] = version
    for each in serving:
        for version in each.versions:
            for name in version.served.names:
                table.setdefault(name, each)
    return table
