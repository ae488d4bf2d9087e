"""Mutators that know the structure of their input, so that most mutants reach the checks behind the parser."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any, Final

from fletcher.runtime.artifact.folder import checksum

from ..runtime.artifact.graph.mutants import mutants

__all__ = ["MUTATORS", "Mutator"]

Mutator = Callable[[bytes, random.Random], bytes]

NUMBERS: Final = (0, 1, -1, 2, 127, 128, 255, 65_535, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64 - 1)
STRINGS: Final = ("", "\0", "..", "../x", "/etc/passwd", "a" * 5000, "\ud800", "é", "null", "(x+x+)+y", "vectors")
#: Characters of a value that is repeated many times. A larger one would fill the memory after a few mutations.
SMALL: Final = 300

VALUES: Final[tuple[Any, ...]] = (
    *NUMBERS,
    *STRINGS,
    None,
    True,
    False,
    0.5,
    1e308,
    float("nan"),
    [],
    {},
    [[]],
    {"": None},
)


def damage(data: bytes, chance: random.Random) -> bytes:
    """Return bytes of which some are changed, removed or repeated."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(out) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(out):
            out[place] = chance.randrange(256)
        elif kind == 1:
            del out[place : place + chance.randint(1, 16)]
        elif kind == 2:
            out[place:place] = out[place : place + chance.randint(1, 16)]
        else:
            out[place:place] = chance.randbytes(chance.randint(1, 4))
    return bytes(out)


# JSON -----------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return all containers with their keys or indexes."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, part in list(items):
            found.append((each, key))
            waiting.append(part)
    return found


def change_json(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one to three changes."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        places = _places(value)
        if not places:
            return copy.deepcopy(chance.choice(VALUES))
        holder, key = chance.choice(places)
        match chance.randrange(7):
            case 0:
                del holder[key]
            case 1 | 2:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
            case 3:
                other, name = chance.choice(places)
                holder[key] = (
                    copy.deepcopy(other[name])
                    if (name in other if isinstance(other, dict) else name < len(other))
                    else 0
                )
            case 4 if isinstance(holder, list):
                times = chance.choice([1, 3, 100]) if len(repr(holder[key])) < SMALL else 1
                holder.extend([copy.deepcopy(holder[key]) for _ in range(times)])
            case 5 if isinstance(holder, dict):
                holder[chance.choice([*STRINGS, str(key) + "x"])] = holder[key]
            case _:
                for _ in range(chance.choice([1, 3, 200])):
                    holder[key] = [holder[key]]
    return value


def json_mutator(data: bytes, chance: random.Random) -> bytes:
    """Mutate JSON."""
    if chance.random() < 0.1:
        return damage(data, chance)
    try:
        return json.dumps(change_json(json.loads(data), chance)).encode()
    except (ValueError, RecursionError):  # it is not JSON, or it is nested too deeply to be changed
        return damage(data, chance)


def manifest_mutator(data: bytes, chance: random.Random) -> bytes:
    """Mutate a manifest. Most mutants have a right checksum, so that their fields are checked."""
    out = json_mutator(data, chance)
    try:
        fields = json.loads(out)
        if isinstance(fields, dict) and "checksum" in fields and chance.random() < 0.8:
            fields["checksum"] = checksum(fields)
            return json.dumps(fields).encode()
    except (ValueError, RecursionError, TypeError):
        pass
    return out


def safetensors_mutator(data: bytes, chance: random.Random) -> bytes:
    """Mutate the header or the data of a safetensors file; the length of the header is right again."""
    size = int.from_bytes(data[:8], "little")
    if chance.random() < 0.1 or size > len(data) - 8:
        return damage(data, chance)
    header, rest = data[8 : 8 + size], data[8 + size :]
    if chance.random() < 0.7:
        header = json_mutator(header, chance)
    else:
        rest = damage(rest, chance)
    return len(header).to_bytes(8, "little") + header + rest


# CBOR -----------------------------------------------------------------------------------------------------------------


def _cbor_head(kind: int, value: int, chance: random.Random) -> bytes:
    """Return a head of CBOR (RFC 8949, section 3), not always the shortest."""
    shortest = next((size for size in (0, 1, 2, 4, 8) if value < (24 if size == 0 else 1 << 8 * size)), 8)
    size = chance.choice([size for size in (0, 1, 2, 4, 8) if size >= shortest] or [8])
    if size == 0:
        return bytes([kind << 5 | value])
    return bytes([kind << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[size]]) + (value % (1 << 8 * size)).to_bytes(size, "big")


def cbor_mutator(data: bytes, chance: random.Random) -> bytes:
    """Return an array of CBOR with lengths, kinds and texts that may be wrong, or a damaged one."""
    if chance.random() < 0.3:
        return damage(data, chance)
    items = []
    for _ in range(chance.choice([0, 1, 2, 3, 30])):
        text = (
            chance.choice(STRINGS).encode("utf-8", "surrogatepass")
            if chance.random() < 0.5
            else data[: chance.randrange(9)]
        )
        kind = 3 if chance.random() < 0.85 else chance.randrange(8)
        length = len(text) if chance.random() < 0.85 else chance.choice(NUMBERS) % 2**64
        items.append(_cbor_head(kind, length, chance) + text)
    if chance.random() < 0.2:
        return b"\x9f" + b"".join(items) + (b"\xff" if chance.random() < 0.8 else b"")
    count = len(items) if chance.random() < 0.85 else chance.choice(NUMBERS) % 2**64
    return _cbor_head(4, count, chance) + b"".join(items) + (b"" if chance.random() < 0.9 else b"\0")


# Arrow ----------------------------------------------------------------------------------------------------------------


def _arrow_messages(data: bytes) -> list[bytes]:
    """Return the messages of a stream: each one with its mark, its length, its metadata and its body."""
    messages, at = [], 0
    while data[at : at + 4] == b"\xff" * 4:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        following = data.find(b"\xff\xff\xff\xff", at + 8 + size)
        end = len(data) if following < 0 else following
        messages.append(data[at:end])
        at = end
    return messages


def arrow_mutator(data: bytes, chance: random.Random) -> bytes:
    """Mutate an Arrow stream: messages are moved, and numbers in their metadata are changed."""
    messages = _arrow_messages(data)
    if not messages or chance.random() < 0.1:
        return damage(data, chance)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(messages))
        message = bytearray(messages[place])
        match chance.randrange(6):
            case 0 if len(messages) > 1:
                del messages[place]
            case 1:
                messages.insert(chance.randrange(len(messages) + 1), bytes(message))
            case 2 if len(message) > 24:
                at = 8 + 8 * chance.randrange((len(message) - 16) // 8)
                message[at : at + 8] = (chance.choice(NUMBERS) % 2**64).to_bytes(8, "little")
                messages[place] = bytes(message)
            case 3 if len(message) > 16:
                at = 8 + 4 * chance.randrange((len(message) - 12) // 4 + 1)
                message[at : at + 4] = (chance.choice(NUMBERS) % 2**32).to_bytes(4, "little")
                messages[place] = bytes(message)
            case 4 if len(message) > 9:
                message[chance.randrange(8, len(message))] = chance.randrange(256)
                messages[place] = bytes(message)
            case _:
                messages[place] = bytes(message[: chance.randrange(len(message) + 1)])
    return b"".join(messages)


def graph_mutator(data: bytes, chance: random.Random) -> bytes:
    """Mutate a graph's file."""
    try:
        return next(mutants(data, chance.getrandbits(32), 1))
    except (IndexError, ValueError, RecursionError):  # it is no longer a protocol buffer
        return damage(data, chance)


#: Mutators by the name of the target.
MUTATORS: Final[dict[str, Mutator]] = {
    "cbor": cbor_mutator,
    "arrow": arrow_mutator,
    "manifest": manifest_mutator,
    "canary": safetensors_mutator,
    "tokenizer": json_mutator,
    "graph": graph_mutator,
}
