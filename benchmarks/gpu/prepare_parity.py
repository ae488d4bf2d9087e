"""Makes what `parity.py` needs on a GPU host without a package index: graphs, inputs and transformers' vectors.

    python -m benchmarks.gpu.prepare_parity .carry/gpu_parity

Run it in the repository's root, where torch and transformers are. For every family (tests/convert/targets/models.py), for
attention heads of 32 elements besides, which flash attention takes, and for rerankers, SPLADE and ColBERT (head_models.py
there), it writes a folder a precision: the cuda graph and its weights, a file of inputs and expected values a batch, made by
the runtime's own feeds and by transformers in float32 on the processor. About 15 MB in all.
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
from fletcher.convert.export.variants import TOLERANCES
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.session.feeds import make_feeds

WIDE = {"hidden_size": 64, "num_attention_heads": 2}
WIDE_MODELS: Mapping[str, Callable[[], Tiny]] = {
    "bert_wide": bert_like("bert", "Bert", **WIDE),
    "mpnet_wide": roberta_like("mpnet", "MPNet", **WIDE),
    "xlm-roberta_wide": roberta_like("xlm-roberta", "XLMRoberta", **WIDE),
}
#: Each head, and of ColBERT with tokens that none attends to, once on a family with a bias of its own.
HEADS = (
    ("scores", "Bert"),
    ("sparse", "Bert"),
    ("token_vectors", "Bert"),
    ("filled_queries", "Bert"),
    ("filled_queries", "MPNet"),
)
#: Lengths of a batch's texts: one token, equal ones, ragged ones; 0 stands for the longest text.
BATCHES = ((1,), (7, 7, 7), (3, 1, 9, 2, 17, 5, 12), (0, 4, 0, 1))


def main() -> None:
    """Writes every case."""
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
    """A model, and what transformers makes of each batch.

    Attributes:
        architecture: what is computed.
        card: its settings.
        batches: texts.
        expected: transformers' results of each batch.
    """

    architecture: Architecture
    card: ModelCard
    batches: list[Encodings]
    expected: list[NDArray[np.float32]]


def encoder_of(tiny: Tiny, checkpoint: Path) -> Subject:
    """A family's model."""
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
    """A model with a head, on one text, on two, and on all."""
    model = load_head(checkpoint / "model", head, family)
    parts = [replace(model, rows=model.rows[:count]) for count in (1, 2, None, None)]
    return Subject(
        model.architecture, model.card, [encode(part.rows) for part in parts], [part.expected() for part in parts]
    )


def write_cases(output: Path, name: str, subject: Subject) -> None:
    """One model in every precision."""
    for precision in PRECISIONS["cuda"]:
        folder = output / f"{name}-{precision}"
        folder.mkdir()
        with tempfile.TemporaryDirectory() as scratch:
            (recorded,), (model,) = models_of(subject.architecture, subject.card, Path(scratch), "tensorrt", "fp32")
            maxima = record_maxima(recorded, model, Path(scratch), Encodings.concatenate(subject.batches))
        islands = find_islands(model, maxima, precision) if precision != "fp32" else frozenset()
        (emission,), _ = models_of(subject.architecture, subject.card, folder, "cuda", precision, islands)
        for index, (batch, expected) in enumerate(zip(subject.batches, subject.expected, strict=True)):
            feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, batch)
            np.savez_compressed(folder / f"batch{index}.npz", expected=expected, **feeds)
        tolerance = TOLERANCES[precision]
        facts = {"min_cosine": tolerance.min_cosine, "max_abs": tolerance.max_abs, "islands": sorted(islands)}
        (folder / "case.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
