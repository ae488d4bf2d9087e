"""Embed a few texts and print how similar they are.

python examples/similarity.py ARTIFACT
"""

from __future__ import annotations

import sys

from fletcher import Encoder

TEXTS = ["A man is eating food.", "A man eats a meal.", "It rains."]


def main() -> None:
    """Print a cosine for each pair of texts."""
    with Encoder.load(sys.argv[1]) as encoder:
        embeddings = encoder.embed(TEXTS)
    vectors = embeddings.vectors  # float32, (3, dimension); length 1 for models that normalize
    cosines = vectors @ vectors.T
    for row, text in enumerate(TEXTS):
        for column in range(row + 1, len(TEXTS)):
            print(f"{cosines[row, column]:6.3f}  {text}  |  {TEXTS[column]}")
    print("tokens of each text:", *embeddings.tokens)


if __name__ == "__main__":
    main()
