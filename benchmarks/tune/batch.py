"""Processor time of a step of all-MiniLM-L6-v2 on a batch of documentation, computed in parts.

    OMP_NUM_THREADS=1 python benchmarks/tune/batch.py [--pairs N] [--max-tokens N]

The library's parts are texts in the order of the batch; those of `SortedRankingLoss` have similar lengths.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from run import MINILM, documentation
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as library

from fletcher.convert.tune.training.losses import SortedRankingLoss
from fletcher.model_zoo import fetch


def step(model: Any, loss: Any, columns: list[list[str]]) -> tuple[float, float, Any]:
    """Return the loss, the seconds of processor time, and the gradients of all weights."""
    model.zero_grad()
    started = time.process_time()
    value = loss([model.preprocess(column) for column in columns], None)
    value.backward()
    seconds = time.process_time() - started
    return (
        float(value.detach()),
        seconds,
        torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    pairs = documentation(arguments.pairs)
    columns = [[pair[name] for pair in pairs] for name in ("query", "positive")]
    model = SentenceTransformer(str(fetch(MINILM).folder), device="cpu").train()
    model.max_seq_length = arguments.max_tokens
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its random values would be those of other texts
    kinds = {"as they come": library.CachedMultipleNegativesRankingLoss, "similar lengths": SortedRankingLoss}
    expected = None
    for size in (32, 16, 8):
        for name, kind in kinds.items():
            value, seconds, gradients = step(model, kind(model, mini_batch_size=size), columns)
            expected = gradients if expected is None else expected
            difference = float((gradients - expected).abs().max())
            print(
                f"parts of {size}, {name}: loss {value:.6f}, {seconds:.1f} s, gradients differ by {difference:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
