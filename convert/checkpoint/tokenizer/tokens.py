"""Special and added tokens, given to the tokenizer as transformers gives them.

Sources: `PreTrainedTokenizerFast.__init__` of transformers 4.57, and `TokenizersBackend.__init__` of 5.24. Both give all
tokens of `added_tokens_decoder` to the library, in the order of their ids; the library chooses the id of a token that it does
not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from fletcher.runtime.errors import CheckpointError

from ..tokenizer_settings import SPECIAL_TOKENS
from ..tokenizer_version import TokenizerLike
from .arguments import Arguments, Token
from .classes import TokenizerClass

__all__ = ["add_tokens"]


def add_tokens(
    tokenizer: Tokenizer, kind: TokenizerClass, arguments: Arguments, like: TokenizerLike
) -> dict[str, Token]:
    """Add the tokens to the tokenizer.

    Args:
        tokenizer: tokenizer that is changed.
        kind: its class, which has special tokens of its own.
        arguments: tokens of the checkpoint's files.
        like: version of transformers to follow.

    Returns:
        The special tokens by name.
    """
    named = _with_defaults(kind, arguments, like)
    padding = tokenizer.padding
    if padding is not None and "pad_token" not in {**kind.tokens, **arguments.named}:
        named["pad_token"] = padding["pad_token"]
    ordered = [named[key] for key in SPECIAL_TOKENS if key in named]
    additional = kind.additional if arguments.additional is None else arguments.additional
    decoder = [token for _, token in sorted(arguments.decoder.items(), key=lambda item: item[0])]
    if like == "4":
        groups = [*([token] for token in ordered), additional, *([token] for token in arguments.specific.values())]
        tokens = _tokens_of_4(arguments.folder, tokenizer, decoder, groups)
    else:
        tokens = _tokens_of_5(tokenizer, decoder, [*ordered, *arguments.specific.values()], additional)
    if tokens:
        tokenizer.add_tokens(tokens)
    return named


def _tokens_of_4(
    folder: Path, tokenizer: Tokenizer, decoder: Sequence[AddedToken], groups: Sequence[Sequence[Token]]
) -> list[AddedToken]:
    added: list[Token] = list(decoder)
    encoder = [*_added_texts(tokenizer), *map(str, added)]
    special = _without_doubles(groups)
    texts = [str(token) for token in special]
    # An AddedToken equals no str: named tokens that a file or the class describes are given again, with their properties.
    added += [token for token in special if not (isinstance(token, str) and token in encoder) and token not in added]
    tokens = [_as_added(token, str(token) in texts or getattr(token, "special", False)) for token in added]
    _check_unambiguous(folder, tokens)
    return tokens


def _without_doubles(groups: Sequence[Sequence[Token]]) -> list[Token]:
    """Return the tokens without those whose text an earlier group has (`all_special_tokens_extended`)."""
    special: list[Token] = []
    for group in groups:
        texts = {str(token) for token in special}
        special += [token for token in group if str(token) and str(token) not in texts]
    return special


def _check_unambiguous(folder: Path, tokens: Sequence[AddedToken]) -> None:
    """Check that no token is given twice with other properties: which of them count depends on the library's version.

    Raises:
        CheckpointError: a token is.
    """
    first: dict[str, AddedToken] = {}
    for token in tokens:
        if token != first.setdefault(token.content, token):
            raise CheckpointError(
                f"{folder}: the tokenizer's files and class describe the token {token.content!r} twice and differently: "
                f"{first[token.content]!r} and {token!r}. Write the right one into added_tokens_decoder and into "
                "its name's entry, in a copy of tokenizer_config.json"
            )


def _tokens_of_5(
    tokenizer: Tokenizer, decoder: Sequence[AddedToken], named: Sequence[Token], additional: Sequence[Token]
) -> list[AddedToken]:
    added: list[Token] = list(decoder)
    encoder = [*_added_texts(tokenizer), *map(str, added)]
    for value in (*named, *additional):
        if str(value) not in encoder and value not in added:
            added.append(value)
    texts = [str(value) for value in named if value]
    return [
        _as_added(token, True if isinstance(token, str) else token.special or str(token) in texts) for token in added
    ]


def _added_texts(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def _as_added(token: Token, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=special)
    token.special = special
    return token


def _with_defaults(kind: TokenizerClass, arguments: Arguments, like: TokenizerLike) -> dict[str, Token]:
    """Return the special tokens by name, those of the class where the files say nothing, with the class's properties."""
    named: dict[str, Token] = {}
    for key, value in {**kind.tokens, **(kind.tokens_of_5 if like == "5" else {}), **arguments.named}.items():
        if value is not None:
            named[key] = (
                _with_properties(kind, key, value, like) if isinstance(value, str) and key in kind.tokens else value
            )
    return named


def _with_properties(kind: TokenizerClass, key: str, text: str, like: TokenizerLike) -> Token:
    """Return a special token with the properties that its class gives to one without any."""
    if kind.kind == "qwen2" and like == "4":
        return AddedToken(text, lstrip=False, rstrip=False, special=True, normalized=False)
    if key != "mask_token":
        return AddedToken(text, lstrip=False, rstrip=False) if kind.kind == "mpnet" else text
    match kind.kind, like:
        case "mpnet", _:
            return AddedToken(text, lstrip=True, rstrip=False)
        case "camembert", _:
            return AddedToken(text, lstrip=True, special=True)
        case "xlm_roberta", "4":
            return AddedToken(text, lstrip=True, rstrip=False)
        case (("roberta" | "albert"), "4"):
            return AddedToken(text, lstrip=True, rstrip=False, normalized=False)
    return text
