"""`az://` on Azurite and `gs://` on fake-gcs-server: transfers, aliases, cut connections, wrong bytes, wrong keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fletcher.runtime import Artifact
from fletcher.runtime.errors import ChecksumError, InputError, RefusedError, SourceError
from fletcher.runtime.remote.locate import locate
from fletcher.runtime.remote.transfer import list_url, pull, push

from ...doubles.other_stores import ACCOUNT, KEY, azurite, fake_gcs, put_gcs
from ...doubles.tcp_proxy import TcpProxy
from .test_transfer import MIB, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: A service account without tokens, as obstore's own tests use it: `%s` is the address of the server.
GOOGLE = '{"gcs_base_url": "%s", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'


@pytest.fixture(scope="module")
def azure_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with azurite(tmp_path_factory.mktemp("azurite"), "models") as port:
        yield port


@pytest.fixture
def azure(azure_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """Return a proxy in front of Azurite; the environment names the proxy."""
    with TcpProxy(azure_port) as proxy:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{proxy.port}/{ACCOUNT}")
        yield proxy


def test_what_was_pushed_to_azure_is_pulled(
    make: Callable[..., Path], azure: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact, place = make(size=20 * MIB), f"az://models/{unique}"
    digest = push(artifact, f"{place}/v1", alias=f"{place}/prod.json").digest
    assert push(artifact, f"{place}/v1").bytes == 0
    with pytest.raises(InputError, match="push to a new URL"):
        push(make("other", size=100), f"{place}/v1")
    found = {each.url: each for each in list_url(place)}
    assert sorted(found) == [f"{place}/prod.json", f"{place}/v1"]
    assert found[f"{place}/v1"].digest == digest
    azure.cuts = [MIB, 2 * MIB, 3 * MIB]
    assert pull(f"{place}/prod.json", tmp_path / "pulled").digest == digest
    assert azure.cuts == []
    assert same(artifact, tmp_path / "pulled")


def test_wrong_bytes_of_azure_are_refused(
    make: Callable[..., Path], azure: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact, place = make(size=MIB), f"az://models/{unique}"
    push(artifact, place)
    azure.wrong = (artifact / "extra.bin").read_bytes()[500_000:500_008]
    with pytest.raises(ChecksumError, match=r"extra\.bin has sha256"):
        pull(place, tmp_path / "pulled")


def test_a_wrong_key_of_azure_is_named_and_not_shown(
    make: Callable[..., Path], azure: TcpProxy, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "d3JvbmcgYnV0IHdlbGwgZm9ybWVk"
    push(make(), f"az://models/{unique}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    with pytest.raises(RefusedError, match="access is refused") as caught:
        pull(f"az://models/{unique}", tmp_path / "pulled")
    assert not any(word in str(caught.value) for word in (wrong, KEY))


def test_a_url_of_azure_without_an_artifact_is_named(azure: TcpProxy, unique: str) -> None:
    for url in (f"az://models/{unique}", f"az://no-such-container/{unique}"):
        with pytest.raises(SourceError, match="is not an artifact"):
            locate(url)
    with pytest.raises(SourceError, match="az://no-such-container does not exist"):
        list_url("az://no-such-container")


@pytest.fixture(scope="module")
def google_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with fake_gcs(tmp_path_factory.mktemp("gcs"), "models") as port:
        yield port


@pytest.fixture
def google(google_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """Return a proxy in front of fake-gcs-server; the environment names the proxy."""
    with TcpProxy(google_port) as proxy:
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", GOOGLE % f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield proxy


def stored(google: TcpProxy, artifact: Path, path: str) -> str:
    """Write the files of an artifact to the bucket, and an alias beside it; return the URL."""
    for file in artifact.iterdir():
        put_gcs(google.target, "models", f"{path}/v1/{file.name}", file.read_bytes())
    digest = Artifact.open(artifact).digest
    put_gcs(
        google.target, "models", f"{path}/prod.json", b'{"artifact": "v1", "digest": "sha256:%s"}' % digest.encode()
    )
    return f"gs://models/{path}"


def test_an_artifact_of_google_is_listed_pulled_and_served_from_the_cache(
    make: Callable[..., Path], google: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact = make(size=20 * MIB)
    place, digest = stored(google, artifact, unique), Artifact.open(artifact).digest
    found = {each.url: each for each in list_url(place)}
    assert sorted(found) == [f"{place}/prod.json", f"{place}/v1"]
    assert found[f"{place}/v1"].digest == found[f"{place}/prod.json"].digest == digest
    google.cuts = [MIB, 2 * MIB, 3 * MIB]
    assert pull(f"{place}/prod.json", tmp_path / "pulled").digest == digest
    assert google.cuts == []
    assert same(artifact, tmp_path / "pulled")
    with locate(f"{place}/prod.json") as located:
        assert same(artifact, located.folder)


def test_wrong_bytes_and_missing_urls_of_google_are_refused(
    make: Callable[..., Path], google: TcpProxy, tmp_path: Path, unique: str
) -> None:
    artifact = make(size=MIB)
    place = stored(google, artifact, unique)
    google.wrong = (artifact / "extra.bin").read_bytes()[500_000:500_008]
    with pytest.raises(ChecksumError, match=r"extra\.bin has sha256"):
        pull(f"{place}/v1", tmp_path / "pulled")
    for url in (f"{place}/none", f"gs://no-such-bucket/{unique}"):
        with pytest.raises(SourceError, match="is not an artifact"):
            locate(url)
