"""The artifact's tokenizer.json: it alone gives the ids that transformers makes of all tokenizer files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.tokenizing.tokenizer import vocabulary_size

from ..checkpoint import Checkpoint
from ..json_files import find_json, read_json
from ..sentence_transformers import read_files
from ..tokenizer_settings import check_keys
from ..tokenizer_version import TokenizerLike, named_version, strips_texts
from .arguments import read_arguments
from .classes import GENERIC, TokenizerClass, class_name, find_class
from .loaded_by_transformers import load_with_transformers
from .pipeline import adjust, build, check_ids, finish, read_vocabulary, rebuild, unknown_token
from .sentencepiece import FILES, build_sentencepiece
from .tokens import add_tokens

__all__ = ["WrittenTokenizer", "check_mask", "gives_token_types", "write_tokenizer"]

#: Command that makes a tokenizer.json of other files.
SAVE_FAST = (
    "Make a tokenizer.json in a copy of the checkpoint: "
    "python -c \"import transformers as t; t.AutoTokenizer.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
)

#: Files that hold a vocabulary, besides tokenizer.json.
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "*.spm", "*.tiktoken", "tekken.json")

#: Sections of tokenizer.json.
SECTIONS = frozenset(
    {
        "version",
        "truncation",
        "padding",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
    }
)

#: Length in the truncation section of tokenizer.json, whose direction alone the runtime reads; no text reaches it.
UNLIMITED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WrittenTokenizer:
    """Facts of the written tokenizer for the artifact's manifest.

    Attributes:
        like: version of transformers that it follows.
        strips_texts: whether the blanks around a text are removed before it.
    """

    like: TokenizerLike
    strips_texts: bool


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A tokenizer as transformers loads it.

    Attributes:
        tokenizer: tokenizer without truncation and padding.
        left: whether a text that is too long is cut at its beginning.
        types: whether the model receives token types.
    """

    tokenizer: Tokenizer
    left: bool
    types: bool


def write_tokenizer(checkpoint: Checkpoint, path: Path, num_rows: int) -> WrittenTokenizer:
    """Write `tokenizer.json` for the artifact.

    Args:
        checkpoint: checkpoint with the tokenizer.
        path: file to write.
        num_rows: rows of the word embeddings.

    Raises:
        CheckpointError: a file of the tokenizer cannot be read, says something that Fletcher does not reproduce, or the
            tokenizer has more ids than the embeddings have rows.
        MissingPackageError: Fletcher does not reproduce the tokenizer's class, and transformers is not installed.
    """
    like = _like(checkpoint)
    loaded = _load(checkpoint, like)
    tokenizer = loaded.tokenizer
    size = vocabulary_size(tokenizer)
    if size > num_rows:
        beyond = [repr(tokenizer.id_to_token(number)) for number in range(num_rows, min(size, num_rows + 5))]
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} has ids up to {size - 1}, the embedding table {num_rows} rows: there is "
            f"none for {', '.join(beyond)}{', …' if size > num_rows + 5 else ''}. Look into {_places(checkpoint.folder)}"
        )
    _lower_case(checkpoint.folder, tokenizer, like)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if loaded.left:
        tokenizer.enable_truncation(UNLIMITED, direction="left")
    description = json.loads(tokenizer.to_str())
    _check_unknown(checkpoint.folder, description["model"])
    if not loaded.types:
        _clear_types(description["post_processor"])
    # Not by `save`, which has a bare Exception for a full disk.
    path.write_text(json.dumps(description, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    strips = strips_texts(checkpoint.folder, checkpoint.tokenizer_like, like) and not _drops_blanks(tokenizer)
    return WrittenTokenizer(like, strips)


def gives_token_types(checkpoint: Checkpoint) -> bool | None:
    """Return whether the tokenizer gives the model token types; None if its class is not one that Fletcher reproduces."""
    settings = find_json(checkpoint.folder / "tokenizer_config.json")
    like = _like(checkpoint)
    kind = find_class(class_name(checkpoint.config, settings, like))
    return None if kind is None else _has_types(settings, kind, like)


def check_mask(checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer without an attention mask, which the reference of sparse vectors and of ColBERT needs.

    Source: sentence-transformers' `SpladePooling.forward` and `MultiVectorMask.forward`.

    Raises:
        CheckpointError: `model_input_names` leaves the mask out.
    """
    file = checkpoint.folder / "tokenizer_config.json"
    inputs = find_json(file).get("model_input_names")
    if isinstance(inputs, list) and "attention_mask" not in inputs:
        raise CheckpointError(
            f"{file}: model_input_names is {inputs}, without attention_mask, which sentence-transformers needs for this kind "
            "of model: add it in a copy"
        )


def _like(checkpoint: Checkpoint) -> TokenizerLike:
    return checkpoint.tokenizer_like or named_version(checkpoint.folder, checkpoint.config)


def _has_types(settings: Mapping[str, Any], kind: TokenizerClass, like: TokenizerLike) -> bool:
    inputs = settings.get("model_input_names")
    return "token_type_ids" in inputs if isinstance(inputs, list) else like in kind.types


def _load(checkpoint: Checkpoint, like: TokenizerLike) -> _Loaded:
    folder = checkpoint.folder
    file = folder / "tokenizer_config.json"
    settings = find_json(file)
    if not isinstance(settings.get("tokenizer_class"), str | None) or settings.get("tokenizer_class") == "":
        raise CheckpointError(f"{file}: tokenizer_class is {settings['tokenizer_class']!r}, not the name of a class")
    kind = find_class(class_name(checkpoint.config, settings, like))
    source, stored = _read_source(folder / "tokenizer.json")
    if kind is not None and kind.kind == "llama" and like == "5" and _is_byte_level(folder / "tokenizer.json"):
        kind = find_class(GENERIC[0])  # transformers 5 takes the file as it is: Llama 3's names Llama 2's class
    if kind is None and stored is None and not _has_vocabulary(folder):
        raise CheckpointError(f"{folder} has no tokenizer: neither tokenizer.json nor a vocabulary. Fetch it again")
    names = (settings.get("tokenizer_class"), checkpoint.config.get("tokenizer_class"))
    if like == "4" and "TokenizersBackend" in names:
        raise CheckpointError(
            f"{folder} has the tokenizer_class TokenizersBackend, which transformers 4 lacks: choose --tokenizer-like 5"
        )
    if kind is None:
        name = settings.get("tokenizer_class") or checkpoint.config.get("tokenizer_class")
        check_keys(file, {key: value for key, value in settings.items() if key == "auto_map"}, checkpoint.ignored)
        other = load_with_transformers(folder, like, name if isinstance(name, str) else None)
        return _Loaded(
            other.backend_tokenizer, other.truncation_side == "left", "token_type_ids" in other.model_input_names
        )
    arguments = read_arguments(folder, source, like, checkpoint.ignored)
    if source is not None and stored is not None:
        rebuilt = like == "5" and kind.kind != "generic"
        tokenizer = rebuild(kind, arguments, source) if rebuilt else stored
    else:
        if (folder / "tokenizer.model").is_file():
            raise CheckpointError(
                f"{folder} has tokenizer.model and no tokenizer.json: transformers takes that file before another "
                f"vocabulary. {SAVE_FAST}"
            )
        model = read_vocabulary(folder, kind, like, unknown_token(kind, arguments))
        pieces = build_sentencepiece(folder, kind, arguments, like) if model is None else None
        if pieces is not None:
            tokenizer, arguments = pieces
        elif model is not None:
            tokenizer = build(kind, arguments, model)
        else:
            raise CheckpointError(_explain_missing(folder, kind))
        rebuilt = True
    named = add_tokens(tokenizer, kind, arguments, like)
    for number, token in arguments.decoder.items() if stored is None and like == "4" else ():
        ends = [str(named.get(key)) for key in ("cls_token", "sep_token")]
        checked = str(token) in ends or (kind.kind in FILES and tokenizer.id_to_token(number) is not None)
        if checked and tokenizer.token_to_id(str(token)) != number:
            raise CheckpointError(
                f"{folder} gives the token {str(token)!r} the id {number}, and its vocabulary another: make them agree in "
                "a copy"
            )
    processor = None if stored is None else stored.post_processor
    if rebuilt:
        finish(tokenizer, kind, arguments, named, processor)
    elif like == "4":
        adjust(tokenizer, kind, arguments, named)
        _check_normalized(folder, Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer)
    if tokenizer.post_processor is None:  # says the same as none, in transformers 5 with these words
        tokenizer.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    direction = stored.truncation["direction"] if stored is not None and stored.truncation else "right"
    side = arguments.settings.get("truncation_side", direction)
    if side not in ("left", "right"):
        raise CheckpointError(f"{file} has truncation_side {side!r}: choose left or right")
    return _Loaded(tokenizer, side == "left", _has_types(settings, kind, like))


def _read_source(file: Path) -> tuple[dict[str, Any] | None, Tokenizer | None]:
    """Return tokenizer.json as JSON and as a tokenizer; nothing if there is no such file."""
    if not file.is_file():
        return None, None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception for every failure
        raise CheckpointError(f"{file} cannot be read as a tokenizer: {error}") from error
    source = read_json(file)
    if unknown := sorted(source.keys() - SECTIONS):
        raise CheckpointError(f"{file} has sections that Fletcher does not know: {', '.join(unknown)}")
    if "added_tokens" not in source:
        raise CheckpointError(f"{file} lacks the section added_tokens, without which transformers does not read it")
    if dropout := source["model"].get("dropout"):
        raise CheckpointError(
            f"{file} has the dropout {dropout}: every text gets other token ids each time. Set it to null in a copy"
        )
    _check_source(file, source, tokenizer)
    return source, tokenizer


def _is_byte_level(file: Path) -> bool:
    """Return whether tokenizer.json has a part that works on bytes, by the text that transformers looks for."""
    return file.is_file() and '"ByteLevel"' in file.read_text(encoding="utf-8")


def _places(folder: Path) -> str:
    """Return the files that can add tokens, as far as the checkpoint has them."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    patterns = (*names, *VOCABULARIES)
    return ", ".join(sorted(file.name for pattern in patterns for file in folder.glob(pattern)))


def _check_source(file: Path, source: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer.json that loads and then fails on texts, that leaves texts out, or that gives two tokens one id.

    Raises:
        CheckpointError: it does.
    """
    vocabulary = source["model"].get("vocab")
    if isinstance(vocabulary, dict):
        check_ids(file, vocabulary)
    try:
        tokenizer.encode("a word", "another one")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of tokenizers is not an Exception
        raise CheckpointError(f"{file} cannot be read as a tokenizer: it fails on texts: {error}") from error
    processor = source.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing" and not any("Sequence" in piece for piece in step["single"]):
            raise CheckpointError(f"{file}: the template `single` of its post_processor leaves the text out")


def _has_vocabulary(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in VOCABULARIES)


def _explain_missing(folder: Path, kind: TokenizerClass) -> str:
    """Return a message for a checkpoint without the vocabulary of its tokenizer's class."""
    present = sorted(file.name for pattern in VOCABULARIES for file in folder.glob(pattern))
    if not present:
        return f"{folder} has neither tokenizer.json nor a vocabulary: fetch the checkpoint again"
    words = {"WordPiece": "vocab.txt", "BPE": "vocab.json and merges.txt"}
    needed = FILES.get(kind.kind) or words.get(kind.model or "", "tokenizer.json")
    return (
        f"{folder} has no tokenizer.json but {', '.join(present)}, of which Fletcher does not make a {kind.name} "
        f"(it needs {needed}). {SAVE_FAST}"
    )


def _check_normalized(folder: Path, stored: Tokenizer, tokenizer: Tokenizer) -> None:
    """Check that added tokens are found in a text as transformers 4 finds them.

    Its library normalizes an added token once, when it is added or read from tokenizer.json. If the token's properties or the
    normalizer change afterwards, the token stays as it was, which no tokenizer.json can express.

    Args:
        folder: the checkpoint, for messages.
        stored: tokenizer.json as it was read.
        tokenizer: the tokenizer with all changes.

    Raises:
        CheckpointError: a token would be found in other texts.
    """

    def normalized(normalizer: Any, text: str) -> str:
        return text if normalizer is None else str(normalizer.normalize_str(text))

    before = {token.content: token for token in stored.get_added_tokens_decoder().values()}
    for token in tokenizer.get_added_tokens_decoder().values():
        old, new = (normalized(part.normalizer, token.content) for part in (stored, tokenizer))
        first = before.get(token.content, token)
        changed = first.normalized != token.normalized and new != token.content
        if changed or (token.normalized and old != new):
            raise CheckpointError(
                f"{folder}: the tokenizer's files contradict each other on the added token {token.content!r}, so that "
                "transformers 4 gives it other ids than any tokenizer.json would: give it the same properties in all of "
                "them, in a copy, or choose --tokenizer-like 5"
            )


def _check_unknown(folder: Path, model: Mapping[str, Any]) -> None:
    """Check that a vocabulary of words has the token that stands for unknown ones, without which a text can fail.

    Raises:
        CheckpointError: it has none.
    """
    if model["type"] in ("WordPiece", "WordLevel") and model["unk_token"] not in model["vocab"]:
        raise CheckpointError(
            f"{folder}: the vocabulary of the tokenizer lacks the unk_token {model['unk_token']!r}, so that texts with "
            "unknown words would fail, as they do with transformers: name the right one in a copy of tokenizer_config.json"
        )


def _lower_case(folder: Path, tokenizer: Tokenizer, like: TokenizerLike) -> None:
    """Apply `do_lower_case` of sentence_bert_config.json as sentence-transformers 6 does.

    Source: `Transformer.__init__` of sentence-transformers 6.2.

    Raises:
        CheckpointError: sentence-transformers 5 lower-cases the text in Python, special tokens included.
    """
    transformer = read_files(folder).transformer
    if transformer is None or not transformer.do_lower_case:
        return
    if like == "4":
        raise CheckpointError(
            f"{folder} asks for lower case before its tokenizer (do_lower_case). sentence-transformers 5 lower-cases the "
            "special tokens in a text, too, which Fletcher does not reproduce: convert it with --tokenizer-like 5, or "
            "without the key in a copy"
        )
    normalizer = tokenizer.normalizer
    steps: list[Any] = [] if normalizer is None else [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = [normalizer[index] for index in range(len(normalizer))]
    if not any(
        isinstance(step, normalizers.Lowercase) for step in steps
    ):  # `_has_lowercase`; BERT's own does not count
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _drops_blanks(tokenizer: Tokenizer) -> bool:
    """Return whether blanks around a text never change its ids: BERT's normalizer and pre-tokenizer drop them."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    return (
        isinstance(normalizer, normalizers.BertNormalizer)
        and bool(normalizer.clean_text)
        and isinstance(pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    )


def _clear_types(processor: Any) -> None:
    """Give the second text of a pair the token type 0: the model receives no types, and transformers' models then take 0."""
    if not isinstance(processor, dict):
        return
    match processor.get("type"):
        case "TemplateProcessing":
            for piece in (*processor["single"], *processor["pair"]):
                for part in piece.values():
                    part["type_id"] = 0
        case "Sequence":
            for step in processor["processors"]:
                _clear_types(step)
        case "BertProcessing":
            template = json.loads(_bert_template(processor["cls"], processor["sep"]).__getstate__())
            processor.clear()
            processor.update(template)


def _bert_template(cls: list[Any], sep: list[Any]) -> TemplateProcessing:
    return TemplateProcessing(
        single=[cls[0], "$A", sep[0]],
        pair=[cls[0], "$A", sep[0], "$B", sep[0]],
        special_tokens=[(cls[0], cls[1]), (sep[0], sep[1])],
    )
