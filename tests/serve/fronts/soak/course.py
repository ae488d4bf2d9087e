"""`Course`: memory of every process of a server over time, from the system and from its metrics, as a page with plots."""

from __future__ import annotations

import json
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from fletcher.runtime.commandline.plots import to_svg

from .clients import Clients
from .processes import Processes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Course"]

MIB = 1 << 20


class Course:
    """Samples of the memory of a server.

    Attributes:
        samples: seconds since the beginning, resident bytes by process, and `fletcher_heap_*` by process.
    """

    def __init__(self, server: Processes, clients: Clients) -> None:
        self._server = server
        self._clients = clients
        self._began = time.monotonic()
        self.samples: list[dict[str, Any]] = []

    def record(self, every: float, stop: threading.Event, path: Path | None) -> None:
        """Take a sample every few seconds until the event is set, and write all samples to a file if one is given."""
        while not stop.wait(every):
            status, page = self._clients.call("GET", "/metrics")
            if status != 200:
                self._clients.ledger.fail(f"metrics: {status} {page[:200]}")
                continue
            heap: dict[str, dict[str, float]] = {}
            for family in text_string_to_metric_families(page):
                if family.name.startswith("fletcher_heap_"):
                    for sample in family.samples:
                        heap.setdefault(sample.labels["process"], {})[family.name[14:]] = sample.value
            resident = {name: resident_bytes(pid) for name, pid in self._server.names().items()}
            seconds = time.monotonic() - self._began
            self.samples.append(
                {"seconds": seconds, "requests": len(self._clients.ledger.outcomes), "resident": resident, "heap": heap}
            )
            if path is not None:
                path.write_text(json.dumps(self.samples))

    def growth(self, warm: float, span: float) -> dict[str, float]:
        """Return the growth of resident memory by process: median of the last seconds over that of the first ones, less 1.

        Args:
            warm: seconds at the beginning that do not count.
            span: seconds of each of the two parts.
        """
        last = self.samples[-1]["seconds"]
        first = [one["resident"] for one in self.samples if warm <= one["seconds"] < warm + span]
        end = [one["resident"] for one in self.samples if one["seconds"] > last - span]
        return {
            name: statistics.median(one[name] for one in end) / statistics.median(one[name] for one in first) - 1
            for name in self.samples[-1]["resident"]
        }

    def write(self, path: Path, title: str) -> None:
        """Write a page with plots."""
        plots = [
            self._plot(
                "resident",
                "resident memory, MiB",
                lambda one: {name: size / MIB for name, size in one["resident"].items()},
            ),
            self._plot(
                "held", "heap, MiB", lambda one: {name: heap["held_bytes"] / MIB for name, heap in one["heap"].items()}
            ),
            self._plot(
                "free",
                "free share of the heap, %",
                lambda one: {name: 100 * heap["free_bytes"] / heap["held_bytes"] for name, heap in one["heap"].items()},
            ),
        ]
        path.write_text(f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>" + "".join(plots))

    def _plot(self, name: str, label: str, values: Any) -> str:
        minutes = [one["seconds"] / 60 for one in self.samples]
        rows = [values(one) for one in self.samples]

        def draw(axes: Axes) -> None:
            for process in rows[-1]:
                axes.plot(minutes, [row.get(process, float("nan")) for row in rows], linewidth=1, label=process)
            axes.set_xlabel("minutes")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)

        return to_svg(name, draw, size=(9.0, 3.5))


def resident_bytes(pid: int) -> int:
    """Return the resident set size of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024
