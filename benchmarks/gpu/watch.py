"""Samples of nvidia-smi for the first GPU during a run."""

from __future__ import annotations

import statistics
import subprocess
import tempfile

from fletcher.runtime.machine.gpus import this_gpus

__all__ = ["Watch"]


class Watch:
    """`Watch`: context manager that samples nvidia-smi during a run.

    Attributes:
        samples: samples in order: utilization in percent, memory in MiB, clock of the multiprocessors in MHz, power in watts.
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
        self._output = tempfile.TemporaryFile("w+")  # a pipe without a reader would be full after some minutes
        self._process = subprocess.Popen(self._command, stdout=self._output, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        with self._output as output:
            output.seek(0)
            lines = output.read().splitlines()[:-1]  # the last line may be incomplete
        self.samples = [tuple(map(float, line.split(", "))) for line in lines if line]

    def medians(self) -> dict[str, float]:
        """Return the medians of the later half, when clocks are steady."""
        later = self.samples[len(self.samples) // 2 :]
        if not later:
            return {}
        return dict(zip(self.QUERY.split(","), map(statistics.median, zip(*later, strict=True)), strict=True))
