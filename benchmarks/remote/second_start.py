"""Start of a server from the cache of a machine beside its start from a folder: seconds until `/ready` answers 200.

    python benchmarks/remote/second_start.py minilm s3://models/minilm-1 [--rounds 5]

The URL must have the artifact of the folder. A first start fills the cache and is not counted. `later_s` is the difference of
the medians; it should be at most 1 s.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

COMMAND = "import sys; from fletcher.serve.commands.cli import main; sys.argv[0] = 'fletcher-serve'; main()"
LOOK_SECONDS = 0.01


def main() -> None:
    """Print the medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--fronts", default="0")
    options = parser.parse_args()
    start(options.url, options.port, options.fronts)
    seconds: dict[str, list[float]] = {options.folder: [], options.url: []}
    for number in range(options.rounds):
        for path in (options.folder, options.url) if number % 2 else (options.url, options.folder):
            seconds[path].append(start(path, options.port, options.fronts))
    folder, cache = (statistics.median(seconds[path]) for path in (options.folder, options.url))
    print(json.dumps({"folder_s": round(folder, 3), "cache_s": round(cache, 3), "later_s": round(cache - folder, 3)}))


def start(path: str, port: int, fronts: str) -> float:
    """Return the seconds from the start of the process until it is ready, and end it."""
    command = [sys.executable, "-c", COMMAND, "run", path, "--http", f"127.0.0.1:{port}", "--flight", "off"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--fronts", fronts, "--log-level", "warning"], stdout=subprocess.DEVNULL)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the server of {path} ended with {process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready"):
                    return time.perf_counter() - started
            except (urllib.error.URLError, ConnectionError):
                time.sleep(LOOK_SECONDS)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
