"""Time to tokenize and cut one text, by its length: `python -m benchmarks.tokenizers.long_text ARTIFACT`.

The number of tokens that a text lost is part of the answer, so that all of a text is tokenized, however much of it is cut.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from fletcher.runtime import Artifact
from fletcher.runtime.loading import open_tokenizer

from .run import Writer

#: Lengths of the texts in characters, and the number of calls whose median is printed.
LENGTHS = (4_000, 64_000, 1_000_000)
CALLS = 15


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    artifact = Artifact.open(parser.parse_args().artifact)
    tokenizer = open_tokenizer(artifact)
    (text,) = Writer(artifact.tokenizer_file).texts(1, 400_000, 400_000)
    print(f"{artifact.manifest.card.name}, {tokenizer.implementation}, at most {tokenizer.max_tokens} tokens")
    for length in LENGTHS:
        seconds = []
        for number in range(CALLS):
            part = f"{number} {text[:length]}"  # another text each time: single texts are cached
            started = time.perf_counter()
            encodings = tokenizer.encode([part])
            seconds.append(time.perf_counter() - started)
        milliseconds = 1000 * statistics.median(seconds)
        print(f"{length:9,} characters: {milliseconds:8.2f} ms, {int(encodings.dropped[0]):,} tokens cut")


if __name__ == "__main__":
    main()
