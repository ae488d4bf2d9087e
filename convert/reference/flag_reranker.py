"""Reference of FlagEmbedding's rerankers that are language models: its steps on token ids, before transformers' model.

The files of such a checkpoint describe a language model alone. In a view of them sentence-transformers finds the modules of a
reranker, and pairs become token ids by the steps of `BaseLLMReranker.compute_score_single_gpu` (FlagEmbedding 1.4,
inference/reranker/decoder_only/base.py) on transformers' tokenizer. It shares no code with `runtime/tokenizing/templates.py`,
which it checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fletcher.model_zoo.card import LogitScore, ModelCard, PairParts, PairTemplate

__all__ = ["FlagReranker", "describe_reranker", "find_flag_reranker", "put_steps"]

#: Classes of sentence-transformers by folder.
MODULES: Mapping[str, str] = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_LogitScore": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}


class FlagReranker(NamedTuple):
    """Settings of a reranker whose template is tokenized part by part."""

    score: LogitScore
    template: PairTemplate
    parts: PairParts
    activation: str
    max_tokens: int


def find_flag_reranker(card: ModelCard) -> FlagReranker | None:
    """Return the settings of a card of such a reranker, None for another card."""
    score = card.logit_score
    if not isinstance(score, LogitScore) or score.template is None:
        return None
    parts = score.template.parts
    if not isinstance(parts, PairParts):
        return None
    return FlagReranker(score, score.template, parts, card.activation or "identity", card.max_tokens)


def describe_reranker(view: Path, reranker: FlagReranker) -> None:
    """Write sentence-transformers' files of a reranker into a view of a checkpoint.

    Args:
        view: temporary folder of links.
        reranker: settings of the card.
    """
    activation = {"identity": "linear.Identity", "sigmoid": "activation.Sigmoid"}[reranker.activation]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(MODULES.items())
    ]
    tokens = {"true_token_id": reranker.score.true_token, "false_token_id": reranker.score.false_token}
    files: Mapping[str, Any] = {
        "modules.json": modules,
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "causal_logits",
            "max_seq_length": reranker.max_tokens,
        },
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": f"torch.nn.modules.{activation}",
        },
        "1_LogitScore/config.json": tokens,
    }
    for name, content in files.items():
        path = view / name
        path.unlink(missing_ok=True)  # a link: the checkpoint's own file stays
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def put_steps(model: Any, reranker: FlagReranker) -> None:
    """Let the reference make its token ids as FlagEmbedding does.

    Args:
        model: sentence-transformers' CrossEncoder, which is changed.
        reranker: settings of the card.
    """
    import torch

    tokenizer = model[0].tokenizer

    def preprocess(inputs: Sequence[Sequence[str]], *_: Any, **__: Any) -> dict[str, Any]:
        [(query, document)] = inputs  # the reference is asked about one pair at a time
        ids = torch.tensor([_pair_ids(tokenizer, reranker, query, document)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    model[0].preprocess = preprocess


def _pair_ids(tokenizer: Any, reranker: FlagReranker, query: str, document: str) -> list[int]:
    """Return the token ids of a pair."""
    template, parts = reranker.template, reranker.parts

    def ids(text: str, longest: int | None = None) -> list[int]:
        options = {"add_special_tokens": False, "max_length": longest, "truncation": longest is not None}
        found: list[int] = tokenizer(text, **options)["input_ids"]
        return found

    prompt, separator = ids(template.after), ids(template.between)
    longest = reranker.max_tokens - 2 * len(prompt)  # `max_length`
    first = ids(template.before) + ids(parts.query + query, longest * 3 // 4)
    second = separator + ids(parts.document + document, longest)
    excess = len(first) + len(second) - (longest + len(prompt))
    if excess > 0:
        second = second[excess:] if tokenizer.truncation_side == "left" else second[:-excess]
    return first + second + prompt
