"""Card of a checkpoint that is not in the zoo, from its own sentence-transformers files. Missing settings are not guessed.

`modules.py` reads the modules, `prompts.py` the prompts; this file reads lengths, and makes the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import msgspec

from ..card import SIMILARITIES, ModelCard, PoolingMode, Similarity
from ..consistency import check_card
from ..errors import CardError
from .files import (
    CheckpointConfig,
    SentenceTransformersFiles,
    read_files,
    read_stanford_settings,
    read_tokenizer_settings,
)
from .heads import Head, find_head, read_late_interaction, read_scoring
from .modules import Modules, read_modules, require_module_config, require_width
from .prompts import read_prompts
from .static_queries import read_static_queries
from .token_heads import read_token_heads

__all__ = ["read_card"]

#: SPDX's identifier of an unstated license.
_UNSTATED = "NOASSERTION"

#: Families whose model ends in a projection, so that a token's vector has `embedding_dim` elements.
_PROJECTED = frozenset({"embedding_gemma2_text"})

# Position ids of these families start after the padding id (transformers' create_position_ids_from_input_ids), so their
# tables of max_position_embeddings rows hold fewer positions than rows.
_OFFSET_FAMILIES = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})

#: Families that learn a bias by distance instead of positions, so that `n_positions` limits nothing.
_WITHOUT_POSITIONS = frozenset({"mt5", "t5"})


def read_card(
    folder: Path,
    *,
    name: str,
    pooling: str | Sequence[str] | None = None,
    max_tokens: int | None = None,
    head: Head | None = None,
    dimensions: Sequence[int] = (),
) -> ModelCard:
    """Return the card of a checkpoint folder, from its own files.

    Args:
        folder: a checkpoint with config.json, and sentence-transformers' modules.json, pooling config and prompts if any.
        name: the card's name.
        pooling: one mode, several, or several separated by commas; needed if the checkpoint names none, and refused if it
            contradicts the checkpoint.
        max_tokens: a limit below the checkpoint's own; it cannot exceed what the position table holds.
        head: kind of the model, for a checkpoint that does not name it.
        dimensions: shorter lengths that the vectors were trained for (Matryoshka). Default: those of the files.

    Raises:
        CardError: a file is missing or malformed, Fletcher cannot reproduce a part of the checkpoint, pooling or head are
            unknown or contradict the checkpoint, or `max_tokens` or one of `dimensions` is too long.
    """
    files = read_files(folder)
    config, family, hidden = _require_config(files)
    head = find_head(files, head, pooled=pooling is not None)
    if head != "embedding":
        if pooling is not None:
            raise CardError(f"--pooling is for vectors, and {folder} is for {head}: omit it")
        if dimensions:
            raise CardError(f"--dimensions is for vectors, and {folder} is for {head}: omit it")
        if head == "splade" and not config.vocab_size:
            raise CardError(f"{folder / 'config.json'}: has no vocab_size, the number of weights of a sparse vector")
        card = ModelCard(
            name=name,
            family=family,
            dimension=config.vocab_size or 0,
            max_tokens=_max_tokens(files, config, max_tokens),
            pooling=(),
            normalize=False,
            license=_UNSTATED,
        )
        return check_card(_with_head(card, files, head, hidden, max_tokens), str(folder))
    modules = read_modules(files, hidden)
    modes = _pooling(folder, modules, pooling)
    prompts = read_prompts(files, files.settings.prompts)
    whole = modules.dimension if modules is not None else hidden * len(modes)
    dimension = _truncated(files, whole)
    card = ModelCard(
        name=name,
        family=family,
        dimension=dimension,
        max_tokens=_max_tokens(files, config, max_tokens),
        pooling=modes,
        # sentence-transformers cuts a vector after Normalize, and does not scale it again.
        normalize=modules is not None and modules.normalize and dimension == whole,
        license=_UNSTATED,
        prompts=prompts,
        matryoshka=_matryoshka(files, config, dimension, dimensions),
        similarity=_similarity(files, SIMILARITIES[:4]),
        default_prompt=files.settings.default_prompt_name or msgspec.UNSET,
        token_heads=read_token_heads(folder),
        static_queries=read_static_queries(folder),
        include_prompt=False if modules is not None and not modules.include_prompt and prompts else msgspec.UNSET,
    )
    return check_card(card, str(folder))


def _require_config(files: SentenceTransformersFiles) -> tuple[CheckpointConfig, str, int]:
    """Return `config.json`, the model type and the hidden size.

    Raises:
        CardError: the file is missing, or lacks one of them.
    """
    file, config = files.folder / "config.json", files.config
    if config is None:
        raise CardError(f"{file} is missing: {files.folder} is not a checkpoint")
    if config.model_type is None:
        raise CardError(f"{file}: has no model_type, so the family is unknown")
    hidden = config.hidden_size or config.dim or config.n_embd or config.d_model
    if config.model_type in _PROJECTED:
        hidden = config.embedding_dim
    if not hidden:
        raise CardError(f"{file}: has no hidden_size, so the vectors' length is unknown")
    return config, config.model_type, hidden


def _truncated(files: SentenceTransformersFiles, whole: int) -> int:
    """Return the length of the vectors after `truncate_dim` (util/tensor.py, truncate_embeddings)."""
    length = files.settings.truncate_dim
    if length is None:
        return whole
    if length < 1:
        raise CardError(
            f"{files.folder / 'config_sentence_transformers.json'}: `truncate_dim` is {length}; 1 is the least"
        )
    return min(length, whole)


def _matryoshka(
    files: SentenceTransformersFiles, config: CheckpointConfig, dimension: int, requested: Sequence[int]
) -> tuple[int, ...]:
    """Return the shorter lengths of the vectors, largest first: the user's, else those that a file lists."""
    for length in requested:
        if not 0 < length < dimension:
            raise CardError(
                f"--dimensions {length}: the vectors have {dimension} elements, so 1 to {dimension - 1} are shorter"
            )
    listed = files.settings.matryoshka_dimensions or config.matryoshka_dimensions or ()
    if bad := [length for length in listed if length < 1]:
        raise CardError(f"{files.folder}: `matryoshka_dimensions` has {bad[0]}; 1 is the least")
    lengths = requested or [length for length in listed if length < dimension]
    return tuple(sorted(set(lengths), reverse=True))


def _similarity(files: SentenceTransformersFiles, allowed: Sequence[Similarity]) -> Similarity | msgspec.UnsetType:
    """Return `similarity_fn_name`; sentence-transformers ignores a name that the kind of model does not have."""
    name = files.settings.similarity_fn_name
    return next((similarity for similarity in allowed if similarity == name), msgspec.UNSET)


def _with_head(
    card: ModelCard, files: SentenceTransformersFiles, head: Head, hidden: int, requested: int | None
) -> ModelCard:
    """Return the card of a reranker, a SPLADE or a ColBERT model.

    Args:
        card: card without the settings of its head.
        files: files of the checkpoint.
        head: kind of the model.
        hidden: the encoder's hidden size.
        requested: the user's limit of the input's length.
    """
    if head == "classification":
        scoring = read_scoring(files)
        return msgspec.structs.replace(
            card,
            output="scores",
            dimension=len(scoring.labels),
            labels=scoring.labels,
            activation=scoring.activation,
            logit_score=msgspec.UNSET if scoring.logit_score is None else scoring.logit_score,
        )
    if head == "splade":
        return msgspec.structs.replace(
            card,
            output="sparse",
            static_queries=read_static_queries(files.folder),
            prompts=read_prompts(files, files.settings.prompts),
            similarity=_similarity(files, SIMILARITIES[:4]),
        )
    late, prompts = read_late_interaction(files, card.max_tokens)
    if requested is not None:
        late = msgspec.structs.replace(
            late,
            query_tokens=min(late.query_tokens, requested),
            document_tokens=min(late.document_tokens, requested),
        )
    return msgspec.structs.replace(
        card,
        output="token_vectors",
        dimension=_token_dimension(files, hidden),
        max_tokens=max(late.query_tokens, late.document_tokens),
        # PyLate and Stanford's ColBERT always normalize; sentence-transformers lists the module.
        normalize="MultiVectorMask" not in files.kinds or "Normalize" in files.kinds,
        prompts=prompts,
        late_interaction=late,
        similarity=_similarity(files, SIMILARITIES[4:]),
    )


def _token_dimension(files: SentenceTransformersFiles, hidden: int) -> int:
    """Return the width of a ColBERT model's vectors; Stanford's checkpoints have it in their settings alone."""
    if not files.modules:
        return read_stanford_settings(files.folder).dim
    dense = [module for module in files.modules if module.kind == "Dense"]
    if not dense:
        return hidden
    return require_width(dense[-1], require_module_config(dense[-1]))


def _pooling(folder: Path, modules: Modules | None, requested: str | Sequence[str] | None) -> tuple[PoolingMode, ...]:
    choices = get_args(PoolingMode)
    names = requested.split(",") if isinstance(requested, str) else list(requested or ())
    modes = tuple(name.strip() for name in names)
    for mode in modes:
        if mode not in choices:
            raise CardError(f"--pooling {mode}: is not a pooling mode; there are {', '.join(choices)}")
    if modules is None:
        if not modes:
            raise CardError(
                f"{folder} does not name a pooling mode (it has no modules.json): "
                f"choose it with --pooling, one of {', '.join(choices)}, as the model's authors describe it"
            )
        return cast("tuple[PoolingMode, ...]", modes)
    if modes and modes != modules.pooling:
        raise CardError(
            f"--pooling {','.join(modes)} contradicts {folder}, which has {','.join(modules.pooling)}: omit --pooling, "
            "or, if the checkpoint is wrong, correct its pooling config"
        )
    return modules.pooling


def _max_tokens(files: SentenceTransformersFiles, config: CheckpointConfig, requested: int | None) -> int:
    """Return the longest input: sentence-transformers' own limit, else the tokenizer's, within the number of positions."""
    folder, transformer = files.folder, files.transformer
    table = positions = config.max_position_embeddings or config.n_positions
    if config.model_type in _WITHOUT_POSITIONS:
        table = positions = None
    if positions is not None and config.model_type in _OFFSET_FAMILIES:
        if config.pad_token_id is None:
            raise CardError(f"{folder / 'config.json'}: has no pad_token_id, after which {config.model_type} counts")
        positions -= config.pad_token_id + 1
    limits = [positions] if positions is not None else []
    # sentence-transformers lowers the tokenizer's limit to the rows of the position table, its own one not.
    own, origin = table, "config.json"
    if transformer is not None and transformer.max_seq_length is not None:
        own, origin = transformer.max_seq_length, "sentence_bert_config.json"
        if own < 1:
            raise CardError(f"{folder / origin}: max_seq_length is {own}, where a positive integer was expected")
    else:
        length = read_tokenizer_settings(folder).model_max_length
        # transformers writes 1e30 for "no limit".
        if length is not None and length < min(1e9, table or 1e9):
            if isinstance(length, float) or length < 1:
                raise CardError(
                    f"{folder / 'tokenizer_config.json'}: model_max_length is {length}, and a tokenizer truncates to a "
                    "positive integer: correct it in a copy, or choose a length with --max-tokens and remove the key"
                )
            own, origin = length, "tokenizer_config.json"
    limits += [own] if own is not None else []
    if requested is None:
        if not limits:
            raise CardError(f"{folder} does not limit the length of its input: choose a limit with --max-tokens")
        if own is not None and positions is not None and own > positions:
            raise CardError(
                f"{folder / origin} limits texts to {own} tokens, and config.json has positions for {positions}: with longer "
                "texts sentence-transformers fails, or leaves the positions of the training. Choose --max-tokens "
                f"{positions}, which truncates them"
            )
        return min(limits)
    if requested < 1 or (positions is not None and requested > positions):
        raise CardError(
            f"--max-tokens {requested}: {folder} has positions for 1 to {positions or 'any number of'} tokens"
        )
    if limits and requested > min(limits):
        raise CardError(
            f"--max-tokens {requested}: {folder} was published for at most {min(limits)} tokens; --max-tokens can only "
            "lower that"
        )
    return requested
