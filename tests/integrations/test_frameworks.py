"""The tests of `frameworks/`, run in an environment that has the frameworks beside the packages of the tests."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ..clients.client import Environment
from ..clients.environment import LeftOutError, install

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "frameworks"

#: Packages of each environment. txtai requires packages of its own models, which its vectors of Fletcher do not use.
ENVIRONMENTS = (
    Environment(
        name="frameworks",
        language="python",
        packages=(
            "chromadb",
            "duckdb",
            "faiss-cpu",
            "haystack-ai",
            "langchain-core",
            "langchain-tests",
            "llama-index-core",
            "msgpack",
            "polars",
            "pytest",
            "pytest-asyncio",
            "regex",
        ),
        alone=("txtai",),
    ),
    Environment(name="cluster", language="python", packages=("daft", "pyspark", "pytest", "ray[data]"), alone=()),
)

#: Files of the tests that an environment runs.
FILES = {
    "frameworks": ("chroma", "data_frames", "documents", "haystack", "langchain", "llama_index", "txtai"),
    "cluster": ("daft", "ray", "spark"),
}


def test_every_file_is_run() -> None:
    listed = {f"test_{name}.py" for names in FILES.values() for name in names}
    assert listed == {path.name for path in FOLDER.glob("test_*.py")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_the_tests_of_the_frameworks(environment: Environment, tmp_path: Path) -> None:
    try:
        folder = install(environment)
    except LeftOutError as reason:
        pytest.skip(str(reason))
    (packages,) = folder.glob("lib/python*/site-packages")
    # Packages of the tests, such as torch for the right results, come behind those of the environment.
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    files = [str(FOLDER / f"test_{name}.py") for name in FILES[environment.name]]
    options = ["-m", "slow", "-W", "ignore", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'run'}"]
    if environment.name == "frameworks":
        options += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", "--no-header", "-rs", *options, *files]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "ANONYMIZED_TELEMETRY": "False"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    summary = done.stdout.splitlines()[-1]
    assert " passed" in summary, done.stdout[-3000:]
    assert "skipped" not in summary, done.stdout[-3000:]
