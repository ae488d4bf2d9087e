"""`find_library`: the shared library with Fletcher's operators, which a graph of the domain `fletcher` needs.

The library is built from `source/` by `fletcher-serve kernels build`, once for a version of Fletcher; loads never build it.
ONNX Runtime opens it when a session is opened. Its name has the digest of sources and flags, and so has the library itself,
so that no other version's library is opened.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from fletcher.model_zoo.sources.cache import cache_folder

from ..errors import ProviderError

__all__ = ["BUILD", "FLAGS", "VARIABLE", "built_file", "find_library", "kernels_folder", "source_digest", "sources"]


#: Environment variable with the path of a library that was built before, for images and machines without a compiler.
VARIABLE: Final = "FLETCHER_KERNELS"

#: Command that builds the library.
BUILD: Final = "fletcher-serve kernels build"

#: Options of nvcc. `all-major` is machine code for each generation of GPUs that the compiler knows, and PTX for later ones.
#: CUDA's runtime is linked in, so that the library takes no part in the choice of ONNX Runtime's CUDA libraries.
FLAGS: Final = (
    "-shared",
    "-O3",
    "-std=c++17",
    "-arch=all-major",
    "-cudart=static",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
)

SOURCE: Final = Path(__file__).parent / "source"


def sources() -> tuple[Path, ...]:
    """Return the files that nvcc compiles."""
    return tuple(SOURCE / name for name in ("operators.cpp", "kernels.cu"))


@cache
def source_digest() -> str:
    """Return 16 hex digits of the sha256 of all sources, headers included, and of `FLAGS`."""
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for file in sorted(SOURCE.iterdir()):
        if file.suffix in (".h", ".cpp", ".cu"):
            digest.update(f"\0{file.name}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kernels_folder() -> Path:
    """Return the folder of built libraries in Fletcher's cache folder."""
    return cache_folder(None) / "kernels"


def built_file() -> Path:
    """Return the place of the library that this version of Fletcher builds."""
    return kernels_folder() / f"fletcher-{source_digest()}.so"


def find_library(environment: Mapping[str, str] | None = None) -> Path:
    """Return the library of this version.

    Args:
        environment: environment variables. Default: those of the process.

    Raises:
        ProviderError: it was not built, cannot be opened, or was built from other sources.
    """
    named = (os.environ if environment is None else environment).get(VARIABLE)
    path = Path(named).expanduser().absolute() if named else built_file()
    if not path.is_file():
        if named:
            raise ProviderError(f"{VARIABLE} names {path}, which does not exist: build it with `{BUILD} -o {path}`")
        raise ProviderError(
            f"this graph has operators of Fletcher's own, whose library was not built on this machine ({path}): build it "
            f"with `{BUILD}`, name a built one in {VARIABLE}, or export the model without --kernels"
        )
    found = _digest_of(path)
    if found != source_digest():
        raise ProviderError(
            f"{path} was built from other sources ({found}) than those of this version of Fletcher ({source_digest()}): "
            f"build it again with `{BUILD}{f' -o {path}' if named else ''}`"
        )
    return path


def _digest_of(path: Path) -> str:
    """Return the digest that a library was built with. The library stays open, as ONNX Runtime opens it next."""
    try:
        function = ctypes.CDLL(str(path)).fletcher_kernels_digest
    except (OSError, AttributeError) as error:
        raise ProviderError(f"{path} is not a library of Fletcher's operators for this machine: {error}") from error
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()
