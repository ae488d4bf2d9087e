"""Throughput of HTTP with TLS, compared with HTTP without, with kept connections and one text in a request.

    python -m benchmarks.serve.tls ARTIFACT [--fronts 0] [--rounds 5] [--connections 64] [--requests 5000] [--json]

Two servers of one artifact run at the same time, one with TLS. A client in a process of its own sends the same requests to
each in turn; only one server has load at a time. The share is the median of the rounds' quotients. A self-signed certificate
on the curve P-256 is made for the run (package trustme).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme

from .running import Running, serving

TEXT = "The quick brown fox jumps over the lazy dog"


def rate(server: Running, options: argparse.Namespace, authority: Path | None) -> float:
    """Return the requests a second of one run of the client."""
    body = json.dumps({"model": "bench", "input": TEXT, "encoding_format": "base64"})
    command = [sys.executable, str(Path(__file__).with_name("load.py")), str(server.port), "--body", body]
    command += ["--connections", str(options.connections), "--requests", str(options.requests)]
    command += [] if authority is None else ["--tls-ca", str(authority)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(found["requests"] / found["seconds"])


def main() -> None:
    """Measure, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--fronts", default="0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        for part in issued.cert_chain_pems:
            part.write_to_path(folder / "cert.pem", append=True)
        files = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
        fronts = ("--fronts", options.fronts)
        with (
            serving(options.artifact, *fronts) as plain,
            serving(options.artifact, *fronts, *files) as encrypted,
        ):
            rates: dict[str, list[float]] = {"plain": [], "tls": []}
            for number in range(options.rounds + 1):  # the first one warms up
                for kind, server, ca in (("plain", plain, None), ("tls", encrypted, folder / "ca.pem")):
                    found = rate(server, options, ca)
                    if number:
                        rates[kind].append(found)
    shares = [tls / plain for plain, tls in zip(rates["plain"], rates["tls"], strict=True)]
    result = {
        "plain": statistics.median(rates["plain"]),
        "tls": statistics.median(rates["tls"]),
        "share": statistics.median(shares),
        "shares": shares,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"without TLS {result['plain']:.0f} requests/s, with TLS {result['tls']:.0f} requests/s")
    print(f"share {result['share']:.3f} ({min(shares):.3f} to {max(shares):.3f})")


if __name__ == "__main__":
    main()
