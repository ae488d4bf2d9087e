"""Packaging: content of the wheel, imports of the commands, and the error for a missing package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("convert", "integrations", "model_zoo", "quantize", "runtime", "serve")


def python(code: str, *args: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, in a folder outside the repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    expected = {"fletcher/__init__.py", "fletcher/py.typed"}
    for folder in FOLDERS:
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {f"fletcher/{path.relative_to(ROOT).as_posix()}" for path in files}
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert shipped == expected
    assert licenses
    assert any(name.endswith(".toml") for name in shipped)
    assert any(name.endswith(".safetensors") for name in shipped)


def test_the_wheel_is_small(wheel: Path) -> None:
    # The wheel has no model weights; the canaries are the largest files.
    assert wheel.stat().st_size < 2_000_000


def test_no_flavor_of_onnxruntime_is_a_base_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    base = [requirement for requirement in required if "extra ==" not in requirement]
    assert base
    assert not [requirement for requirement in base if requirement.startswith(("onnxruntime", "torch", "transformers"))]
    flavors = {"cpu", "apple", "nvidia", "tensorrt"}
    assert flavors | {
        "openvino",
        "tensorrt-rtx",
        "fast-tokenizer",
        "http",
        "flight",
        "objects",
        "redis",
        "tls",
        "jwt",
        "signing",
        "serve",
        "otel",
        "verify",
        "export",
        "langchain",
        "llama-index",
        "haystack",
        "chroma",
        "txtai",
        "polars",
        "duckdb",
        "arrow",
        "quality",
        "cluster",
        "train",
        "mteb",
        "dev",
    } == set(metadata.get_all("Provides-Extra") or [])


def test_the_wheel_imports_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import fletcher, fletcher.convert, fletcher.model_zoo, fletcher.quantize, fletcher.runtime, fletcher.serve\n"
        "import fletcher.integrations.sentence_transformers\n"
        "print(fletcher.__file__); print(fletcher.model_zoo.load_card('all-MiniLM-L6-v2').dimension)"
    )
    result = python(code, cwd=tmp_path, path=unpacked)
    assert result.returncode == 0, result.stderr
    file, dimension = result.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    assert dimension == "384"


@pytest.mark.parametrize("tool", ["convert", "serve"])
def test_the_wheels_commands_show_their_help(tool: str, unpacked: Path, tmp_path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        module, _, function = tomllib.load(file)["project"]["scripts"][f"fletcher-{tool}"].partition(":")
    result = python(f"from {module} import {function}; {function}()", "--help", cwd=tmp_path, path=unpacked)
    assert result.returncode == 0, result.stderr
    assert f"fletcher-{tool}" in result.stdout


@pytest.mark.parametrize("tool", ["fletcher-convert", "fletcher-serve"])
def test_the_installed_commands_show_their_help(tool: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / tool), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Commands" in result.stdout


PRINT_IMPORTED = "\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

EXPORT = """
import json, sys
from pathlib import Path
from fletcher.convert.export.export import export
export(sys.argv[1], Path(sys.argv[2]))
"""

SERVE = """
import json, sys
import fletcher.serve.commands.cli
from fletcher import Encoder
from fletcher.serve.files.embed_file import embed_file
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions
with Encoder.load(sys.argv[1], workers=1) as encoder:
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0")):
        assert encoder.embed(["a text"]).vectors.shape == (1, 384)
"""


def imported(code: str, *args: str, cwd: Path) -> set[str]:
    """Return the top-level modules that code imports in a new process."""
    result = python(code + PRINT_IMPORTED, *args, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_converting_imports_neither_torch_nor_transformers(minilm_checkpoint: Path, tmp_path: Path) -> None:
    modules = imported(EXPORT, "all-MiniLM-L6-v2", str(tmp_path / "artifact"), cwd=tmp_path)
    assert {"onnx", "onnxruntime"} <= modules
    assert not modules & {"torch", "transformers", "optimum", "matplotlib", "sentence_transformers"}


def test_serving_imports_neither_torch_nor_onnx(minilm_artifact: Path, tmp_path: Path) -> None:
    modules = imported(SERVE, str(minilm_artifact), cwd=tmp_path)
    assert {"onnxruntime", "pyarrow"} <= modules
    assert not modules & {"torch", "transformers", "optimum", "onnx", "matplotlib", "sentence_transformers"}


@pytest.mark.parametrize("tool", ["convert", "serve"])
def test_help_and_completion_import_nothing_heavy(tool: str, tmp_path: Path) -> None:
    modules = imported(f"import json, sys\nimport fletcher.{tool}.commands.cli", cwd=tmp_path)
    assert not modules & {"torch", "transformers", "onnxruntime", "pyarrow", "uvicorn", "matplotlib"}


WITHOUT = """
import sys

class Without:
    \"\"\"`Without`: a finder that does not find onnxruntime, as on a machine without this package.\"\"\"

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "onnxruntime" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from fletcher.serve.commands.cli import main
main()
"""


def test_without_onnxruntime_the_error_names_the_extra(minilm_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a text\n")
    result = python(
        WITHOUT, "embed", str(minilm_artifact), "-i", "in.txt", "-o", "out.npy", "--provider", "mlas", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "pip install 'longbow-fletcher[cpu]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.npy").exists()


def test_imports_follow_the_layers() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
