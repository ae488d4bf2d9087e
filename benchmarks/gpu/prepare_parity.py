"""Preparation of `parity.py` for a GPU host without a package index: graphs, inputs and transformers' vectors.

    python -m benchmarks.gpu.prepare_parity FOLDER

Run it in the repository's root, in an environment with torch and transformers. It covers every family
(tests/convert/targets/models.py), attention heads of 32 elements, for which flash attention is used, and rerankers,
SPLADE and ColBERT (tests/convert/targets/head_models.py). For each it writes one folder per precision: the cuda graph
and its weights, and for each batch a file with the inputs, made by the runtime's feeds, and the expected values,
computed by transformers in float32 on the processor. It prints the size of all files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.convert.targets.head_models import encode, load_head
from tests.convert.targets.models import MODELS, Tiny, bert_like, roberta_like
from tests.convert.targets.sessions import architecture_of, models_of
from tests.convert.verify.parity import Parity, make_card

from fletcher.convert.architecture import Architecture
from fletcher.convert.export.precision_islands import find_islands, record_maxima
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.origin.tolerances import TOLERANCES
from fletcher.runtime.session.feeds import make_feeds

WIDE = {"hidden_size": 64, "num_attention_heads": 2}
WIDE_MODELS: Mapping[str, Callable[[], Tiny]] = {
    "bert_wide": bert_like("bert", "Bert", **WIDE),
    "mpnet_wide": roberta_like("mpnet", "MPNet", **WIDE),
    "xlm-roberta_wide": roberta_like("xlm-roberta", "XLMRoberta", **WIDE),
}
#: Each head, and ColBERT with tokens that no other token attends to, once on a family that has a bias in its attention.
HEADS = (
    ("scores", "Bert"),
    ("sparse", "Bert"),
    ("token_vectors", "Bert"),
    ("filled_queries", "Bert"),
    ("filled_queries", "MPNet"),
)
#: Lengths of the texts of a batch: one token, equal lengths, ragged lengths; 0 is the longest text.
BATCHES = ((1,), (7, 7, 7), (3, 1, 9, 2, 17, 5, 12), (0, 4, 0, 1))


def main() -> None:
    """Write every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, make in {**MODELS, **WIDE_MODELS}.items():
        with tempfile.TemporaryDirectory() as checkpoint:
            write_cases(output, name, encoder_of(make(), Path(checkpoint)))
    for head, family in HEADS:
        with tempfile.TemporaryDirectory() as checkpoint:
            write_cases(output, f"{head}_{family.lower()}", head_of(head, family, Path(checkpoint)))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: {len(list(output.iterdir()))} cases, {size / 1e6:.1f} MB")


@dataclass(frozen=True, slots=True)
class Subject:
    """`Subject`: a model, and transformers' results of each batch.

    Attributes:
        architecture: description of the model.
        card: card of the model.
        batches: token ids of the batches.
        expected: transformers' results of each batch.
    """

    architecture: Architecture
    card: ModelCard
    batches: list[Encodings]
    expected: list[NDArray[np.float32]]


def encoder_of(tiny: Tiny, checkpoint: Path) -> Subject:
    """Return the model of a family."""
    parity = Parity(tiny.model, None, tiny.tokens, tiny.vocabulary, tiny.longest)  # type: ignore[arg-type]
    batches = [parity.rows([length or tiny.longest for length in lengths]) for lengths in BATCHES]
    card = make_card(tiny.save(checkpoint), tiny.hidden, tiny.longest)
    return Subject(
        architecture_of(checkpoint, card),
        card,
        [Encodings.from_lists(rows) for rows in batches],
        [parity.huggingface(rows) for rows in batches],
    )


def head_of(head: str, family: str, checkpoint: Path) -> Subject:
    """Return a model with a head, with batches of one text, of two, and of all."""
    model = load_head(checkpoint / "model", head, family)
    parts = [replace(model, rows=model.rows[:count]) for count in (1, 2, None, None)]
    return Subject(
        model.architecture, model.card, [encode(part.rows) for part in parts], [part.expected() for part in parts]
    )


def write_cases(output: Path, name: str, subject: Subject) -> None:
    """Write one model in every precision."""
    for precision in PRECISIONS["cuda"]:
        folder = output / f"{name}-{precision}"
        folder.mkdir()
        with tempfile.TemporaryDirectory() as scratch:
            (recorded,), (model,) = models_of(subject.architecture, subject.card, Path(scratch), "tensorrt", "fp32")
            maxima = record_maxima(recorded, model, Encodings.concatenate(subject.batches))
        islands = find_islands(model, maxima, precision) if precision != "fp32" else frozenset()
        (emission,), _ = models_of(subject.architecture, subject.card, folder, "cuda", precision, islands)
        for index, (batch, expected) in enumerate(zip(subject.batches, subject.expected, strict=True)):
            feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, batch)
            np.savez_compressed(folder / f"batch{index}.npz", expected=expected, **feeds)
        tolerance = TOLERANCES[precision]
        limits = {"min_cosine": tolerance.min_cosine, "max_abs": tolerance.max_abs, "islands": sorted(islands)}
        (folder / "case.json").write_text(json.dumps(limits))


if __name__ == "__main__":
    main()
