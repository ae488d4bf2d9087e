"""A card for a checkpoint that has none, out of its own sentence-transformers files. What they do not say is not guessed.

`Modules` (what the files say of the model's parts) is in `modules.py`; here are prompts, lengths and the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast, get_args

import msgspec

from ..card import INPUT_TYPES, RAW, ModelCard, PoolingMode
from ..consistency import check_card
from ..errors import CardError
from .heads import Head, find_head, read_entries, read_late_interaction, read_scoring
from .modules import Modules, read_json, read_modules

__all__ = ["read_card"]

#: SPDX's word for a license that nobody stated.
_UNSTATED = "NOASSERTION"

# Position ids of these families start after the padding id (transformers' create_position_ids_from_input_ids), so their
# tables of max_position_embeddings rows hold fewer positions than rows.
_OFFSET_FAMILIES = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})

# sentence-transformers tries these in this order for documents (SentenceTransformer.encode_document).
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")

# The old name of the transformer module's file was one for each family (Transformer.load_config).
_TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


class _Config(msgspec.Struct):
    model_type: str
    hidden_size: int | None = None
    dim: int | None = None  # distilbert's spelling
    n_embd: int | None = None  # nomic_bert's spelling
    max_position_embeddings: int | None = None
    n_positions: int | None = None  # nomic_bert's spelling
    pad_token_id: int | None = None
    vocab_size: int | None = None


class _Transformer(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool = False


class _TokenizerConfig(msgspec.Struct):
    model_max_length: int | float | None = None


class _Prompts(msgspec.Struct):
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None


def read_card(
    folder: Path,
    *,
    name: str,
    pooling: str | Sequence[str] | None = None,
    max_tokens: int | None = None,
    head: Head | None = None,
) -> ModelCard:
    """The card of a checkpoint folder, as its own files describe it.

    Args:
        folder: a checkpoint with config.json, and sentence-transformers' modules.json, pooling config and prompts if any.
        name: the card's name.
        pooling: one mode, several, or several with commas; needed where the checkpoint does not say, and refused where
            it says something else.
        max_tokens: a limit below the checkpoint's own; it cannot exceed what the position table holds.
        head: what the model is for, where the checkpoint leaves that open.

    Raises:
        CardError: a file is missing or malformed, something that Fletcher cannot reproduce is asked for, pooling or the head
            is not said or contradicts, or `max_tokens` is too long.
    """
    config = _read(folder / "config.json", _Config)
    hidden = config.hidden_size or config.dim or config.n_embd
    if not hidden:
        raise CardError(f"{folder / 'config.json'}: has no hidden_size, so the vectors' length is unknown")
    found = find_head(folder, head, pooled=pooling is not None)
    if found != "embedding":
        if pooling is not None:
            raise CardError(f"--pooling is for vectors, and {folder} is for {found}: leave it away")
        return check_card(_head_card(folder, config, found, hidden, name, max_tokens), str(folder))
    modules = read_modules(folder, hidden)
    modes = _pooling(folder, modules, pooling)
    prompts = _prompts(folder)
    if modules is not None and not modules.include_prompt and prompts:
        raise CardError(
            f"{folder}: its pooling leaves the prompt's tokens out (include_prompt), which Fletcher does not"
        )
    card = ModelCard(
        name=name,
        family=config.model_type,
        dimension=modules.dimension if modules is not None else hidden * len(modes),
        max_tokens=_max_tokens(folder, config, max_tokens),
        pooling=modes,
        normalize=modules is not None and modules.normalize,
        license=_UNSTATED,
        prompts=prompts,
    )
    return check_card(card, str(folder))


def _head_card(folder: Path, config: _Config, head: Head, hidden: int, name: str, asked: int | None) -> ModelCard:
    """The card of a reranker, a SPLADE or a ColBERT model."""
    limit = _max_tokens(folder, config, asked)
    card = ModelCard(
        name=name,
        family=config.model_type,
        dimension=config.vocab_size or 0,
        max_tokens=limit,
        pooling=(),
        normalize=False,
        license=_UNSTATED,
    )
    if head == "classification":
        scoring = read_scoring(folder)
        return msgspec.structs.replace(
            card,
            output="scores",
            dimension=len(scoring.labels),
            labels=scoring.labels,
            activation=scoring.activation,
        )
    if head == "splade":
        return msgspec.structs.replace(card, output="sparse", prompts=_prompts(folder))
    late, prompts = read_late_interaction(folder, limit)
    if asked is not None:
        late = msgspec.structs.replace(
            late, query_tokens=min(late.query_tokens, asked), document_tokens=min(late.document_tokens, asked)
        )
    return msgspec.structs.replace(
        card,
        output="token_vectors",
        dimension=_token_dimension(folder, hidden),
        max_tokens=max(late.query_tokens, late.document_tokens),
        normalize=_normalizes_tokens(folder),
        prompts=prompts,
        late_interaction=late,
    )


def _normalizes_tokens(folder: Path) -> bool:
    """PyLate and Stanford's ColBERT always do; sentence-transformers writes the module down."""
    kinds = [entry.type.rpartition(".")[2] for entry in read_entries(folder)]
    return "MultiVectorMask" not in kinds or "Normalize" in kinds


class _Projection(msgspec.Struct):
    out_features: int


def _token_dimension(folder: Path, hidden: int) -> int:
    """Width of a ColBERT model's vectors; Stanford's checkpoints have it in their settings alone."""
    entries = read_entries(folder)
    if not entries:
        return (read_json(folder / "artifact.metadata", _Stanford) or _Stanford()).dim
    dense = [entry for entry in entries if entry.type.endswith(".Dense")]
    return _read(folder / dense[-1].path / "config.json", _Projection).out_features if dense else hidden


class _Stanford(msgspec.Struct):
    dim: int = 128  # ColBERT's own default


_T = TypeVar("_T")


def _read(file: Path, kind: type[_T]) -> _T:
    found = read_json(file, kind)
    if found is None:
        raise CardError(f"{file} is missing: {file.parent} is no checkpoint")
    return found


def _pooling(folder: Path, modules: Modules | None, asked: str | Sequence[str] | None) -> tuple[PoolingMode, ...]:
    known = get_args(PoolingMode)
    names = asked.split(",") if isinstance(asked, str) else list(asked or ())
    modes = tuple(name.strip() for name in names)
    for mode in modes:
        if mode not in known:
            raise CardError(f"--pooling {mode}: is not a pooling mode; there are {', '.join(known)}")
    if modules is None:
        if not modes:
            raise CardError(
                f"{folder} does not say how token vectors become one (it has no modules.json): "
                f"say it with --pooling, one of {', '.join(known)}, as the model's authors describe it"
            )
        return cast("tuple[PoolingMode, ...]", modes)
    if modes and modes != modules.pooling:
        raise CardError(
            f"--pooling {','.join(modes)} contradicts {folder}, which says {','.join(modules.pooling)}: leave --pooling "
            "away, or, if the checkpoint is wrong, correct its pooling config"
        )
    return modules.pooling


def _max_tokens(folder: Path, config: _Config, asked: int | None) -> int:
    """The longest input: sentence-transformers' own limit, else the tokenizer's, within what the positions allow."""
    positions = config.max_position_embeddings or config.n_positions
    if positions is not None and config.model_type in _OFFSET_FAMILIES:
        if config.pad_token_id is None:
            raise CardError(f"{folder / 'config.json'}: has no pad_token_id, after which {config.model_type} counts")
        positions -= config.pad_token_id + 1
    limits = [positions] if positions is not None else []
    transformer = next(filter(None, (read_json(folder / file, _Transformer) for file in _TRANSFORMER_FILES)), None)
    if transformer is not None and transformer.do_lower_case:
        _require_lowercase(folder)
    if transformer is not None and transformer.max_seq_length is not None:
        limits.append(transformer.max_seq_length)
    else:
        tokenizer = read_json(folder / "tokenizer_config.json", _TokenizerConfig)
        # transformers writes 1e30 for "no limit".
        if tokenizer is not None and tokenizer.model_max_length is not None and tokenizer.model_max_length < 1e9:
            limits.append(int(tokenizer.model_max_length))
    if asked is None:
        if not limits:
            raise CardError(f"{folder} does not say how long its input may be: say it with --max-tokens")
        return min(limits)
    if asked < 1 or (positions is not None and asked > positions):
        raise CardError(f"--max-tokens {asked}: {folder} has positions for 1 to {positions or 'any number of'} tokens")
    if limits and asked > min(limits):
        raise CardError(
            f"--max-tokens {asked}: {folder} was published for at most {min(limits)} tokens; --max-tokens can only "
            "lower that"
        )
    return asked


class _Normalizer(msgspec.Struct):
    type: str
    lowercase: bool = False
    normalizers: list[_Normalizer] = []


class _Tokenizer(msgspec.Struct):
    normalizer: _Normalizer | None = None


def _require_lowercase(folder: Path) -> None:
    """Accepts sentence-transformers' do_lower_case only where the tokenizer lower-cases anyway."""
    tokenizer = read_json(folder / "tokenizer.json", _Tokenizer)
    if tokenizer is None:
        return  # the tokenizer's absence is for the converter to say
    todo = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    while todo:
        normalizer = todo.pop()
        if normalizer.lowercase or normalizer.type == "Lowercase":
            return
        todo += normalizer.normalizers
    raise CardError(f"{folder}: asks for lower case before its tokenizer (do_lower_case), which Fletcher does not do")


def _prompts(folder: Path) -> dict[str, str]:
    """Prompts by input type. An empty prompt counts as none, for sentence-transformers 5 and later writes those unasked.

    The default prompt, which applies where no other is asked for, becomes that of every standard input type that has
    none of its own.
    """
    file = folder / "config_sentence_transformers.json"
    said = read_json(file, _Prompts) or _Prompts()
    prompts = {key: text for key, text in (said.prompts or {}).items() if text}
    document = next((prompts[key] for key in _DOCUMENT_PROMPTS if key in prompts), None)
    if document is not None:
        prompts["document"] = document
    if said.default_prompt_name is not None:
        if said.default_prompt_name not in (said.prompts or {}):
            raise CardError(f"{file}: `default_prompt_name`: {said.default_prompt_name!r} is none of its prompts")
        if default := prompts.get(said.default_prompt_name):
            prompts = {**dict.fromkeys(INPUT_TYPES, default), **prompts}
    if RAW in prompts:
        raise CardError(f"{file}: `prompts.{RAW}`: {RAW!r} is the input type that never adds a prompt: rename it")
    return prompts
