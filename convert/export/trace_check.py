"""Comparison of a traced graph with the model that was traced, before anything is made of it.

A tracer records one run: what depends on the length of a text, on padding or on the place of a window may be fixed in the
graph without a word. The model computes one text at a time, the graph all of them in one padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.providers.mlas.graph import CpuGraph

__all__ = ["Witness", "check_trace", "run_model"]

Ids = NDArray[np.int64]

#: Lengths of the compared texts; the last one is the model's own limit, up to `LONGEST`.
LENGTHS = (1, 3, 10, 40)
LONGEST = 1024

#: Largest difference, relative to the largest element of the model's output.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Witness:
    """Results of the model on random token ids, one text at a time.

    Attributes:
        rows: token ids of each text.
        results: the model's first output for each text.
    """

    rows: tuple[Ids, ...]
    results: tuple[NDArray[np.float32], ...]


def run_model(model: Any, vocabulary: int, padding_id: int, max_tokens: int) -> Witness:
    """Run transformers' model on texts of several lengths.

    Args:
        model: the model, in float32 and evaluation mode.
        vocabulary: number of token ids.
        padding_id: token id that fills the rectangle, and is in no text: some models do not count it.
        max_tokens: longest text.

    Raises:
        CheckpointError: the model cannot compute one of the texts.
    """
    import torch

    random = np.random.default_rng(0)
    lengths = sorted({*(length for length in LENGTHS if length < max_tokens), min(max_tokens, LONGEST)})
    rows = tuple(_ids(random, length, vocabulary, padding_id) for length in lengths)
    results = []
    for row in rows:
        ids = torch.from_numpy(row[None])
        try:
            with torch.no_grad():
                results.append(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0].numpy())
        except Exception as error:  # torch raises whatever the model's code raises
            raise CheckpointError(
                f"transformers' model cannot compute a text of {len(row)} tokens: {str(error) or type(error).__name__}"
            ) from error
    return Witness(rows, tuple(results))


def check_trace(graph: Path, inputs: Sequence[str], output: str, padding_id: int, witness: Witness) -> None:
    """Compare a traced graph with its model.

    Args:
        graph: file of the graph.
        inputs: names of its inputs.
        output: name of its first output.
        padding_id: token id that fills the rectangle.
        witness: the model's results.

    Raises:
        CheckpointError: the graph gives other values.
    """
    feeds = _rectangle(witness.rows, padding_id, inputs)
    (given,) = CpuGraph(graph.read_bytes(), graph.parent).run(feeds, [output])
    for row, expected, padded in zip(witness.rows, witness.results, given, strict=True):
        found = padded[: len(expected)] if expected.ndim > 1 else padded
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise CheckpointError(
                f"Optimum traced another computation than the model's: for a text of {len(row)} tokens in a padded batch, "
                f"values differ by {difference:.2g}. Its graph is refused, because it would give wrong vectors"
            )


def _ids(
    random: np.random.Generator, length: int, vocabulary: int, padding_id: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return token ids without the padding id, which some models do not count."""
    ids = random.integers(0, vocabulary - 1, length, dtype=np.int64)
    return ids + (ids >= padding_id)


def _rectangle(rows: Sequence[Ids], padding_id: int, names: Sequence[str]) -> dict[str, Ids]:
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, padding_id, np.int64), np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape).copy()
    values = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "token_type_ids": np.zeros_like(ids)}
    return {name: values[name] for name in names}
