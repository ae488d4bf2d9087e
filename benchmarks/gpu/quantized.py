"""Accuracy and speed of a quantized cuda variant and of the fp16 variant from which it was made.

    fletcher-convert model export all-MiniLM-L6-v2 -o fp16 --target cpu --target cuda --precision fp32 --precision fp16
    fletcher-convert quantize run fp16 -o qdq --recipe cuda-qdq
    python -m benchmarks.gpu.quantized CHECKPOINT fp16 qdq      on a GPU host

Accuracy: 1,000 ragged texts against sentence-transformers in float32 on the processor. Speed: 40,000 texts in interleaved
rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.gpu.run import cosines, interleaved
from benchmarks.gpu.texts import ragged_texts
from sentence_transformers import SentenceTransformer

from fletcher import Encoder
from fletcher.runtime.artifact.folder import Artifact

ROUNDS = 3


def main() -> None:
    """Measure both variants, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("fp16", type=Path, help="an artifact with the variant cuda-fp16")
    parser.add_argument("quantized", type=Path)
    args = parser.parse_args()
    few, many = ragged_texts(1000, seed=7), ragged_texts(40_000)
    expected = SentenceTransformer(str(args.checkpoint), device="cpu").encode(few, batch_size=64).astype(np.float64)
    with (
        Encoder.load(args.fp16, provider="cuda", variant="cuda-fp16") as fp16,
        Encoder.open(Artifact.open(args.quantized), provider="cuda") as quantized,
    ):
        encoders = {"fp16": fp16, "quantized": quantized}
        report: dict[str, Any] = {
            name: cosines(encoder.embed(few).vectors.astype(np.float64), expected) for name, encoder in encoders.items()
        }
        seconds = interleaved(
            {
                "fp16": lambda: fp16.embed(many, dtype="float16"),
                "quantized": lambda: quantized.embed(many, dtype="float16"),
            },
            ROUNDS,
        )
    for name, taken in seconds.items():
        report[name]["texts_per_s"] = len(many) / statistics.median(taken)
    report["quantized_over_fp16"] = report["quantized"]["texts_per_s"] / report["fp16"]["texts_per_s"]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
