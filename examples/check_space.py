"""Save the space of a server's vectors, and check a server against it later.

fletcher-serve run ARTIFACT
python examples/check_space.py save space.json [http://127.0.0.1:8080]
python examples/check_space.py check space.json [http://127.0.0.1:8080]

It needs the standard library alone, so it runs years later without Fletcher.
"""

from __future__ import annotations

import json
import math
import sys
import urllib.request
from pathlib import Path
from typing import Any


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer of a server, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def check(known: dict[str, Any], server: str) -> list[str]:
    """Return what is wrong with a server's vectors; nothing if they belong to the saved space."""
    served = call(f"{server}/v1/space")
    problems = []
    if served["space"] != known["space"]:
        parts = [name for name in known["parts"] if served["parts"].get(name) != known["parts"][name]]
        problems.append(f"the server has the space {served['space']}, not {known['space']}: {', '.join(parts)} differ")
    texts = {
        "model": served["model"],
        "input": known["canary"]["texts"],
        "input_type": "raw",
        "encoding_format": "float",
    }
    vectors = [item["embedding"] for item in call(f"{server}/v1/embeddings", texts)["data"]]
    allowed = known["bounds"]["providers"]["min_cosine"]
    for text, ours, theirs in zip(known["canary"]["texts"], vectors, known["canary"]["vectors"], strict=True):
        if len(ours) != len(theirs) or not cosine(ours, theirs) >= allowed:
            problems.append(f"the vector of {text[:40]!r} differs from the saved one")
    return problems


def main() -> int:
    """Save or check a space."""
    action, file = sys.argv[1], Path(sys.argv[2])
    server = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8080"
    if action == "save":
        space = call(f"{server}/v1/space")
        file.write_text(json.dumps(space), encoding="utf-8")
        print(f"saved {space['space']}")
        return 0
    problems = check(json.loads(file.read_text(encoding="utf-8")), server)
    print("\n".join(problems) or "the server gives vectors of the saved space")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
