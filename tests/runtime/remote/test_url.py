"""URLs of artifacts."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import InputError
from fletcher.runtime.remote.url import is_url, parse_url


@pytest.mark.parametrize(
    ("text", "scheme", "root", "path"),
    [
        ("s3://bucket/models/minilm/", "s3", "bucket", "models/minilm"),
        ("gs://my.bucket/a", "gs", "my.bucket", "a"),
        ("az://container/a/b", "az", "container", "a/b"),
        ("file:///mnt/nfs/minilm", "file", "", "mnt/nfs/minilm"),
        ("S3://bucket", "s3", "bucket", ""),
        ("hf://org/name", "hf", "org/name", ""),
        ("hf://org/name@v1.0/cpu", "hf", "org/name", "cpu"),
    ],
)
def test_the_parts_of_a_url(text: str, scheme: str, root: str, path: str) -> None:
    url = parse_url(text)
    assert (url.scheme, url.root, url.path) == (scheme, root, path)


def test_a_url_reads_as_it_was_written() -> None:
    for text in ("s3://bucket/models/minilm", "hf://org/name@v1/cpu", "hf://org/name", "file:///mnt/a"):
        assert str(parse_url(text)) == text


@pytest.mark.parametrize("text", ["minilm", "/srv/minilm", "./s3/x", "s3:/bucket/x", "C:/models"])
def test_a_folder_is_not_a_url(text: str) -> None:
    assert not is_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host/x",
        "s3://",
        "s3:///x",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/.hidden",
        "s3://bucket/a\nb",
        "file://host/x",
        "file:///srv/../etc",
        "hf://name",
        "az://container/x?sv=2024&sig=secret-of-azure",
        "s3://key:secret-of-s3@bucket/x",
    ],
)
def test_other_urls_are_refused_and_no_secret_is_repeated(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_an_alias_has_a_name_that_ends_with_json() -> None:
    assert parse_url("s3://bucket/models/prod.json").is_alias
    assert not parse_url("s3://bucket/models/prod").is_alias
