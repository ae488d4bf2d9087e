"""Transfer of artifacts by hand: `push` to a URL, `pull` into a folder, and the artifacts and aliases below a URL."""

from __future__ import annotations

import glob
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fletcher.model_zoo.progress import SILENT, Progress

from ..artifact.durable import sync
from ..artifact.folder import LARGEST_MANIFEST, MANIFEST, Artifact
from ..artifact.manifest import FileInfo
from ..artifact.writing import new_artifact
from ..errors import ArtifactError, InputError, SourceError
from ..origin.signature import SIGNATURE, verify_signature
from .alias import alias_path, read_alias, write_alias
from .download import download
from .source import ObjectFiles, open_source, read_index, require_digest
from .store import WRITE_SECONDS, ObjectStore
from .url import ArtifactUrl, parse_url

__all__ = ["Listed", "Pulled", "Pushed", "list_url", "pull", "push"]

#: Files that are uploaded at the same time. Each is divided into parts that are uploaded at the same time, too.
FILES: Final = 2


@dataclass(frozen=True, slots=True)
class Pushed:
    """Result of `push`.

    Attributes:
        url: URL of the artifact.
        digest: digest of the artifact.
        bytes: bytes that were sent; 0 if the URL had this artifact before.
        alias: URL of the alias that names it now, or None.
    """

    url: str
    digest: str
    bytes: int
    alias: str | None


@dataclass(frozen=True, slots=True)
class Pulled:
    """Result of `pull`.

    Attributes:
        path: folder of the artifact.
        digest: digest of the artifact.
        bytes: size of the artifact.
    """

    path: Path
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Listed:
    """An artifact or an alias below a URL.

    Attributes:
        url: its URL.
        model: name of the model; of an alias, the URL of its artifact.
        digest: digest of the artifact; empty for an alias that names none.
        bytes: size of the artifact; 0 for an alias.
        signed: whether the artifact has a signature.
        finding: reason why it cannot be used; empty if it can.
    """

    url: str
    model: str
    digest: str
    bytes: int
    signed: bool
    finding: str = ""


def push(folder: Path, url: str, *, alias: str | None = None, progress: Progress = SILENT) -> Pushed:
    """Upload an artifact. Its manifest is the last object, so that readers see all of it or nothing.

    The files are compared with the manifest while they are uploaded. A URL keeps the artifact that it has: a new version
    needs a new URL, and an alias that names it.

    Args:
        folder: folder of the artifact.
        url: URL that it gets.
        alias: URL of an alias that names it afterwards. Default: no alias changes.
        progress: receives the bytes.

    Raises:
        InputError: a URL is malformed, is one of the hub, or has another artifact.
        ArtifactError, ChecksumError: the folder is not an artifact, or one of its files differs from the manifest.
        UnreachableError, SourceError: the server does not answer or refuses.
        MissingPackageError: obstore is not installed.
    """
    place, alias_place = parse_url(url), None if alias is None else parse_url(alias)
    if place.scheme == "hf":
        raise InputError(
            f"{place} is on the hub, where `hf upload` puts files: this command writes to s3, gs, az and file URLs"
        )
    if place.is_alias or not place.parts:
        raise InputError(
            f"{place} is not the URL of an artifact: name a folder in the bucket, such as {place.scheme}://…/minilm-1"
        )
    if alias_place is not None:
        alias_path(alias_place, place)  # an error before anything is sent
    artifact = Artifact.open(folder)
    store = ObjectStore(place, silence=WRITE_SECONDS)
    manifest = (folder / MANIFEST).read_bytes()
    sent = 0
    if (present := ObjectFiles(store).read(MANIFEST, LARGEST_MANIFEST)) is None:
        sent = _upload(store, artifact, progress)
        if not store.put(MANIFEST, manifest, create=True):
            present = ObjectFiles(store).read(MANIFEST, LARGEST_MANIFEST)
    if present is not None and present != manifest:
        raise InputError(
            f"{place} has another artifact, which servers may use: push to a new URL, and let an alias name it (--alias)"
        )
    if (folder / SIGNATURE).is_file():
        store.put(SIGNATURE, (folder / SIGNATURE).read_bytes())
    if alias_place is not None:
        write_alias(alias_place, place, artifact.digest)
    return Pushed(str(place), artifact.digest, sent, None if alias_place is None else str(alias_place))


def _upload(store: ObjectStore, artifact: Artifact, progress: Progress) -> int:
    """Upload all files but the manifest, and compare them with it meanwhile; return their bytes."""
    files = artifact.manifest.files

    def send(name: str, info: FileInfo) -> int:
        store.put(name, artifact.path / name)
        counter.advance(info.size)
        return info.size

    total = sum(info.size for info in files.values())
    with (
        progress.count("Uploading", total=total, units=("bytes",)) as counter,
        ThreadPoolExecutor(FILES + 1, thread_name_prefix="fletcher-upload") as pool,
    ):
        checked = pool.submit(artifact.pin_files)
        try:
            sent = sum(pool.map(send, files, files.values()))
        except BaseException:
            checked.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise
        with checked.result() as pinned:
            pinned.require_unchanged()
    found = dict(store.sizes())
    if short := [name for name, info in files.items() if found.get(name) != info.size]:
        raise SourceError(
            f"{short[0]} has {found.get(short[0])} bytes at the URL after the upload: push the artifact again"
        )
    return sent


def pull(
    url: str, folder: Path, *, digest: str | None = None, signer: str | None = None, progress: Progress = SILENT
) -> Pulled:
    """Download an artifact, or the one that an alias names, into a folder. A later call continues a download that was cut.

    Args:
        url: URL of an artifact or an alias.
        folder: folder that it gets; an artifact in it is replaced at the end.
        digest: digest that it must have. Default: any digest is accepted.
        signer: identity that must have signed it, as `LoadOptions.require_signature`. Default: no signature is required.
        progress: receives the bytes.

    Raises:
        SignatureError: it has no signature of the signer.
        As `locate`; also ArtifactError: the folder has something else in it, or another process is writing it.
    """
    place = parse_url(url)
    if place.is_alias:
        target = read_alias(place)
        assert target is not None  # no version was given
        place, digest = target.url, digest or target.digest
    source = open_source(place)
    index = read_index(source, place)
    require_digest(place, index.digest, digest)
    folder = folder.resolve()
    with new_artifact(folder) as unfinished:
        # Beside the folder, with the key in its name: what a cut download left is of this artifact.
        partial = folder.with_name(f".{folder.name}.pull-{index.key[:16]}")
        partial.mkdir(exist_ok=True)
        download(source, index, partial, progress)
        if signer is not None:
            verify_signature(partial, signer)
        for file in partial.iterdir():
            file.rename(unfinished / file.name)
        sync(partial)  # a file system may make a move durable in two steps
        partial.rmdir()
    for left in folder.parent.glob(
        f".{glob.escape(folder.name)}.pull-*"
    ):  # of pulls of other artifacts, which were cut
        shutil.rmtree(left, ignore_errors=True)
    return Pulled(folder, index.digest, index.size)


def list_url(url: str) -> list[Listed]:
    """Return the artifacts and aliases below a URL, by name.

    Raises:
        InputError: the URL is malformed.
        UnreachableError, SourceError: the server does not answer or refuses.
        MissingPackageError: obstore is not installed.
    """
    place = parse_url(url)
    if place.scheme == "hf":
        return [_describe(place)]
    names = sorted(name for name, _ in ObjectStore(place).sizes())
    folders = {name.removesuffix(MANIFEST).rstrip("/") for name in names if name.rpartition("/")[2] == MANIFEST}
    found = [_describe(place.child(folder) if folder else place) for folder in sorted(folders)]
    for name in names:
        if name.endswith(".json") and not any(name.startswith(f"{folder}/") or not folder for folder in folders):
            found.append(_describe_alias(place.child(name)))
    return found


def _describe(url: ArtifactUrl) -> Listed:
    try:
        index = read_index(open_source(url), url)
        return Listed(str(url), index.model, index.digest, index.size, index.signature is not None)
    except (SourceError, ArtifactError) as error:
        return Listed(str(url), "", "", 0, False, str(error))


def _describe_alias(url: ArtifactUrl) -> Listed:
    try:
        target = read_alias(url)
    except SourceError as error:
        return Listed(str(url), "", "", 0, False, str(error))
    assert target is not None  # no version was given
    return Listed(str(url), str(target.url), (target.digest or "").removeprefix("sha256:"), 0, False)
