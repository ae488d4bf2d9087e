"""The cache of a node: one download for all processes, room, locks, and what happens when servers do not answer."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fletcher import Encoder
from fletcher.runtime import Artifact
from fletcher.runtime.errors import (
    ArtifactError,
    ChecksumError,
    InputError,
    RefusedError,
    SignatureError,
    SourceError,
    UnreachableError,
)
from fletcher.runtime.remote import store
from fletcher.runtime.remote.alias import read_alias
from fletcher.runtime.remote.locate import Located, locate, relocate
from fletcher.runtime.remote.transfer import push
from fletcher.runtime.remote.url import parse_url

from ...doubles.tcp_proxy import TcpProxy

MIB = 1 << 20

#: Program that locates a URL, prints its folder and holds it until its standard input ends.
LOCATE = """
import sys
from fletcher.runtime.remote.locate import locate
with locate(sys.argv[1]) as located:
    print(located.folder, flush=True)
    sys.stdin.read()
"""


def start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOCATE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> str:
    """Let a process end, and return what it printed."""
    printed, _ = process.communicate("", timeout=60)
    assert process.returncode == 0
    return printed.strip()


def names(cache: Path) -> set[str]:
    """Return the names of the whole artifacts of the cache."""
    return {folder.name for folder in cache.iterdir() if not folder.name.startswith(".")}


def used(url: str) -> Path:
    """Locate a URL, release it, and return its folder."""
    with locate(url) as located:
        return located.folder


def test_a_folder_is_taken_as_it_is(tiny_artifact: Path, cache: Path) -> None:
    assert locate(tiny_artifact) == Located(tiny_artifact)
    assert locate(str(tiny_artifact)).folder == tiny_artifact
    assert not cache.exists()


def test_an_artifact_is_downloaded_once(make: Callable[..., Path], proxy: TcpProxy, unique: str, cache: Path) -> None:
    artifact = make(size=MIB)
    push(artifact, f"s3://models/{unique}/one", alias=f"s3://models/{unique}/prod.json")
    folder = used(f"s3://models/{unique}/one")
    assert folder.parent == cache
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in artifact.iterdir()
    }
    assert used(f"s3://models/{unique}/one") == used(f"s3://models/{unique}/prod.json") == folder
    assert proxy.count("GET", "extra.bin") == 1


def test_four_processes_at_once_download_once(
    make: Callable[..., Path], proxy: TcpProxy, unique: str, cache: Path
) -> None:
    push(make(size=4 * MIB), f"s3://models/{unique}")
    proxy.pause = 0.005
    processes = [start(f"s3://models/{unique}") for _ in range(4)]
    assert len({end(process) for process in processes}) == 1
    for name in ("extra.bin", "tokenizer.json", "weights.fp32.safetensors", "cpu-fp32.onnx"):
        assert proxy.count("GET", name) == 1
    assert len(names(cache)) == 1


@pytest.mark.slow
def test_a_killed_download_is_continued_by_another_process(
    make: Callable[..., Path], proxy: TcpProxy, unique: str, cache: Path
) -> None:
    push(make(size=64 * MIB), f"s3://models/{unique}")
    proxy.pause = 0.002
    process, arrived = start(f"s3://models/{unique}"), 0
    while arrived < 8 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
        arrived = sum(file.stat().st_size for file in cache.glob(".partial/*/extra.bin"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = cache.glob(".partial/*/extra.bin")
    arrived = left.stat().st_size
    proxy.pause, proxy.sent = 0.0, 0
    folder = used(f"s3://models/{unique}")
    Artifact.open(folder).check_files()
    assert proxy.sent < 64 * MIB - arrived + MIB
    assert not any((cache / ".partial").iterdir())


def test_a_digest_that_the_cache_has_needs_no_request(make: Callable[..., Path], proxy: TcpProxy, unique: str) -> None:
    digest = push(make(), f"s3://models/{unique}").digest
    used(f"s3://models/{unique}")
    proxy.requests.clear()
    locate(f"s3://models/{unique}", digest=digest).close()
    locate(f"s3://models/{unique}", digest=f"sha256:{digest}").close()
    assert proxy.requests == []
    with pytest.raises(ChecksumError, match="is required"):
        locate(f"s3://models/{unique}", digest="0" * 64)


def test_a_server_that_does_not_answer_leaves_the_last_artifact(
    make: Callable[..., Path],
    proxy: TcpProxy,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    push(make(), f"s3://models/{unique}/one", alias=f"s3://models/{unique}/prod.json")
    folder = used(f"s3://models/{unique}/prod.json")
    monkeypatch.setattr(store, "RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "fletcher.runtime.remote"):
        assert used(f"s3://models/{unique}/prod.json") == folder
    assert "does not answer" in caplog.text
    with pytest.raises(UnreachableError, match="refuses connections"):
        locate(f"s3://models/{unique}/never-seen")


def test_a_server_that_refuses_is_an_error_although_the_cache_has_the_artifact(
    make: Callable[..., Path], proxy: TcpProxy, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make(), f"s3://models/{unique}")
    used(f"s3://models/{unique}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SourceError, match="access is refused"):
        locate(f"s3://models/{unique}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://models/none", "is not an artifact"),
        ("s3://models/none.json", "does not exist"),
        ("file:///none/at/all", "is not an artifact"),
        ("s3://no-such-bucket/x", "is not an artifact"),
    ],
)
def test_a_url_without_an_artifact_is_named(proxy: TcpProxy, url: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        locate(url)
    assert url in str(caught.value)


def test_a_damaged_manifest_is_named_by_its_url(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(make(), tmp_path / "store" / "one")
    text = (folder / "fletcher.json").read_text()
    for damaged in (text[:100], text.replace('"max_tokens": 20', '"max_tokens": 19')):
        (folder / "fletcher.json").write_text(damaged)
        with pytest.raises((ArtifactError, ChecksumError), match=f"file://{folder}/fletcher.json"):
            locate(f"file://{folder}")


def test_a_damaged_alias_is_named(proxy: TcpProxy, tmp_path: Path) -> None:
    for number, text in enumerate(
        ['{"artifact": 1}', "prod", '{"artifact": "a", "x": 1}', '{"artifact": "../../etc"}']
    ):
        alias = tmp_path / f"{number}.json"
        alias.write_text(text)
        with pytest.raises(SourceError, match=f"the alias file://{alias} is damaged"):
            locate(f"file://{alias}")


def test_an_alias_with_another_digest_is_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(make(), tmp_path / "store" / "one")
    (tmp_path / "store" / "prod.json").write_text('{"artifact": "one", "digest": "sha256:%s"}' % ("0" * 64))
    with pytest.raises(ChecksumError, match="is required"):
        locate(f"file://{tmp_path}/store/prod.json")


def test_a_file_url_is_copied_so_that_its_mount_may_vanish(make: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(make(), tmp_path / "mount" / "one")
    with Encoder.load(f"file://{tmp_path}/mount/one", provider="mlas") as encoder:
        before = encoder.embed(["a b"]).vectors
        shutil.rmtree(tmp_path / "mount")
    with Encoder.load(f"file://{tmp_path}/mount/one", provider="mlas", digest=encoder.artifact.digest) as encoder:
        assert (encoder.embed(["a b"]).vectors == before).all()


def test_an_alias_that_has_not_changed_is_not_sent_again(
    make: Callable[..., Path], proxy: TcpProxy, unique: str
) -> None:
    place = f"s3://models/{unique}"
    push(make("one"), f"{place}/one", alias=f"{place}/prod.json")
    alias = parse_url(f"{place}/prod.json")
    first = read_alias(alias)
    assert first is not None and str(first.url) == f"{place}/one"
    assert read_alias(alias, first.version) is None
    push(make("two", size=10), f"{place}/two", alias=f"{place}/prod.json")
    second = read_alias(alias, first.version)
    assert second is not None and str(second.url) == f"{place}/two"


#: Amazon S3's answer for an object that does not exist, to a reader who may not list the bucket (GetObject, "Permissions").
DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>656c76696e6727</RequestId></Error>"""


def test_a_reader_who_may_not_list_the_bucket_gets_an_artifact_without_a_signature(
    make: Callable[..., Path], proxy: TcpProxy, unique: str
) -> None:
    push(make(), f"s3://models/{unique}")
    proxy.reply_to = "/model.sig"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(DENIED)
    proxy.reply = head + DENIED
    Artifact.open(used(f"s3://models/{unique}")).check_files()
    assert proxy.count("GET", "model.sig") == 1
    proxy.reply_to = "/fletcher.json"
    with pytest.raises(RefusedError, match="403 AccessDenied"):
        locate(f"s3://models/{unique}")


# Room -----------------------------------------------------------------------------------------------------------------


def store_of(tmp_path: Path, make: Callable[..., Path], *sizes: int) -> list[str]:
    """Return file URLs of artifacts with a file of each size."""
    return [f"file://{make(f'a{number}', size=size, seed=number)}" for number, size in enumerate(sizes)]


def test_the_longest_unused_artifact_makes_room(
    make: Callable[..., Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = store_of(tmp_path, make, 4 * MIB, 4 * MIB, 4 * MIB)
    monkeypatch.setenv("FLETCHER_CACHE_SIZE", "10MiB")
    one, two = used(first), used(second)
    os.utime(cache / ".locks" / two.name, (1, 1))
    three = used(third)
    assert names(cache) == {one.name, three.name}


def test_an_artifact_in_use_is_never_removed(
    make: Callable[..., Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = store_of(tmp_path, make, 4 * MIB, 4 * MIB, 4 * MIB)
    monkeypatch.setenv("FLETCHER_CACHE_SIZE", "10MiB")
    with locate(first) as held:
        other = start(second)
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        with pytest.raises(SourceError, match=r"has no room.*FLETCHER_CACHE_SIZE"):
            locate(third)
        assert names(cache) == {held.folder.name, folder.name}
        end(other)
        newest = used(third)
        assert names(cache) == {held.folder.name, newest.name}
        Artifact.open(held.folder).check_files()


def test_an_encoder_holds_its_artifact_until_it_is_closed(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store_of(tmp_path, make, 4 * MIB, 4 * MIB)
    monkeypatch.setenv("FLETCHER_CACHE_SIZE", "6MiB")
    encoder = Encoder.load(first, provider="mlas")
    with pytest.raises(SourceError, match="has no room"):
        locate(second)
    encoder.close()
    used(second)
    assert relocate(encoder.artifact.path) is None


def test_a_load_that_fails_releases_its_artifact(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store_of(tmp_path, make, 4 * MIB, 4 * MIB)
    monkeypatch.setenv("FLETCHER_CACHE_SIZE", "6MiB")
    with pytest.raises(InputError, match="is not a file"):
        Encoder.load(first, provider="mlas", require_signature="key:none.pem")
    used(second)


def test_a_folder_that_lacks_a_file_is_completed(make: Callable[..., Path], tmp_path: Path) -> None:
    (url,) = store_of(tmp_path, make, MIB)
    (used(url) / "extra.bin").unlink()
    Artifact.open(used(url)).check_files()


def test_a_manifest_that_was_changed_in_the_cache_is_downloaded_again(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = store_of(tmp_path, make, 1000, 2000)
    manifest = used(first) / "fletcher.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format": 1', '"format":  1').replace('"max_tokens": 20', '"max_tokens": 19'))
    assert manifest.read_text() != text
    used(second)
    assert used(first) == manifest.parent
    assert manifest.read_text() == text


# Mounts ---------------------------------------------------------------------------------------------------------------


def forbid_writing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the cache be as on a file system that is mounted read-only: the tests may run as root, whom modes do not bind."""
    opened, made = os.open, Path.mkdir

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(path).startswith(str(cache)) and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest, **named)

    def refuse_folder(self: Path, *rest: Any, **named: Any) -> None:
        if str(self).startswith(str(cache)) and not self.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        made(self, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse_folder)


def test_a_cache_that_is_mounted_read_only_is_used(
    make: Callable[..., Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present, absent = store_of(tmp_path, make, 1000, 2000)
    folder = used(present)
    forbid_writing(monkeypatch, cache)
    assert used(present) == folder
    with Encoder.load(present, provider="mlas") as encoder:
        assert encoder.artifact.path == folder
    with pytest.raises(SourceError, match="cannot be written: Read-only file system"):
        locate(absent)


# Signatures -----------------------------------------------------------------------------------------------------------


def test_a_signature_that_comes_later_is_seen_and_the_weights_are_not_downloaded_again(
    make: Callable[..., Path], proxy: TcpProxy, unique: str, tmp_path: Path
) -> None:
    pytest.importorskip("model_signing")
    from fletcher.runtime.origin.signature import Signer, sign

    from ..origin.test_signature import write_key

    write_key(tmp_path, "ann")
    artifact, url, signer = make(size=2 * MIB), f"s3://models/{unique}", f"key:{tmp_path / 'ann.pub'}"
    push(artifact, url)
    with pytest.raises(SignatureError, match="has no signature"):
        Encoder.load(url, provider="mlas", require_signature=signer)
    sign(artifact, Signer(tmp_path / "ann.pem"))
    push(artifact, url)
    Encoder.load(url, provider="mlas", require_signature=signer).close()
    assert proxy.count("GET", "extra.bin") == 1
    write_key(tmp_path, "bob")
    with pytest.raises(SignatureError):
        Encoder.load(url, provider="mlas", require_signature=f"key:{tmp_path / 'bob.pub'}")
