"""Tiny models whose texts choose a route or an adapter, or are put into a template, for the tests of every target."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from fletcher.convert.architecture import Architecture
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.routes.layout import routed_layout
from fletcher.convert.checkpoint.task_adapters import task_layout
from fletcher.convert.export.export import export
from fletcher.convert.heads import describe_model
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ...checkpoint import test_task_adapters as adapters
from ...heads import test_flag_reranker as flag
from ...heads.routes.routers import save_shared
from ...heads.tiny import DOCUMENTS

__all__ = ["COMPOSED", "Composed"]


@dataclass(frozen=True, slots=True)
class Composed:
    """`Composed`: a model, its inputs, and the results of its reference.

    Attributes:
        architecture: architecture that Fletcher computes.
        card: settings of the model.
        encodings: token ids, with the number of the route or task of each text.
        expected: the reference's results in float32, one row per text.
    """

    architecture: Architecture
    card: ModelCard
    encodings: Encodings
    expected: NDArray[np.float32]


def _mixed(artifact: Path, kinds: Sequence[str], texts: Sequence[str], expected: NDArray[np.float32]) -> Any:
    """Return card, encodings and expected vectors of texts of every input type in turn, given those of each type."""
    with Encoder.load(artifact, provider="mlas", workers=1) as encoder:
        tasks = [encoder.prepare(Texts(tuple(texts)), EmbedOptions(input_type=kind)) for kind in kinds]
    both = Encodings.concatenate([task.encodings for task in tasks])
    order = np.arange(len(both)).reshape(len(kinds), -1).T.reshape(-1)
    return Artifact.open(artifact).manifest.card, both.select(order), expected[order]


@contextlib.contextmanager
def routed(folder: Path) -> Iterator[Composed]:
    """Make a model with a Router whose routes share an encoder; the reference is sentence-transformers."""
    checkpoint, kinds = save_shared(folder, default_route="document"), ("query", "document")
    model: Any = SentenceTransformer(str(checkpoint), device="cpu")
    vectors = np.stack([getattr(model, f"encode_{kind}")(text) for kind in kinds for text in DOCUMENTS])
    export(str(checkpoint), folder / "artifact")
    card, encodings, expected = _mixed(folder / "artifact", kinds, DOCUMENTS, vectors)
    with routed_layout(checkpoint) as view:
        yield Composed(describe_model(Checkpoint.open(view), card), card, encodings, expected)


@contextlib.contextmanager
def adapted(folder: Path) -> Iterator[Composed]:
    """Make a jina-embeddings-v3 with all tasks; the reference is sentence-transformers on merged weights."""
    checkpoints = adapters.write(folder)
    tasks = (*adapters.TASKS, None)
    vectors = np.concatenate([adapters.expected_of(checkpoints, task) for task in tasks])
    export(str(checkpoints[0]), folder / "artifact")
    kinds = ("query", "document", "text-matching", "raw")
    card, encodings, expected = _mixed(folder / "artifact", kinds, adapters.TEXTS, vectors)
    with task_layout(checkpoints[0], None) as view:
        yield Composed(describe_model(Checkpoint.open(view), card), card, encodings, expected)


@contextlib.contextmanager
def templated(folder: Path) -> Iterator[Composed]:
    """Make a bge-reranker-v2-gemma, with the ids of FlagEmbedding's template; the reference is its code."""
    checkpoint = flag.make(folder / "checkpoint")
    card = flag.card_for(checkpoint)
    rows, scores = flag.theirs(checkpoint)
    architecture = describe_model(Checkpoint.open(checkpoint), card)
    yield Composed(architecture, card, Encodings.from_lists(rows), scores[:, None])


#: By name: a context that writes a model into a folder and reads it.
COMPOSED: Mapping[str, Callable[[Path], contextlib.AbstractContextManager[Composed]]] = {
    "router": routed,
    "jina_tasks": adapted,
    "gemma_reranker": templated,
}
