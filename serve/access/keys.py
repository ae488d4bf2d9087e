"""API keys: a file with their names and hashes, and the check of a bearer token. The keys themselves are not stored.

A key has 256 random bits, so an attacker cannot guess it with a dictionary. So one SHA-256 is enough; a slow hash is not
necessary.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

__all__ = ["Key", "Keys", "Role", "add_key", "read_keys", "remove_key"]

Role = Literal["user", "admin"]

PREFIX = "fletcher-"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key in the file.

    Attributes:
        name: name of the owner. It is the client of the engine and the name in logs.
        sha256: SHA-256 of the key, hexadecimal.
        role: `admin` if the key gives access to the admin API, else `user`.
    """

    name: str
    sha256: str
    role: Role = "user"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


class Keys:
    """Keys of a file. `reload` reads the file again."""

    def __init__(self, path: Path) -> None:
        """Read the keys of a file.

        Args:
            path: the file.

        Raises:
            InputError: the file cannot be read, does not have a key, or is not a file of keys.
        """
        self._path = path
        self._keys = _load(path)

    def reload(self) -> None:
        """Read the file again. An invalid file does not change the keys.

        Raises:
            InputError: as for the constructor.
        """
        self._keys = _load(self._path)

    def find(self, token: str) -> Key | None:
        """Return the key of a token, or None. The token is compared with every key, in constant time."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        match = None
        for stored, key in self._keys:
            if hmac.compare_digest(stored, digest):
                match = key
        return match


def _load(path: Path) -> list[tuple[bytes, Key]]:
    """Return the keys of a file with their digests.

    Raises:
        InputError: the file cannot be read, does not have a key, or is not a file of keys.
    """
    keys = read_keys(path)
    if not keys:
        raise InputError(f"{path} does not have a key: add one with `fletcher-serve keys add NAME --keys {path}`")
    return [(bytes.fromhex(key.sha256), key) for key in keys]


def read_keys(path: Path) -> Sequence[Key]:
    """Return the keys in a file.

    Raises:
        InputError: the file cannot be read, or is not a file of keys.
    """
    try:
        file = decode_json(path.read_bytes(), _File)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a file of API keys: {error}") from None
    for key in file.keys:
        try:
            valid = len(bytes.fromhex(key.sha256)) == hashlib.sha256().digest_size
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{path}: the hash of the key {key.name!r} is not a SHA-256")
    return file.keys


def add_key(path: Path, name: str, role: Role = "user") -> str:
    """Make a key and write its hash to the file.

    Args:
        path: the file; it is made if it does not exist.
        name: name of the owner, 1 to 64 printable characters.
        role: role of the key.

    Returns:
        The key, which is not stored.

    Raises:
        InputError: the name is taken or invalid, or the file cannot be read or written.
    """
    if not name or not name.isprintable() or len(name) > 64:
        raise InputError(f"a key's name must be 1 to 64 printable characters, not {name!r}")
    keys = list(read_keys(path)) if path.exists() else []
    if any(key.name == name for key in keys):
        raise InputError(f"{path} already has a key {name!r}: remove it first, or choose another name")
    token = PREFIX + secrets.token_urlsafe(32)
    _write(path, [*keys, Key(name, hashlib.sha256(token.encode()).hexdigest(), role)])
    return token


def remove_key(path: Path, name: str) -> None:
    """Remove a key from the file.

    Raises:
        InputError: the file has no key of that name, or cannot be read or written.
    """
    keys = read_keys(path)
    if not any(key.name == name for key in keys):
        raise InputError(f"{path} has no key {name!r}; it has {', '.join(key.name for key in keys) or 'none'}")
    _write(path, [key for key in keys if key.name != name])


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Write the file atomically. Only its owner can read it."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_File(tuple(keys)))) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(stat.S_IRUSR | stat.S_IWUSR)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {explain(error)}") from error
