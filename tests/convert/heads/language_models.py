"""Small rerankers that are language models, as sentence-transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from ..checkpoint.tokenizer.decoder_variants import VARIANTS, write_variant
from ..families.decoders.models import settings_of
from ..verify.parity import randomize

__all__ = ["FALSE", "MAX_TOKENS", "TEMPLATE", "TRUE", "save", "save_logit_score"]

#: The template of Qwen3-Reranker, of its tokenizer_config.json, with other words.
TEMPLATE = """{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first \
| default("the hello") -%}
{%- set query_text = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set document_text = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
<|im_start|>the
<I>: {{ instruction }}
<Q>: {{ query_text }}
<D>: {{ document_text }}<|im_end|>
<|im_start|>hello

""".replace("\\\n", "")
TRUE, FALSE = 31, 47
MAX_TOKENS = 90


def save(folder: Path, family: str = "qwen3", *, changes: Mapping[str, Any] | None = None, **scoring: Any) -> Path:
    """Write a reranker.

    Args:
        folder: folder of the checkpoint.
        family: case of the encoder, and of the tokenizer.
        changes: changes of the configuration.
        scoring: arguments of `save_logit_score`.
    """
    write_variant(family if family in VARIANTS else "llama", folder)
    settings_file = folder / "tokenizer_config.json"
    if family == "gemma3":
        _write(settings_file, {**json.loads(settings_file.read_text()), "bos_token": "<bos>"})
    size = len(transformers.AutoTokenizer.from_pretrained(folder))
    name = {"qwen3": "Qwen3", "llama": "Llama", "gemma3": "Gemma3"}[family]
    kind = "Gemma3Text" if family == "gemma3" else name
    sizes = settings_of(family, vocab_size=size, max_position_embeddings=100, **(changes or {}))
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    randomize(model, norms=0.0 if family == "gemma3" else 1.0).save_pretrained(folder)
    save_logit_score(folder, **scoring)
    return folder


def save_logit_score(
    folder: Path,
    max_tokens: int = MAX_TOKENS,
    *,
    template: str | None = TEMPLATE,
    settings: Mapping[str, Any] | None = None,
    messages: bool = True,
    false_token: int | None = FALSE,
) -> None:
    """Write the modules of a reranker beside its language model.

    Args:
        folder: folder of the checkpoint.
        max_tokens: longest input.
        template: chat template, if there is one.
        settings: changes of config_sentence_transformers.json.
        messages: whether the transformer's settings list messages.
        false_token: token whose logit is subtracted.
    """
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    usual = {"method": "forward", "method_output_name": "logits"}
    modalities = {"text": usual, **({"message": {**usual, "format": "flat"}} if messages else {})}
    _write(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": modalities,
            "module_output_name": "causal_logits",
            "max_seq_length": max_tokens,
        },
    )
    _write(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", **(settings or {})})
    package = "sentence_transformers"
    kinds = {
        "": f"{package}.base.modules.transformer.Transformer",
        "1_LogitScore": f"{package}.cross_encoder.modules.logit_score.LogitScore",
    }
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_LogitScore").mkdir()
    _write(folder / "1_LogitScore" / "config.json", {"true_token_id": TRUE, "false_token_id": false_token})


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
