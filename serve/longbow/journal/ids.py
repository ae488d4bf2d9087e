"""Ids of documents: given by the user, or derived from the content or the name. Longbow requires ids below 2^32.

Derived ids collide: among a million documents, about 116 share their first id with another one (n² / 2 / 2^32). Such a
document gets its second id, and so on (`candidate`). The journal stores the id of each document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fletcher.runtime.errors import InputError

from ..wire.schema import MAX_ID

__all__ = ["candidate", "content_digest", "digester", "key_of", "whole_number"]

#: Size of a digest: the probability that two of a billion documents share one is below 2e-21.
DIGEST_BYTES = 16


def digester(identity: bytes) -> Callable[[str], bytes]:
    """Return a function that computes the digest of a text, together with everything else that its vector depends on.

    Args:
        identity: bytes that identify the model, its variant and the options.
    """
    start = hashlib.blake2b(identity, digest_size=DIGEST_BYTES)

    def digest(text: str) -> bytes:
        state = start.copy()
        state.update(text.encode())
        return state.digest()

    return digest


content_digest = digester(b"")


def key_of(name: str) -> bytes:
    """Return the key of a named document, 16 bytes. It does not depend on the content."""
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"fletcher-key").digest()


def candidate(key: bytes, choice: int) -> int:
    """Return the first, second, … id of a document. It is the same on every machine and in every run.

    Args:
        key: key of the document, 16 bytes.
        choice: number of the choice, from 0.
    """
    if choice < 4:
        return int.from_bytes(key[4 * choice : 4 * choice + 4], "big")
    more = hashlib.blake2b(key + choice.to_bytes(4, "big"), digest_size=4).digest()
    return int.from_bytes(more, "big")


def whole_number(value: object) -> int:
    """Check an id that the user gives, and return it.

    Raises:
        InputError: the id is not an integer from 0 to 2^32 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"the id is a {type(value).__name__}, and must be a whole number or a string")
    if not 0 <= value <= MAX_ID:
        raise InputError(
            f"the id {value} does not fit: Longbow's searches give ids of 32 bits, 0 to {MAX_ID}. "
            "Pass it as a string, from which an id is derived"
        )
    return value
