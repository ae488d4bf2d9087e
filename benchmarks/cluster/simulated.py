"""Server whose session sleeps: `python -m benchmarks.cluster.simulated ARTIFACT PORT SECONDS`.

It prints a line when it is ready. The processor does not decide how fast it is, so several of them run on a small machine.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

from fletcher.runtime import Encoder
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .running import MODEL


class Sleeping:
    """`Sleeping`: a backend that computes each batch, and then sleeps for its texts."""

    def __init__(self, encoder: Encoder, seconds: float) -> None:
        self._encoder = encoder
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def run(self, batch: Any, *rest: Any, **options: Any) -> Any:
        """Return the values of a batch after its simulated time."""
        values = self._encoder.run(batch, *rest, **options)
        time.sleep(self._seconds * len(batch))
        return values


def main() -> None:
    """Serve until SIGTERM."""
    artifact, port, seconds = sys.argv[1:]
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with Encoder.load(artifact, provider="mlas", workers=2, cache=0) as encoder:
        options = ServerOptions(
            http=f"127.0.0.1:{port}", flight="off", name=MODEL, default_model=encoder.info.card.name
        )
        with Server(Sleeping(encoder, float(seconds)), options):  # type: ignore[arg-type]
            print("ready", flush=True)
            stopped.wait()


if __name__ == "__main__":
    main()
