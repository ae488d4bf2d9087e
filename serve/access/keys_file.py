"""The file of API keys: it is read, and changed by one writer at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.artifact.durable import sync
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from .key import Key, Role

__all__ = ["add_key", "read_keys", "remove_key"]

PREFIX = "fletcher-"

#: Permissions that let others than the owner change the file.
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()


def read_keys(path: Path) -> Sequence[Key]:
    """Return the keys in a file.

    Raises:
        InputError: the file cannot be read, is not a file of keys, or others than its owner can write it.
    """
    try:
        with path.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            content = opened.read()
        file = decode_json(content, _File)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a file of API keys: {error}") from None
    if mode & WRITABLE:
        raise InputError(f"{path} has the permissions {mode:o}, so others can add keys to it: run chmod go-w {path}")
    for key in file.keys:
        if key.certificate is not None and not key.sha256:
            continue
        try:
            valid = len(bytes.fromhex(key.sha256)) == hashlib.sha256().digest_size
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{path}: the hash of the key {key.name!r} is not a SHA-256")
    return file.keys


def add_key(path: Path, name: str, role: Role = "user", *, certificate: str | None = None, **rights: object) -> str:
    """Make a key and write its hash to the file, or give rights to the clients with a certificate.

    Args:
        path: the file; it is made if it does not exist. A link stays a link.
        name: name of the owner, 1 to 64 printable characters.
        role: role of the key.
        certificate: name in the clients' certificate; None makes a key.
        rights: other fields of `Key`.

    Returns:
        The key, which is not stored; empty for a certificate.

    Raises:
        InputError: the name is taken or invalid, a right is invalid, or the file cannot be read or written.
    """
    if not name or not name.isprintable() or len(name) > 64:
        raise InputError(f"a key's name must be 1 to 64 printable characters, not {name!r}")
    token = "" if certificate is not None else PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest() if token else ""
    fields = {"name": name, "sha256": digest, "certificate": certificate, "role": role, **rights}
    try:
        key = msgspec.convert(fields, Key)
    except msgspec.ValidationError as error:
        raise InputError(f"the key {name!r} cannot be made: {error}") from None
    with _locked(path) as target:
        keys = list(read_keys(target)) if target.exists() else []
        if any(other.name == name for other in keys):
            raise InputError(f"{path} already has a key {name!r}: remove it first, or choose another name")
        if certificate is not None and any(other.certificate == certificate for other in keys):
            raise InputError(f"{path} already has the certificate {certificate!r}: remove its entry first")
        _write(target, [*keys, key])
    return token


def remove_key(path: Path, name: str) -> None:
    """Remove a key from the file.

    Raises:
        InputError: the file has no key of that name, or cannot be read or written.
    """
    with _locked(path) as target:
        keys = read_keys(target)
        if not any(key.name == name for key in keys):
            raise InputError(f"{path} has no key {name!r}; it has {', '.join(key.name for key in keys) or 'none'}")
        _write(target, [key for key in keys if key.name != name])


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Exclude other writers, and yield the file behind links. The lock has a file of its own, as a change replaces the other.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        target = path.resolve()
        lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        reason = explain(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} cannot be written: {reason}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield target
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    finally:
        with suppress(OSError):  # the lock ends in any case
            os.close(lock)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Write the file atomically, with the permissions and the owner that it has. A new one is its owner's alone."""
    try:
        before = path.stat() if path.exists() else None
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_File(tuple(keys)))) + b"\n")
                file.flush()
                if before is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            sync(path.parent)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {explain(error)}") from error
