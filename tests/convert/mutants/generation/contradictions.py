"""Mutants with files that contradict each other, or that belong to another checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from .edits import ABSENT, Edit, Files, Kind, Mutant, WriteFile, WriteKey, parse

__all__ = ["contradictions", "exchanged_files"]


def contradictions(base: str, files: Files) -> Iterator[Mutant]:
    """Yield mutants with two files that do not agree."""
    tokenizer, settings, special = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"

    def mutant(name: str, *edits: Edit, kind: Kind = "contradict") -> Mutant:
        return Mutant(base, kind, name, edits)

    def put(file: str, *place_and_value: Any) -> WriteKey:
        return WriteKey(file, tuple(place_and_value[:-1]), place_and_value[-1])

    cut = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    if tokenizer in files:
        content = parse(files[tokenizer])
        for side in ("left", "right"):
            direction = "Right" if side == "left" else "Left"
            for limit in (9, 512):
                truncation = {**cut, "direction": direction, "max_length": limit}
                yield mutant(
                    f"truncation_side {side}, direction {direction}, {limit} tokens",
                    put(settings, "truncation_side", side),
                    put(tokenizer, "truncation", truncation),
                )
        if (content["normalizer"] or {}).get("type") == "BertNormalizer":
            for lower, key in itertools.product((True, False), ("lowercase", "strip_accents", "handle_chinese_chars")):
                yield mutant(f"normalizer.{key} {lower}", put(tokenizer, "normalizer", key, lower))
                for kind in (ABSENT, "PreTrainedTokenizerFast", "DistilBertTokenizer", "ElectraTokenizer"):
                    edits = (put(tokenizer, "normalizer", key, lower), put(settings, "tokenizer_class", kind))
                    yield mutant(f"normalizer.{key} {lower} and tokenizer_class {kind.strip(chr(0))}", *edits)
                yield mutant(
                    f"normalizer.{key} {lower}, no tokenizer_config.json",
                    put(tokenizer, "normalizer", key, lower),
                    WriteFile(settings, None),
                )
                yield mutant(
                    f"do_lower_case {lower} of sentence_bert_config.json beside {key} {not lower}",
                    put("sentence_bert_config.json", "do_lower_case", lower),
                    put(tokenizer, "normalizer", key, not lower),
                    put(settings, "do_lower_case", not lower),
                )
        for token in content["added_tokens"][:4]:
            other = {**token, "content": "<doc>"}
            place = content["added_tokens"].index(token)
            yield mutant(f"added token {token['id']} is <doc>", put(tokenizer, "added_tokens", place, other))
        yield mutant("post-processor left out", put(tokenizer, "post_processor", None))
        yield mutant("no tokenizer_config.json", WriteFile(settings, None))
        yield mutant(
            "neither tokenizer_config.json nor special_tokens_map.json",
            WriteFile(settings, None),
            WriteFile(special, None),
        )
    for key, value in (("cls_token", "cat"), ("sep_token", "doc"), ("unk_token", "the"), ("bos_token", "[NEW]")):
        yield mutant(f"{key} of both files is {value}", put(settings, key, value), put(special, key, value))
        yield mutant(
            f"{key} of tokenizer_config.json {value}, of the other cat",
            put(settings, key, value),
            put(special, key, "cat"),
        )
    for limits in itertools.product((12, 24, 512), (8, 30, 10**30)):
        limited = [put("sentence_bert_config.json", "max_seq_length", limits[0])] if "modules.json" in files else []
        yield mutant(
            f"max_seq_length {limits[0]}, model_max_length {limits[1]}",
            *limited,
            put(settings, "model_max_length", limits[1]),
        )
    yield mutant(
        "no limit of the length",
        put("sentence_bert_config.json", "max_seq_length", None),
        put(settings, "model_max_length", ABSENT),
    )
    for name in ("vocab.txt", "vocab.json", "merges.txt"):
        if name in files:
            lines = files[name].split(b"\n")
            reverse = (
                b"\n".join([*lines[:8], *lines[:7:-1]])
                if name != "vocab.json"
                else files[name].replace(b'"cat"', b'"tac"')
            )
            yield mutant(f"{name} in another order", WriteFile(name, reverse))
            if tokenizer in files:
                yield mutant(
                    f"{name} in another order, no tokenizer.json", WriteFile(name, reverse), WriteFile(tokenizer, None)
                )
                yield mutant(
                    f"no tokenizer.json beside {name}",
                    WriteFile(tokenizer, None),
                    WriteKey(settings, ("do_lower_case",), False),
                )
    if "config_sentence_transformers.json" in files:
        for prompts, default in itertools.product(
            (
                {"query": "q: ", "web": "web: "},
                {"web": "web: "},
                {"query": "q: ", "passage": "p: "},
                {"document": "", "passage": "p: "},
                {"corpus": "c: ", "query": ""},
                {"clustering": "c: ", "classification": "", "query": "q:"},
                {"query": None, "document": " d "},
                {"query": "[CLS] ", "document": "<doc>"},
            ),
            (None, "web", "query", "document"),
        ):
            file = "config_sentence_transformers.json"
            yield mutant(
                f"prompts {prompts}, default {default}",
                put(file, "prompts", prompts),
                put(file, "default_prompt_name", default),
            )
    yield mutant(
        "another model_type and architecture",
        put("config.json", "model_type", "roberta"),
        put("config.json", "architectures", ["RobertaModel"]),
    )
    yield mutant(
        "pad_token_id beside another pad_token",
        put("config.json", "pad_token_id", 3),
        put(settings, "pad_token", "cat"),
    )
    if "modules.json" in files:
        yield mutant("modules.json removed, its settings kept", WriteFile("modules.json", None))
        pooling = next((name for name in files if name.endswith("Pooling/config.json")), None)
        if pooling is not None:
            for key in ("word_embedding_dimension", "embedding_dimension"):
                yield mutant(f"{key} 16", put(pooling, key, 16))
            yield mutant(
                "prompts left out of the pooling",
                put(pooling, "include_prompt", False),
                put("config_sentence_transformers.json", "prompts", {"query": "query: "}),
            )
            yield mutant(
                "prompts left out of the pooling, none exist",
                put(pooling, "include_prompt", False),
                put("config_sentence_transformers.json", "prompts", {}),
            )


def exchanged_files(base: str, files: Files, others: Mapping[str, Files]) -> Iterator[Mutant]:
    """Yield mutants with one file of another checkpoint."""
    for name, content in others.items():
        if name == base:
            continue
        for file, data in content.items():
            if not file.endswith(("model.safetensors", ".md")) and data != files.get(file):
                yield Mutant(base, "exchange file", f"{file} of {name}", (WriteFile(file, data),))
