"""`Artifact`: an artifact folder, the paths of its files, and checks that the files are unchanged.

fletcher.json              the manifest (manifest.py)
tokenizer.json             the tokenizer
weights.fp32.safetensors   weights, shared by the graphs of one precision
cpu-fp32.onnx              a small graph, whose weights are in the file above
canary.safetensors         vectors that a loaded artifact must reproduce
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors import safe_open

from fletcher.model_zoo.decode import decode_json

from ..errors import ArtifactError, ChecksumError
from .manifest import FORMAT_VERSION, Manifest, Target, Variant

__all__ = ["CANARY", "MANIFEST", "TOKENIZER", "Artifact", "hash_file"]

MANIFEST = "fletcher.json"
TOKENIZER = "tokenizer.json"
CANARY = "canary.safetensors"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact folder and its manifest.

    Attributes:
        path: path of the folder.
        manifest: the manifest that was read from it.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Read an artifact's manifest, without its other files.

        Raises:
            ArtifactError: there is no such folder, or its manifest is missing, damaged or of another format version.
        """
        path = Path(path)
        file = path / MANIFEST
        try:
            text = file.read_bytes()
        except FileNotFoundError:
            finding = "a folder without" if path.is_dir() else "not a folder with"
            raise ArtifactError(
                f"{path} is {finding} {MANIFEST}, so it is not an artifact: make one with "
                "`fletcher-convert model export SOURCE -o DIR`"
            ) from None
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
        try:
            version = decode_json(text, _FormatOnly).format
            if version != FORMAT_VERSION:
                raise ArtifactError(
                    f"{path} has artifact format {version}, but this version of Fletcher reads format {FORMAT_VERSION}: "
                    "convert the checkpoint again, or install the version of Fletcher that wrote it"
                )
            manifest = decode_json(text, Manifest)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{file} is damaged ({error}): convert the checkpoint again") from error
        _check_names(file, manifest)
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """Hex digest of everything that the vectors depend on: every file's name and sha256, and the card.

        The card is included because prompts and longest input are stored only there.
        """
        lines = [f"{name} {info.sha256}" for name, info in sorted(self.manifest.files.items())]
        card = msgspec.json.encode(self.manifest.card, order="deterministic")
        texts = b"\nstrips_texts" if self.manifest.strips_texts else b""
        return hashlib.sha256("\n".join(lines).encode() + b"\n" + card + texts).hexdigest()

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
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(self._check_file, self.manifest.files))

    def _check_file(self, name: str) -> None:
        info, file = self.manifest.files[name], self.path / name
        try:
            size = file.stat().st_size
            digest = hash_file(file) if size == info.size else ""
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}. Convert the checkpoint again") from error
        if size != info.size:
            raise ChecksumError(f"{file} has {size} bytes, the manifest says {info.size}: convert the checkpoint again")
        if digest != info.sha256:
            raise ChecksumError(
                f"{file} has sha256 {digest}, the manifest says {info.sha256}: convert the checkpoint again"
            )


class _FormatOnly(msgspec.Struct):
    """The format version of a manifest of any version."""

    format: int


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
    if outside := [name for name in manifest.files if Path(name).name != name]:
        raise ArtifactError(
            f"{file} is damaged (it names {outside[0]!r}, which is not a plain file name): convert the checkpoint again"
        )


def hash_file(file: Path) -> str:
    """Return the sha256 of a file as a hex digest."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
