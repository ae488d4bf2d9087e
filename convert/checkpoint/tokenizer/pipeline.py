"""Pipelines of tokenizers as transformers builds them: 4 changes parts of tokenizer.json, 5 takes its vocabulary alone.

Sources: the classes' `__init__` and `convert_slow_tokenizer.py` of transformers 4.57; the classes' `__init__` and
`TokenizersBackend.convert_to_native_format` of 5.24.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from fletcher.runtime.errors import CheckpointError

from ..tokenizer_version import TokenizerLike
from .arguments import Arguments, Token
from .classes import TokenizerClass

__all__ = [
    "SPACE",
    "adjust",
    "albert_steps",
    "build",
    "check_ids",
    "finish",
    "read_vocabulary",
    "rebuild",
    "unknown_token",
]

#: SentencePiece's sign for a space.
SPACE = "▁"

#: Words of Qwen's tokenizers: contractions, letters with one sign before them, single digits, signs, line ends, blanks.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_vocabulary(folder: Path, kind: TokenizerClass, like: TokenizerLike, unknown: str) -> WordPiece | BPE | None:
    """Return the model of a checkpoint without tokenizer.json, or None if the class's vocabulary files are not there.

    Args:
        folder: the checkpoint.
        kind: its tokenizer's class.
        like: version of transformers to follow: 5 reads the files with the tokenizers library, 4 did with Python.
        unknown: the token for unknown words.

    Raises:
        CheckpointError: a file cannot be read.
    """
    words, ids, merges = (folder / name for name in ("vocab.txt", "vocab.json", "merges.txt"))
    try:
        if kind.model == "WordPiece" and words.is_file():
            if like == "5":
                return WordPiece.from_file(str(words), unk_token=unknown)
            # Lines end at newlines alone: a vocabulary may hold U+2028, at which `splitlines` would split.
            with words.open(encoding="utf-8") as stream:
                return WordPiece({line.rstrip("\n"): number for number, line in enumerate(stream)}, unk_token=unknown)
        if kind.model == "BPE" and ids.is_file() and merges.is_file():
            vocabulary = json.loads(ids.read_text(encoding="utf-8"))
            check_ids(ids, vocabulary)
            if like == "5":
                return BPE(*BPE.read_file(str(ids), str(merges)), **_BPE)
            lines = merges.read_text(encoding="utf-8").split("\n")[1:-1]
            return BPE(vocabulary, [_pair(line) for line in lines], **_BPE)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for every failure
        files = "vocab.txt" if kind.model == "WordPiece" else "vocab.json or merges.txt"
        raise CheckpointError(f"{folder}: {files} cannot be read: {error}") from error
    return None


def check_ids(file: Path, vocabulary: Mapping[str, Any]) -> None:
    """Refuse a vocabulary in which two tokens have one id: which of them a library keeps is chance.

    Raises:
        CheckpointError: two tokens have one id.
    """
    owners: dict[Any, str] = {}
    for token, number in vocabulary.items():
        if (other := owners.setdefault(number, token)) != token:
            raise CheckpointError(f"{file}: the tokens {other!r} and {token!r} of the vocabulary have one id, {number}")


_BPE: Mapping[str, Any] = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split()
    return first, second


def adjust(tokenizer: Tokenizer, kind: TokenizerClass, arguments: Arguments, named: Mapping[str, Token]) -> None:
    """Change tokenizer.json's pipeline as the classes of transformers 4 do, after the tokens were added.

    Args:
        tokenizer: tokenizer that is changed.
        kind: its class.
        arguments: its arguments.
        named: special tokens by name.

    Raises:
        CheckpointError: transformers would fail: there is no normalizer that it could change, or no token to put around a
            text; or it would take another file.
    """
    if kind.kind == "llama" and arguments.settings.get("add_prefix_space") is not None:
        raise CheckpointError(
            f"{arguments.folder}: add_prefix_space of the tokenizer is set, so that transformers 4 makes a new tokenizer of "
            "tokenizer.model: save the new one with transformers, or choose --tokenizer-like 5"
        )
    if kind.kind in {"llama", "gemma"}:
        _put_ends(tokenizer, kind, arguments, named)
    # Only a pre-tokenizer that stands alone has the key; in a Sequence it is left as it is.
    pre_tokenizer = _state(tokenizer.pre_tokenizer)
    add_prefix_space = _prefix_space(kind, arguments, False)
    if pre_tokenizer.get("add_prefix_space", add_prefix_space) != add_prefix_space:
        fields = {**pre_tokenizer, "add_prefix_space": add_prefix_space}
        tokenizer.pre_tokenizer = getattr(pre_tokenizers, fields.pop("type"))(**fields)
    if kind.kind not in {"bert", "mpnet"}:
        return
    if tokenizer.normalizer is None:
        raise CheckpointError(
            f"{arguments.folder / 'tokenizer.json'} has no normalizer, and transformers 4 cannot load a {kind.name} without "
            "one: try --tokenizer-like 5"
        )
    settings = {"lowercase": arguments.flag("do_lower_case", True), "strip_accents": _strip_accents(arguments)}
    if kind.kind == "bert":
        settings["handle_chinese_chars"] = arguments.flag("tokenize_chinese_chars", True)
    state = _state(tokenizer.normalizer)
    if any(state.get(key, value) != value for key, value in settings.items()):
        state.update(settings)
        tokenizer.normalizer = getattr(normalizers, state.pop("type"))(**state)


def _prefix_space(kind: TokenizerClass, arguments: Arguments, default: bool) -> bool:
    """Return `add_prefix_space`; the classes of language models take null for their default."""
    if kind.kind in {"qwen2", "llama", "gemma"} and arguments.settings.get("add_prefix_space") is None:
        return default
    return arguments.flag("add_prefix_space", default)


def build(kind: TokenizerClass, arguments: Arguments, model: Any, charsmap: bytes | None = None) -> Tokenizer:
    """Return the pipeline that transformers 5 builds around a model, without added tokens.

    For a vocabulary without tokenizer.json, it is that of transformers 4, too.

    Args:
        kind: the class.
        arguments: its arguments.
        model: model of the tokenizers library.
        charsmap: SentencePiece's table of characters, of tokenizer.json's normalizer.

    Raises:
        CheckpointError: a setting has a wrong type.
    """
    tokenizer = Tokenizer(model)
    space = _prefix_space(kind, arguments, kind.kind not in {"roberta", "qwen2"})
    match kind.kind:
        case "bert" | "mpnet":
            tokenizer.normalizer = normalizers.BertNormalizer(
                clean_text=True,
                handle_chinese_chars=arguments.flag("tokenize_chinese_chars", True),
                strip_accents=_strip_accents(arguments),
                lowercase=arguments.flag("do_lower_case", True),
            )
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        case "roberta":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
        case "qwen2":
            tokenizer.normalizer = normalizers.NFC()
            words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated", invert=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [words, pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)]
            )
        case "llama":
            # Without `legacy`, the first word of a text alone has a space before it.
            first = "always" if arguments.flag("legacy", False) else "first"
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                replacement=SPACE, prepend_scheme=first if space else "never", split=False
            )
        case "gemma":
            tokenizer.normalizer = normalizers.Replace(" ", SPACE)
            tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
        case _:
            steps = [] if charsmap is None else [normalizers.Precompiled(charsmap)]
            if kind.kind == "albert":
                tokenizer.normalizer = normalizers.Sequence([*albert_steps(arguments), *steps])
            elif steps:
                tokenizer.normalizer = steps[0]
            scheme = "always" if space else "never"
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
            )
    return tokenizer


def finish(
    tokenizer: Tokenizer, kind: TokenizerClass, arguments: Arguments, named: Mapping[str, Token], source: Any
) -> None:
    """Set the special tokens around a text, after the tokens were added, as the class does.

    Args:
        tokenizer: tokenizer that is changed.
        kind: its class.
        arguments: its arguments, for messages.
        named: special tokens by name.
        source: tokenizer.json's post-processor, which ALBERT's class prefers; None if there is none.

    Raises:
        CheckpointError: the class's special tokens are not in the vocabulary.
    """

    def token(key: str) -> tuple[str, int]:
        text = str(named[key]) if named.get(key) is not None else None
        number = None if text is None else tokenizer.token_to_id(text)
        if text is None or number is None:
            raise _missing(arguments, kind, key, text)
        return text, number

    match kind.kind:
        case "bert":
            cls, sep = token("cls_token"), token("sep_token")
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{cls[0]}:0 $A:0 {sep[0]}:0",
                pair=f"{cls[0]}:0 $A:0 {sep[0]}:0 $B:1 {sep[0]}:1",
                special_tokens=[cls, sep],
            )
        case "mpnet" | "roberta":
            tokenizer.post_processor = processors.RobertaProcessing(token("sep_token"), token("cls_token"))
        case "xlm_roberta" | "camembert":
            start, end = token("bos_token"), token("eos_token")
            tokenizer.post_processor = processors.TemplateProcessing(
                single=[start[0], "$A", end[0]],
                pair=[start[0], "$A", end[0], end[0], "$B", end[0]],
                special_tokens=[start, end],
            )
        case "albert" if source is None:
            cls, sep = token("cls_token"), token("sep_token")
            tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS]:0 $A:0 [SEP]:0",
                pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                special_tokens=[("[CLS]", cls[1]), ("[SEP]", sep[1])],
            )
        case "albert" | "qwen2" | "llama" | "gemma":
            if source is not None:
                tokenizer.post_processor = source


def _put_ends(tokenizer: Tokenizer, kind: TokenizerClass, arguments: Arguments, named: Mapping[str, Token]) -> None:
    """Put the first and the last token around a text, as `add_bos_token` and `add_eos_token` say (`update_post_processor`).

    Raises:
        CheckpointError: a token that is asked for has no name, or is not in the vocabulary.
    """
    ends, special = {}, []
    for key, default in (("bos", True), ("eos", False)):
        ends[key] = ""
        if arguments.flag(f"add_{key}_token", default):
            text = None if named.get(f"{key}_token") is None else str(named[f"{key}_token"])
            number = None if text is None else tokenizer.token_to_id(text)
            if text is None or number is None:
                raise _missing(arguments, kind, f"{key}_token", text)
            ends[key] = text
            special.append((text, number))

    def around(text: str, number: int) -> list[str]:
        pieces = (ends["bos"], text, ends["eos"])
        return [f"{piece}:{number}" for piece in pieces if piece]

    single = around("$A", 0)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, *around("$B", 1)], special_tokens=special
    )


def rebuild(kind: TokenizerClass, arguments: Arguments, source: Mapping[str, Any]) -> Tokenizer:
    """Return the pipeline that transformers 5 builds around the vocabulary in tokenizer.json, whose other parts it replaces.

    Args:
        kind: the class.
        arguments: its arguments.
        source: tokenizer.json.

    Raises:
        CheckpointError: the vocabulary is not of the class's kind, or a setting has a wrong type.
    """
    charsmaps = _charsmaps(source)
    if kind.kind == "albert":  # its class looks for them before tokens are added
        pieces = {entry[0] for entry in source["model"].get("vocab", ())}
        for key in ("cls_token", "sep_token"):
            if (text := str({**kind.tokens, **arguments.named}.get(key))) not in pieces:
                raise _missing(arguments, kind, key, text)
    return build(kind, arguments, _model(kind, arguments, source), charsmaps[0] if charsmaps else None)


def _model(kind: TokenizerClass, arguments: Arguments, source: Mapping[str, Any]) -> Any:
    unknown = unknown_token(kind, arguments)
    description = source["model"]
    vocabulary = description.get("vocab")
    try:
        match kind.model:
            case "WordPiece":
                return WordPiece(_by_token(vocabulary), unk_token=unknown)
            case "BPE":
                merges = [
                    tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in description["merges"]
                ]
                return BPE(_by_token(vocabulary), merges, **_bpe_settings(kind, unknown))
        scores = [tuple(entry) for entry in vocabulary]
        number = {"albert": 1, "xlm_roberta": 3}.get(kind.kind)
        if number is None:
            number = next((index for index, (text, _) in enumerate(scores) if text == unknown), 0)
        return Unigram(scores, unk_id=number, byte_fallback=False)
    except Exception as error:  # tokenizers raises bare Exception for every failure
        raise CheckpointError(
            f"{arguments.folder}: tokenizer.json holds a vocabulary of the type {description.get('type')}, and "
            f"transformers 5 makes a {kind.name} of it, which needs {kind.model} ({error}): name the right "
            "tokenizer_class in tokenizer_config.json"
        ) from error


def _bpe_settings(kind: TokenizerClass, unknown: str) -> Mapping[str, Any]:
    """Return the settings that a class gives to its model."""
    match kind.kind:
        case "llama":
            return {"fuse_unk": True, "byte_fallback": True}
        case "gemma":
            return {"fuse_unk": True, "byte_fallback": True, "unk_token": unknown}
    return _BPE


def _missing(arguments: Arguments, kind: TokenizerClass, key: str, text: str | None) -> CheckpointError:
    return CheckpointError(
        f"{arguments.folder}: the {key} {text!r} of the {kind.name} is not in its vocabulary: name the right one in a "
        "copy of tokenizer_config.json"
    )


def unknown_token(kind: TokenizerClass, arguments: Arguments) -> str:
    """Return the text of the token for unknown words."""
    return str({**kind.tokens, **arguments.named}.get("unk_token"))


def _by_token(vocabulary: Any) -> dict[str, int]:
    if isinstance(vocabulary, list):
        return {entry[0] if isinstance(entry, list) else entry: number for number, entry in enumerate(vocabulary)}
    return dict(vocabulary)


def albert_steps(arguments: Arguments) -> list[Any]:
    """Return the steps of ALBERT's normalizer before SentencePiece's table of characters."""
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not arguments.flag("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if arguments.flag("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return steps


def _charsmaps(source: Mapping[str, Any]) -> list[bytes]:
    """Return SentencePiece's tables of characters in tokenizer.json's normalizer, of which transformers takes the first."""
    normalizer = source.get("normalizer")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    return [base64.b64decode(step["precompiled_charsmap"]) for step in steps if step.get("type") == "Precompiled"]


def _strip_accents(arguments: Arguments) -> bool | None:
    return None if arguments.settings.get("strip_accents") is None else arguments.flag("strip_accents", False)


def _state(part: Any) -> dict[str, Any]:
    """Return a part of the pipeline as tokenizer.json describes it; nothing for a part that is not there."""
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state
