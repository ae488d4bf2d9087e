"""API keys: their names, hashes and rights, and the check of a bearer token. The keys themselves are not stored.

A key has 256 random bits, so an attacker cannot guess it with a dictionary. So one SHA-256 is enough; a slow hash is not
necessary.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from .key import Key
from .keys_file import read_keys
from .last_use import LastUse

__all__ = ["Keys"]

logger = logging.getLogger("fletcher.serve.access")


class Keys:
    """Keys of a file. `reload` reads the file again. Safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Read the keys of a file.

        Args:
            path: the file. A file without keys refuses all callers.

        Raises:
            InputError: the file cannot be read, is not a file of keys, or others than its owner can write it.
        """
        self._path = path
        self._keys = _load(path)
        self._last_use = LastUse(path)

    def reload(self) -> None:
        """Read the file again. An invalid file does not change the keys; a file that was removed revokes all.

        Raises:
            InputError: as for the constructor.
        """
        if not self._path.exists():
            logger.warning("the file of keys is gone, so no key is valid", extra={"fields": {"path": str(self._path)}})
            self._keys = {}
            return
        self._keys = _load(self._path)

    def find(self, token: str) -> Key | None:
        """Return the key of a token, or None. The time does not tell a guesser anything: it depends on the token's hash."""
        key = self._keys.get(hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest())
        if key is None or (key.expires is not None and key.expired(time.time())):
            return None
        self._last_use.note(key.name)
        return key

    def close(self) -> None:
        """Write the times of the last uses."""
        self._last_use.close()


def _load(path: Path) -> dict[bytes, Key]:
    """Return the keys of a file by their digests.

    Raises:
        InputError: as for `Keys`.
    """
    keys = read_keys(path)
    if not keys:
        fields = {"path": str(path), "add": f"fletcher-serve keys add NAME --keys {path}"}
        logger.warning("the file of keys has no key, so no key is valid", extra={"fields": fields})
    return {bytes.fromhex(key.sha256): key for key in keys}
