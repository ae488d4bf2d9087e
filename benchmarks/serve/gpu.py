"""Server against its own engine on a GPU host without a package index: HTTP and Flight loads, with their goals.

    PYTHONPATH=SITE:src python -m benchmarks.serve.gpu CHECKPOINT --output FILE.json [--fronts N ...] [--only ROW ...]

CHECKPOINT is the folder of all-MiniLM-L6-v2. benchmarks/gpu/models.py makes BERT-base's dimensions with random weights. The
benchmark needs what the extras `http` and `flight` bring, numpy, onnxruntime-gpu, and torch and transformers for the
conversion. For each model:

1. a process without a server measures `Encoder.embed` on the texts of the loads (gpu_parts/engine.py);
2. `fletcher-serve run` starts with `--cache 0` for each number of fronts, and client processes load it over the loopback
   (gpu_parts/http_load.py, flight_load.py) for each row of gpu_parts/rows.py;
3. the engine is measured again. `of engine` compares with the mean of both measurements.

The server's and the clients' CPU time of the measured seconds is counted, for the server over its whole process tree. The
report also has the profile of each row: means of the server's own histograms (gpu_parts/stages.py), and the cores of each
process and of its busiest threads. A row
whose busiest client process uses more than 0.85 of a core is marked `client-bound`: use more `--clients`. Sampled vectors
are compared with the engine's vectors of the same texts. The benchmark ends within `--limit` seconds: rows for which no time
is left are reported as not measured. The exit status is 1 if a row had an error, a wrong vector, or no result, or if a
server did not end cleanly.

`--folder` keeps artifacts and texts for another run. `--provider mlas` runs everything on the CPU, for a try.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.serve.gpu_parts.engine import EngineSpec
from benchmarks.serve.gpu_parts.loads import CLIENT_LIMIT, MIN_COSINE, Timing, line, measure, python
from benchmarks.serve.gpu_parts.rows import ROWS, Row
from benchmarks.serve.running import Running, serving

#: Seconds that are kept for the last measurement of the engine and the end of the server.
RESERVE = 20.0

#: Seconds of a row besides its load: start and end of the client processes.
ROW_OVERHEAD = 4.0

PACKAGES = ("longbow-fletcher", "numpy", "onnxruntime-gpu", "onnxruntime", "torch", "pyarrow", "uvicorn", "uvloop")


class Bench:
    """`Bench`: arguments, report, and the time that is left."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.until = time.monotonic() + args.limit
        self.rows: dict[str, Row] = {name: ROWS[name] for name in ROWS if name in (args.only or ROWS)}
        self.report: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "versions": versions(),
            "arguments": {name: str(value) for name, value in vars(args).items()},
            "engine": {},
            "servers": [],
            "problems": [],
            "rows": [],
        }

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def write(self) -> None:
        """Write the report so far."""
        if self.args.output is not None:
            self.args.output.write_text(json.dumps(self.report, indent=1))

    def make_artifacts(self, models: list[str]) -> dict[str, str]:
        """Convert the models at the same time, and return the folders of the artifacts."""
        started = time.monotonic()
        paths = {model: self.folder / f"{model}-{self.args.provider}" for model in models}
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    python("artifacts", model, str(self.args.checkpoint), str(path), self.args.provider)
                )
                for model, path in paths.items()
                if not path.exists()
            ]
            for child in children:
                if child.wait(max(self.left - RESERVE, 1.0)):
                    raise RuntimeError("a conversion failed")
        self.report["conversion_seconds"] = time.monotonic() - started
        return {model: str(path) for model, path in paths.items()}

    def measure_engine(self, model: str, artifact: str) -> None:
        """Measure the engine on the texts of a model's rows."""
        work = list(dict.fromkeys((row.pool, row.dtype) for row in self.rows.values() if row.model == model))
        spec = EngineSpec(
            artifact, self.args.provider, work, self.args.texts, max(self.args.seconds / 3, 0.3), str(self.folder)
        )
        path = self.folder / "engine.spec.json"
        path.write_text(json.dumps(asdict(spec)))
        with python("engine", str(path)) as child:
            result = json.loads(line(child, max(self.left, 10.0)))
        self.report["engine"].setdefault(model, []).append(result)

    def engine_rate(self, row: Row) -> float:
        """Return the engine's texts per second on a row's texts, the mean of the measurements so far."""
        return statistics.mean(
            rate["texts_per_s"]
            for result in self.report["engine"][row.model]
            for rate in result["rates"]
            if (rate["pool"], rate["dtype"]) == (row.pool, row.dtype)
        )

    def serve(self, model: str, artifact: str, fronts: int | None) -> None:
        """Start a server of a model, and run the model's rows."""
        options = ["--provider", self.args.provider, "--log-level", "warning", "--drain-seconds", "5"]
        if fronts is not None:
            options += ["--fronts", str(fronts)]
        started = time.monotonic()
        with serving(artifact, *options, start_seconds=max(self.left - RESERVE, 5.0)) as server:
            wait_ready(server, started + max(self.left - RESERVE, 5.0))
            ready = time.monotonic() - started
            for name, row in self.rows.items():
                if row.model == model:
                    self.add_row(name, fronts, self.run_row(server, row))
            log = server.log.read_text()
        described = {"model": model, "fronts": fronts, "ready_seconds": ready, "exit_code": server.process.returncode}
        self.report["servers"].append(described | {"orphans": server.orphans, "log": log[-4000:]})

    def add_row(self, name: str, fronts: int | None, figures: dict[str, Any]) -> None:
        """Add a row's figures, or its problem, to the report."""
        self.report["rows"].append({"name": name, "load": str(ROWS[name]), "fronts": fronts, **figures})
        self.write()
        result = figures["problem"] if "problem" in figures else f"{figures['texts/s']:,.0f} texts/s"
        print(f"{name}: {result}", flush=True)

    def run_model(self, model: str, artifact: str) -> None:
        """Measure the engine, the servers, and the engine again."""
        problem = ""
        try:
            self.measure_engine(model, artifact)
        except RuntimeError as error:
            problem = one_line(error)
        for fronts in self.args.fronts or [None]:
            if not problem:
                try:
                    self.serve(model, artifact, fronts)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    self.report["problems"].append(one_line(error))
            reason = problem or (self.report["problems"] or [""])[-1]
            present = {result["name"] for result in self.report["rows"] if result["fronts"] == fronts}
            for name, row in self.rows.items():
                if row.model == model and name not in present:
                    self.add_row(name, fronts, {"problem": f"not measured: {reason}"})
        if self.left > RESERVE / 2 and self.report["engine"].get(model):
            try:
                self.measure_engine(model, artifact)
            except RuntimeError as error:
                self.report["problems"].append(one_line(error))

    def run_row(self, server: Running, row: Row) -> dict[str, Any]:
        """Run a row, and return its figures, or why there are none."""
        timing = Timing(self.args.warm, self.args.seconds, self.args.clients)
        if self.left < timing.warm + timing.seconds + ROW_OVERHEAD + RESERVE:
            return {"problem": "not measured: no time was left"}
        with self.watch() as watch:
            try:
                figures = measure(server, row, timing, self.folder)
            except (RuntimeError, OSError, ValueError) as error:
                return {"problem": f"{type(error).__name__}: {one_line(error)}"}
        if watch is not None:
            figures["gpu"] = watch.medians()
        return figures

    def watch(self) -> Any:
        """Return a context manager that samples the GPU, or one that does nothing on a CPU."""
        if self.args.provider != "cuda":
            return nullcontext()
        from benchmarks.gpu.watch import Watch

        return Watch(200)

    def judge(self) -> bool:
        """Compare the rows with the engine and their goals; report whether all rows are without a problem."""
        good = not self.report["problems"]
        for result in self.report["rows"]:
            row = ROWS[result["name"]]
            if "problem" not in result:
                engine = self.engine_rate(row)
                tokens = next(
                    rate["mean_tokens"]
                    for rate in self.report["engine"][row.model][0]["rates"]
                    if rate["pool"] == row.pool
                )
                result["engine texts/s"] = engine
                result["of engine"] = result["texts/s"] / engine
                result["tokens/s"] = result["texts/s"] * tokens
                result["goals"] = {str(goal): goal.met(result) for goal in row.goals}
                result["client_bound"] = result["busiest_client"] > CLIENT_LIMIT
                result["vectors"] = result["min_cosine"] is not None and result["min_cosine"] > MIN_COSINE
            good = good and "problem" not in result and not result["errors"] and result["vectors"]
        for server in self.report["servers"]:
            good = good and not server["exit_code"] and not server["orphans"]
        self.write()
        return good


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def one_line(error: Exception) -> str:
    """Return the end of an error's message in one line."""
    return " ".join(str(error).split())[-300:]


def wait_ready(server: Running, until: float) -> None:
    """Wait until the server says that it is ready.

    Raises:
        RuntimeError: it did not in time.
    """
    while True:
        try:
            with urllib.request.urlopen(f"{server.http}/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        if time.monotonic() > until or server.process.poll() is not None:
            raise RuntimeError(f"the server is not ready: {server.log.read_text()[-2000:]}")
        time.sleep(0.05)


def table(report: dict[str, Any]) -> str:
    """Return the results as text."""
    lines = []
    for model, results in report["engine"].items():
        for index, rate in enumerate(results[0]["rates"]):
            rates = [f"{result['rates'][index]['texts_per_s']:,.0f}" for result in results]
            lines.append(
                f"engine, {model}, {rate['pool']} (mean {rate['mean_tokens']:.0f} tokens), {rate['dtype']}: "
                f"{' and '.join(rates)} texts/s, {results[0]['variant']}"
            )
    for server in report["servers"]:
        fronts = "" if server["fronts"] is None else f", {server['fronts']} fronts"
        lines.append(
            f"server, {server['model']}{fronts}: ready after {server['ready_seconds']:.1f} s, exit code "
            f"{server['exit_code']}, {len(server['orphans'])} processes left behind"
        )
    heads = ["row", "fronts", "goal", "texts/s", "tokens/s", "of engine", "p50 ms", "p99 ms", "server cores"]
    heads += ["client cores (busiest)", "errors", "min cosine"]
    cells = [heads]
    notes = []
    for result in report["rows"]:
        fronts = "default" if result["fronts"] is None else str(result["fronts"])
        if "problem" in result:
            cells.append([result["name"], fronts, result["problem"], *[""] * (len(heads) - 3)])
            continue
        goals = "; ".join(f"{goal} {'met' if met else 'MISSED'}" for goal, met in result["goals"].items())
        bound = " client-bound" if result["client_bound"] else ""
        errors = sum(result["errors"].values())
        cosine = "none sampled" if result["min_cosine"] is None else f"{result['min_cosine']:.6f}"
        cells.append(
            [
                result["name"],
                fronts,
                goals,
                f"{result['texts/s']:,.0f}",
                f"{result['tokens/s']:,.0f}",
                f"{result['of engine']:.3f}",
                *(f"{value:.2f}" if value is not None else "-" for value in (result["p50 ms"], result["p99 ms"])),
                f"{result['server_cores']:.2f}",
                f"{result['client_cores']:.2f} ({result['busiest_client']:.2f}){bound}",
                str(errors),
                cosine if result["vectors"] else f"{cosine} WRONG",
            ]
        )
        notes.append(stages_line(result))
        notes += [f"{result['name']}: {count} x {error}" for error, count in result["errors"].items()]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    widths[2] = max(len(row[2]) for row in cells if len(row[3]) or row is cells[0])
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines += [f"{name}: {ROWS[name]}" for name in dict.fromkeys(result["name"] for result in report["rows"])]
    return "\n".join(lines + notes + report["problems"])


def stages_line(result: Mapping[str, Any]) -> str:
    """Return a row's means of the server's own histograms, and the cores of its busiest processes."""
    means = ", ".join(f"{name} {value:,.2f}" for name, value in result["stages"].items())
    cores = sorted((process["cores"] for process in result["server_processes"]), reverse=True)
    return f"{result['name']}: mean ms: {means}; cores of processes: {' '.join(f'{used:.2f}' for used in cores[:4])} …"


def main() -> None:
    """Run the benchmark, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--fronts", type=int, nargs="+", help="numbers of fronts; default: the server's default")
    parser.add_argument("--only", nargs="+", choices=list(ROWS))
    parser.add_argument("--seconds", type=float, default=5.0, help="measured seconds of a row")
    parser.add_argument("--warm", type=float, default=1.5, help="seconds of load before the measurement")
    parser.add_argument("--clients", type=int, default=4, help="client processes of an HTTP load")
    parser.add_argument("--provider", default="cuda", choices=["cuda", "mlas"])
    parser.add_argument("--texts", type=int, default=1 << 20, help="largest number of different texts of a row")
    parser.add_argument("--limit", type=float, default=235.0, help="seconds of the whole run")
    parser.add_argument("--folder", type=Path, help="folder that keeps artifacts and texts for another run")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # ends the child processes
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fletcher-bench-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, folder.resolve())
        models = list(dict.fromkeys(row.model for row in bench.rows.values()))
        artifacts = bench.make_artifacts(models)
        for model in models:
            bench.run_model(model, artifacts[model])
        good = bench.judge()
        bench.report["seconds"] = time.monotonic() - started
        bench.write()
    print(table(bench.report))
    print(f"{bench.report['seconds']:.0f} s, {bench.report['conversion_seconds']:.0f} s of them conversion")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
