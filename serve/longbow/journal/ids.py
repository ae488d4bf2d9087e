"""Which id a document has: the user's, or one made of its content or its name; always below 2^32, which Longbow wants.

2^32 ids are few: of a million documents about 116 share their first one with another (n² / 2 / 2^32). Such a document takes
its second choice, and so on: the journal knows which ids are taken by whom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fletcher.runtime.errors import InputError

from ..wire.schema import MAX_ID

__all__ = ["candidate", "content_digest", "digester", "key_of", "whole_number"]

#: Of a digest: two of a billion documents share one with a chance below 1e-20.
DIGEST_BYTES = 16


def digester(identity: bytes) -> Callable[[str], bytes]:
    """Makes a text's digest: of its content and of what else its vector depends on.

    Args:
        identity: the model, its variant and the options.
    """
    start = hashlib.blake2b(identity, digest_size=DIGEST_BYTES)

    def digest(text: str) -> bytes:
        made = start.copy()
        made.update(text.encode())
        return made.digest()

    return digest


content_digest = digester(b"")


def key_of(name: str) -> bytes:
    """Who a document with a name is: the same whatever its content, 16 bytes."""
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"fletcher-key").digest()


def candidate(key: bytes, choice: int) -> int:
    """A document's first, second, … choice of an id, the same on every machine and in every run.

    Args:
        key: 16 bytes.
        choice: from 0.
    """
    if choice < 4:
        return int.from_bytes(key[4 * choice : 4 * choice + 4], "big")
    more = hashlib.blake2b(key + choice.to_bytes(4, "big"), digest_size=4).digest()
    return int.from_bytes(more, "big")


def whole_number(value: object) -> int:
    """The user's own id as Longbow's.

    Raises:
        InputError: it is no whole number from 0 to 2^32 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"the id is a {type(value).__name__}, and must be a whole number or a string")
    if not 0 <= value <= MAX_ID:
        raise InputError(
            f"the id {value} does not fit: Longbow's searches give ids of 32 bits, 0 to {MAX_ID}. "
            "Make it a string, and an id is derived from it"
        )
    return value
