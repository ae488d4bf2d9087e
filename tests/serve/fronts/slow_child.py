"""A child process of the supervisor with a slow model: `python slow_child.py SECONDS ROLE DESCRIPTOR`."""

from __future__ import annotations

import sys
import time
from typing import Any

from fletcher.runtime import Encoder
from fletcher.serve.fronts import child


def slow_down(seconds: float) -> None:
    """Let every batch of every encoder take longer."""
    run = Encoder.run

    def slowly(self: Encoder, *arguments: Any) -> Any:
        time.sleep(seconds)
        return run(self, *arguments)

    Encoder.run = slowly  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    slow_down(float(sys.argv[1]))
    sys.exit(child.main(sys.argv[2:]))
