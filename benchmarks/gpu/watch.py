"""What nvidia-smi says of the first GPU while something runs."""

from __future__ import annotations

import statistics
import subprocess
import tempfile

from fletcher.runtime.machine.gpus import this_gpus

__all__ = ["Watch"]


class Watch:
    """Samples what nvidia-smi says of the GPU while something runs. A context manager.

    Attributes:
        samples: of each query, in its order: percent busy, MiB used, MHz of the multiprocessors, watts.
    """

    QUERY = "utilization.gpu,memory.used,clocks.sm,power.draw"

    def __init__(self, milliseconds: int) -> None:
        self.samples: list[tuple[float, ...]] = []
        self._command = [
            "nvidia-smi",
            f"--id={this_gpus().gpus[0].pci}",
            f"--query-gpu={self.QUERY}",
            "--format=csv,noheader,nounits",
            f"--loop-ms={milliseconds}",
        ]

    def __enter__(self) -> Watch:
        self._said = tempfile.TemporaryFile("w+")  # a pipe that nobody reads meanwhile would stop it after some minutes
        self._process = subprocess.Popen(self._command, stdout=self._said, text=True)
        return self

    def __exit__(self, *told: object) -> None:
        self._process.terminate()
        self._process.wait()
        with self._said as said:
            said.seek(0)
            lines = said.read().splitlines()[:-1]  # the last one may have been cut off
        self.samples = [tuple(map(float, line.split(", "))) for line in lines if line]

    def medians(self) -> dict[str, float]:
        """Of the later half, when clocks have settled."""
        later = self.samples[len(self.samples) // 2 :]
        if not later:
            return {}
        return dict(zip(self.QUERY.split(","), map(statistics.median, zip(*later, strict=True)), strict=True))
