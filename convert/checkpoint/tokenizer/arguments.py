"""Arguments of a tokenizer's class: the settings and tokens of all files beside tokenizer.json.

Source: `PreTrainedTokenizerBase._from_pretrained` of transformers 4.57 and 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from fletcher.runtime.errors import CheckpointError

from ..ignored_keys import IgnoredKeys
from ..json_files import find_json
from ..tokenizer_settings import SPECIAL_TOKENS, check_keys
from ..tokenizer_version import TokenizerLike

__all__ = ["Arguments", "Token", "read_arguments"]

Token = str | AddedToken


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a tokenizer's class: the settings of all files beside tokenizer.json, tokens decoded.

    Attributes:
        folder: the checkpoint, for messages.
        settings: settings besides tokens, by key.
        named: special tokens by name; None where a file says that there is none.
        specific: special tokens by a name that one model alone has.
        additional: special tokens without a name; None if no file lists any.
        decoder: added tokens by id.
    """

    folder: Path
    settings: Mapping[str, Any]
    named: Mapping[str, Token | None]
    specific: Mapping[str, Token]
    additional: tuple[Token, ...] | None
    decoder: Mapping[int, AddedToken]

    def flag(self, key: str, default: bool) -> bool:
        """Return a setting that is true or false.

        Raises:
            CheckpointError: the setting is neither.
        """
        value = self.settings.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.folder}: the tokenizer's {key} is {value!r}, not true or false")
        return value


def read_arguments(
    folder: Path, source: Mapping[str, Any] | None, like: TokenizerLike, ignored: IgnoredKeys
) -> Arguments:
    """Read tokenizer_config.json, special_tokens_map.json and added_tokens.json.

    Args:
        folder: the checkpoint.
        source: its tokenizer.json, if it has one.
        like: version of transformers to follow.
        ignored: keys that the user declares harmless.

    Raises:
        CheckpointError: a file cannot be read, has an unknown key, or holds something else than tokens.
    """
    file = folder / "tokenizer_config.json"
    written = check_keys(file, find_json(file), ignored)
    settings = _decode(file, written)
    specific = _take_specific(settings, [key for key, value in written.items() if isinstance(value, str)], like)
    if like == "5":
        _rename_additional(settings)
    decoder: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        decoder = _read_decoder(file, settings.pop("added_tokens_decoder"))
        by_text = {str(token): token for token in decoder.values()}
    else:
        _merge_map(folder / "special_tokens_map.json", settings, like, ignored)
        listed = "additional_special_tokens" if like == "4" else "extra_special_tokens"
        special = [settings[key] for key in SPECIAL_TOKENS if settings.get(key)] + list(settings.get(listed) or ())
        decoder, by_text = _read_added(folder, frozenset(map(str, special)), source, like)
    named: dict[str, Token | None] = {}
    for key in SPECIAL_TOKENS:
        if key in settings:
            value = _require_token(file, key, settings.pop(key))
            named[key] = None if value is None else by_text.get(str(value), value)
    if like == "5":  # those of special_tokens_map.json
        others = {key: settings.pop(key) for key in list(settings) if _is_specific(key, settings[key])}
        extra = settings.get("extra_special_tokens")
        specific = {**others, **specific, **(settings.pop("extra_special_tokens") if isinstance(extra, dict) else {})}
    found = {key: _require_token(file, key, value) for key, value in specific.items()}
    additional = _read_list(file, settings, like)
    others_named = {key: value for key, value in found.items() if value is not None}
    return Arguments(folder, settings, named, others_named, additional, decoder)


def _decode(file: Path, value: Any) -> Any:
    """Return JSON with the objects marked as AddedToken decoded (`convert_added_tokens`)."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return _token(file, {key: item for key, item in value.items() if key != "__type"})
        return {key: _decode(file, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(file, item) for item in value]
    return value


def _token(file: Path, fields: Mapping[str, Any], **more: bool) -> AddedToken:
    try:
        return AddedToken(**{**fields, **more})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} describes a token as {dict(fields)!r}, which is none: {error}") from error


def _require_token(file: Path, key: str, value: Any) -> Token | None:
    if value is None or isinstance(value, (str, AddedToken)):
        return value
    raise CheckpointError(
        f"{file.parent}: {key} of the tokenizer is {value!r}, neither a text nor an AddedToken: write the token's text"
    )


def _rename_additional(settings: dict[str, Any]) -> None:
    if "additional_special_tokens" in settings and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")


def _read_decoder(file: Path, entries: Any) -> dict[int, AddedToken]:
    if not isinstance(entries, dict) or not all(str(number).isdecimal() for number in entries):
        raise CheckpointError(f"{file}: added_tokens_decoder is not an object of tokens by id")
    decoder = {}
    for number, entry in entries.items():
        if not isinstance(entry, (dict, AddedToken)):
            raise CheckpointError(f"{file}: added_tokens_decoder has {entry!r} for the id {number}, which is no token")
        decoder[int(number)] = entry if isinstance(entry, AddedToken) else _token(file, entry)
    return decoder


def _merge_map(file: Path, settings: dict[str, Any], like: TokenizerLike, ignored: IgnoredKeys) -> None:
    """Put the tokens of special_tokens_map.json before those of tokenizer_config.json."""
    listed = "additional_special_tokens" if like == "4" else "extra_special_tokens"
    for key, value in check_keys(file, find_json(file), ignored).items():
        if isinstance(value, dict) and key != "extra_special_tokens":
            settings[key] = _token(file, value, special=True)
        elif isinstance(value, dict) and like == "4":
            raise CheckpointError(f"{file}: transformers 4 cannot read {key} in this file: try --tokenizer-like 5")
        elif key == listed and isinstance(value, list):
            tokens = list(settings.get(key) or [])
            for entry in value:
                if isinstance(entry, dict) and like == "5" and "special" in entry:  # given twice to AddedToken
                    raise CheckpointError(
                        f"{file}: transformers 5 cannot read the token {entry!r} of {key}: write its text alone"
                    )
                token = _token(file, entry, special=True) if isinstance(entry, dict) else entry
                if token not in tokens:
                    tokens.append(token)
            settings[key] = tokens
        else:
            settings[key] = value


def _read_added(
    folder: Path, special: frozenset[str], source: Mapping[str, Any] | None, like: TokenizerLike
) -> tuple[dict[int, AddedToken], dict[str, AddedToken]]:
    """Return the tokens of added_tokens.json and tokenizer.json by id and by text; the latter file's are preferred."""
    file = folder / "added_tokens.json"
    decoder: dict[int, AddedToken] = {}
    by_text: dict[str, AddedToken] = {}
    for text, number in find_json(file).items():
        if not isinstance(number, int):
            raise CheckpointError(f"{file} has the id {number!r} for the token {text!r}, which is no number")
        decoder[number] = AddedToken(text, normalized=text not in special, special=text in special)
        if (
            like == "5"
        ):  # 4.57 files it under another text, so that a special token of this text keeps its own properties
            by_text[text] = decoder[number]
    for entry in source.get("added_tokens", ()) if source is not None else ():
        token = _token(folder / "tokenizer.json", {key: value for key, value in entry.items() if key != "id"})
        decoder[entry["id"]] = by_text[token.content] = token
    return decoder, by_text


def _take_specific(settings: dict[str, Any], texts: Sequence[str], like: TokenizerLike) -> dict[str, Any]:
    """Return the special tokens of one model, such as `image_token`, and take them out of the settings.

    Args:
        settings: tokenizer_config.json, tokens decoded.
        texts: keys whose values are written as texts: transformers 5 looks for them before it decodes tokens.
        like: version of transformers to follow.
    """
    specific: dict[str, Any] = {}
    if like == "5":
        specific = {key: settings.pop(key) for key in texts if _is_specific(key, settings[key])}
    if isinstance(settings.get("extra_special_tokens"), dict):
        specific |= settings.pop("extra_special_tokens")
    listed = settings.pop("model_specific_special_tokens", None)
    if like == "5" and not specific and isinstance(listed, dict):  # other names replace the list
        specific = listed
    return specific


def _is_specific(key: str, value: Any) -> bool:
    return key.endswith("_token") and key not in SPECIAL_TOKENS and isinstance(value, (str, AddedToken))


def _read_list(file: Path, settings: dict[str, Any], like: TokenizerLike) -> tuple[Token, ...] | None:
    """Return the special tokens without a name, and take them out of the settings; None if there is no list."""
    if like == "4" and "extra_special_tokens" in settings:
        raise CheckpointError(
            f"{file.parent}: extra_special_tokens of the tokenizer is not an object, and transformers 4 reads no list: "
            "convert the checkpoint with --tokenizer-like 5"
        )
    lists = {"additional_special_tokens", *(["extra_special_tokens"] if like == "5" else [])} & settings.keys()
    additional = settings.pop("additional_special_tokens", None)
    extra = settings.pop("extra_special_tokens", None)
    tokens = extra if "extra_special_tokens" in lists else additional
    if not isinstance(tokens, (list, tuple, type(None))) or not all(
        isinstance(token, (str, AddedToken)) for token in tokens or ()
    ):
        raise CheckpointError(
            f"{file.parent}: the additional special tokens {tokens!r} are neither texts nor AddedTokens: write their texts"
        )
    return tuple(tokens or ()) if lists else None
