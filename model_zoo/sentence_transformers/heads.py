"""Head of a checkpoint, and its settings, for rerankers, SPLADE and ColBERT. It reads no tensor.

Sources: sentence-transformers' `CrossEncoder`, `SparseEncoder` and `MultiVectorEncoder`, which also reads the files of PyLate
and of Stanford's ColBERT.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..card import LateInteraction, LogitScore, Output, QueryExpansion
from ..errors import CardError
from .files import (
    CheckpointConfig,
    SentenceTransformersFiles,
    TransformerSettings,
    read_json,
    read_special_tokens,
    read_stanford_settings,
    read_tokenizer_settings,
)
from .logit_score import read_logit_score
from .prompts import read_prompts

__all__ = ["HEADS", "OUTPUTS", "Head", "Scoring", "find_head", "read_late_interaction", "read_scoring"]

Head = Literal["embedding", "classification", "splade", "colbert"]
HEADS: tuple[Head, ...] = get_args(Head)

#: Output of a model, by its head.
OUTPUTS: dict[Head, Output] = {
    "embedding": "vectors",
    "classification": "scores",
    "splade": "sparse",
    "colbert": "token_vectors",
}

#: Head by `model_type` of config_sentence_transformers.json; PyLate's type is ColBERT.
_KINDS: dict[str, Head] = {
    "SentenceTransformer": "embedding",
    "CrossEncoder": "classification",
    "SparseEncoder": "splade",
    "MultiVectorEncoder": "colbert",
    "ColBERT": "colbert",
}

#: Head by modules that only one kind of model has.
_TELLING: dict[str, Head] = {
    "LogitScore": "classification",
    "Pooling": "embedding",
    "SpladePooling": "splade",
    "MultiVectorMask": "colbert",
}

#: ColBERT's own default (`query_maxlen`, `doc_maxlen` of its settings).
_QUERY_TOKENS = 32


class _Mask(msgspec.Struct, forbid_unknown_fields=True):
    """`config.json` of a MultiVectorMask module."""

    skiplist_words: list[str] = []
    skiplist_tasks: tuple[Literal["query", "document"], ...] | Literal["query", "document"] = ("document",)
    keep_only_token_ids: list[int] | None = None


class Scoring(msgspec.Struct, frozen=True):
    """Scores of a reranker.

    Attributes:
        labels: names of the scores.
        activation: function that turns logits into scores.
        logit_score: tokens whose logits are the score, for a language model.
    """

    labels: tuple[str, ...]
    activation: Literal["identity", "sigmoid"]
    logit_score: LogitScore | None = None


def find_head(files: SentenceTransformersFiles, requested: Head | None, *, pooled: bool = False) -> Head:
    """Return the head of a checkpoint: by its sentence-transformers files, else as requested, else by its architecture.

    Args:
        files: files of the checkpoint.
        requested: the user's choice; needed if the files leave it open.
        pooled: whether the user chose a pooling, which only an embedding model has.

    Raises:
        CardError: the files leave it open, or contradict the request.
    """
    if requested is not None and requested not in HEADS:
        raise CardError(f"--head {requested}: is unknown; there are {', '.join(HEADS)}")
    folder, config = files.folder, files.config or CheckpointConfig()
    declared, origin = _declared_head(files)
    if declared is not None:
        if requested not in (None, declared):
            raise CardError(f"--head {requested} contradicts {folder}, which is for {declared} by its {origin}")
        return declared
    architecture = (config.architectures or ("",))[0]
    if requested == "splade" and not architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        raise CardError(
            f"--head splade: {folder / 'config.json'} names the architecture {architecture or 'of nothing'!r}, and a SPLADE "
            "model needs one with a masked-LM head (ForMaskedLM)"
        )
    if requested is not None or pooled:
        return requested or "embedding"
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        raise CardError(
            f"{folder} is a {architecture} without modules.json, which may be a SPLADE model or the encoder of an "
            "embedding model: choose --head splade, or --head embedding and --pooling"
        )
    return "embedding"


def _declared_head(files: SentenceTransformersFiles) -> tuple[Head | None, str]:
    """Return the head that the files name, and the file that names it."""
    kinds, model_type = files.kinds, files.settings.model_type
    for kind, head in _TELLING.items():
        # A sparse model of another kind (CSR) has a Pooling too.
        if kind in kinds and (kind != "Pooling" or model_type in (None, "SentenceTransformer")):
            _check_kind(files, kind)
            return head, f"modules.json ({kind})"
    if model_type in _KINDS and kinds:
        return _KINDS[model_type], f"config_sentence_transformers.json ({model_type})"
    if files.config is not None and "HF_ColBERT" in (files.config.architectures or ()):
        return "colbert", "architecture (HF_ColBERT)"
    return None, ""


def _check_kind(files: SentenceTransformersFiles, module: str) -> None:
    """Refuse a kind of model that sentence-transformers would load in another way than its module says.

    Raises:
        CardError: `model_type` is that of another kind.
    """
    expected: dict[str, tuple[str | None, ...]] = {
        "LogitScore": ("CrossEncoder",),
        "SpladePooling": ("SparseEncoder",),
        "MultiVectorMask": ("MultiVectorEncoder", "ColBERT", None),
    }
    model_type = files.settings.model_type
    if module in expected and model_type not in expected[module]:
        raise CardError(
            f"{files.folder / 'config_sentence_transformers.json'}: `model_type` is {model_type!r}, and a model with the "
            f"module {module} needs {expected[module][0]!r}: sentence-transformers loads other kinds in another way"
        )


# Rerankers ------------------------------------------------------------------------------------------------------------


def read_scoring(files: SentenceTransformersFiles) -> Scoring:
    """Return the scores of a sequence classification checkpoint, as `CrossEncoder` reads them.

    Raises:
        CardError: the files ask for an activation, a prompt or a module that Fletcher does not reproduce.
    """
    folder, config, settings = files.folder, files.config or CheckpointConfig(), files.settings
    if files.kinds == ("Transformer", "LogitScore"):
        return _read_activation(files, ("LABEL_0",), read_logit_score(files))
    others = [module.type for module in files.modules or () if module.kind != "Transformer"]
    if others:
        raise CardError(f"{folder / 'modules.json'}: a reranker with the module {others[0]} is not reproduced")
    if any((settings.prompts or {}).values()):
        raise CardError(f"{folder}: a reranker with prompts is not reproduced")
    if config.id2label is not None:
        labels = tuple(config.id2label[key] for key in sorted(config.id2label, key=int))
    else:
        labels = tuple(f"LABEL_{index}" for index in range(config.num_labels or 2))  # transformers' defaults
    if config.num_labels not in (None, len(labels)):
        raise CardError(
            f"{folder / 'config.json'}: `num_labels` is {config.num_labels}, and `id2label` has {len(labels)} labels"
        )
    if not labels:
        raise CardError(f"{folder / 'config.json'}: `id2label` is empty, so it has no score")
    return _read_activation(files, labels, None)


def _read_activation(
    files: SentenceTransformersFiles, labels: tuple[str, ...], logit_score: LogitScore | None
) -> Scoring:
    """Return the scores with the function that turns logits into them."""
    folder, config, settings = files.folder, files.config or CheckpointConfig(), files.settings
    # The order of CrossEncoder: its own file, then what earlier versions wrote into config.json.
    named = (
        settings.activation_fn
        or (config.sentence_transformers or {}).get("activation_fn")
        or config.sbert_ce_default_activation_function
    )
    if named is None:
        return Scoring(labels, "sigmoid" if len(labels) == 1 else "identity", logit_score)
    kind = str(named).rpartition(".")[2]
    if not str(named).startswith("torch.nn.") or kind not in ("Identity", "Sigmoid"):
        raise CardError(
            f"{folder}: its scores' activation is {named!r}; Fletcher reproduces torch's Sigmoid and Identity"
        )
    return Scoring(labels, "sigmoid" if kind == "Sigmoid" else "identity", logit_score)


# ColBERT --------------------------------------------------------------------------------------------------------------


def read_late_interaction(files: SentenceTransformersFiles, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    """Return lengths, query expansion, skipped tokens, and the prompts with the markers of queries and documents.

    Args:
        files: files of the checkpoint.
        max_tokens: the transformer's own limit.

    Raises:
        CardError: a file is malformed, or asks for something that Fletcher does not reproduce.
    """
    if not files.modules:
        return _read_stanford(files, max_tokens)
    folder = files.folder
    if files.settings.model_type == "ColBERT":
        return _read_pylate(files, max_tokens)
    transformer = files.transformer or TransformerSettings()
    mask = _Mask()
    for module in files.modules:
        if module.kind == "MultiVectorMask":
            mask = read_json(module.folder / "config.json", _Mask) or mask
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
    return late, read_prompts(files, files.settings.prompts)


def _read_pylate(files: SentenceTransformersFiles, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    """Read PyLate's settings up to version 3: all in one file; by default it expands queries and skips punctuation."""
    folder, settings, transformer = files.folder, files.settings, files.transformer or TransformerSettings()
    if (transformer.query_length, transformer.document_length, transformer.query_expansion) != (None, None, None):
        raise CardError(
            f"{folder / 'sentence_bert_config.json'}: has lengths or an expansion of queries, which PyLate writes into "
            "config_sentence_transformers.json: take them out of one of the files, in a copy"
        )
    expansion = None
    query_tokens = settings.query_length or _QUERY_TOKENS
    if settings.do_query_expansion is not False:
        expansion = QueryExpansion(
            token=_mask_token(folder), length=query_tokens, attended=bool(settings.attend_to_expansion_tokens)
        )
    late = LateInteraction(
        query_tokens=query_tokens if expansion else settings.query_length or max_tokens,
        document_tokens=settings.document_length or max_tokens,
        expansion=expansion,
        skipped=tuple(string.punctuation if settings.skiplist_words is None else settings.skiplist_words),
    )
    prompts: dict[str, str | None] = dict(settings.prompts or {})
    for role, prefix in (("query", settings.query_prefix), ("document", settings.document_prefix)):
        if prefix:
            prompts[role] = prefix + (prompts.get(role) or "").removeprefix(prefix)
    return late, read_prompts(files, prompts)


def _read_stanford(files: SentenceTransformersFiles, max_tokens: int) -> tuple[LateInteraction, dict[str, str]]:
    settings = read_stanford_settings(files.folder)
    query_tokens, mask_token = settings.query_maxlen or _QUERY_TOKENS, _mask_token(files.folder)
    late = LateInteraction(
        query_tokens=query_tokens,
        document_tokens=settings.doc_maxlen or max_tokens,
        expansion=QueryExpansion(token=mask_token, length=query_tokens, attended=settings.attend_to_mask_tokens),
        skipped=tuple(string.punctuation) if settings.mask_punctuation else (),
    )
    markers = {"query": settings.query_token_id or "[unused0]", "document": settings.doc_token_id or "[unused1]"}
    return late, {role: f"{marker} " for role, marker in markers.items()}


def _expansion(folder: Path, config: dict[str, Any] | None) -> tuple[QueryExpansion | None, int | None]:
    """Return the expansion, and the longest query if the expansion sets it."""
    if config is None:
        return None, None
    length, strategy = config.get("length"), config.get("strategy")
    unknown = set(config) - {"strategy", "attend", "token", "length"}
    if unknown or strategy not in ("fixed", "min") or not isinstance(length, int) or length < 1:
        raise CardError(f"{folder}: `query_expansion` is {config}, which Fletcher does not reproduce")
    token = config.get("token") or _mask_token(folder)
    expansion = QueryExpansion(token=token, length=length, attended=bool(config.get("attend", False)))
    return expansion, length if strategy == "fixed" else None


def _mask_token(folder: Path) -> str:
    """Return the token that queries are filled up with.

    Raises:
        CardError: the tokenizer's files name two.
    """
    tokens = [read_tokenizer_settings(folder).mask_token, read_special_tokens(folder).mask_token]
    texts = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    named = [text for text in texts if isinstance(text, str)] or ["[MASK]"]
    if len(set(named)) > 1:
        raise CardError(
            f"{folder}: mask_token is {named[0]!r} in tokenizer_config.json and {named[1]!r} in special_tokens_map.json: "
            "make them agree in a copy"
        )
    return named[0]
