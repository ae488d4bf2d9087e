"""Mutants with one additional token, in each of the files that list tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from .edits import Edit, Files, Mutant, WriteKey, parse

__all__ = ["token_mutants"]


def token_mutants(base: str, files: Files) -> Iterator[Mutant]:
    """Yield mutants with one additional token, in one file or in two."""
    size = max(parse(files["tokenizer.json"])["model"]["vocab"].values(), default=0) + 1 if _has_map(files) else 100

    def mutant(name: str, *edits: Edit) -> Mutant:
        return Mutant(base, "add token", name, edits)

    for content, special in itertools.product(("<doc>", "[NEW]", "newtoken", "cat"), (True, False)):
        for flags in ({}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": not special}):
            token = {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
            token |= {"special": special, **flags}
            label = f"{content} {'special' if special else 'ordinary'} {' '.join(flags)}".strip()
            # An id that the embeddings have, and the next one, which they may lack.
            for index in (9, size) if not flags else (9,):
                decoder = WriteKey("tokenizer_config.json", ("added_tokens_decoder", str(index)), token)
                with_decoder = "added_tokens_decoder" in parse(files["tokenizer_config.json"])
                edits: list[Edit] = [] if with_decoder else [_empty_decoder()]
                yield mutant(f"added_tokens_decoder[{index}] = {label}", *edits, decoder)
                if "tokenizer.json" in files:
                    yield mutant(f"tokenizer.json added_tokens + {index} {label}", _append(files, index, token))
                    yield mutant(f"both: {index} {label}", *edits, decoder, _append(files, index, token))
        for index in (9, size):
            yield mutant(
                f"added_tokens.json {content} = {index} {special}", WriteKey("added_tokens.json", (content,), index)
            )
            break
    for key in ("additional_special_tokens", "extra_special_tokens", "mask_token", "bos_token", "cls_token"):
        for content in ("<doc>", "newtoken", "cat"):
            value: Any = [content] if key.endswith("tokens") else content
            for file in ("tokenizer_config.json", "special_tokens_map.json"):
                yield mutant(f"{file} {key} = {value}", WriteKey(file, (key,), value))


def _has_map(files: Files) -> bool:
    return "tokenizer.json" in files and isinstance(parse(files["tokenizer.json"])["model"]["vocab"], dict)


def _empty_decoder() -> WriteKey:
    return WriteKey("tokenizer_config.json", ("added_tokens_decoder",), {})


def _append(files: Files, index: int, token: Mapping[str, Any]) -> WriteKey:
    tokens = parse(files["tokenizer.json"])["added_tokens"]
    return WriteKey("tokenizer.json", ("added_tokens", len(tokens)), {"id": index, **token})
