"""`FastTokenizer`: the package nanotoken, a WordPiece tokenizer that is faster than HuggingFace's.

It is used only if it reproduces HuggingFace's token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from ..errors import ArtifactError
from ..os_errors import explain
from .conformance_texts import hostile_texts

__all__ = ["PACKAGE", "FastTokenizer", "NotUsed", "fast_version", "open_fast", "package_problem"]

PACKAGE = "nanotoken"
FAST_INSTALL = "pip install 'longbow-fletcher[fast-tokenizer]'"
#: The version that was compared with `tokenizers` text by text; the first two numbers must be equal.
KNOWN = "0.1"

#: Approximate number of vocabulary words that are compared before the tokenizer is used.
WORDS = 480

#: Smallest number of texts for which nanotoken's own threads are faster than one thread.
PARALLEL_TEXTS = 64


class FastTokenizer:
    """Tokenizer that returns flat arrays of ids, without a Python object per token and without holding the GIL.

    Attributes:
        name: the package and its version.
    """

    def __init__(self, backend: Any, name: str) -> None:
        self.name = name
        self._backend = backend
        self._encode_one = backend.backend.encode  # bypasses the wrapper, which only chooses threads

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return token ids with their special tokens, int32, (tokens,), and row offsets, int64, (n + 1,).

        Raises:
            UnicodeEncodeError: a text is not valid Unicode.
        """
        if len(texts) == 1:
            ids = self._encode_one(texts[0])
            return ids.view(np.int32), np.array([0, len(ids)])
        # None lets nanotoken choose. In a forked process its pool has no threads, and a parallel call never ends.
        ragged = self._backend.encode_batch(texts, parallel=None if len(texts) >= PARALLEL_TEXTS else False)
        return ragged.ids.view(np.int32), ragged.offsets

    def encode_plain(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of one text without special tokens, int32, (tokens,)."""
        ids: NDArray[np.int32] = self._encode_one(text, False).view(np.int32)
        return ids


@dataclass(frozen=True, slots=True)
class NotUsed:
    """Reason why the fast tokenizer is not used.

    Attributes:
        reason: the reason as text for display.
        fault: whether the package is faulty. A package that is not installed, or that does not support this kind of
            tokenizer, is not faulty.
    """

    reason: str
    fault: bool


def open_fast(file: Path, reference: HuggingFaceTokenizer) -> FastTokenizer | NotUsed:
    """Open the fast tokenizer if it reproduces the reference on every hostile text.

    Args:
        file: a `tokenizer.json`.
        reference: HuggingFace's tokenizer of that file, without truncation and padding.

    Returns:
        The tokenizer, or the reason why it is not used.
    """
    problem = package_problem()  # checked before the import, because another version may have other names
    if problem is not None:
        return problem
    name = f"{PACKAGE} {fast_version()}"
    try:
        from nanotoken import Tokenizer
    except ImportError as error:
        return NotUsed(f"{name} cannot be imported ({error}): {FAST_INSTALL}", fault=True)
    try:
        fast = FastTokenizer(Tokenizer.from_json(file.read_bytes()), name)
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {explain(error)}") from error
    except ValueError as error:  # nanotoken's UnsupportedTokenizerError is a subclass
        return NotUsed(f"{name} does not support this kind of tokenizer: {error}", fault=False)
    try:
        difference = _difference(fast, reference)
    except Exception as error:  # noqa: BLE001  an error for a text that tokenizers accepts is a difference too
        difference = f"{fast.name} fails on a text that tokenizers accepts: {type(error).__name__}: {error}"
    return fast if difference is None else NotUsed(difference, fault=True)


def package_problem() -> NotUsed | None:
    """Return the reason why the package cannot be used for any tokenizer, or None. The package is not imported."""
    version = fast_version()
    if version is None:
        return NotUsed(f"{PACKAGE} is not installed: {FAST_INSTALL}", fault=False)
    if not version.startswith(f"{KNOWN}."):
        return NotUsed(
            f"{PACKAGE} {version} is not the version that was compared with tokenizers: install {PACKAGE} {KNOWN}",
            fault=True,
        )
    return None


def fast_version() -> str | None:
    """Return the package's version, or None if it is not installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def _difference(fast: FastTokenizer, reference: HuggingFaceTokenizer) -> str | None:
    """Return a description of the first text for which the two give different ids, or None."""
    added = [token.content for _, token in sorted(reference.get_added_tokens_decoder().items())]
    # Words are looked up by id: making a dictionary of BERT's vocabulary takes tens of milliseconds. Ids may have gaps.
    size = reference.get_vocab_size()
    words = [reference.id_to_token(number) for number in range(0, size, max(size // WORDS, 1))]
    texts = hostile_texts(added, [word for word in words if word is not None])
    ids, offsets = fast.encode(texts)
    for text, expected, start, end in zip(
        texts, reference.encode_batch_fast(texts), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True
    ):
        if ids[start:end].tolist() != expected.ids or fast.encode([text])[0].tolist() != expected.ids:
            return f"{fast.name} gives other ids than tokenizers for {text[:60]!a}"
    return None
