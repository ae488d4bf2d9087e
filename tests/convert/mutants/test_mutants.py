"""Mutants of checkpoints: each gives the reference's vectors within 1e-5, or is refused by name.

`python -m tests.convert.mutants.report` prints the results of these tests, for any number of mutants.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .checkpoints.bases import BASES
from .generation.edits import Mutant
from .known_defects import KNOWN_DEFECTS, KnownDefect, known_defect
from .population import POPULATION, SAMPLE, all_mutants, judge_all, population, sample
from .verdicts import DEFECTS

CHUNKS = 50
SAMPLE_CHUNKS = 8


def check(mutants: Sequence[Mutant], *, ask_reference: bool) -> None:
    outcomes = judge_all(mutants, ask_reference=ask_reference)
    defects = [str(outcome) for outcome in outcomes if outcome.verdict in DEFECTS]
    assert not defects, "\n".join([f"{len(defects)} of {len(outcomes)} mutants", *defects])


def test_every_base_is_converted_exactly() -> None:
    outcomes = judge_all(Mutant(base, "change value", "unchanged", ()) for base in BASES)
    assert {outcome.mutant.base: outcome.verdict for outcome in outcomes} == dict.fromkeys(BASES, "equal")


@pytest.mark.parametrize("chunk", range(SAMPLE_CHUNKS))
def test_sample(chunk: int) -> None:
    check(sample()[chunk::SAMPLE_CHUNKS], ask_reference=False)


def test_the_selections_have_mutants_of_each_kind_and_base() -> None:
    groups = {(mutant.base, mutant.kind) for mutant in all_mutants()}
    assert {(mutant.base, mutant.kind) for mutant in population()} == groups
    assert {kind for _, kind in groups} == {mutant.kind for mutant in sample()}
    assert len(sample()) == SAMPLE
    assert len(population()) > 0.75 * POPULATION


def test_each_known_defect_excludes_a_mutant() -> None:
    mutants = {str(mutant): mutant for mutant in all_mutants()}
    for cause in KNOWN_DEFECTS:
        assert known_defect(mutants[cause.example]) is cause


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_population(chunk: int) -> None:
    check(population()[chunk::CHUNKS], ask_reference=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(cause, id=cause.name, marks=pytest.mark.xfail(strict=True, reason=cause.reason))
        for cause in KNOWN_DEFECTS
    ],
)
def test_known_defect(cause: KnownDefect) -> None:
    check([mutant for mutant in all_mutants() if str(mutant) == cause.example], ask_reference=True)
