"""Targets of the fuzzers: each reads untrusted bytes. It must accept them as an independent reader does, or name an error."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cbor2
import msgspec
import numpy as np

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.check import check_graph
from fletcher.runtime.artifact.manifest import Manifest
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ArtifactError, ChecksumError, InputError
from fletcher.runtime.tokenizing import containment, containment_child
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.serve.arrow.options import ArrowOptions
from fletcher.serve.arrow.streams import measure, read_arrow
from fletcher.serve.errors import FieldError, TooLargeError
from fletcher.serve.http.apis.cbor import read_cbor

from ..runtime.artifact.graph.harmless import assert_harmless

__all__ = ["CORPUS", "TARGETS"]

CORPUS: Final = Path(__file__).with_name("corpus")

#: Seconds that an input of a few kilobytes may take.
LONGEST: Final = 2.0

#: Folder of files that a target needs.
_folder = tempfile.TemporaryDirectory(prefix="fuzzing.", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
FOLDER: Final = Path(_folder.name)

MOST: Final = 2048

#: Exit codes of a child that tries a tokenizer.
REFUSED, WRONG = 10, 77


def cbor(data: bytes) -> bool:
    """Read a CBOR body. `cbor2` reads the same texts, and what it writes for texts is read."""
    try:
        texts = read_cbor(data, MOST)
    except FieldError:
        if data[:1] and data[0] >> 5 == 4 and len(data) < 4096 and data[0] < 0x97:
            try:
                value = cbor2.loads(data)
            except Exception:  # noqa: BLE001 (it refuses the bytes, too)
                return False
            texts_alone = isinstance(value, list) and all(isinstance(each, str) for each in value)
            assert not (texts_alone and cbor2.dumps(value) == data), "a right body is refused"
        return False
    assert cbor2.loads(data) == texts
    return True


def arrow(data: bytes) -> bool:
    """Read an Arrow stream: as many texts as rows, and no more bytes than were announced."""
    try:
        plain = measure(data, 65_536, 1 << 26)
        batches, texts, column = read_arrow(data, ArrowOptions())
    except (FieldError, TooLargeError, InputError):
        return False
    assert [len(part) for part in texts] == [batch.num_rows for batch in batches]
    assert all(isinstance(text, str) for part in texts for text in part) and isinstance(column, str)
    assert plain <= 1 << 26
    return True


def manifest(data: bytes) -> bool:
    """Open an artifact's manifest. The names in one that is accepted are plain."""
    (FOLDER / "fletcher.json").write_bytes(data)
    try:
        opened = Artifact.open(FOLDER)
    except (ArtifactError, ChecksumError):
        return False
    each = opened.manifest
    names = [*each.files, *(name for one in each.variants for name in (one.name, one.file, one.weights, one.precision))]
    assert all(Path(name).name == name and name not in (".", "..") for name in names), names
    assert len(opened.digest) == 64 and each.status
    return bool(each.variants)  # one without variants is refused when a variant is looked for


def canary(data: bytes) -> bool:
    """Read a canary. One that is accepted passes with its own vectors, if they are finite."""
    file = FOLDER / "canary.safetensors"
    file.write_bytes(data)
    try:
        read = read_canary(file)
    except ArtifactError:
        return False
    assert len(read.texts) == len(read.encodings.offsets) - 1
    assert read.vectors.dtype == np.float32 and read.vectors.ndim == 2
    assert all(isinstance(text, str) for text in read.texts)
    return True


def tokenizer(data: bytes) -> bool:
    """Try a tokenizer in a child with limits, as a load does, and tokenize other texts if it passes.

    A file that ends the child must be refused by the whole check.
    """
    file = FOLDER / "tokenizer.json"
    file.write_bytes(data)
    try:
        containment_child._check_rules(str(file))
    except Exception:  # noqa: BLE001 (the child of a load prints any error as its reason)
        return False
    child = os.fork()
    if child == 0:
        _try_tokenizer(file, data)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, REFUSED):
        return os.WEXITSTATUS(status) == 0
    assert containment._try(file) is not None, f"a tokenizer that passes the check ends the process: {status}"
    return False


def _try_tokenizer(file: Path, data: bytes) -> None:
    """Open a tokenizer and tokenize a few texts; end the process."""
    code = REFUSED
    try:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (panics print)
        opened = Tokenizer(file, 512)
        opened.encode(["a word", "", "\ufdfa" * 20])
        code = 0
        for start in range(0, min(len(data), 2000), 200):
            try:
                opened.encode([data[start : start + 200].decode("latin-1")])
            except InputError:
                pass
            except BaseException:  # noqa: BLE001 (a panic that no code has named)
                code = WRONG
    except BaseException:  # noqa: BLE001 (the file is refused)
        code = REFUSED if code == 0 else code
    os._exit(code)


def _graph() -> Callable[[bytes], bool]:
    described = msgspec.json.decode(next((CORPUS / "manifest").iterdir()).read_bytes(), type=Manifest)
    variant = described.variants[0]
    size = described.files[variant.weights].size

    def graph(data: bytes) -> bool:
        """Check a graph. onnx's own parser finds nothing forbidden in one that is accepted."""
        try:
            check_graph(data, variant, size)
        except ArtifactError:
            return False
        assert_harmless(data, variant, size)
        return True

    return graph


def timed(target: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """Return a target that must end in time."""

    def run(data: bytes) -> bool:
        started = time.process_time()
        accepted = target(data)
        assert time.process_time() - started < LONGEST, f"{len(data)} bytes take too long"
        return accepted

    return run


#: The targets by name. Each returns whether it accepts the bytes.
TARGETS: Final[dict[str, Callable[[bytes], bool]]] = {
    each.__name__: timed(each) for each in (cbor, arrow, manifest, canary, tokenizer, _graph())
}
