"""Which head a checkpoint has, and what its files say of it: rerankers, SPLADE and ColBERT. It reads no tensor.

Sources: sentence-transformers' `CrossEncoder`, `SparseEncoder` and `MultiVectorEncoder`, which also reads the files of PyLate
and of Stanford's ColBERT.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..card import LateInteraction, Output, QueryExpansion
from ..errors import CardError
from .modules import read_json

__all__ = ["HEADS", "OUTPUTS", "Head", "Scoring", "find_head", "read_late_interaction", "read_scoring"]

Head = Literal["embedding", "classification", "splade", "colbert"]
HEADS: tuple[Head, ...] = get_args(Head)

#: What a model with each head gives.
OUTPUTS: dict[Head, Output] = {
    "embedding": "vectors",
    "classification": "scores",
    "splade": "sparse",
    "colbert": "token_vectors",
}

#: `model_type` of config_sentence_transformers.json; PyLate's is ColBERT.
_KINDS: dict[str, Head] = {
    "SentenceTransformer": "embedding",
    "CrossEncoder": "classification",
    "SparseEncoder": "splade",
    "MultiVectorEncoder": "colbert",
    "ColBERT": "colbert",
}

#: Modules that only one kind of model has.
_TELLING: dict[str, Head] = {"Pooling": "embedding", "SpladePooling": "splade", "MultiVectorMask": "colbert"}

#: ColBERT's own default (`query_maxlen`, `doc_maxlen` of its settings).
_QUERY_TOKENS = 32


class Entry(msgspec.Struct):
    """A line of modules.json."""

    path: str
    type: str


class _Config(msgspec.Struct):
    architectures: list[str] | None = None
    id2label: dict[str, str] | None = None
    num_labels: int | None = None
    sbert_ce_default_activation_function: str | None = None
    sentence_transformers: dict[str, Any] | None = None


class _Sentence(msgspec.Struct):
    model_type: str | None = None
    activation_fn: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    prompts: dict[str, str | None] | None = None
    query_length: int | None = None
    document_length: int | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    skiplist_words: list[str] | None = None


class _Transformer(msgspec.Struct):
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: dict[str, Any] | None = None


class _Mask(msgspec.Struct, forbid_unknown_fields=True):
    skiplist_words: list[str] = []
    skiplist_tasks: tuple[Literal["query", "document"], ...] | Literal["query", "document"] = ("document",)
    keep_only_token_ids: list[int] | None = None


class _Stanford(msgspec.Struct):
    query_token_id: str | None = None
    doc_token_id: str | None = None
    query_maxlen: int | None = None
    doc_maxlen: int | None = None
    attend_to_mask_tokens: bool = False
    mask_punctuation: bool = True


class _Tokens(msgspec.Struct):
    mask_token: str | dict[str, Any] | None = None


class Scoring(msgspec.Struct, frozen=True):
    """What a reranker's scores are.

    Attributes:
        labels: their names.
        activation: what makes them out of the logits.
    """

    labels: tuple[str, ...]
    activation: Literal["identity", "sigmoid"]


def find_head(folder: Path, asked: Head | None, *, pooled: bool = False) -> Head:
    """The head of a checkpoint: what its sentence-transformers files say, else what is asked for, else its architecture.

    Args:
        folder: the checkpoint.
        asked: the user's word; needed where the files leave it open.
        pooled: whether the user said how to pool, which only an embedding model does.

    Raises:
        CardError: the files leave it open, or contradict what was asked for.
    """
    if asked is not None and asked not in HEADS:
        raise CardError(f"--head {asked}: is unknown; there are {', '.join(HEADS)}")
    config = read_json(folder / "config.json", _Config) or _Config()
    said, where = _said(folder, config)
    if said is not None:
        if asked not in (None, said):
            raise CardError(f"--head {asked} contradicts {folder}, which is for {said} by its {where}")
        return said
    if asked is not None or pooled:
        return asked or "embedding"
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        raise CardError(
            f"{folder} is a {architecture} without modules.json, which may be a SPLADE model or the encoder of an "
            "embedding model: say which with --head splade, or --head embedding and --pooling"
        )
    return "embedding"


def read_entries(folder: Path) -> list[Entry]:
    """The lines of modules.json; none if there is no file."""
    return read_json(folder / "modules.json", list[Entry]) or []


def _said(folder: Path, config: _Config) -> tuple[Head | None, str]:
    sentence = read_json(folder / "config_sentence_transformers.json", _Sentence) or _Sentence()
    kinds = [entry.type.rpartition(".")[2] for entry in read_entries(folder)]
    for kind, head in _TELLING.items():
        # A MultiVectorMask stands behind no Pooling, but a sparse model of another kind (CSR) has one.
        if kind in kinds and (kind != "Pooling" or sentence.model_type in (None, "SentenceTransformer")):
            return head, f"modules.json ({kind})"
    if sentence.model_type in _KINDS and kinds:
        return _KINDS[sentence.model_type], f"config_sentence_transformers.json ({sentence.model_type})"
    if "HF_ColBERT" in (config.architectures or ()):
        return "colbert", "architecture (HF_ColBERT)"
    return None, ""


# Rerankers ------------------------------------------------------------------------------------------------------------


def read_scoring(folder: Path) -> Scoring:
    """What the scores of a sequence classification checkpoint are, as `CrossEncoder` takes them.

    Raises:
        CardError: a file is malformed, or asks for an activation, a prompt or a module that Fletcher does not reproduce.
    """
    config = read_json(folder / "config.json", _Config) or _Config()
    sentence = read_json(folder / "config_sentence_transformers.json", _Sentence) or _Sentence()
    others = [entry.type for entry in read_entries(folder) if not entry.type.endswith(".Transformer")]
    if others:
        raise CardError(f"{folder / 'modules.json'}: a reranker with the module {others[0]} is not reproduced")
    if any((sentence.prompts or {}).values()):
        raise CardError(f"{folder}: a reranker with prompts is not reproduced")
    if config.id2label is not None:
        labels = tuple(config.id2label[key] for key in sorted(config.id2label, key=int))
    else:
        labels = tuple(f"LABEL_{index}" for index in range(config.num_labels or 2))  # transformers' defaults
    if not labels:
        raise CardError(f"{folder / 'config.json'}: `id2label` is empty, so it has no score")
    # The order of CrossEncoder: its own file, then what earlier versions wrote into config.json.
    named = (
        sentence.activation_fn
        or (config.sentence_transformers or {}).get("activation_fn")
        or config.sbert_ce_default_activation_function
    )
    if named is None:
        return Scoring(labels, "sigmoid" if len(labels) == 1 else "identity")
    kind = str(named).rpartition(".")[2]
    if not str(named).startswith("torch.nn.") or kind not in ("Identity", "Sigmoid"):
        raise CardError(
            f"{folder}: its scores' activation is {named!r}; Fletcher reproduces torch's Sigmoid and Identity"
        )
    return Scoring(labels, "sigmoid" if kind == "Sigmoid" else "identity")


# ColBERT --------------------------------------------------------------------------------------------------------------


def read_late_interaction(folder: Path, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    """Lengths, query expansion, skipped tokens, and the prompts that carry the markers of queries and documents.

    Args:
        folder: the checkpoint.
        max_tokens: the transformer's own limit.

    Raises:
        CardError: a file is malformed, or asks for something that Fletcher does not reproduce.
    """
    entries = read_entries(folder)
    if not entries:
        return _read_stanford(folder, max_tokens)
    sentence = read_json(folder / "config_sentence_transformers.json", _Sentence) or _Sentence()
    if sentence.model_type == "ColBERT":
        return _read_pylate(folder, sentence, max_tokens)
    transformer = read_json(folder / "sentence_bert_config.json", _Transformer) or _Transformer()
    mask = _Mask()
    for entry in entries:
        if entry.type.endswith(".MultiVectorMask"):
            mask = read_json(folder / entry.path / "config.json", _Mask) or mask
    if mask.keep_only_token_ids:
        raise CardError(
            f"{folder}: it keeps the vectors of some tokens only (keep_only_token_ids), which Fletcher does not"
        )
    expansion, limit = _expansion(folder, transformer.query_expansion)
    tasks = (mask.skiplist_tasks,) if isinstance(mask.skiplist_tasks, str) else mask.skiplist_tasks
    late = LateInteraction(
        query_tokens=limit or max(transformer.query_length or max_tokens, expansion.length if expansion else 1),
        document_tokens=transformer.document_length or max_tokens,
        expansion=expansion,
        skipped=tuple(mask.skiplist_words),
        skipped_in=tasks if mask.skiplist_words else ("document",),
    )
    return late, _prompts(sentence.prompts or {})


def _read_pylate(folder: Path, said: _Sentence, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    """PyLate up to version 3: everything in one file; it expands queries and skips punctuation where nothing else is said."""
    expansion = None
    query_tokens = said.query_length or _QUERY_TOKENS
    if said.do_query_expansion is not False:
        expansion = QueryExpansion(
            token=_mask_token(folder), length=query_tokens, attended=bool(said.attend_to_expansion_tokens)
        )
    late = LateInteraction(
        query_tokens=query_tokens if expansion else said.query_length or max_tokens,
        document_tokens=said.document_length or max_tokens,
        expansion=expansion,
        skipped=tuple(string.punctuation if said.skiplist_words is None else said.skiplist_words),
    )
    prompts: dict[str, str | None] = dict(said.prompts or {})
    for role, prefix in (("query", said.query_prefix), ("document", said.document_prefix)):
        if prefix:
            prompts[role] = prefix + (prompts.get(role) or "").removeprefix(prefix)
    return late, _prompts(prompts)


def _read_stanford(folder: Path, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    said = read_json(folder / "artifact.metadata", _Stanford) or _Stanford()
    query_tokens = said.query_maxlen or _QUERY_TOKENS
    late = LateInteraction(
        query_tokens=query_tokens,
        document_tokens=said.doc_maxlen or max_tokens,
        expansion=QueryExpansion(token=_mask_token(folder), length=query_tokens, attended=said.attend_to_mask_tokens),
        skipped=tuple(string.punctuation) if said.mask_punctuation else (),
    )
    markers = {"query": said.query_token_id or "[unused0]", "document": said.doc_token_id or "[unused1]"}
    return late, {role: f"{marker} " for role, marker in markers.items()}


def _expansion(folder: Path, said: dict[str, Any] | None) -> tuple[QueryExpansion | None, int | None]:
    """The expansion, and the longest query if the expansion sets it."""
    if said is None:
        return None, None
    length, strategy = said.get("length"), said.get("strategy")
    unknown = set(said) - {"strategy", "attend", "token", "length"}
    if unknown or strategy not in ("fixed", "min") or not isinstance(length, int) or length < 1:
        raise CardError(f"{folder}: `query_expansion` is {said}, which Fletcher does not reproduce")
    token = said.get("token") or _mask_token(folder)
    expansion = QueryExpansion(token=token, length=length, attended=bool(said.get("attend", False)))
    return expansion, length if strategy == "fixed" else None


def _mask_token(folder: Path) -> str:
    settings = read_json(folder / "tokenizer_config.json", _Tokens) or _Tokens()
    token = settings.mask_token
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else "[MASK]"


def _prompts(said: dict[str, str | None] | dict[str, str]) -> dict[str, str]:
    return {role: prompt for role, prompt in said.items() if prompt}
