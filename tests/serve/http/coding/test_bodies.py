"""Compressed bodies of requests: every coding, data that contradict their coding, and bombs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from fletcher.runtime.errors import InputError
from fletcher.serve.errors import TooLargeError
from fletcher.serve.http.coding.bodies import CODINGS, decompress

from ...fake_encoder import expected

BODY = json.dumps({"model": "fake-model", "input": "ab"}).encode()


def deflate_bare(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd_stream(data: bytes) -> bytes:
    """Return a frame that does not state the size of its content."""
    compressor = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSORS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", deflate_bare),
    ("zstd", zstandard.compress),
    ("zstd", zstd_stream),
]


@pytest.mark.parametrize(("coding", "compress"), COMPRESSORS)
@pytest.mark.parametrize("large", [False, True])
def test_a_compressed_body_is_read(http_url: str, coding: str, compress: Callable[[bytes], bytes], large: bool) -> None:
    texts = [f"{index} " + os.urandom(100).hex() for index in range(2000)] if large else ["ab"]
    body = compress(json.dumps({"model": "fake-model", "input": texts}).encode())
    answer = httpx.post(f"{http_url}/v1/embeddings", content=body, headers={"content-encoding": coding}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == expected(texts[0]).tolist()


def test_the_zstd_tool_of_another_library_is_understood(http_url: str) -> None:
    body = subprocess.run(["zstd", "-c"], input=BODY, capture_output=True, check=True).stdout
    answer = httpx.post(f"{http_url}/v1/embeddings", content=body, headers={"content-encoding": "zstd"})
    assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "zstd,gzip", "compress"])
def test_an_unknown_coding_is_refused_with_the_known_ones(http_url: str, coding: str) -> None:
    answer = httpx.post(f"{http_url}/v1/embeddings", content=BODY, headers={"content-encoding": coding})
    assert answer.status_code == 415
    assert "gzip, zstd, deflate" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("coding", "compress"), COMPRESSORS)
def test_data_that_contradict_their_coding_are_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    name = coding.lower().removeprefix("x-")
    whole = compress(BODY * 50)
    assert decompress(whole, name, 1 << 20) == BODY * 50
    for data in (BODY, whole[:-2], whole[:3], whole + b"more", whole + whole, b"\x00" * 10):
        with pytest.raises(InputError, match=f"{name}"):
            decompress(data, name, 1 << 20)


def test_mutants_of_compressed_bodies_never_fail_otherwise() -> None:
    for coding, compress in COMPRESSORS:
        whole = compress(BODY * 20)
        for place in range(len(whole)):
            mutant = whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]
            try:
                decompress(mutant, coding.lower().removeprefix("x-"), 1 << 20)
            except InputError:
                continue  # most mutants; a changed name or time in a head is harmless


#: Program that decompresses a bomb of 2 GiB, and prints by how many bytes its memory has grown.
BOMB = """
import resource, sys
from fletcher.serve.errors import TooLargeError
from fletcher.serve.http.coding.bodies import decompress
coding, path = sys.argv[1:]
data = open(path, "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decompress(data, coding, 1 << 20)
except TooLargeError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.parametrize("coding", list(CODINGS))
def test_a_bomb_needs_little_memory(coding: str, tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    compressor: Any = {
        "gzip": zlib.compressobj(9, wbits=31),
        "deflate": zlib.compressobj(9),
        "zstd": zstandard.ZstdCompressor(level=19).compressobj(),
    }[coding]
    path = tmp_path / "bomb"
    with path.open("wb") as file:
        for _ in range(2048 if coding == "zstd" else 256):
            file.write(compressor.compress(zeros))
        file.write(compressor.flush())
    ran = subprocess.run([sys.executable, "-c", BOMB, coding, str(path)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 80 << 20


def test_a_window_beyond_the_limit_of_http_is_refused() -> None:
    """RFC 9659: a decoder needs 8 MiB at most."""
    data = os.urandom(20 << 20)
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(InputError, match="not zstd"):
        decompress(compressor.compress(data) + compressor.flush(), "zstd", 32 << 20)


def test_the_limit_is_that_of_the_decompressed_body() -> None:
    data = bytes(1000)
    for coding, compress in COMPRESSORS:
        name = coding.lower().removeprefix("x-")
        assert decompress(compress(data), name, 1000) == data
        with pytest.raises(TooLargeError):
            decompress(compress(data), name, 999)
