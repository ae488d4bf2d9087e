"""Search the lines of a text file by meaning.

    python examples/search_file.py ARTIFACT FILE "a question"

The lines are embedded in chunks, so the file may be larger than memory; only the vectors stay, in half precision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from fletcher import EmbedOptions, Encoder

BEST, CHUNK = 5, 1024


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines that hold text."""
    with path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file if line.strip())


def chunks_of(path: Path) -> Iterator[list[str]]:
    """Yield lists of up to `CHUNK` lines."""
    lines = lines_of(path)
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def main() -> None:
    """Print the lines nearest to the question, best first."""
    artifact, file, question = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    documents = EmbedOptions(input_type="document", dtype="float16")
    with Encoder.load(artifact) as encoder:
        parts = [part.vectors for part in encoder.stream(chunks_of(file), documents)]
        vectors = np.concatenate(parts).astype(np.float32)  # (lines, dimension)
        query = encoder.embed([question], input_type="query").vectors[0]  # (dimension,)
    cosines = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    nearest = np.argsort(-cosines)[:BEST]
    texts = {number: line for number, line in enumerate(lines_of(file)) if number in nearest}
    for number in nearest.tolist():
        print(f"{cosines[number]:6.3f}  {texts[number]}")


if __name__ == "__main__":
    main()
