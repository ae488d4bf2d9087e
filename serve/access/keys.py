"""API keys: a file with their names and hashes, and the look at a bearer token. The keys themselves are nowhere.

A key has 256 random bits, so one SHA-256 is enough: there is no dictionary of such keys to try, and no need to be slow.
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

from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

__all__ = ["Key", "Keys", "Role", "add_key", "read_keys", "remove_key"]

Role = Literal["user", "admin"]

PREFIX = "fletcher-"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as the file has it.

    Attributes:
        name: whose it is: the engine's client, and what logs say.
        sha256: of the key, as hex.
        role: whether it opens the admin API.
    """

    name: str
    sha256: str
    role: Role = "user"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


class Keys:
    """The keys of a file. `reload` reads it again."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file.

        Raises:
            InputError: it cannot be read, holds no key, or is no file of keys.
        """
        self._path = path
        self._keys = _load(path)

    def reload(self) -> None:
        """Reads the file again; a bad one leaves the keys as they were.

        Raises:
            InputError: as the constructor.
        """
        self._keys = _load(self._path)

    def find(self, token: str) -> Key | None:
        """The key that a token is; every key is compared, in constant time."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def _load(path: Path) -> list[tuple[bytes, Key]]:
    keys = read_keys(path)
    if not keys:
        raise InputError(f"{path} holds no key: add one with `fletcher-serve keys add NAME --keys {path}`")
    return [(bytes.fromhex(key.sha256), key) for key in keys]


def read_keys(path: Path) -> Sequence[Key]:
    """What a file of keys holds.

    Raises:
        InputError: it cannot be read, or is no file of keys.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no file of API keys: {error}") from None
    for key in file.keys:
        try:
            right = len(bytes.fromhex(key.sha256)) == hashlib.sha256().digest_size
        except ValueError:
            right = False
        if not right:
            raise InputError(f"{path}: the hash of the key {key.name!r} is no SHA-256")
    return file.keys


def add_key(path: Path, name: str, role: Role = "user") -> str:
    """Makes a key and writes its hash.

    Returns:
        The key, which is written nowhere.

    Raises:
        InputError: the name is taken or odd, or the file cannot be written.
    """
    if not name or not name.isprintable() or len(name) > 64:
        raise InputError(f"a key's name must be 1 to 64 printable characters, not {name!r}")
    keys = list(read_keys(path)) if path.exists() else []
    if any(key.name == name for key in keys):
        raise InputError(f"{path} has a key {name!r} already: remove it first, or choose another name")
    token = PREFIX + secrets.token_urlsafe(32)
    _write(path, [*keys, Key(name, hashlib.sha256(token.encode()).hexdigest(), role)])
    return token


def remove_key(path: Path, name: str) -> None:
    """Takes a key out of the file.

    Raises:
        InputError: there is none of that name.
    """
    keys = read_keys(path)
    if not any(key.name == name for key in keys):
        raise InputError(f"{path} has no key {name!r}; it has {', '.join(key.name for key in keys) or 'none'}")
    _write(path, [key for key in keys if key.name != name])


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Whole or not at all, and for its owner alone."""
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
