"""Rerankers that are language models: the score is the logit of a token after the pair, or the difference of two.

Of the output matrix only these rows are in the graph, as one vector: their difference.

Source: sentence-transformers' `LogitScore`, and transformers' `…ForCausalLM`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import LogitScore, ModelCard
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Dense, Pooling
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Linear, TensorReader, Weight

__all__ = ["add_logit_score"]

#: Families whose language model has an output matrix without a bias, tied by default or not.
TIED_BY_DEFAULT = {
    "gemma": True,
    "gemma3_text": True,
    "llama": False,
    "mistral": False,
    "qwen2": False,
    "qwen3": False,
}


def add_logit_score(
    checkpoint: Checkpoint, card: ModelCard, score: LogitScore, architecture: Architecture
) -> Architecture:
    """Return the architecture with the score of its last token.

    Raises:
        CheckpointError: the family is not a language model, the output matrix is missing, or the tokens are not in it.
    """
    family, config = architecture.family, checkpoint.config
    if family not in TIED_BY_DEFAULT:
        raise CheckpointError(
            f"{checkpoint.folder}: the language model of the family {family} is not authored; those of "
            f"{', '.join(TIED_BY_DEFAULT)} are"
        )
    if config.get("final_logit_softcapping") is not None:
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: final_logit_softcapping is {config['final_logit_softcapping']!r}, which "
            "Fletcher does not author for scores"
        )
    table = _table(
        checkpoint, architecture.embedding.word, tied=config.get("tie_word_embeddings", TIED_BY_DEFAULT[family])
    )
    rows = [score.true_token, *([] if score.false_token is None else [score.false_token])]
    if beyond := [row for row in rows if not 0 <= row < table.shape[0]]:
        raise CheckpointError(
            f"{checkpoint.folder}: the score is made of the token {beyond[0]}, and the vocabulary has {table.shape[0]}"
        )

    def load() -> NDArray[np.float32]:
        values = table.load()
        difference = values[rows[0]] if len(rows) == 1 else values[rows[0]] - values[rows[1]]
        return np.ascontiguousarray(difference[:, None])

    weight = Weight(f"{table.name}.{'_less_'.join(map(str, rows))}", (architecture.hidden_size, 1), load)
    modules = (Pooling(("lasttoken",)), Dense(Linear(weight, None), card.activation or "identity"))
    return dataclasses.replace(architecture, modules=modules, output="scores")


def _table(checkpoint: Checkpoint, word: Weight, *, tied: object) -> Weight:
    """Return the output matrix, (vocabulary, hidden): the word embeddings if the two are tied.

    Raises:
        CheckpointError: the matrix is missing, or differs from the embeddings that it is tied to.
    """
    tensors = TensorReader(checkpoint, prefixes=())
    name = "lm_head.weight"
    if not isinstance(tied, bool):
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: tie_word_embeddings is {tied!r}, not true or false"
        )
    if not tensors.has(name):
        if tied:
            return word
        raise CheckpointError(f"{checkpoint.folder} lacks the tensor {name}, and its config.json ties it to no other")
    own = tensors.take(name, word.shape)
    if tied and not np.array_equal(own.load(), word.load()):
        raise CheckpointError(
            f"{checkpoint.folder}: config.json ties {name} to the word embeddings, and it differs from them: set "
            "tie_word_embeddings in a copy to the right value"
        )
    return word if tied else own
