"""SPLADE: the masked-LM head over every token, log(1 + relu), and the maximum over the tokens.

Source: transformers' `…ForMaskedLM`, and sentence-transformers' `SpladePooling` (Formal et al., arXiv 2109.10086). Special
tokens count, as in sentence-transformers. The maximum is taken first: log(1 + relu) is monotonic, so the order does not
matter, and (texts, vocabulary) is far smaller than (tokens, vocabulary).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Decoder, Dense, Pooling, Saturation
from ..checkpoint import sentence_transformers
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorReader, Weight
from ..checkpoint.tokenizer.file import check_mask
from ..graph.activations import check_activation

__all__ = ["add_splade", "read_saturation"]


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of a family's head: decoder(norm(activation(dense(token)))).

    Attributes:
        dense: name of the product.
        norm: name of the norm.
        decoder: name of the second product; a tied weight is that of the word embeddings.
        bias: older name of the decoder's bias.
        activation: key of the activation in config.json, or its name if the family has a fixed one.
    """

    dense: str
    norm: str
    decoder: str
    bias: str
    activation: str


_ROBERTA = _Names("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", "gelu")

FAMILIES: Mapping[str, _Names] = MappingProxyType(
    {
        "albert": _Names(
            "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias", "hidden_act"
        ),
        "bert": _Names(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.predictions.bias",
            "hidden_act",
        ),
        "camembert": _ROBERTA,
        "distilbert": _Names(
            "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias", "activation"
        ),
        "electra": _Names(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head",
            "generator_lm_head.bias",
            "gelu",
        ),
        "modernbert": _Names("head.dense", "head.norm", "decoder", "decoder.bias", "classifier_activation"),
        "mpnet": _ROBERTA,
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
    }
)


def add_splade(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with its masked-LM head and SPLADE's pooling added.

    Raises:
        CheckpointError: the head is not authored, a tensor is missing or of another shape, or the checkpoint asks for
            another pooling.
    """
    check_mask(checkpoint)
    names = FAMILIES.get(architecture.family)
    if names is None:
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: the masked-LM head of the family {architecture.family} is not authored; "
            f"those of {', '.join(FAMILIES)} are"
        )
    config, word = checkpoint.config, architecture.embedding.word
    vocabulary, width = word.shape
    if vocabulary != card.dimension:
        raise CheckpointError(
            f"{checkpoint.folder}: the word embeddings have {vocabulary} rows, the card says {card.dimension}"
        )
    modern = architecture.family == "modernbert"
    activation = check_activation(config.get(names.activation, "gelu"), f"{checkpoint.folder}: {names.activation}")
    norm = architecture.embedding.norm
    epsilon = norm.epsilon if norm is not None else 1e-12
    tensors = TensorReader(checkpoint, prefixes=())
    dense_bias = bool(config.get("classifier_bias", False)) if modern else True
    norm_bias = bool(config.get("norm_bias", False)) if modern else True
    decoder_bias = bool(config.get("decoder_bias", True)) if modern else True
    modules = (
        Dense(tensors.linear(names.dense, architecture.hidden_size, width, bias=dense_bias), activation),
        tensors.norm(names.norm, width, epsilon, bias=norm_bias),
        Decoder(
            _decoder_table(checkpoint, tensors, f"{names.decoder}.weight", word),
            _decoder_bias(checkpoint, tensors, names, vocabulary) if decoder_bias else None,
        ),
        Pooling(("max",)),
        read_saturation(checkpoint),
    )
    # `cls.predictions` of BERT's names (`cls.seq_relationship` is not used); `lm_head` of RoBERTa's.
    stems = {name.rpartition(".")[0] or name for name in (names.dense, names.norm, names.decoder)}
    tensors.finish(*(f"{stem}." for stem in stems))
    return dataclasses.replace(architecture, modules=modules, output="sparse")


def _decoder_table(checkpoint: Checkpoint, tensors: TensorReader, name: str, word: Weight) -> Weight:
    """Return the word embeddings, or the decoder's own table if the configuration does not tie the two."""
    tied = bool(checkpoint.config.get("tie_word_embeddings", True))
    if not tensors.has(name):
        if tied:
            return word
        raise CheckpointError(f"{checkpoint.folder} lacks the tensor {name}, and its config.json ties it to no other")
    own = tensors.take(name, word.shape)
    if np.array_equal(own.load(), word.load()):
        return word
    if tied:
        raise CheckpointError(
            f"{checkpoint.folder}: config.json ties {name} to the word embeddings, and it differs from them: "
            "set tie_word_embeddings in a copy to the right value"
        )
    return own


def _decoder_bias(checkpoint: Checkpoint, tensors: TensorReader, names: _Names, size: int) -> Weight:
    """Return the bias, under its older name or under the newer one; files of some versions have both."""
    newer = f"{names.decoder}.bias"
    if not tensors.has(newer):
        return tensors.take(names.bias, (size,))
    bias = tensors.take(newer, (size,))
    if tensors.has(names.bias) and not np.array_equal(tensors.take(names.bias, (size,)).load(), bias.load()):
        raise CheckpointError(f"{checkpoint.folder}: {names.bias} and {newer} should be one tensor, and differ")
    return bias


def read_saturation(checkpoint: Checkpoint) -> Saturation:
    """Return the saturation of the pooling in modules.json; without modules.json it is SPLADE's own.

    Raises:
        CheckpointError: the pooling is not the maximum of log(1 + relu).
    """
    modules = sentence_transformers.read_modules(checkpoint.folder)
    kinds = [module.kind for module in modules]
    if modules and kinds not in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
        raise CheckpointError(
            f"{checkpoint.folder / 'modules.json'}: its modules are {', '.join(kinds)}; Fletcher authors sparse models of a "
            "Transformer and a SpladePooling"
        )
    if not modules:
        return Saturation()
    file, config = modules[1].folder / "config.json", sentence_transformers.read_config(modules[1])
    keys = {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension", "chunk_size"}
    if unknown := sorted(set(config) - keys):
        raise CheckpointError(f"{file} has keys that Fletcher does not know: {', '.join(unknown)}")
    if config.get("pooling_strategy", "max") != "max":
        raise CheckpointError(f"{file}: pooling_strategy is {config['pooling_strategy']!r}; Fletcher authors max")
    match config.get("activation_function", "relu"):
        case "relu":
            return Saturation()
        case "log1p_relu":
            return Saturation(times=2)
        case other:
            raise CheckpointError(f"{file}: activation_function is {other!r}; Fletcher authors relu and log1p_relu")
