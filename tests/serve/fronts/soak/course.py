"""`Course`: memory of every process of a server over time, from the system and from its metrics, as a page with plots."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from fletcher.runtime.commandline.pages import Page, figure, to_html
from fletcher.runtime.commandline.plots import BLUE, GREEN, ORANGE, RED, to_svg

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

    def write(self, path: Path, fronts: str, growth: Mapping[str, float]) -> None:
        """Write a page with plots of the samples."""
        last = self.samples[-1]
        worst = max(growth, key=lambda name: growth[name])
        page = Page(
            title=f"Memory of a server with --fronts {fronts}",
            sentences=[
                f"No process grew in {last['seconds'] / 60:.0f} minutes with {last['requests']:,} requests "
                f"by more than {growth[worst]:.1%} ({worst})"
            ],
            about="The medians of the first and the last part of the course after the warm-up are compared. Free bytes are "
            "those that the heap took from the system and no object uses: its fragmentation.",
            parts=[
                figure(self._plot(name, label, values), escape(caption))
                for name, label, values, caption in (
                    ("resident", "resident memory, MiB", _resident, "Resident memory of each process."),
                    ("held", "heap, MiB", _held, "Bytes that the heap of each process took from the system."),
                    ("free", "free share of the heap, %", _free, "Share of the heap that no object uses."),
                )
            ],
        )
        path.write_text(to_html(page), encoding="utf-8")

    def _plot(self, name: str, label: str, values: Any) -> str:
        minutes = [one["seconds"] / 60 for one in self.samples]
        rows = [values(one) for one in self.samples]

        def draw(axes: Axes) -> None:
            for process, color in zip(rows[-1], (BLUE, RED, GREEN, ORANGE), strict=False):
                course = [row.get(process, float("nan")) for row in rows]
                axes.plot(minutes, course, linewidth=1, label=process, color=color)
            axes.set_xlabel("minutes")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8, frameon=False)

        return to_svg(name, draw, size=(9.0, 3.5))


def _resident(sample: dict[str, Any]) -> dict[str, float]:
    return {name: size / MIB for name, size in sample["resident"].items()}


def _held(sample: dict[str, Any]) -> dict[str, float]:
    return {name: heap["held_bytes"] / MIB for name, heap in sample["heap"].items()}


def _free(sample: dict[str, Any]) -> dict[str, float]:
    return {name: 100 * heap["free_bytes"] / heap["held_bytes"] for name, heap in sample["heap"].items()}


def resident_bytes(pid: int) -> int:
    """Return the resident set size of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) * 1024
