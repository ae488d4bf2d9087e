"""sentence-transformers on a file of texts, in a process of its own: prints its seconds as JSON. `run.py` starts it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import sentence_transformers
import torch


def main(checkpoint: str, source: str, batch_size: str, threads: str, output: str | None = None) -> None:
    """Embeds once to warm up, then everything."""
    torch.set_num_threads(int(threads))
    texts = [json.loads(line)["text"] for line in Path(source).read_text(encoding="utf-8").splitlines()]
    model = sentence_transformers.SentenceTransformer(checkpoint, device="cpu")
    model.encode(texts[:64], batch_size=int(batch_size), show_progress_bar=False)
    started = time.perf_counter()
    vectors = model.encode(texts, batch_size=int(batch_size), show_progress_bar=False)
    seconds = time.perf_counter() - started
    if output:
        np.save(output, vectors)
    versions = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"seconds": round(seconds, 3), "texts": len(texts), "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
