"""`Artifact`: an artifact folder, the paths of its files, and checks that the files are unchanged.

fletcher.json              the manifest (manifest.py)
tokenizer.json             the tokenizer
weights.fp32.safetensors   weights, shared by the graphs of one precision
cpu-fp32.onnx              a small graph, whose weights are in the file above
canary.safetensors         vectors that a loaded artifact must reproduce
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import safe_open

from fletcher.model_zoo.decode import decode_json

from ..errors import ArtifactError, ChecksumError
from .manifest import FORMAT_VERSION, FileInfo, Manifest, Target, Variant
from .pinned import PinnedFiles
from .regular_file import read_regular

__all__ = ["CANARY", "MANIFEST", "QUERY_WEIGHTS", "TOKENIZER", "Artifact", "checksum", "hash_file"]

MANIFEST = "fletcher.json"
TOKENIZER = "tokenizer.json"
CANARY = "canary.safetensors"
#: Weight of each token in a query, for SPLADE models whose queries need no encoder: `weights`, float32, (vocabulary,).
QUERY_WEIGHTS = "query_weights.safetensors"

#: Largest manifest in bytes. Those of the zoo have about ten thousand.
LARGEST_MANIFEST = 16 << 20

#: Names of files and variants, which also name files of caches: no separators, no control characters, no hidden files.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact folder and its manifest.

    Attributes:
        path: path of the folder.
        manifest: the manifest that was read from it.
        manifest_info: size and sha256 of the manifest's file; None for an artifact that was not read from a folder.
    """

    path: Path
    manifest: Manifest
    manifest_info: FileInfo | None = None

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Read an artifact's manifest, without its other files.

        Raises:
            ArtifactError: there is no such folder, or its manifest is missing, damaged or of another format version.
            ChecksumError: the manifest was changed after it was written.
        """
        path = Path(path)
        return cls.parse(path, _read_manifest(path, path / MANIFEST))

    @classmethod
    def parse(cls, path: Path, text: bytes) -> Artifact:
        """Read an artifact's manifest from its bytes.

        Args:
            path: folder of the artifact.
            text: content of its manifest.

        Raises:
            ArtifactError: the manifest is damaged or of another format version.
            ChecksumError: it was changed after it was written.
        """
        file = path / MANIFEST
        try:
            version = decode_json(text, _FormatOnly).format
            if version != FORMAT_VERSION:
                raise ArtifactError(
                    f"{path} has artifact format {version}, but this version of Fletcher reads format {FORMAT_VERSION}: "
                    "convert the checkpoint again, or install the version of Fletcher that wrote it"
                )
            manifest = decode_json(text, Manifest)
            if manifest.checksum is not None:
                _check_manifest(file, text, manifest.checksum)
                manifest = msgspec.structs.replace(manifest, checksum=None)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{file} is damaged ({error}): convert the checkpoint again") from error
        _check_names(file, manifest)
        return cls(path, manifest, FileInfo(len(text), hashlib.sha256(text).hexdigest()))

    @property
    def digest(self) -> str:
        """Hex digest of the artifact: of the manifest, which has every file's name and sha256.

        Only records are left out: of the origin, of the packages that wrote it, and of verifications and measurements, which
        come later. So the same checkpoint from another source has the same digest. A signature covers the records too.
        """
        fields: dict[str, Any] = msgspec.to_builtins(self.manifest)
        for record in ("origin", "verified", "tools", "checksum"):
            del fields[record]
        if fields["calibration"] is None:  # artifacts from before this field keep their digest
            del fields["calibration"]
        for variant in fields["variants"]:
            del variant["measured"]
        return checksum(fields)

    @property
    def tokenizer_file(self) -> Path:
        """Path of the tokenizer's file."""
        return self.path / TOKENIZER

    @property
    def canary_file(self) -> Path:
        """Path of the canary's file."""
        return self.path / CANARY

    def of_target(self, target: Target) -> tuple[Variant, ...]:
        """Return the variants of a target in their order."""
        return tuple(variant for variant in self.manifest.variants if variant.target == target)

    def variant(self, name: str | None = None, targets: Sequence[Target] = ("cpu",)) -> Variant:
        """Return a variant.

        Args:
            name: name of the variant. None is the first variant of the first target that the artifact has, or the first of
                all variants.
            targets: targets in the order of preference, used if `name` is None.

        Raises:
            ArtifactError: the artifact has no such variant.
        """
        variants = self.manifest.variants
        if name is None and variants:
            return next((variant for target in targets for variant in self.of_target(target)), variants[0])
        for variant in variants:
            if name == variant.name:
                return variant
        names = ", ".join(variant.name for variant in self.manifest.variants) or "none"
        raise ArtifactError(f"{self.path} has no variant {name!r}: it has {names}")

    def tables(self, variant: Variant) -> dict[str, NDArray[Any]]:
        """Return the tables whose rows the host looks up, by input name, (rows, width). Most variants have no tables."""
        names = variant.feeds.tables
        if not names:
            return {}
        with safe_open(self.path / variant.weights, framework="np") as weights:
            return {name: weights.get_tensor(tensor) for name, tensor in names.items()}

    def check_files(self) -> None:
        """Compare every file's size and sha256 with the manifest.

        Raises:
            ArtifactError: a file is missing or cannot be read.
            ChecksumError: a file has another size or sha256 than the manifest states.
        """
        self.pin_files().close()

    def pin_files(self) -> PinnedFiles:
        """Open every file, the manifest too, and compare their sizes and sha256; the caller closes them.

        Raises:
            ArtifactError: a file is missing or cannot be read.
            ChecksumError: a file has another size or sha256 than the manifest states, or the manifest has changed.
        """
        own = {} if self.manifest_info is None else {MANIFEST: self.manifest_info}
        return PinnedFiles.open(self.path, {**self.manifest.files, **own})


class _FormatOnly(msgspec.Struct):
    """The format version of a manifest of any version."""

    format: int


def checksum(fields: Mapping[str, Any]) -> str:
    """Return the hex sha256 of a manifest's fields as JSON with sorted keys. The field `checksum` does not count."""
    counted = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(msgspec.json.encode(counted, order="deterministic")).hexdigest()


def _read_manifest(path: Path, file: Path) -> bytes:
    """Return the bytes of a manifest.

    Raises:
        ArtifactError: it is missing, too large, or cannot be read.
    """
    try:
        text = read_regular(file, LARGEST_MANIFEST + 1)
    except ArtifactError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        finding = "a folder without" if path.is_dir() else "not a folder with"
        raise ArtifactError(
            f"{path} is {finding} {MANIFEST}, so it is not an artifact: make one with "
            "`fletcher-convert model export SOURCE -o DIR`"
        ) from None
    if len(text) > LARGEST_MANIFEST:
        raise ArtifactError(
            f"{file} is damaged (it has more than {LARGEST_MANIFEST} bytes): convert the checkpoint again"
        )
    return text


def _check_manifest(file: Path, text: bytes, expected: str) -> None:
    """Compare the checksum of a manifest's fields with the one that it states.

    Raises:
        ChecksumError: they differ.
    """
    if checksum(decode_json(text, dict[str, Any])) != expected:
        raise ChecksumError(
            f"{file} has changed since it was written (its checksum differs): convert the checkpoint again"
        )


def _check_names(file: Path, manifest: Manifest) -> None:
    """Raise an error if the manifest lacks the digest of a needed file, or names a file outside the folder.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    used = {TOKENIZER, CANARY, *(name for v in manifest.variants for name in (v.file, v.weights))}
    if missing := sorted(used - set(manifest.files)):
        raise ArtifactError(
            f"{file} is damaged (it has no size and sha256 of {', '.join(missing)}): convert the checkpoint again"
        )
    variants = manifest.variants
    plain = (
        *manifest.files,
        *(name for each in variants for name in (each.name, each.precision, each.file, each.weights)),
    )
    if outside := [name for name in plain if not PLAIN_NAME.fullmatch(name)]:
        raise ArtifactError(
            f"{file} is damaged (it names {outside[0][:100]!a}, which is not a plain file name): convert the checkpoint again"
        )
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names) or not all(variant.inputs and variant.outputs for variant in variants):
        raise ArtifactError(
            f"{file} is damaged (two variants have one name, or one has no input or output): convert the checkpoint again"
        )


def hash_file(file: Path) -> str:
    """Return the sha256 of a file as a hex digest."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
