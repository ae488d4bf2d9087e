"""Push, pull and list on a real S3 server: what arrives is what was sent, whatever happens on the way."""

from __future__ import annotations

import filecmp
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url

from fletcher.runtime import Artifact
from fletcher.runtime.errors import ArtifactError, ChecksumError, InputError, SourceError, UnreachableError
from fletcher.runtime.remote import source, store
from fletcher.runtime.remote.transfer import list_url, pull, push
from fletcher.runtime.remote.url import parse_url

from ...doubles.s3_server import KEY, SECRET
from ...doubles.tcp_proxy import TcpProxy

MIB = 1 << 20

#: Program that pulls.
PULL = """
import sys
from pathlib import Path
from fletcher.runtime.remote.transfer import pull
pull(sys.argv[1], Path(sys.argv[2]))
"""

#: An error of Amazon S3 as its documentation shows it: "REST error responses" and the code ExpiredToken of its list.
EXPIRED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message><Token-0>a-secret-token</Token-0>\
<RequestId>4442587FB7D0A2F9</RequestId></Error>"""


def same(one: Path, other: Path) -> bool:
    """Return whether two folders have the same files."""
    names = sorted(file.name for file in one.iterdir())
    there = sorted(file.name for file in other.iterdir())
    return names == there and not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def bucket() -> obstore.store.ObjectStore:
    """Return the test's bucket, by obstore itself."""
    return from_url("s3://models", client_options={"allow_http": True})


def test_what_was_pushed_is_pulled(make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str) -> None:
    artifact = make(size=20 * MIB)
    pushed = push(artifact, f"s3://models/{unique}/v1")
    assert pushed.digest == Artifact.open(artifact).digest
    assert pushed.bytes > 20 * MIB
    assert {meta["path"].rpartition("/")[2] for meta in next(iter(obstore.list(bucket(), f"{unique}/v1")))} == {
        file.name for file in artifact.iterdir()
    }
    pulled = pull(f"s3://models/{unique}/v1", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")
    assert pulled.digest == pushed.digest
    assert [path.name for path in tmp_path.iterdir() if "pull" in path.name] == ["pulled"]


def test_a_url_keeps_its_artifact(make: Callable[..., Path], proxy: TcpProxy, unique: str) -> None:
    push(make("one"), f"s3://models/{unique}")
    assert push(make("same"), f"s3://models/{unique}").bytes == 0
    with pytest.raises(InputError, match="push to a new URL"):
        push(make("other", size=100), f"s3://models/{unique}")


def test_a_url_keeps_an_artifact_with_a_longer_manifest(
    make: Callable[..., Path], proxy: TcpProxy, unique: str
) -> None:
    push(make("long", size=100), f"s3://models/{unique}")
    with pytest.raises(InputError, match="push to a new URL"):
        push(make("short"), f"s3://models/{unique}")


def test_an_alias_that_cannot_name_the_artifact_is_refused_before_anything_is_sent(
    make: Callable[..., Path], proxy: TcpProxy, unique: str
) -> None:
    artifact = make()
    for alias in (f"s3://other/{unique}.json", f"s3://models/{unique}/deep/prod.json", f"s3://models/{unique}/prod"):
        with pytest.raises(InputError, match="alias"):
            push(artifact, f"s3://models/{unique}/one", alias=alias)
    assert proxy.requests == []


def test_an_artifact_with_another_file_is_not_pushed(make: Callable[..., Path], proxy: TcpProxy, unique: str) -> None:
    artifact = make(size=1000)
    (artifact / "extra.bin").write_bytes(bytes(1000))
    with pytest.raises(ChecksumError, match=r"extra\.bin"):
        push(artifact, f"s3://models/{unique}")
    with pytest.raises(SourceError, match="is not an artifact"):
        pull(f"s3://models/{unique}", artifact.with_name("pulled"))


def test_aliases_and_artifacts_are_listed(make: Callable[..., Path], proxy: TcpProxy, unique: str) -> None:
    one, two = make("one"), make("two", size=1000)
    push(one, f"s3://models/{unique}/one")
    push(two, f"s3://models/{unique}/deep/two", alias=f"s3://models/{unique}/prod.json")
    obstore.put(bucket(), f"{unique}/bad/fletcher.json", b"{}")
    obstore.put(bucket(), f"{unique}/bad.json", b'{"artifact": "../../other"}')
    found = {each.url.partition(unique)[2]: each for each in list_url(f"s3://models/{unique}")}
    assert sorted(found) == ["/bad", "/bad.json", "/deep/two", "/one", "/prod.json"]
    assert found["/one"].digest == Artifact.open(one).digest
    assert found["/prod.json"].model == f"s3://models/{unique}/deep/two"
    assert found["/prod.json"].digest == found["/deep/two"].digest == Artifact.open(two).digest
    assert found["/bad"].finding and found["/bad.json"].finding


def test_cut_connections_do_not_cut_the_artifact(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact = make(size=20 * MIB)
    push(artifact, f"s3://models/{unique}")
    proxy.cuts = [MIB, 2 * MIB, 3 * MIB]
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert proxy.cuts == []
    assert same(artifact, tmp_path / "pulled")


def test_a_pull_that_is_cut_continues(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "RANGE_BYTES", MIB)
    artifact = make(size=20 * MIB)
    push(artifact, f"s3://models/{unique}")
    proxy.cuts = [4 * MIB, *[MIB // 2] * 200]
    with pytest.raises(UnreachableError, match="breaks off"):
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    proxy.cuts, before = [], proxy.count("GET", "extra.bin")
    (left,) = tmp_path.glob(".pulled.pull-*/extra.bin")
    arrived = left.stat().st_size
    assert arrived >= MIB
    abandoned = tmp_path / ".pulled.pull-of-another-artifact"
    abandoned.mkdir()
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")
    assert proxy.count("GET", "extra.bin") - before == 20 - arrived // MIB
    assert not abandoned.exists()


def test_wrong_bytes_are_refused(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make(size=MIB)
    push(artifact, f"s3://models/{unique}")
    proxy.wrong = (artifact / "extra.bin").read_bytes()[500_000:500_008]
    with pytest.raises(ChecksumError, match=r"extra\.bin has sha256"):
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    proxy.wrong = b""
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")


@pytest.mark.parametrize("size", [500, 2000])
def test_an_object_of_another_size_is_refused(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str, size: int
) -> None:
    push(make(size=1000), f"s3://models/{unique}")
    obstore.put(bucket(), f"{unique}/extra.bin", bytes(size))
    with pytest.raises(SourceError, match=r"extra\.bin"):
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_bytes_that_rotted_in_a_cut_download_are_downloaded_again(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact = make(size=MIB)
    push(artifact, f"s3://models/{unique}")
    url = parse_url(f"s3://models/{unique}")
    index = source.read_index(source.open_source(url), url)
    partial = tmp_path / f".pulled.pull-{index.key[:16]}"
    partial.mkdir()
    (partial / "extra.bin").write_bytes(bytes(1000))
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")


def test_slow_answers_are_awaited(make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str) -> None:
    push(make(size=MIB), f"s3://models/{unique}")
    proxy.pause = 0.02
    pull(f"s3://models/{unique}", tmp_path / "pulled")


@pytest.mark.slow
def test_a_server_that_stalls_is_an_error(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make(), f"s3://models/{unique}")
    monkeypatch.setattr(store, "READ_SECONDS", 1)
    monkeypatch.setattr(store, "RETRIES", 1)
    proxy.pause = 3.0
    with pytest.raises(UnreachableError, match="silent for too long"):
        pull(f"s3://models/{unique}", tmp_path / "pulled")


@pytest.mark.parametrize(("key", "secret"), [(KEY, "another-secret"), ("UNKNOWNKEY", SECRET)])
def test_wrong_credentials_are_named_and_not_shown(
    make: Callable[..., Path],
    proxy: TcpProxy,
    tmp_path: Path,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    secret: str,
) -> None:
    push(make(), f"s3://models/{unique}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(SourceError, match="access is refused") as caught:
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert not any(word in str(caught.value) for word in (key, secret, KEY, SECRET))
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None  # a traceback would show obstore's text


def test_credentials_that_expire_during_a_download_are_named_and_not_shown(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact = make(size=20 * MIB)
    push(artifact, f"s3://models/{unique}")
    proxy.requests.clear()
    proxy.reply_after = 6
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(EXPIRED)
    proxy.reply = head + EXPIRED
    with pytest.raises(SourceError, match=r"400 ExpiredToken.*whether they have expired") as caught:
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert "secret" not in str(caught.value)
    proxy.reply = b""
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")


@pytest.mark.slow
def test_a_killed_pull_continues(make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str) -> None:
    artifact = make(size=64 * MIB)
    push(artifact, f"s3://models/{unique}")
    proxy.pause = 0.002
    process = subprocess.Popen([sys.executable, "-c", PULL, f"s3://models/{unique}", str(tmp_path / "pulled")])
    arrived = 0
    while arrived < 8 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
        arrived = sum(file.stat().st_size for file in tmp_path.glob(".pulled.pull-*/extra.bin"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.glob(".pulled.pull-*/extra.bin")
    arrived = left.stat().st_size
    proxy.pause, proxy.sent = 0.0, 0
    pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert same(artifact, tmp_path / "pulled")
    assert proxy.sent < 64 * MIB - arrived + MIB


def test_a_folder_with_other_files_is_not_replaced(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str
) -> None:
    push(make(), f"s3://models/{unique}")
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        pull(f"s3://models/{unique}", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "thesis.txt").read_text() == "years of work"


def test_another_digest_is_refused_before_large_files_are_downloaded(
    make: Callable[..., Path], proxy: TcpProxy, tmp_path: Path, unique: str
) -> None:
    push(make(size=MIB), f"s3://models/{unique}")
    with pytest.raises(ChecksumError, match="is required"):
        pull(f"s3://models/{unique}", tmp_path / "pulled", digest="sha256:" + "0" * 64)
    assert proxy.count("GET", "extra.bin") == 0
