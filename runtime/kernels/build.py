"""`build_kernels`: compile Fletcher's operators with nvcc into a shared library."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ..errors import FletcherError, ProviderError
from ..os_errors import explain
from .library import FLAGS, built_file, source_digest, sources

__all__ = ["build_kernels", "find_nvcc"]

#: Seconds after which a compiler that hangs is ended; a build takes half a minute.
LONGEST: Final = 900

#: Last lines of the compiler's messages in an error.
SHOWN_LINES: Final = 20


def build_kernels(output: Path | None = None) -> tuple[Path, bool]:
    """Compile the library, unless the cache has it.

    The file appears complete, by a rename, so that several processes may build at the same time.

    Args:
        output: file to write; it is always built. Default: the place in the cache where loads look for it.

    Returns:
        The library, and whether it was built now.

    Raises:
        ProviderError: there is no nvcc or no host compiler, or the sources do not compile; the message has the compiler's.
        FletcherError: the file cannot be written.
    """
    path = built_file() if output is None else output.expanduser().absolute()
    if output is None and path.is_file():
        return path, False
    nvcc = find_nvcc(os.environ)
    if nvcc is None:
        raise ProviderError(
            "no nvcc was found, which compiles Fletcher's operators: install NVIDIA's CUDA toolkit 13 and set CUDA_HOME to "
            "its folder or PATH to its bin, or install it from PyPI: pip install nvidia-cuda-nvcc nvidia-cuda-runtime "
            "nvidia-cuda-cccl"
        )
    compiler = os.environ.get("NVCC_CCBIN") or "g++"
    if shutil.which(compiler) is None:
        raise ProviderError(
            f"nvcc needs the host compiler {compiler}, which was not found: install g++, or set NVCC_CCBIN"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as scratch:
            built = Path(scratch) / "kernels.so"
            _compile(nvcc, built)
            built.replace(path)
    except OSError as error:
        raise FletcherError(f"cannot write {path}: {explain(error)}") from error
    return path, True


def _compile(nvcc: Path, output: Path) -> None:
    """Run nvcc."""
    digest = f'-DFLETCHER_DIGEST="{source_digest()}"'
    command = [str(nvcc), *FLAGS, digest, "-o", str(output), *(str(file) for file in sources())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProviderError(f"{nvcc} did not end after {LONGEST} seconds") from error
    except OSError as error:
        raise ProviderError(f"{nvcc} cannot be run: {explain(error)}") from error
    if done.returncode != 0 or not output.is_file():
        lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()[-SHOWN_LINES:]
        raise ProviderError(
            f"{nvcc} could not compile Fletcher's operators (exit code {done.returncode}):\n" + "\n".join(lines)
        )


def find_nvcc(environment: Mapping[str, str]) -> Path | None:
    """Return the compiler of CUDA_HOME, of PATH, of NVIDIA's packages from PyPI, or of the usual folder; None without one."""
    for path in _candidates(environment):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := environment.get(variable):
            yield Path(home) / "bin" / "nvcc"
    if (found := shutil.which("nvcc", path=environment.get("PATH", os.defpath))) is not None:
        yield Path(found)
    specification = importlib.util.find_spec("nvidia")
    for folder in (specification.submodule_search_locations or ()) if specification is not None else ():
        yield from sorted(Path(folder).glob("*/bin/nvcc"))
    yield Path("/usr/local/cuda/bin/nvcc")
