"""Command: `python -m tests.fuzzing TARGET --seconds 120` fuzzes a target with atheris, which libFuzzer's coverage guides."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fletcher"]):
    from .structures import MUTATORS
    from .targets import CORPUS, TARGETS


def main() -> None:
    """Run the command. libFuzzer ends the process: with 0 if it found nothing, else with the input in a file."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="seconds to run. Default: 60.")
    parser.add_argument(
        "--found", type=Path, required=True, help="folder for inputs that reach new code, and for failures."
    )
    given = parser.parse_args()
    run, mutator = TARGETS[given.target], MUTATORS[given.target]
    new = given.found / "new"
    new.mkdir(parents=True, exist_ok=True)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        # A tenth of the mutants are libFuzzer's own, which know the values that the code compares.
        if seed % 10 == 0:
            mutated: bytes = atheris.Mutate(data, most)
            return mutated
        return mutator(data, random.Random(seed))[:most]

    options = [
        f"-max_total_time={given.seconds}",
        "-max_len=65536",
        "-timeout=20",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        f"-artifact_prefix={given.found}/",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(new), str(CORPUS / given.target)], lambda data: run(data), custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
