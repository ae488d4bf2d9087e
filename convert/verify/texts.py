"""Texts of a verification, made from the checkpoint: its words, tokens, prompts and limit; besides the built-in ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fletcher.model_zoo.card import INPUT_TYPES, RAW

from ..reference.witness import Witness
from ..texts import EDGES, SENTENCES, lengths_to, text_of_length
from .case import LONG, PAIR, Case, features_of, prompt_feature
from .checkpoint_tokens import CheckpointTokens, read_checkpoint_tokens, spread

__all__ = ["USER_TEXTS", "make_cases"]

#: Number of the user's texts whose results are compared; of more texts an even sample is taken.
USER_TEXTS = 100

#: Number of texts that hold the added tokens and whose results are compared; token ids are compared for each token alone.
TOKEN_TEXTS = 12

#: Number of prompts that are compared; of more prompts an even sample is taken.
MOST_PROMPTS = 24

#: Limit in tokens above which only one text that exceeds it is computed: attention is quadratic.
LONG_LIMIT = 1024

#: Queries for each document of a reranker, whose scores are compared together: one score has no angle.
QUERIES_EACH = 3


@dataclass(frozen=True, slots=True)
class _Texts:
    """Texts of each kind.

    Attributes:
        ordinary: built-in texts and those of the checkpoint's words.
        sized: texts of many lengths up to the limit.
        beyond: texts longer than the limit, with other words at one end than at the other.
        tokens: texts with added tokens, many in a text.
        single: texts with one token, for the token ids alone.
    """

    ordinary: Sequence[str]
    sized: Sequence[str]
    beyond: Sequence[str]
    tokens: Sequence[str]
    single: Sequence[str]


def make_cases(witness: Witness, texts: Sequence[str]) -> tuple[list[Case], CheckpointTokens]:
    """Return the texts to compare, and the tokens that they were made of.

    Args:
        witness: the reference.
        texts: the user's texts, of which a sample is taken.
    """
    tokens = read_checkpoint_tokens(witness.encoder_folder, witness.tokenizer)
    built = _build(witness, tokens)
    output = witness.card.output
    if output == "scores":
        cases = list(_pairs(built, tokens, texts))
    elif output == "token_vectors":
        cases = list(_roles(built, texts))
    else:
        cases = list(_prompted(witness, built, tokens, texts))
    distinct = cases if output == "scores" else dict.fromkeys(cases)  # a reranker's come in groups
    return _describe(distinct, witness, tokens), tokens


def _build(witness: Witness, tokens: CheckpointTokens) -> _Texts:
    count, limit = witness.count_tokens, witness.card.max_tokens
    first, *_, last = tokens.words
    packs = [" ".join(f"{first}{token}{last} {token}" for token in pack) for pack in _packs(tokens.tokens)]
    return _Texts(
        ordinary=list(dict.fromkeys((*EDGES, *SENTENCES, *_own_texts(tokens.words)))),
        sized=[text_of_length(length, count, start=index) for index, length in enumerate(lengths_to(limit))],
        beyond=_beyond(witness, tokens.words),
        tokens=packs,
        single=[text for token in tokens.tokens for text in _around(token, first, last)],
    )


def _own_texts(words: Sequence[str]) -> Iterator[str]:
    """Yield texts of the checkpoint's words, and the same words with one peculiarity each."""
    for start in range(0, len(words), 6):
        yield " ".join(words[start : start + 6])
    plain = list(words[:6])
    base = " ".join(plain)
    accented = unicodedata.normalize("NFC", " ".join(f"{word[0]}\u0301{word[1:]}e\u0301" for word in plain))
    yield from (base.title(), base.upper(), f"{plain[0].upper()} {base}")
    yield from (accented, unicodedata.normalize("NFD", accented))
    yield from (f" {base}", f"{base} ", f"  {base}  ", f"\t{base}\n", "  ".join(plain), "\n".join(plain))
    for inside in ("\x85", "\x01", "\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad", "\u00a0", "\u3000", "\u2028"):
        yield f"{inside.join(plain)} {inside} {base}"
    yield from (f"{base}\x85", f"\x85{base}", "\x85")
    yield from (f"{'中'.join(plain)} 文 {base}", f"{'👍🏽'.join(plain)} 👩‍👩‍👧‍👦 {base}")
    yield "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in base)  # full width
    yield from (",".join(plain), f"{'. '.join(plain)}!", f'"{base}"', f"({base})", "-".join(plain), "'".join(plain))
    for length in (99, 100, 101, 120, 260):
        yield (plain[0] * length)[:length]


def _around(token: str, first: str, last: str) -> Iterator[str]:
    """Yield a token alone, inside a word, between blanks, twice, in other letters, and between other characters."""
    yield from (token, f"{first}{token}{last}", f"{first} {token} {last}", f"{token}{token}", f" {token} {first}")
    if token.swapcase() != token:
        yield from (f"{first} {token.upper()} {last}", f"{first} {token.lower()} {last}")


def _packs(tokens: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the tokens in at most `TOKEN_TEXTS` groups."""
    size = max(1, -(-len(tokens) // TOKEN_TEXTS))
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


def _beyond(witness: Witness, words: Sequence[str]) -> list[str]:
    """Return texts longer than the limit whose beginnings, middles and ends differ."""
    count, limit = witness.count_tokens, witness.card.max_tokens
    half = max(1, len(words) // 2)
    head, tail = " ".join(words[:half]), " ".join(words[half:]) or words[0]
    per_round = max(1, count(f"{head} {tail}") - count(""))
    rounds = 2 * limit // per_round + 1
    opposite = [" ".join([one] * rounds + [other] * rounds) for one, other in ((head, tail), (tail, head))]
    slightly = [text_of_length(length, count, start=length) for length in (limit + 1, limit + 2)]
    return [*opposite, *slightly]


def _short(texts: Iterable[Case], limit: int) -> Iterator[Case]:
    """Compare only token ids of long texts after the first one, where the limit is high."""
    for index, case in enumerate(texts):
        yield replace(case, ids_only=True) if limit > LONG_LIMIT and index > 0 else case


def _prompted(witness: Witness, built: _Texts, tokens: CheckpointTokens, texts: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of an embedder or a SPLADE model."""
    limit = witness.card.max_tokens
    for text in (*built.ordinary, *built.sized, *built.tokens):
        yield Case(text, RAW)
    yield from _short((Case(text, RAW) for text in built.beyond), limit)
    for text in built.single:
        yield Case(text, RAW, ids_only=True)
    base = " ".join(tokens.words[:6])
    few = (base, "", SENTENCES[0])
    more = (*few, base.title(), f"  {base} ", SENTENCES[17], SENTENCES[21], *built.tokens[:1])
    prompts = {**witness.own_prompts, **witness.card.prompts}
    own = witness.card.input_type
    every = witness.card.tasks or (*INPUT_TYPES, *prompts)
    types = [own] if isinstance(own, str) else list(dict.fromkeys(every))
    for name in spread(types, MOST_PROMPTS):
        for text in more if name in prompts else few:
            yield Case(text, name)
        yield Case(built.beyond[0], name, ids_only=limit > LONG_LIMIT)
    yield from _of_user(texts, own if isinstance(own, str) else "document")


def _roles(built: _Texts, texts: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of a ColBERT model: queries and documents."""
    for text in (*built.ordinary, *built.tokens):
        yield from (Case(text, "query"), Case(text, "document"))
    for index, text in enumerate(built.sized):
        yield Case(text, "query" if index % 4 == 0 else "document")
    for role in ("document", "query"):
        yield from _short((Case(text, role) for text in built.beyond), LONG_LIMIT)
        yield from (Case(text, role, ids_only=True) for text in built.single)
    yield from _of_user(texts)


def _pairs(built: _Texts, tokens: CheckpointTokens, texts: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of a reranker: each document with several queries, one after the other."""
    base = " ".join(tokens.words[:4])
    marked = f" {base.title()} {tokens.tokens[0]}" if tokens.tokens else base.title()
    queries = (base, SENTENCES[2], marked)
    documents = (
        *EDGES,
        *SENTENCES[::3],
        *_own_texts(tokens.words),
        *built.sized[::4],
        *built.tokens,
        *built.beyond[:2],
    )
    for text in dict.fromkeys((*documents, *spread(texts, USER_TEXTS))):
        for query in queries:
            yield Case(text, "pair", query)
    for query in ("", built.beyond[0], built.sized[-1]):
        yield Case(base, "pair", query)
    for query in ("", built.beyond[1], base):
        yield Case(built.beyond[0], "pair", query)
    for text in built.single:
        yield from (Case(text, "pair", base, ids_only=True), Case(base, "pair", text, ids_only=True))


def _of_user(texts: Sequence[str], input_type: str = "document") -> Iterator[Case]:
    for text in spread(texts, USER_TEXTS):
        yield Case(text, input_type)


def _describe(cases: Iterable[Case], witness: Witness, tokens: CheckpointTokens) -> list[Case]:
    """Return the cases with their features."""
    card, count = witness.card, witness.count_tokens
    prompts = {**witness.own_prompts, **card.prompts}
    late = card.late_interaction
    limits = {"query": late.query_tokens, "document": late.document_tokens} if late is not None else {}
    lengths: dict[str, int] = {}
    described = []
    for case in cases:
        features = set(features_of(case.text, tokens.added, tokens.special))
        if case.query is not None:
            features |= {PAIR, *features_of(case.query, tokens.added, tokens.special)}
        if case.input_type in prompts:
            features.add(prompt_feature(case.input_type))
        length = sum(lengths.setdefault(text, count(text)) for text in (case.text, case.query or ""))
        if length > limits.get(case.input_type, card.max_tokens):
            features.add(LONG)
        described.append(replace(case, features=frozenset(features)))
    return described
