"""Checks of a card's values beyond their types: one card at a time, without the zoo and without the checkpoint."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from .card import RAW, LogitScore, ModelCard, PairParts, StaticQueries, TokenHeads
from .errors import CardError, SourceError
from .locator import HubSource, Location, parse_location

__all__ = ["check_card"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_card(card: ModelCard, where: str) -> ModelCard:
    """Return a card after a check that its values are valid and fit together.

    Args:
        card: a card whose fields have the right types.
        where: file of the card, for the message.

    Raises:
        CardError: a value is invalid, or two values contradict each other; the message names the file and the key.
    """
    _check_names(card, where)
    _check_vectors(card, where)
    _check_prompts(card, where)
    _check_sources(card, where)
    _check_accuracy(card, where)
    return card


def _refuse(where: str, key: str, problem: str) -> CardError:
    return CardError(f"{where}: `{key}`: {problem}")


def _check_names(card: ModelCard, where: str) -> None:
    for key, names in (("name", (card.name,)), ("aliases", card.aliases)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise _refuse(where, key, f"{name!r} is not a name: use letters, digits, '.', '_' and '-'")
    for key, value in (("family", card.family), ("licence", card.license)):
        if not value.strip():
            raise _refuse(where, key, "must not be empty")


def _check_vectors(card: ModelCard, where: str) -> None:
    for key, number in (("dimension", card.dimension), ("max_tokens", card.max_tokens)):
        if number < 1:
            raise _refuse(where, key, f"must be at least 1, not {number}")
    if card.output != "vectors":
        _check_head(card, where)
    elif isinstance(card.logit_score, LogitScore):
        raise _refuse(where, "logit_score", "belongs to the output scores with one label")
    elif not card.pooling:
        raise _refuse(where, "pooling", "must name at least one mode")
    if card.output not in ("sparse", "vectors") and isinstance(card.static_queries, StaticQueries):
        raise _refuse(where, "static_queries", "belongs to the outputs sparse and vectors")
    if card.output != "vectors" and isinstance(card.token_heads, TokenHeads):
        raise _refuse(where, "token_heads", "belongs to the output vectors")
    if len(set(card.pooling)) != len(card.pooling):
        raise _refuse(where, "pooling", f"names a mode twice: {', '.join(card.pooling)}")
    previous = card.dimension
    for dimension in card.matryoshka:
        if not 0 < dimension < previous:
            raise _refuse(
                where,
                "matryoshka",
                f"{list(card.matryoshka)} must fall strictly, from below `dimension` ({card.dimension}) to at least 1",
            )
        previous = dimension


def _check_head(card: ModelCard, where: str) -> None:
    for key, value in (("pooling", card.pooling), ("matryoshka", card.matryoshka)):
        if value:
            raise _refuse(where, key, f"is for vectors, and the output is {card.output}: remove it")
    if (card.output == "scores") != (card.activation is not None) or (card.output == "scores") != bool(card.labels):
        raise _refuse(where, "labels", "and `activation` belong to the output scores, and to no other")
    if card.labels and len(card.labels) != card.dimension:
        raise _refuse(where, "labels", f"has {len(card.labels)} names, `dimension` has {card.dimension} scores")
    score = card.logit_score
    if isinstance(score, LogitScore):
        if card.output != "scores" or card.dimension != 1:
            raise _refuse(where, "logit_score", "belongs to the output scores with one label")
        if min(score.true_token, score.false_token or 0) < 0:
            raise _refuse(where, "logit_score", "has a negative token id")
        template = score.template
        if template is not None and isinstance(template.parts, PairParts) and not template.query_first:
            raise _refuse(where, "logit_score.template.parts", "belongs to templates with the query first")
    late = card.late_interaction
    if (card.output == "token_vectors") != (late is not None):
        raise _refuse(where, "late_interaction", "belongs to the output token_vectors, and to no other")
    if late is not None:
        lengths = [late.query_tokens, late.document_tokens, late.expansion.length if late.expansion else 1]
        if min(lengths) < 1 or max(lengths) > card.max_tokens:
            raise _refuse(
                where, "late_interaction", f"has lengths {lengths}; 1 to `max_tokens` ({card.max_tokens}) fit"
            )


def _check_prompts(card: ModelCard, where: str) -> None:
    for input_type, prompt in card.prompts.items():
        if input_type == RAW:
            raise _refuse(where, f"prompts.{RAW}", f"{RAW!r} is the input type that never adds a prompt: remove it")
        if not input_type.strip():
            raise _refuse(where, "prompts", "an input type must not be empty")
        if not prompt:
            raise _refuse(where, f"prompts.{input_type}", "is empty: an input type without a prompt is left out")


def _check_sources(card: ModelCard, where: str) -> None:
    locations = [_location(source, where) for source in card.sources]
    for location in locations:
        if isinstance(location, HubSource) and location.revision is not None:
            raise _refuse(where, "sources", f"{location} carries a revision: put it under `revision`")
    if card.revision is not None:
        if not _COMMIT.fullmatch(card.revision):
            raise _refuse(where, "revision", f"{card.revision!r} is not a commit (40 hexadecimal digits)")
        if not any(isinstance(location, HubSource) for location in locations):
            raise _refuse(where, "revision", "is a hub commit, and no source starts with hf:")
    for name, digest in card.sha256.items():
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise _refuse(where, "sha256", f"{name!r} is not a file name inside the checkpoint")
        if not _SHA256.fullmatch(digest):
            raise _refuse(where, f"sha256.{name}", f"{digest!r} is not a sha256 (64 lower-case hexadecimal digits)")


def _location(source: str, where: str) -> Location:
    if not source.startswith(("hf:", "pypi:")):
        raise _refuse(where, "sources", f"{source!r} must start with hf: or pypi:")
    try:
        return parse_location(source)
    except SourceError as error:
        raise _refuse(where, "sources", str(error)) from error


def _check_accuracy(card: ModelCard, where: str) -> None:
    for precision, accuracy in card.accuracy.items():
        if not 0 < accuracy.min_cosine <= 1:
            raise _refuse(where, f"accuracy.{precision}.min_cosine", f"{accuracy.min_cosine} is not in (0, 1]")
        if accuracy.max_abs is not None and not accuracy.max_abs > 0:
            raise _refuse(where, f"accuracy.{precision}.max_abs", f"{accuracy.max_abs} is not positive")
