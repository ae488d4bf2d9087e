"""The corpus and mutants of it on every target, and runs of the coverage-guided fuzzer."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from .structures import MUTATORS
from .targets import CORPUS, TARGETS

#: Mutants of each target in the usual run. A tokenizer is tried in a process.
COUNTS = dict.fromkeys(TARGETS, 300) | {"tokenizer": 20}

#: Seconds of a run of the fuzzer.
SECONDS = 60


def seeds(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_are_accepted_as_others_accept_them_or_refused_by_name(name: str) -> None:
    target, mutator, corpus = TARGETS[name], MUTATORS[name], seeds(name)
    assert any(target(seed) for seed in corpus), "no seed is right"
    chance = random.Random(name)
    accepted = [target(mutator(chance.choice(corpus), chance)) for _ in range(COUNTS[name])]
    assert not all(accepted)
    assert name == "tokenizer" or sum(accepted) > len(accepted) / 50, "the mutants do not reach the checks"


def test_every_target_has_a_mutator_and_a_corpus() -> None:
    assert TARGETS.keys() == MUTATORS.keys() == {folder.name for folder in CORPUS.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.fuzzing", name, "--seconds", str(SECONDS), "--found", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
