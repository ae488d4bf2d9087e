"""`footprint`: measures the memory that a loaded artifact takes, in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ProviderError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.memory.budget import resident
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tuning.trial import Trial

__all__ = ["footprint"]

#: Time limit of the process, seconds.
TIMEOUT = 300


def footprint(artifact: Path, variant: str, provider: str) -> int:
    """Return the resident memory that a process gains by loading a variant and computing the canary's texts, in bytes.

    Args:
        artifact: folder of the artifact.
        variant: name of the variant.
        provider: name of the provider that runs it.

    Raises:
        ProviderError: the process failed or exceeded the time limit.
    """
    command = [sys.executable, "-m", "fletcher.quantize.measure.footprint", str(artifact), variant, provider]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProviderError(
            f"{variant} on {provider} did not compute the canary within {TIMEOUT} s in a separate process"
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ProviderError(f"{variant} on {provider} failed in a separate process: {last[0]}")
    return int(json.loads(done.stdout)["bytes"])


def main() -> None:
    """Load the variant that the command line names, compute the canary, and print the memory as JSON."""
    folder, name, provider = sys.argv[1:]
    artifact, machine = Artifact.open(folder), this_machine()
    canary = read_canary(artifact.canary_file)
    _import_engine(provider)
    before = resident()
    layout = WorkerLayout(provider, len(machine.processors), 1, TOKEN_BUDGET)
    with Trial(artifact, artifact.variant(name), layout, machine) as trial:
        trial.compute(canary.encodings)
        sys.stdout.write(json.dumps({"bytes": resident() - before}))


def _import_engine(provider: str) -> None:
    """Import the provider's package first, so that its code does not count as memory of the model."""
    from fletcher.runtime.providers.needs import require
    from fletcher.runtime.providers.selection import find_provider

    chosen = find_provider(provider)
    require(chosen, this_machine())
    __import__(chosen.needs.package)


if __name__ == "__main__":
    main()
