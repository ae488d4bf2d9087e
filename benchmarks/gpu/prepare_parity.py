"""Preparation of `parity.py` for a GPU host without a package index: graphs, inputs and transformers' vectors.

    python -m benchmarks.gpu.prepare_parity FOLDER

Run it in the repository's root, in an environment with torch and transformers. It covers every family
(tests/convert/targets/models.py), attention heads of 32 elements, for which flash attention is used, rerankers, SPLADE
and ColBERT (tests/convert/targets/head_models.py), and models with routes, with adapters of tasks and with a template
(tests/convert/targets/composed/models.py). For each it writes one folder per precision: the cuda graph and its weights,
and for each batch a file with the inputs, made by the runtime's feeds, and the expected values, computed by transformers
in float32 on the processor. `--only NAME` writes some of them. It prints the size of all files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.convert.targets.composed.models import COMPOSED, Composed
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
    ("scores", "Longformer"),
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
    parser.add_argument("--only", action="append", metavar="NAME", help="A model to write. Default: all of them.")
    args = parser.parse_args()
    output: Path = args.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, subject in subjects().items():
        if args.only is None or name in args.only:
            with tempfile.TemporaryDirectory() as checkpoint, subject(Path(checkpoint)) as found:
                write_cases(output, name, found)
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


def subjects() -> Mapping[str, Callable[[Path], AbstractContextManager[Subject]]]:
    """Return, by name, a context that writes each model into a folder and reads it."""
    encoders = {name: partial(encoder_of, make) for name, make in {**MODELS, **WIDE_MODELS}.items()}
    heads = {f"{head}_{family.lower()}": partial(head_of, head, family) for head, family in HEADS}
    return {**encoders, **heads, **{name: partial(composed_of, make) for name, make in COMPOSED.items()}}


@contextmanager
def encoder_of(make: Callable[[], Tiny], checkpoint: Path) -> Iterator[Subject]:
    """Give the model of a family."""
    tiny = make()
    parity = Parity(tiny.model, None, tiny.tokens, tiny.vocabulary, tiny.longest)  # type: ignore[arg-type]
    batches = [parity.rows([length or tiny.longest for length in lengths]) for lengths in BATCHES]
    card = make_card(tiny.save(checkpoint), tiny.hidden, tiny.longest)
    yield Subject(
        architecture_of(checkpoint, card),
        card,
        [Encodings.from_lists(rows) for rows in batches],
        [parity.huggingface(rows) for rows in batches],
    )


@contextmanager
def head_of(head: str, family: str, checkpoint: Path) -> Iterator[Subject]:
    """Give a model with a head, with batches of one text, of two, and of all."""
    model = load_head(checkpoint / "model", head, family)
    parts = [replace(model, rows=model.rows[:count]) for count in (1, 2, None, None)]
    yield Subject(
        model.architecture, model.card, [encode(part.rows) for part in parts], [part.expected() for part in parts]
    )


@contextmanager
def composed_of(make: Callable[[Path], AbstractContextManager[Composed]], checkpoint: Path) -> Iterator[Subject]:
    """Give a model with routes, adapters or a template, with batches of one text, of two, and of all."""
    with make(checkpoint) as model:
        parts = [np.arange(count or len(model.encodings)) for count in (1, 2, None, None)]
        batches = [model.encodings.select(rows) for rows in parts]
        yield Subject(model.architecture, model.card, batches, [model.expected[rows] for rows in parts])


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
        limits = {
            "min_cosine": tolerance.min_cosine,
            "max_abs": tolerance.max_abs,
            "normalize": subject.architecture.output in ("vectors", "token_vectors"),
            "islands": sorted(islands),
        }
        (folder / "case.json").write_text(json.dumps(limits))


if __name__ == "__main__":
    main()
