"""Remove from the image's environment everything that a server does not use. Run it with the environment's own Python.

The image serves artifacts; checkpoints are converted elsewhere. So the packages of conversion go, with what only they need,
and at last the installers themselves. Of the other packages, tests, headers and tools go. A slow test starts a server from
what remains (tests/deploy/test_image.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Requirements that only conversion imports: the server's code may not (pyproject.toml, import-linter), and `tokenizers`
#: needs the hub only for names of models.
CONVERSION = frozenset({"huggingface-hub", "onnx"})

#: The distribution that is served, and packages that install others.
FLETCHER = "longbow-fletcher"
INSTALLERS = ("setuptools", "pip")

#: Command that needs the packages of conversion.
COMMANDS = ("fletcher-convert",)

#: Files and folders that a server does not read, as patterns below the folder of packages.
UNUSED = (
    "**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/f2py",
    "numpy/random/lib",
    "onnxruntime/backend",
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "pyarrow/*.pxd",
    "pyarrow/*.pxi",
    "pyarrow/*.pyx",
    "pyarrow/_substrait.*",
    "pyarrow/include",
    "pyarrow/includes",
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
    "pyarrow/libarrow_substrait.so.*",
    "pyarrow/src",
    "uvloop/**/*.c",
    "uvloop/**/*.pxd",
    "uvloop/**/*.pyx",
    "zstandard/_cffi*",
    "zstandard/backend_cffi.py",
)

#: Modules whose symbols for debuggers are nine tenths of the file. `strip` of binutils removes them.
WITH_SYMBOLS = ("tokenizers/*.so", "uvloop/*.so", "zstandard/*.so")


def needed(packages: dict[str, Distribution], extras: set[str]) -> set[str]:
    """Return the packages that a server needs: the requirements of Fletcher and theirs, without those of conversion."""
    found: set[str] = set()
    waiting = [(FLETCHER, frozenset(extras))]
    while waiting:
        name, chosen = waiting.pop()
        if name not in packages or name in CONVERSION:
            continue
        found.add(name)
        for line in packages[name].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *chosen}):
                required = canonicalize_name(requirement.name)
                if required not in found or requirement.extras:
                    waiting.append((required, frozenset(requirement.extras)))
    return found


def main() -> None:
    """Remove the packages, the command and the files."""
    packages = {canonicalize_name(each.metadata["Name"]): each for each in distributions()}
    extras = set(sys.argv[1].split(","))
    unused = sorted(set(packages) - needed(packages, extras) - set(INSTALLERS))
    pip = [sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", "--root-user-action=ignore"]
    subprocess.run([*pip, *unused], check=True)
    scripts = Path(sysconfig.get_path("scripts"))
    for command in COMMANDS:
        (scripts / command).unlink()
    site = Path(sysconfig.get_path("purelib"))
    for pattern in UNUSED:
        for path in sorted(site.glob(pattern), reverse=True):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    modules = [str(path) for pattern in WITH_SYMBOLS for path in site.glob(pattern)]
    subprocess.run(["strip", "--strip-unneeded", *modules], check=True)
    subprocess.run([*pip, *INSTALLERS], check=True)
    sys.stdout.write(f"removed {', '.join(unused)}\n")


if __name__ == "__main__":
    main()
