"""Tiny models with heads: rerankers, SPLADE and ColBERT, and texts for each, for the tests of every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray

from fletcher.convert.architecture import Architecture
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.heads import describe_model
from fletcher.convert.reference.load import load_witness
from fletcher.convert.reference.witness import Tokens, Witness
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings

from ..heads import test_colbert, test_splade
from ..heads.test_classification import DISTILBERT, MODERNBERT
from ..heads.tiny import DOCUMENTS, QUERY, SIZES, convert, save
from ..verify.parity import randomize

__all__ = ["FAMILIES", "FILLED", "HeadModel", "classifier", "encode", "load_head"]

FAMILIES: Mapping[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES | {"type_vocab_size": 1},
    "DistilBert": DISTILBERT,
    "MPNet": SIZES,
    "Albert": SIZES | {"embedding_size": 16},
    "Electra": SIZES | {"embedding_size": 16},
    "ModernBert": MODERNBERT,
}

#: A classifier whose first token has global attention, with windows that are shorter and longer than the texts.
LONGFORMER: Mapping[str, Any] = SIZES | {"type_vocab_size": 1, "attention_window": [4, 12]}

#: Query expansion up to 9 tokens; no token attends to the expansion tokens.
FILLED: Mapping[str, Any] = {"strategy": "fixed", "length": 9}


@dataclass(frozen=True, slots=True)
class HeadModel:
    """`HeadModel`: a model with a head, and its texts.

    Attributes:
        architecture: architecture that Fletcher computes.
        card: settings of the model.
        reference: model of sentence-transformers.
        rows: documents, pairs of one query with each document, or expanded queries and a document.
    """

    architecture: Architecture
    card: ModelCard
    reference: Witness
    rows: Sequence[Tokens]

    def expected(self) -> NDArray[np.float32]:
        """Return sentence-transformers' results, one row per text or one row per token."""
        results = [self.reference.compute(row) for row in self.rows]
        return np.concatenate(results) if self.card.output == "token_vectors" else np.stack(results)


def classifier(folder: Path, family: str) -> Path:
    """Write a classifier of pairs with two labels."""
    sizes = LONGFORMER if family == "Longformer" else FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**sizes, num_labels=2)
    model = randomize(getattr(transformers, f"{family}ForSequenceClassification")(config))
    return save(model, folder, types=family in ("Bert", "Albert", "Electra"))


def load_head(folder: Path, head: str, family: str) -> HeadModel:
    """Write a model and load it in Fletcher and in sentence-transformers.

    Args:
        folder: folder of the checkpoint.
        head: `scores`, `sparse`, `token_vectors`, or `filled_queries` for token vectors with query expansion.
        family: key of `FAMILIES`.
    """
    if head == "scores":
        artifact = convert(classifier(folder, family)).path
    elif head == "sparse":
        artifact = convert(test_splade.make(folder, family, FAMILIES[family]), "splade").path
    elif head == "token_vectors":
        artifact = convert(test_colbert.make(folder, family=family, skipped=[".", "!"])).path
    else:
        artifact = convert(test_colbert.make(folder, family=family, expansion=FILLED)).path
    card = Artifact.open(artifact).manifest.card
    reference = load_witness(folder, card)
    return HeadModel(describe_model(Checkpoint.open(folder), card), card, reference, _rows(head, reference))


def _rows(head: str, reference: Witness) -> list[Tokens]:
    if head == "filled_queries":
        queries = [reference.tokenize(text, "query") for text in test_colbert.QUERIES]
        assert {len(row.ids) - row.attended for row in queries} == {0, 2, 6}
        return [*queries, reference.tokenize(DOCUMENTS[0], "document")]
    query = QUERY if head == "scores" else None
    role = "document" if head == "token_vectors" else "raw"
    return [reference.tokenize(text, role, query) for text in DOCUMENTS]


def encode(rows: Sequence[Tokens]) -> Encodings:
    """Return the texts as the runtime encodes them."""
    plain = Encodings.from_lists([row.ids for row in rows])
    types = [row.types if row.types is not None else (0,) * len(row.ids) for row in rows]
    return Encodings(plain.ids, plain.offsets, plain.dropped, np.concatenate(types).astype(np.int32))
