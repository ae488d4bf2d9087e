"""`check_contained`: try a tokenizer file in a child process with limits, before this process opens it.

Tokenizers are written in Rust. A file of a stranger can make them take gigabytes, take minutes for a few characters, panic,
or abort the process. The child loads the file and tokenizes texts that are chosen to show this; `containment_child.py` has
them. A file that passed is remembered by its sha256 in Fletcher's cache folder, so that only its first use waits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from fletcher.model_zoo.sources.cache import cache_folder

from ..errors import ArtifactError
from ..os_errors import explain
from ..versions import installed_version

__all__ = ["check_contained"]

logger = logging.getLogger("fletcher.runtime.tokenizing.containment")

#: Version of the check. Raise it when the check finds more.
CHECK = 1

#: Bytes of address space and seconds of processor time of the child. XLM-RoBERTa's 250,000 tokens take less than 1 GB.
MEMORY, SECONDS = 4 << 30, 60

#: Seconds until the child is killed, on a machine whose processors are busy.
PATIENCE = 240

#: Largest file. XLM-RoBERTa's has 17 MB.
LARGEST_FILE = 256 << 20

#: The child sets its limits before it imports anything of Fletcher and of other packages.
PROGRAM = """
import resource, sys
for name, limit in (("AS", {memory}), ("CPU", {seconds}), ("CORE", 0), ("FSIZE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
from fletcher.runtime.tokenizing.containment_child import main
main(sys.argv[1])
"""

#: Variables that the child gets; keys and passwords of this process are not passed on.
VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "SYSTEMROOT")


def check_contained(file: Path) -> None:
    """Raise an error if a tokenizer file takes too much time or memory, panics, or ends the process that uses it.

    Args:
        file: a `tokenizer.json`.

    Raises:
        ArtifactError: the file cannot be read, or it does.
    """
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ArtifactError(f"{file} has more than {LARGEST_FILE} bytes, too many for a tokenizer")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {explain(error)}") from error
    versions = [f"{name}-{installed_version(name)}" for name in ("tokenizers", "nanotoken")]
    note = cache_folder(None) / "tokenizers" / f"{digest}.{CHECK}.{'.'.join(versions)}"
    if note.is_file():
        return
    problem = _try(file)
    if problem is not None:
        raise ArtifactError(
            f"{file} is not a tokenizer that can be used safely: {problem}. Take the tokenizer of the model's authors"
        )
    _remember(note)


def _try(file: Path) -> str | None:
    """Try a file in a child process, and return the problem, or None."""
    environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        # Threads need address space, and their number would decide whether the limit suffices.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
    }
    # -P: modules of the current folder are not imported.
    command = [sys.executable, "-P", "-c", PROGRAM.format(memory=MEMORY, seconds=SECONDS), str(file.absolute())]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {PATIENCE} s"
    except OSError as error:
        return f"the process that tries it cannot be started ({explain(error)})"
    if done.returncode == 0:
        return None
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {SECONDS} s of processor time"
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if done.returncode < 0:
        return f"its library ends the process ({signal.Signals(-done.returncode).name}), as with too little memory"
    if lines:
        return lines[-1]
    errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"the process that tries it fails ({errors[-1][:300] if errors else done.returncode})"


def _remember(note: Path) -> None:
    """Write an empty file for a tokenizer that passed; without it, the next load tries the tokenizer again."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except OSError as error:
        logger.info("the check of a tokenizer is not kept", extra={"fields": {"reason": str(error)}})
