"""Comparison of the speed of two checkouts of Fletcher: embedding, latency of one text, HTTP requests, conversion.

    python benchmarks/revisions/run.py OLD NEW ARTIFACT [--source all-MiniLM-L6-v2] [--rounds 9] [--json]

OLD and NEW are folders, for example worktrees of git. Both run on this interpreter, with the same installed packages.
Each checkout has one process that embeds and one server; the two checkouts take turns in every round, so other load
affects both. The ratio of a figure is the median of the rounds' ratios; above 1 means that NEW is better. Both
checkouts must be able to load the artifact.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

LOAD = Path(__file__).parents[1] / "serve" / "load.py"
BODY = '{"input": "The quick brown fox jumps over dog ########.", "model": "bench", "encoding_format": "base64"}'

#: Figures for which a smaller value is better.
LESS_IS_BETTER = frozenset({"one_text_ms", "http_p50_ms", "http_cpu_ms", "convert_seconds", "convert_cpu_seconds"})


def main() -> None:
    """Run the comparison, or one of its processes."""
    if sys.argv[1:2] == ["child"]:
        serve_commands(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument(
        "--source", default="all-MiniLM-L6-v2", help="checkpoint to convert; an empty value skips the conversion"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    roots = {"old": options.old.resolve(), "new": options.new.resolve()}
    rounds: list[dict[str, dict[str, float]]] = []
    with ExitStack() as stack:
        children = {name: stack.enter_context(child(root, options.artifact)) for name, root in roots.items()}
        servers = {name: stack.enter_context(server(root, options.artifact)) for name, root in roots.items()}
        for number in range(options.rounds + 1):  # the first round warms up
            figures: dict[str, dict[str, float]] = {}
            order = list(roots) if number % 2 else list(reversed(roots))
            for name in order:
                figures[name] = ask(children[name], "many")
            for name in order:
                figures[name] |= ask(children[name], "one")
            for name in order:
                figures[name] |= http(*servers[name], options.requests)
            if options.source:
                for name in order:
                    figures[name] |= convert(roots[name], options.source)
            if number:
                rounds.append(figures)
    report(rounds, as_json=options.json)


def report(rounds: list[dict[str, dict[str, float]]], *, as_json: bool) -> None:
    """Print the medians of each figure, and of its ratios."""
    rows = {}
    for figure in rounds[0]["old"]:
        old, new = ([each[name][figure] for each in rounds] for name in ("old", "new"))
        ratios = [a / b if figure in LESS_IS_BETTER else b / a for a, b in zip(old, new, strict=True)]
        rows[figure] = {
            "old": statistics.median(old),
            "new": statistics.median(new),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'figure':24}{'old':>12}{'new':>12}{'ratio':>8}   (above 1: NEW is better)")
    for figure, row in rows.items():
        spread = f"{row['lowest']:.3f} to {row['highest']:.3f}"
        print(f"{figure:24}{row['old']:12.4g}{row['new']:12.4g}{row['ratio']:8.3f}   {spread}")


# Processes -------------------------------------------------------------------------------------------------------------


def environment(root: Path) -> dict[str, str]:
    """Return the environment variables with which `import fletcher` imports this checkout."""
    return os.environ | {"PYTHONPATH": str(root / "src")}


def tool(root: Path, name: str, *arguments: str) -> list[str]:
    """Return the command line of one of the checkout's commands, which need not be installed."""
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[name].partition(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments]


@contextmanager
def child(root: Path, artifact: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process of a checkout that loads the artifact and measures on request."""
    command = [sys.executable, __file__, "child", str(artifact)]
    with subprocess.Popen(
        command, env=environment(root), cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        pipe_of(process.stdin).close()
        process.wait(60)


def pipe_of(stream: IO[str] | None) -> IO[str]:
    """Return a pipe of a process that was started with this pipe."""
    assert stream is not None
    return stream


def ask(process: subprocess.Popen[str], command: str) -> dict[str, float]:
    """Make a child measure once, and return its figures."""
    pipe_of(process.stdin).write(command + "\n")
    pipe_of(process.stdin).flush()
    answer: dict[str, float] = json.loads(pipe_of(process.stdout).readline())
    return answer


def serve_commands(artifact: str) -> None:
    """Measure one figure for each line of standard input, until the input ends."""
    from fletcher import Encoder

    texts = docstrings()
    with Encoder.load(artifact, provider="mlas", workers=2, token_budget=512) as encoder:
        for line in sys.stdin:
            if line.strip() == "many":
                started = time.perf_counter()
                encoder.embed(texts)
                print(json.dumps({"texts_per_second": len(texts) / (time.perf_counter() - started)}), flush=True)
            else:
                seconds = []
                for number in range(300):
                    started = time.perf_counter()
                    encoder.embed([f"a short question about number {number}"])
                    seconds.append(time.perf_counter() - started)
                print(json.dumps({"one_text_ms": 1000 * statistics.median(seconds)}), flush=True)


def docstrings(limit: int = 1000) -> list[str]:
    """Return distinct docstrings of Python's standard library."""
    texts: dict[str, None] = {}
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                texts[text] = None
        if len(texts) >= limit:
            break
    return list(texts)[:limit]


@contextmanager
def server(root: Path, artifact: Path) -> Iterator[tuple[int, int]]:
    """Start a checkout's server, and yield its process id and HTTP port."""
    options = ["--http", "127.0.0.1:0", "--flight", "off", "--name", "bench", "--cache", "0", "--json"]
    options += ["--provider", "mlas", "--workers", "2", "--token-budget", "512"]
    command = tool(root, "fletcher-serve", "run", str(artifact), *options)
    with subprocess.Popen(
        command, env=environment(root), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = pipe_of(process.stdout).readline()
        if not line:
            raise RuntimeError(f"the server of {root} did not start")
        yield process.pid, int(json.loads(line)["http"].rpartition(":")[2])
        process.terminate()
        process.wait(60)


def http(pid: int, port: int, requests: int) -> dict[str, float]:
    """Send requests of one short text over 64 connections, and measure the server's CPU time for them."""
    before = cpu_seconds(pid)
    command = [sys.executable, str(LOAD), str(port), "--body", BODY, "--requests", str(requests), "--connections", "64"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    time.sleep(0.05)
    return {
        "http_requests_per_second": answer["requests"] / answer["seconds"],
        "http_p50_ms": answer["p50_ms"],
        "http_cpu_ms": 1000 * (cpu_seconds(pid) - before) / answer["requests"],
    }


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, all threads included (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def convert(root: Path, source: str) -> dict[str, float]:
    """Measure the conversion of a checkpoint, which the cache contains after the first round."""
    with tempfile.TemporaryDirectory() as folder:
        command = tool(root, "fletcher-convert", "model", "export", source, "-o", str(Path(folder) / "artifact"))
        options = root / "convert" / "commands" / "cli.py"
        if options.is_file() and "--no-verify" in options.read_text():
            command.append("--no-verify")  # the conversion alone: earlier checkouts do not verify by themselves
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, env=environment(root), cwd=root, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "convert_seconds": time.perf_counter() - started,
            "convert_cpu_seconds": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
        }


if __name__ == "__main__":
    main()
