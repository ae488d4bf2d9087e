"""The manifest is protected: no change of it passes, or the digest of the artifact changes with it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.errors import ArtifactError, ChecksumError

#: Parts of a manifest that are not part of the artifact's digest: records of its origin, and those that come later.
RECORDS = {"origin", "verified", "tools", "checksum"}


def test_no_flipped_bit_passes(own_artifact: Path) -> None:
    """A changed bit is an error, or only a blank between two values."""
    file = own_artifact / MANIFEST
    content, before = file.read_bytes(), Artifact.open(own_artifact)
    bits = [(at, bit) for at in range(len(content)) for bit in range(8)]
    passed = 0
    for at, bit in random.Random(0).sample(bits, 2000):
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        file.write_bytes(changed)
        try:
            after = Artifact.open(own_artifact)
        except (ArtifactError, ChecksumError):
            continue
        passed += 1
        assert after.manifest == before.manifest, f"bit {bit} of byte {at}: {content[at - 20 : at + 20]!r}"
        assert chr(content[at]).isspace()
    assert passed < 200


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, part in enumerate(value) for leaf in leaves(part, (*path, index))]
    return [path]


def test_the_digest_covers_every_value_but_the_records(tiny_artifact: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_artifact / MANIFEST).read_text())
    content.pop("checksum")
    before = Artifact.open(tiny_artifact).digest
    checked = 0
    for path in leaves(content):
        changed = json.loads(json.dumps(content))
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        value = parent[path[-1]]
        parent[path[-1]] = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "b" * 3
        )
        (tmp_path / MANIFEST).write_text(json.dumps(changed))
        try:
            digest = Artifact.open(tmp_path).digest
        except ArtifactError:
            continue  # not a manifest any more
        record = path[0] in RECORDS or "measured" in path
        assert (digest == before) == record, path
        checked += not record
    assert checked > 40


def test_a_copied_checksum_of_another_manifest_is_rejected(own_artifact: Path) -> None:
    file = own_artifact / MANIFEST
    content = json.loads(file.read_text())
    content["variants"][0]["tolerance"]["min_cosine"] = 0.099999
    file.write_text(json.dumps(content))
    with pytest.raises(ChecksumError, match="has changed since it was written"):
        Artifact.open(own_artifact)


@pytest.mark.parametrize(
    "name", ["a/../../../../elsewhere/planted", "..", ".hidden", "a\x00b", "a\n", "", "a" * 300, "ü", "/abs", "a\\b"]
)
def test_the_name_of_a_variant_is_no_path(own_artifact: Path, name: str) -> None:
    file = own_artifact / MANIFEST
    content = json.loads(file.read_text())
    content.pop("checksum")
    content["variants"][0]["name"] = name
    file.write_bytes(msgspec.json.encode(content))
    with pytest.raises(ArtifactError, match="which is not a plain file name"):
        Artifact.open(own_artifact)


def test_a_huge_manifest_is_not_read(own_artifact: Path) -> None:
    with (own_artifact / MANIFEST).open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ArtifactError, match="it has more than 16777216 bytes"):
        Artifact.open(own_artifact)
