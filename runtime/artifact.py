"""The artefact folder: its manifest, reading it, writing it whole or not at all, and stamping what was verified.

fletcher.json              the manifest (below)
tokenizer.json
weights.fp32.safetensors   shared by the graphs of one precision
cpu-fp32.onnx              a small graph; its weights lie in the file above
canary.safetensors         what a load must reproduce
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fletcher.model_zoo.card import Accuracy, ModelCard

from .errors import ArtifactError, ChecksumError

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "Artifact",
    "FeedRules",
    "FileInfo",
    "Manifest",
    "Origin",
    "Profile",
    "TensorInfo",
    "Variant",
    "Verification",
    "new_artifact",
    "stamp",
]

FORMAT_VERSION = 1
MANIFEST = "fletcher.json"
TOKENIZER = "tokenizer.json"
CANARY = "canary.safetensors"

Target = Literal["cpu", "cuda", "tensorrt", "coreml"]

#: Targets that `open_session` runs on this machine.
RUNNABLE_TARGETS: tuple[Target, ...] = ("cpu",)


class FileInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the artefact.

    Attributes:
        size: bytes.
        sha256: hex digest.
    """

    size: int
    sha256: str


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph.

    Attributes:
        name: the graph's name for it.
        dtype: numpy's name of the element type.
        shape: sizes, or names where a size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FeedRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the host has to know, besides the inputs' names and types, to make a graph's inputs from `Encodings`.

    Attributes:
        padding_id: RoBERTa's way of counting positions: tokens of this id are not counted and have the position of this
            number, the first counted one has the next.
        multiple: the longest text of a batch is rounded up to a multiple of this.
        shape: texts and tokens of the rectangle, where the graph takes no other.
        tables: by input, the tensor of the weights file whose rows the host looks up.
    """

    padding_id: int | None = None
    multiple: int = 1
    shape: tuple[int, int] | None = None
    tables: Mapping[str, str] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes by input that a TensorRT engine is built for.

    Attributes:
        min: smallest.
        opt: what it is tuned for.
        max: largest.
    """

    min: Mapping[str, tuple[int, ...]]
    opt: Mapping[str, tuple[int, ...]]
    max: Mapping[str, tuple[int, ...]]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph of an artefact.

    Attributes:
        name: `TARGET-PRECISION`.
        target: which emitter wrote it.
        precision: of its weights and arithmetic.
        file: the graph.
        weights: the file that holds its weights.
        inputs: what it eats.
        outputs: what it gives.
        tolerance: how far from the canary a session of it may be.
        instructions: processor features it needs, as in /proc/cpuinfo.
        exporter: `fletcher` for an authored graph, otherwise the tracer's name.
        measured: its figures against HuggingFace in float32, once it was verified.
        canary: whether it passed when it was exported; `unchecked` where the machine could not run its target.
        arithmetic: what its nodes compute in, where that is not `precision`.
        islands: nodes of the encoder that compute in fp32 because a half type would overflow. What follows the encoder
            (pooling, projections, normalisation) is fp32 in every variant.
        feeds: how its inputs are made.
        profiles: shapes to build engines for (tensorrt).
    """

    name: str
    target: Target
    precision: str
    file: str
    weights: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tolerance: Accuracy
    instructions: tuple[str, ...] = ()
    exporter: str = "fletcher"
    measured: Mapping[str, float] = {}
    canary: Literal["passed", "unchecked"] = "passed"
    arithmetic: str | None = None
    islands: tuple[str, ...] = ()
    feeds: FeedRules = FeedRules()
    profiles: tuple[Profile, ...] = ()


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The checkpoint that an artefact was made from.

    Attributes:
        source: what `fletcher-convert model export` was given, in its canonical form.
        revision: the hub commit, if it came from there.
        sha256: hex digest by file name.
    """

    source: str
    revision: str | None
    sha256: Mapping[str, str]


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who compared the artefact with the reference model, and how it went.

    Attributes:
        reference: what it was compared with.
        time: UTC, ISO 8601.
        texts: how many texts were compared.
        tools: versions by package.
        figures: figures by variant name.
    """

    reference: str
    time: str
    texts: int
    tools: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`fletcher.json`.

    Attributes:
        format: version of this format.
        card: what the model is.
        origin: the checkpoint.
        variants: the graphs.
        files: every other file of the folder, by name.
        canary_reference: `published` if the canary's vectors come from the model's card, `own` if the fp32 graph made
            them, in which case the artefact is unverified until `verified` is there.
        verified: the last successful comparison with the reference model.
        parent: digest of the artefact that this one was made from, if any.
        tools: versions by package, of what wrote it.
        maxima: by value of the fp32 graph, the largest absolute element on the calibration texts, recorded where a half
            precision was asked for; `#squares` after a norm's name is the largest sum of squares of a row that it norms.
    """

    format: int
    card: ModelCard
    origin: Origin
    variants: tuple[Variant, ...]
    files: Mapping[str, FileInfo]
    canary_reference: Literal["published", "own"]
    verified: Verification | None = None
    parent: str | None = None
    tools: Mapping[str, str]
    maxima: Mapping[str, float] = {}

    @property
    def status(self) -> Literal["verified", "published canary", "unverified"]:
        """How much is known: compared with HuggingFace, with the card's published vectors only, or with nothing."""
        if self.verified is not None:
            return "verified"
        return "published canary" if self.canary_reference == "published" else "unverified"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artefact folder whose manifest was read.

    Attributes:
        path: the folder.
        manifest: its manifest.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Reads the manifest; `check_files` reads the rest.

        Raises:
            ArtifactError: no folder, no manifest, a damaged one, or one of another format version.
        """
        path = Path(path)
        file = path / MANIFEST
        try:
            text = file.read_bytes()
        except FileNotFoundError:
            what = "a folder without" if path.is_dir() else "not a folder with"
            raise ArtifactError(
                f"{path} is {what} {MANIFEST}, so no artefact: make one with `fletcher-convert model export SOURCE -o DIR`"
            ) from None
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
        try:
            version = msgspec.json.decode(text, type=_FormatOnly).format
            if version != FORMAT_VERSION:
                raise ArtifactError(
                    f"{path} has artefact format {version}, this Fletcher reads format {FORMAT_VERSION}: "
                    "convert the checkpoint again, or install the Fletcher that wrote it"
                )
            manifest = msgspec.json.decode(text, type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(f"{file} is damaged ({error}): convert the checkpoint again") from error
        _check_names(file, manifest)
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """What the vectors depend on, as one hex digest: of every file's name and sha256, and of the card.

        The card is in it for the prompts and the longest input, which no file knows.
        """
        lines = [f"{name} {info.sha256}" for name, info in sorted(self.manifest.files.items())]
        card = msgspec.json.encode(self.manifest.card, order="deterministic")
        return hashlib.sha256("\n".join(lines).encode() + b"\n" + card).hexdigest()

    @property
    def tokenizer_file(self) -> Path:
        return self.path / TOKENIZER

    @property
    def canary_file(self) -> Path:
        return self.path / CANARY

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name; without one the first that runs on this machine, or the first of all if none does.

        Raises:
            ArtifactError: there is none of that name.
        """
        variants = self.manifest.variants
        if name is None and variants:
            return next((variant for variant in variants if variant.target in RUNNABLE_TARGETS), variants[0])
        for variant in variants:
            if name == variant.name:
                return variant
        names = ", ".join(variant.name for variant in self.manifest.variants) or "none"
        raise ArtifactError(f"{self.path} has no variant {name!r}: it has {names}")

    def check_files(self) -> None:
        """Compares every file's size and sha256 with the manifest.

        Raises:
            ArtifactError: a file is missing or cannot be read.
            ChecksumError: a file is not the one that was written.
        """
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(self._check_file, self.manifest.files))

    def _check_file(self, name: str) -> None:
        info, file = self.manifest.files[name], self.path / name
        try:
            size = file.stat().st_size
            found = hash_file(file) if size == info.size else ""
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}. Convert the checkpoint again") from error
        if size != info.size:
            raise ChecksumError(f"{file} has {size} bytes, the manifest says {info.size}: convert the checkpoint again")
        if found != info.sha256:
            raise ChecksumError(
                f"{file} has sha256 {found}, the manifest says {info.sha256}: convert the checkpoint again"
            )


class _FormatOnly(msgspec.Struct):
    format: int


def _check_names(file: Path, manifest: Manifest) -> None:
    """
    Raises:
        ArtifactError: a file is used that the manifest has no digest of, or one outside the folder is named.
    """
    used = {TOKENIZER, CANARY, *(name for v in manifest.variants for name in (v.file, v.weights))}
    if missing := sorted(used - set(manifest.files)):
        raise ArtifactError(
            f"{file} is damaged (it has no size and sha256 of {', '.join(missing)}): convert the checkpoint again"
        )
    if outside := [name for name in manifest.files if Path(name).name != name]:
        raise ArtifactError(f"{file} is damaged (it names {outside[0]!r}): convert the checkpoint again")


def hash_file(file: Path) -> str:
    """The file's sha256, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def new_artifact(path: str | Path) -> Iterator[Path]:
    """A folder to write an artefact into, which takes its name only when the block ends well.

    Until then it lies beside `path` under a temporary name; an error removes it, and what a killed process left behind goes
    with the next success. Whatever stood at `path` before must be an artefact or empty; it steps aside, and comes back if
    the new one cannot take its place. Where `path` is a link, the folder that it leads to is meant.
    `write_manifest` belongs at the end of the block.

    Raises:
        ArtifactError: `path` is something else than an artefact, or another process is writing it.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path):
        _check_replaceable(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.new.", dir=path.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            _replace(path, temporary)
            _remove_leftovers(path)
        except OSError as error:
            # A failed write names no file: say at least which artefact was being written.
            if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                error.filename = str(path)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    if path.exists() and not ((path / MANIFEST).is_file() or (path.is_dir() and not any(path.iterdir()))):
        raise ArtifactError(
            f"{path} exists and is no artefact: it is not replaced. Choose another folder, or remove it"
        )


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Holds a lock file beside `path` and removes it at the end."""
    lock = path.parent / f".{path.name}.lock"
    with contextlib.ExitStack() as stack:
        while True:
            stream = stack.enter_context(lock.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(
                    f"another process is writing {path}: wait for it, or choose another folder"
                ) from None
            # The writer before may have removed the file between our open and our lock: then lock the new one.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                    break
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _replace(path: Path, new: Path) -> None:
    """Puts `new` at `path`. A folder cannot be renamed over a full one, so the old one steps aside first."""
    _check_replaceable(path)  # once more: conversion took a while
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.rename(aside / path.name)
        try:
            new.rename(path)
        except BaseException:
            (aside / path.name).rename(path)
            raise
    finally:
        # Only if something stands at `path` again: otherwise the old artefact is in here, and the only one.
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary folders of writers of `path` that were killed; the lock says that none is alive."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(new|old)\.\w{{8}}")
    for folder in path.parent.iterdir():
        if pattern.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `fletcher.json` atomically."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        temporary.replace(folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and digest of every file in the folder, the manifest left out, for a new manifest."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    return {file.name: FileInfo(file.stat().st_size, hash_file(file)) for file in files}


def stamp(path: str | Path, verification: Verification, *, digest: str | None = None) -> Artifact:
    """Records a successful verification in the manifest; no other file changes, so the digest stays.

    Args:
        path: the artefact's folder.
        verification: what to record.
        digest: of the artefact that was verified; another one at `path` by now is refused.

    Raises:
        ArtifactError: the artefact cannot be read or was replaced, or another process is writing it.
    """
    path = Path(path).resolve()
    Artifact.open(path)  # before a lock file is left beside something that is none
    with _only_writer(path):
        artifact = Artifact.open(path)
        if digest not in (None, artifact.digest):
            raise ArtifactError(f"{path} was replaced while it was verified, so nothing is recorded: verify it again")
        variants = tuple(
            msgspec.structs.replace(variant, measured=verification.figures.get(variant.name, variant.measured))
            for variant in artifact.manifest.variants
        )
        write_manifest(path, msgspec.structs.replace(artifact.manifest, verified=verification, variants=variants))
        return Artifact.open(path)
