"""Exchanges of the model and a stop during a load: no failed request, and an answer to every admitted one.

    python benchmarks/serve/swap.py ARTIFACT [--seconds 20] [--swaps 4] [--rate 100]

Another process sends RATE short requests per second while the admin API exchanges the model SWAPS times; then the server
gets SIGTERM during the load. The exit status is 1 if a request failed before the stop, if the server answered fewer
requests with 200 than it logged, or if an admitted request was not answered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

from running import Running, serving

OPEN_LOAD = Path(__file__).parent / "open_load.py"
BODY = json.dumps({"input": "The quick brown fox jumps over dog ########.", "model": "bench"})


def exchange(server: Running, artifact: str) -> float:
    """Exchange the model, and return the seconds that it took."""
    started = time.perf_counter()
    body = json.dumps({"path": artifact, "name": "bench"}).encode()
    request = urllib.request.Request(f"{server.http}/admin/models", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--swaps", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    options = parser.parse_args()
    with serving(options.artifact, "--provider", "mlas", "--log-level", "debug") as server:
        command = [sys.executable, str(OPEN_LOAD), str(server.port), "--body", BODY, "--rate", str(options.rate)]
        # The load continues for a while after the stop; later requests cannot connect.
        load = subprocess.Popen([*command, "--seconds", str(options.seconds + 3.0)], stdout=subprocess.PIPE, text=True)
        begun = time.perf_counter()
        swaps = []
        for number in range(options.swaps):
            pause = options.seconds * (number + 0.5) / options.swaps - (time.perf_counter() - begun)
            time.sleep(max(pause, 0.0))
            swaps.append(round(exchange(server, options.artifact), 2))
        time.sleep(max(options.seconds - (time.perf_counter() - begun), 0.0))
        exit_code = server.stop()
        lines = server.log_lines()
        assert load.stdout is not None
        answers = json.load(load.stdout)
        load.wait()
    logged = Counter(line["status"] for line in lines if line.get("route") == "/v1/embeddings" and "status" in line)
    stopped = next(line for line in lines if line["message"] == "stopped")
    statuses = Counter(status for _, _, status, _ in answers)
    # The load process starts a little after `begun`, so requests up to here were sent before the stop.
    before = Counter(status for at, _, status, _ in answers if at < options.seconds - 1.0)
    result = {
        "sent": len(answers),
        "seconds_of_exchanges": swaps,
        "statuses_before_the_stop": dict(before),
        "statuses": dict(statuses),
        "answered_says_the_log": dict(logged),
        "all_answered": stopped["all_answered"],
        "exit_code": exit_code,
    }
    print(json.dumps(result, indent=2))
    if set(before) != {200} or statuses[200] != logged[200] or not stopped["all_answered"] or exit_code:
        sys.exit(1)


if __name__ == "__main__":
    main()
