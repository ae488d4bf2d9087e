"""Throughput of Fletcher's two tokenizers, and their latency for a single short text.

    python benchmarks/tokenizers/run.py ARTIFACT [--texts 8000] [--rounds 5] [--json]

nanotoken and HuggingFace's tokenizers run through `Tokenizer` one after the other in every round, so other load affects
both, and the report gives the median round. nanotoken caches words, so every round has different texts. A tenth of
their words are new; the others are words of the vocabulary with the frequencies of Zipf's law. All ids are compared.
Fletcher's own cache is off, except in the last line, for which HuggingFace's tokenizer gets the same texts again.
`taskset -c 0` before the command measures one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from fletcher.runtime import Artifact
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

#: Smallest and largest number of words of titles, passages and documents, and the divisor of their number.
KINDS = {"short": (3, 20, 1), "mixed": (5, 200, 1), "long": (800, 2000, 20)}

#: Single texts per latency, which is their median.
CALLS = 2000


class Writer:
    """`Writer`: makes different texts, the same in every run."""

    def __init__(self, file: Path) -> None:
        self._random = random.Random(0)
        vocabulary = HuggingFaceTokenizer.from_file(str(file)).get_vocab()
        self._words = [word for word in sorted(vocabulary, key=vocabulary.__getitem__) if word.isalpha()]
        self._frequencies = np.cumsum(1 / np.arange(1, len(self._words) + 1)).tolist()

    def texts(self, number: int, fewest: int, most: int) -> list[str]:
        """Return a number of texts with a number of words each."""
        return [self._text(self._random.randint(fewest, most)) for _ in range(number)]

    def _text(self, length: int) -> str:
        words = self._random.choices(self._words, cum_weights=self._frequencies, k=length)
        for place in range(self._random.randrange(10), length, 10):
            words[place] = "".join(self._random.choices("etaoinshrdlucmfwypvbgkjqxz", k=8))
        return " ".join(words) + "."


def seconds_of(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Return the time of one call."""
    started = time.perf_counter()
    tokenizer.encode(texts)
    return time.perf_counter() - started


def main() -> None:
    """Print texts and tokens per second for each kind of text, and microseconds for one short text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--texts", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    artifact = Artifact.open(arguments.artifact)
    file, max_tokens = artifact.tokenizer_file, artifact.manifest.card.max_tokens
    fast, slow = Tokenizer(file, max_tokens), Tokenizer(file, max_tokens, fast=False, cache_bytes=0)
    if fast.fast_problem is not None:
        raise SystemExit(fast.fast_problem)
    tokenizers = {tokenizer.implementation: tokenizer for tokenizer in (slow, fast)}
    writer = Writer(file)
    results: dict[str, object] = {"processors": len(os.sched_getaffinity(0))}
    for kind, (fewest, most, fewer) in KINDS.items():
        speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in tokenizers}
        for _ in range(arguments.rounds):
            texts = writer.texts(max(arguments.texts // fewer, 1), fewest, most)
            seconds = {name: seconds_of(tokenizer, texts) for name, tokenizer in tokenizers.items()}
            encodings = slow.encode(texts, side="neither")
            if not np.array_equal(encodings.ids, fast.encode(texts, side="neither").ids):
                raise SystemExit(f"the ids of {kind} texts differ")
            for name, taken in seconds.items():
                speeds[name].append((len(texts) / taken, encodings.num_tokens / taken))
        results[kind] = {
            name: {
                "texts_per_s": round(statistics.median(texts for texts, _ in rounds)),
                "tokens_per_s": round(statistics.median(tokens for _, tokens in rounds)),
            }
            for name, rounds in speeds.items()
        }
    cached = Tokenizer(file, max_tokens, fast=False)
    singles = writer.texts(CALLS, 5, 12)
    for text in singles:
        cached.encode([text])
    results["one_text_us"] = {
        name: round(statistics.median(seconds_of(tokenizer, [text]) for text in singles) * 1e6, 1)
        for name, tokenizer in {**tokenizers, f"{slow.implementation}, cached": cached}.items()
    }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for name, figures in results.items():
        print(name, figures)


if __name__ == "__main__":
    main()
