"""Embed texts in a program with asyncio: calls that wait at the same time share batches.

python examples/embed_with_asyncio.py ARTIFACT
"""

from __future__ import annotations

import asyncio
import sys

from fletcher import EmbedOptions
from fletcher.serve import AsyncEngine


async def main() -> None:
    """Embed twenty texts by twenty calls at the same time."""
    async with AsyncEngine(sys.argv[1]) as engine:
        options = EmbedOptions(overflow="refuse")
        texts = [f"text number {number}" for number in range(20)]
        answers = await asyncio.gather(*(engine.embed(text, options, timeout=30) for text in texts))
        print(f"{len(answers)} answers, each with vectors of the shape {answers[0].vectors.shape}")


if __name__ == "__main__":
    asyncio.run(main())
