"""Mutants of a graph's file: one to three fields at any depth are removed, repeated, exchanged or changed.

The lengths around a changed field are right again, so most mutants reach the check of the field.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

__all__ = ["mutants"]

#: Numbers of the message fields inside each message of a graph's file, by the path of numbers that leads to it.
MESSAGES = {
    (): {7, 8, 14, 25},
    (7,): {1, 5, 11, 12, 13, 15},
    (7, 1): {5},
    (7, 1, 5): {5, 6, 10, 11},
    (7, 1, 5, 5): {13},
    (7, 5): {13},
    (7, 11): {2},
    (7, 12): {2},
    (25,): {7},
}

#: Values that are interesting for some field.
WORDS = [
    b"",
    b"/etc/passwd",
    b"../weights",
    b"*/_ORT_MEM_ADDR_/*",
    b"location",
    b"offset",
    b"Loop",
    b"If",
    b"com.microsoft",
    b"EPContext",
    b"tokenizer.json",
    b"4096",
    b"-1",
    b"99999999999999999999",
    b"\x00",
    b"\xff\xfe",
    b"a" * 3000,
]
NUMBERS = [0, 1, 2, 3, 8, 127, 128, 2**31 - 1, 2**32, 2**40, 2**63, 2**64 - 1]


@dataclass
class Node:
    """A field: number, wire type, and a number, bytes, or the fields of a message."""

    number: int
    kind: int
    value: int | bytes
    parts: list[Node] | None = field(default=None)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _parse(data: bytes, path: tuple[int, ...] = ()) -> list[Node]:
    nodes, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            nodes.append(Node(number, kind, value))
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        body = data[at : at + size]
        at += size
        parts = _parse(body, (*path, number)) if kind == 2 and number in MESSAGES.get(path, ()) else None
        nodes.append(Node(number, kind, body, parts))
    return nodes


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _write(nodes: list[Node]) -> bytes:
    out = bytearray()
    for node in nodes:
        out += _number(node.number << 3 | node.kind)
        if isinstance(node.value, int):
            out += _number(node.value)
        else:
            body = node.value if node.parts is None else _write(node.parts)
            out += (_number(len(body)) if node.kind == 2 else b"") + body
    return bytes(out)


def _lists(nodes: list[Node]) -> Iterator[list[Node]]:
    yield nodes
    for node in nodes:
        if node.parts is not None:
            yield from _lists(node.parts)


def _change(random: random.Random, nodes: list[Node]) -> None:
    lists = [each for each in _lists(nodes) if each]
    fields = random.choice(lists)
    index = random.randrange(len(fields))
    node = fields[index]
    match random.randrange(9):
        case 0:
            del fields[index]
        case 1:
            fields.insert(random.randrange(len(fields) + 1), deepcopy(node))
        case 2:
            fields.insert(index, deepcopy(random.choice(random.choice(lists))))
        case 3:
            fields[index] = Node(random.randrange(1, 30), node.kind, node.value, node.parts)
        case 4 | 5 if isinstance(node.value, int):
            fields[index] = Node(node.number, 0, random.choice(NUMBERS))
        case 4 | 5 if node.kind == 2:
            fields[index] = Node(node.number, 2, random.choice(WORDS))
        case 6 if isinstance(node.value, bytes) and node.value:
            body = bytearray(_write(node.parts) if node.parts is not None else node.value)
            body[random.randrange(len(body))] = random.randrange(256)
            fields[index] = Node(node.number, node.kind, bytes(body))
        case 7:
            extra = random.choice([Node(random.randrange(1, 30), 2, random.choice(WORDS)), Node(1, 0, 2**64 - 1)])
            fields.insert(index, extra)
        case _:
            random.shuffle(fields)


def mutants(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield mutants of a graph's file; equal seeds give equal mutants."""
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        if generator.random() < 0.1:  # a tenth is damaged without repair of the lengths
            damaged = bytearray(data)
            for _ in range(generator.randrange(1, 4)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            yield bytes(damaged[: generator.randrange(len(damaged))] if generator.random() < 0.3 else damaged)
            continue
        nodes = _parse(data)
        for _ in range(generator.randrange(1, 4)):
            _change(generator, nodes)
        yield _write(nodes)
