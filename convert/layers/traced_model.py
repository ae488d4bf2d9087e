"""`TracedModel`: reference model to trace, for vectors, a classifier's scores, SPLADE's weights, or a vector per token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fletcher.model_zoo.card import LogitScore, ModelCard, Output
from fletcher.runtime.errors import InputError

from ..reference.load import load_witness
from ..reference.witness import STATIC, TOKEN_FILTERS, Witness
from .families import CLASSIFIERS, MASKED_LM, Family, Tap, taps_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TRACED_MODELS", "TracedModel"]


@dataclass(frozen=True, slots=True)
class TracedModel:
    """Model of transformers, and the steps after it.

    Attributes:
        model: the model that is called, in evaluation mode.
        prefix: path of the encoder in it, with a dot at the end; empty if it is the encoder.
        family: table of the encoder's points.
        taps: taps of the points after the encoder, by key, with paths in the whole model.
        finish: computes the rest of the points from the model's output of one text.
        tokenizer: transformers' fast tokenizer.
        tokenize: returns token ids of texts without a prompt, special tokens included.
        tools: versions of the packages that compute.
        steps: keys of `finish` besides the modules' own, such as products before their activation.
        unseen_tail: token id; no token attends to tokens of this id at a text's end.
    """

    model: Any
    prefix: str
    family: Family
    taps: Mapping[str, Tap]
    finish: Callable[[Any], dict[str, Tensor]]
    tokenizer: Any
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    tools: Mapping[str, str]
    steps: frozenset[str] = frozenset()
    unseen_tail: int | None = None


def _embedder(folder: Path, card: ModelCard) -> TracedModel:
    witness = load_witness(folder, card)
    if type(witness.input_modules[0]).__name__ == STATIC:
        raise InputError(f"{folder} has static embeddings, which have no layers: verify without --layers")
    modules = _later_modules(witness)
    _settle_attention(witness.transformer)

    def finish(output: Any) -> dict[str, Tensor]:
        features, points = _features(output.last_hidden_state), {}
        for index, module in enumerate(modules):
            features = module(features)
            points[f"modules.{index}"] = features["sentence_embedding"][0]
        return points

    return TracedModel(
        model=witness.transformer,
        prefix="",
        family=taps_of(str(witness.transformer.config.model_type)),
        taps={},
        finish=finish,
        tokenizer=witness.tokenizer,
        tokenize=lambda texts: [list(witness.tokenize(text).ids) for text in texts],
        tools=witness.tools,
    )


def _settle_attention(model: Any) -> None:
    """Let BigBird have its modules of full attention, which it would take at its first text, before they are traced."""
    if hasattr(model, "set_attention_type"):
        model.set_attention_type("original_full")


def _later_modules(witness: Witness) -> list[Any]:
    """Return sentence-transformers' modules after the transformer that change vectors."""
    idle = ("Dropout", *TOKEN_FILTERS)
    return [module for module in list(witness.model)[1:] if type(module).__name__ not in idle]


def _features(state: Tensor) -> dict[str, Any]:
    """Return the modules' features for the transformer's output of one text."""
    return {"token_embeddings": state, "attention_mask": state.new_ones(state.shape[:2]).long()}


def _language_model(folder: Path, card: ModelCard) -> TracedModel:
    witness = load_witness(folder, card)
    model, score = witness.transformer, list(witness.model)[1]
    # The special tokens of a pair are in its template: the artifact's tokenizer adds none.
    templated = isinstance(card.logit_score, LogitScore) and card.logit_score.template is not None
    last: dict[str, Tensor] = {}

    def keep(module: Any, given: tuple[Tensor, ...]) -> None:
        last["state"] = given[0][0, -1]

    model.lm_head.register_forward_pre_hook(keep)

    def finish(output: Any) -> dict[str, Tensor]:
        logit = score({"causal_logits": output.logits})["scores"]
        return {
            "modules.0": last["state"],
            "modules.1/dense": logit[0],
            "modules.1": witness.model.activation_fn(logit)[0],
        }

    return TracedModel(
        model=model,
        prefix=f"{model.base_model_prefix}.",
        family=taps_of(str(model.config.model_type)),
        taps={},
        finish=finish,
        tokenizer=witness.tokenizer,
        tokenize=lambda texts: witness.tokenize_raw(texts, special=not templated),
        tools=witness.tools,
        steps=frozenset({"modules.1/dense"}),
    )


def _classifier(folder: Path, card: ModelCard) -> TracedModel:
    if isinstance(card.logit_score, LogitScore):
        return _language_model(folder, card)
    witness = load_witness(folder, card)
    model = witness.transformer
    family = str(model.config.model_type)
    encoder = taps_of(family)
    _settle_attention(getattr(model, model.base_model_prefix))
    prefix = f"{model.base_model_prefix}."
    paths = [path.replace("*", prefix) for path in CLASSIFIERS[family]]
    # The first token (or a mean), what the dense layer and its activation make of it, maybe a norm, and the scores.
    taps = {f"modules.{index}": Tap(path, "in") for index, path in enumerate(paths)}
    taps |= {f"modules.{index}/dense": Tap(path, "out") for index, path in enumerate(paths, 1) if "norm" not in path}

    def finish(output: Any) -> dict[str, Tensor]:
        return {f"modules.{len(paths)}": witness.model.activation_fn(output.logits)[0]}

    return TracedModel(
        model=model,
        prefix=prefix,
        family=encoder,
        taps=taps,
        finish=finish,
        tokenizer=witness.tokenizer,
        tokenize=witness.tokenize_raw,
        tools=witness.tools,
    )


def _masked_lm(folder: Path, card: ModelCard) -> TracedModel:
    witness = load_witness(folder, card)
    model = witness.transformer
    family = str(model.config.model_type)
    dense, norm, decoder = MASKED_LM[family]

    def finish(output: Any) -> dict[str, Tensor]:
        features = _features(output.logits)
        for module in _later_modules(witness):
            features = module(features)
        # The graph takes the maximum of the logits, the reference that of the weights: log(1 + relu(x)) grows with x.
        return {"modules.3": output.logits[0].amax(dim=0), "modules.4": features["sentence_embedding"][0]}

    return TracedModel(
        model=model,
        prefix=f"{model.base_model_prefix}.",
        family=taps_of(family),
        taps={
            "modules.0/dense": Tap(dense, "out"),
            "modules.0": Tap(norm, "in"),
            "modules.1": Tap(norm, "out"),
            "modules.2": Tap(decoder, "out"),
        },
        finish=finish,
        tokenizer=witness.tokenizer,
        tokenize=witness.tokenize_raw,
        tools=witness.tools,
    )


def _token_embedder(folder: Path, card: ModelCard) -> TracedModel:
    witness = load_witness(folder, card)
    modules = _later_modules(witness)
    products = frozenset(f"modules.{i}/dense" for i, module in enumerate(modules) if type(module).__name__ == "Dense")
    expansion = card.late_interaction.expansion if card.late_interaction is not None else None

    def finish(output: Any) -> dict[str, Tensor]:
        features, points = _features(output.last_hidden_state), {}
        for index, module in enumerate(modules):
            features = module(features)
            state = features["token_embeddings"][0]
            if f"modules.{index}/dense" in products:
                points[f"modules.{index}/dense"] = state
            points[f"modules.{index}"] = state
        return points

    unseen = expansion is not None and not expansion.attended
    return TracedModel(
        model=witness.transformer,
        prefix="",
        family=taps_of(str(witness.transformer.config.model_type)),
        taps={},
        finish=finish,
        tokenizer=witness.tokenizer,
        tokenize=witness.tokenize_raw,
        tools=witness.tools,
        steps=products,
        unseen_tail=witness.tokenizer.convert_tokens_to_ids(expansion.token) if expansion and unseen else None,
    )


#: Functions that load a checkpoint to trace, by the model's output. They raise InputError for a family without a table of
#: points, CheckpointError if sentence-transformers cannot load it, MissingPackageError without the extra `verify`.
TRACED_MODELS: Mapping[Output, Callable[[Path, ModelCard], TracedModel]] = MappingProxyType(
    {"vectors": _embedder, "scores": _classifier, "sparse": _masked_lm, "token_vectors": _token_embedder}
)
