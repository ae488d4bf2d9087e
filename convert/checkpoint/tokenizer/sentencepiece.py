"""Tokenizers of SentencePiece models without tokenizer.json, converted as transformers converts them.

Sources: `sentencepiece_model.proto` of github.com/google/sentencepiece; `convert_slow_tokenizer.py` of transformers 4.57,
whose pipeline differs from the one that the classes of 5.24 build.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from fletcher.runtime.errors import CheckpointError

from ..tokenizer_version import TokenizerLike
from .arguments import Arguments
from .classes import TokenizerClass
from .pipeline import SPACE, albert_steps, build

__all__ = ["FILES", "SentencePiece", "build_sentencepiece", "read_sentencepiece"]

#: Name of a class's SentencePiece model, by the kind of its pipeline.
FILES: Mapping[str, str] = MappingProxyType(
    {"albert": "spiece.model", "camembert": "sentencepiece.bpe.model", "xlm_roberta": "sentencepiece.bpe.model"}
)

#: Types of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
#: Types of models.
UNIGRAM = 1


@dataclasses.dataclass(frozen=True, slots=True)
class SentencePiece:
    """A SentencePiece model.

    Attributes:
        pieces: text, score and type of each piece.
        kind: type of the model; `UNIGRAM` or another one.
        unknown: number of the piece for unknown characters.
        charsmap: table of characters, empty if there is none.
    """

    pieces: tuple[tuple[str, float, int], ...]
    kind: int
    unknown: int
    charsmap: bytes


def read_sentencepiece(file: Path) -> SentencePiece:
    """Read a SentencePiece model, a message of Protocol Buffers.

    Raises:
        CheckpointError: the file is damaged.
    """
    pieces: list[tuple[str, float, int]] = []
    kind, unknown, charsmap = UNIGRAM, 0, b""
    try:
        for number, value in _fields(file.read_bytes()):
            if number == 1:  # SentencePiece
                fields = dict(_fields(value))
                (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
                pieces.append((fields.get(1, b"").decode(), score, fields.get(3, NORMAL)))
            elif number == 2:  # TrainerSpec
                trainer = dict(_fields(value))
                kind, unknown = trainer.get(3, UNIGRAM), trainer.get(40, 0)
            elif number == 3:  # NormalizerSpec
                charsmap = dict(_fields(value)).get(2, b"")
    except (ValueError, IndexError, TypeError, AttributeError, struct.error, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as a SentencePiece model: {error}. Fetch it again") from error
    if not pieces:
        raise CheckpointError(f"{file} is a SentencePiece model without pieces. Fetch it again")
    return SentencePiece(tuple(pieces), kind, unknown, charsmap)


def build_sentencepiece(
    folder: Path, kind: TokenizerClass, arguments: Arguments, like: TokenizerLike
) -> tuple[Tokenizer, Arguments] | None:
    """Return the tokenizer of a SentencePiece model without the tokens of other files, and the class's arguments.

    Args:
        folder: the checkpoint.
        kind: its tokenizer's class.
        arguments: arguments of the class.
        like: version of transformers to follow.

    Returns:
        None if the class has no such model, or the checkpoint lacks the file.

    Raises:
        CheckpointError: the file is damaged, or of a type that the class does not take.
    """
    file = folder / FILES.get(kind.kind, "")
    if kind.kind not in FILES or not file.is_file():
        return None
    model = read_sentencepiece(file)
    if model.kind != UNIGRAM:
        raise CheckpointError(
            f"{file} is a SentencePiece model of the type {model.kind}, and a {kind.name} has type {UNIGRAM}"
        )
    special = tuple(
        AddedToken(text, normalized=False, special=type_ == CONTROL)
        for text, _, type_ in model.pieces
        if type_ in (CONTROL, USER_DEFINED)
    )
    unknown = {"albert": model.unknown if like == "4" else 1}.get(kind.kind, 3)
    try:
        unigram = Unigram(_vocabulary(model, kind, arguments, like), unk_id=unknown, byte_fallback=False)
        if like == "5":
            tokenizer = build(kind, arguments, unigram, model.charsmap or None)
            return tokenizer, dataclasses.replace(arguments, additional=(*special, *(arguments.additional or ())))
        tokenizer = Tokenizer(unigram)
        tokenizer.add_tokens(list(special))
        tokenizer.normalizer = normalizers.Sequence(_steps_of_4(model, kind, arguments))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for every failure
        raise CheckpointError(f"{file} cannot be made a {kind.name}: {error}") from error
    return tokenizer, arguments


def _vocabulary(
    model: SentencePiece, kind: TokenizerClass, arguments: Arguments, like: TokenizerLike
) -> list[tuple[str, float]]:
    """Return the pieces with their scores in the order of their ids, with those that fairseq has put before them."""

    def name(key: str) -> str:
        return str({**kind.tokens, **(arguments.named if like == "5" else {})}.get(key))

    scores = [(text, score) for text, score, _ in model.pieces]
    pad, unknown, mask = ((name(key), 0.0) for key in ("pad_token", "unk_token", "mask_token"))
    match kind.kind:
        case "xlm_roberta":
            return [(name("bos_token"), 0.0), pad, (name("eos_token"), 0.0), unknown, *scores[3:], mask]
        case "camembert":
            unused = [("<s>NOTUSED", 0.0), pad, ("</s>NOTUSED", 0.0), unknown, ("<unk>NOTUSED", -100.0)]
            return [*unused, *scores[1:], mask]
        case _ if like == "4":  # numbers that end with a comma are split before it
            return [(text, score - 100 if _ends_number(text) else score) for text, score in scores]
    return scores


def _ends_number(piece: str) -> bool:
    return len(piece) >= 2 and piece[-1] == "," and piece[-2].isdigit()


def _steps_of_4(model: SentencePiece, kind: TokenizerClass, arguments: Arguments) -> list[Any]:
    table = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if kind.kind == "albert":
        return [*albert_steps(arguments), *table, normalizers.Replace(Regex(" {2,}"), " ")]
    return [*table, normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), SPACE)]


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message: numbers as int, everything else as bytes.

    Raises:
        ValueError: the message is damaged.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if length < 0 or position + length > len(message):
            raise ValueError(f"the field {number} at byte {position} ends after its message")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError(f"a number at byte {position} is too long")
