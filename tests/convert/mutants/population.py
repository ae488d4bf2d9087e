"""Mutants that the tests judge, identical in each process."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .checkpoints.bases import BASES, read_folder
from .generation.edits import Files, Mutant
from .generation.generate import generate, select
from .known_defects import known_defect
from .reference import quiet
from .verdicts import Outcome, judge

__all__ = ["all_mutants", "base_files", "judge_all", "population", "sample"]

#: Number of mutants of the slow test, number in the sample, and seed of the selection.
POPULATION = 4000
SAMPLE = 200
SEED = 17


@functools.cache
def base_files() -> dict[str, Files]:
    """Return the files of all bases by name."""
    with tempfile.TemporaryDirectory() as name, quiet():
        return {base: read_folder(content.save(Path(name) / base)) for base, content in BASES.items()}


@functools.cache
def all_mutants() -> tuple[Mutant, ...]:
    """Return every mutant of every base."""
    return tuple(mutant for base in BASES for mutant in generate(base, base_files()))


def population() -> list[Mutant]:
    """Return the mutants of the slow test, without known defects."""
    return [mutant for mutant in select(all_mutants(), POPULATION, SEED) if known_defect(mutant) is None]


def sample() -> list[Mutant]:
    """Return the mutants of the quick test: the first ones of the population."""
    return population()[:SAMPLE]


def judge_all(mutants: Iterable[Mutant], *, ask_reference: bool = True) -> list[Outcome]:
    """Judge mutants one after the other."""
    files = base_files()
    with tempfile.TemporaryDirectory() as name, quiet():
        return [judge(mutant, files[mutant.base], Path(name), ask_reference=ask_reference) for mutant in mutants]
