"""CPU time of the server process per request of one short text, by route.

    python benchmarks/serve/cpu_per_request.py ARTIFACT [--requests 4000] [--connections 64] [--rounds 3] [--json]

The benchmark starts `fletcher-serve run ARTIFACT`. The load comes from another process (load.py, with a body for each
route). The process's CPU time is read from /proc before and after, so every thread counts: event loop, tokenizing,
session, metrics. Each round measures all routes, one after the other. The report gives medians, with `--json` as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from running import serving

TEXT = "The quick brown fox jumps over dog ########."  # load.py inserts a number
LOAD = Path(__file__).parent / "load.py"


def bodies(model: str) -> dict[str, dict[str, object]]:
    """Return a body of one short text for each route."""
    return {
        "/v1/embeddings": {"input": TEXT, "model": model, "encoding_format": "base64"},
        "/embed": {"inputs": TEXT},
        "/v2/embed": {"model": model, "input_type": "search_document", "texts": [TEXT], "embedding_types": ["base64"]},
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with serving(options.artifact, "--flight", "off") as server:
        milliseconds: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):  # the first one is not counted
            for route, body in bodies("bench").items():
                before = server.cpu_seconds()
                load = subprocess.run(
                    [
                        sys.executable,
                        str(LOAD),
                        str(server.port),
                        "--path",
                        route,
                        "--body",
                        json.dumps(body),
                        "--requests",
                        str(options.requests),
                        "--connections",
                        str(options.connections),
                    ],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                time.sleep(0.05)
                used = server.cpu_seconds() - before
                answer = json.loads(load.stdout)
                if number:
                    milliseconds.setdefault(route, []).append(1000 * used / answer["requests"])
    result = {route: round(statistics.median(values), 4) for route, values in milliseconds.items()}
    if options.json:
        print(json.dumps({"milliseconds_of_cpu_a_request": result, "all": milliseconds}))
        return
    for route, value in result.items():
        print(
            f"{route:16} {value:.3f} ms of CPU per request ({min(milliseconds[route]):.3f} to {max(milliseconds[route]):.3f})"
        )


if __name__ == "__main__":
    main()
