"""File systems of URLs, and the messages for URLs that cannot be used."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.files import inputs

#: Beginning of pyarrow's message for hdfs:// on a machine without Java.
NO_JAVA = (
    "Unable to load libjvm\ndlopen(/usr/lib/jvm/default-java/libjvm.so) failed: no such file\ndlopen(/usr/java) failed"
)


def test_the_message_for_a_library_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_uri(url: str) -> None:
        raise OSError(NO_JAVA)

    monkeypatch.setattr(inputs, "pafs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=from_uri)))
    with pytest.raises(InputError) as caught:
        inputs.filesystem("hdfs://a/b")
    assert str(caught.value) == "hdfs://a/b cannot be opened: Unable to load libjvm"


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(InputError, match=r"nothing://a/b cannot be opened"):
        inputs.filesystem("nothing://a/b")
    store, path = inputs.filesystem("file:///a/b")
    assert isinstance(store, pafs.LocalFileSystem) and path == "/a/b"
