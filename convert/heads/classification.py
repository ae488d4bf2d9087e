"""Rerankers and other classifiers: scores of a text, or of a pair of texts, from its first token.

Source: transformers' `…ForSequenceClassification`, and sentence-transformers' `CrossEncoder` for the activation of the
    logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fletcher.model_zoo.card import ModelCard, PoolingMode
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Dense, Module, Pooling
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Norm, TensorReader, Weight
from ..checkpoint.tokenizer.file import gives_token_types
from ..families.special_attention.longformer import add_global_first
from ..graph.activations import check_activation

__all__ = ["add_classification"]


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of a family's head: out(activation(dense(first token))).

    Attributes:
        dense: name of the first product; `*` stands for the encoder's prefix, which some checkpoints omit.
        activation: activation of the first product.
        out: name of the second product.
    """

    dense: str
    activation: str
    out: str


_POOLER = _Names("*pooler.dense", "tanh", "classifier")
_ROBERTA = _Names("classifier.dense", "tanh", "classifier.out_proj")

FAMILIES: Mapping[str, _Names] = MappingProxyType(
    {
        "albert": _Names("*pooler", "tanh", "classifier"),
        "bert": _POOLER,
        "big_bird": _Names(
            "classifier.dense", "", "classifier.out_proj"
        ),  # its activation is configured, as the next ones'
        "camembert": _ROBERTA,
        "convbert": _Names("classifier.dense", "", "classifier.out_proj"),
        "deberta-v2": _Names("pooler.dense", "", "classifier"),
        "distilbert": _Names("pre_classifier", "relu", "classifier"),
        "electra": _Names("classifier.dense", "gelu", "classifier.out_proj"),
        "jina_embeddings_v3": _ROBERTA,
        "longformer": _ROBERTA,
        "modernbert": _Names("head.dense", "", "classifier"),  # its activation is configured, and a norm follows
        "mpnet": _ROBERTA,
        "nomic_bert": _POOLER,
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
    }
)

#: Key of the activation of the first product, and its default, by family.
_ACTIVATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "big_bird": ("hidden_act", "gelu_new"),
        "convbert": ("hidden_act", "gelu"),
        "deberta-v2": ("pooler_hidden_act", "gelu"),
    }
)

#: Prefixes of encoders inside a checkpoint with a head.
PREFIXES = ("bert.", "albert.", "nomic_bert.")


def add_classification(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with its classifier added.

    Raises:
        CheckpointError: the family's classifier is not authored, or a tensor is missing or of another shape.
    """
    names = FAMILIES.get(architecture.family)
    if architecture.family == "longformer":
        architecture = add_global_first(checkpoint, architecture)
    if names is None:
        raise CheckpointError(
            f"{checkpoint.folder}: the classifier of the family {architecture.family} is not authored; "
            f"those of {', '.join(FAMILIES)} are"
        )
    tensors = TensorReader(checkpoint, prefixes=())
    prefix = next((p for p in PREFIXES if tensors.has(f"{names.dense.replace('*', p)}.weight")), "")
    dense = names.dense.replace("*", prefix)
    hidden = architecture.hidden_size
    pooling: PoolingMode = "cls"
    activation, bias, norm = names.activation, True, None
    if (configured := _ACTIVATIONS.get(architecture.family)) is not None:
        key, default = configured
        activation = check_activation(checkpoint.config.get(key, default), f"{checkpoint.folder}: {key}")
    if architecture.family == "modernbert":
        config = checkpoint.config
        pooling = _modernbert_pooling(checkpoint)
        activation = check_activation(
            config.get("classifier_activation", "gelu"), f"{checkpoint.folder}: classifier_activation"
        )
        bias = bool(config.get("classifier_bias", False))
        epsilon = architecture.final_norm.epsilon if architecture.final_norm is not None else 1e-5
        norm = tensors.norm("head.norm", hidden, epsilon, bias=bool(config.get("norm_bias", False)))
    first = Dense(tensors.linear(dense, hidden, hidden, bias=bias), activation)
    last = Dense(tensors.linear(names.out, hidden, card.dimension), card.activation or "identity")
    tensors.finish(*(f"{stem}." for stem in (_stem(dense, prefix), _stem(names.out))))
    middle: tuple[Norm, ...] = () if norm is None else (norm,)
    modules: tuple[Module, ...] = (Pooling((pooling,)), first, *middle, last)
    return dataclasses.replace(_with_token_types(checkpoint, architecture), modules=modules, output="scores")


def _stem(name: str, prefix: str = "") -> str:
    """Return the common beginning of a head's tensors: `bert.pooler` of `bert.pooler.dense`."""
    return prefix + name.removeprefix(prefix).partition(".")[0]


def _modernbert_pooling(checkpoint: Checkpoint) -> PoolingMode:
    match checkpoint.config.get("classifier_pooling", "cls"):
        case "cls":
            return "cls"
        case "mean":
            return "mean"
        case other:
            raise CheckpointError(
                f"{checkpoint.folder}: classifier_pooling is {other!r}; Fletcher authors cls and mean"
            )


def _with_token_types(checkpoint: Checkpoint, architecture: Architecture) -> Architecture:
    """Return the architecture with the whole token type table, if it has several rows and the tokenizer gives token types."""
    row = architecture.embedding.token_type
    if row is None:
        return architecture
    name = row.name.removesuffix(".0")
    stored = next(tensor for full, tensor in checkpoint.tensors.items() if full.endswith(name))
    # Where the class is not known, the types are an input, and the artifact's tokenizer.json gives zeros if there are none.
    gives_types = gives_token_types(checkpoint)
    if stored.shape[0] == 1 and gives_types:
        raise CheckpointError(
            f"{checkpoint.folder / 'tokenizer_config.json'}: its tokenizer gives the second text of a pair the token type 1, "
            f"and {name} has one row: one of the two files belongs to another model"
        )
    if stored.shape[0] == 1 or gives_types is False:
        return architecture
    whole = TensorReader(checkpoint, prefixes=()).take(stored.name, stored.shape)
    table = Weight(name, whole.shape, whole.load)
    embedding = dataclasses.replace(architecture.embedding, token_type=None, token_types=table)
    return dataclasses.replace(architecture, embedding=embedding)
