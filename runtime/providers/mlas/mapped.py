"""Weights that a session reads where they are, mapped from their file or in the caller's memory, without a copy of its own.

ONNX Runtime usually copies the weights into the layout of the processor's kernels when a session opens. Without the copy a
session opens at once, and each run is slower. Pages of the file belong to the system's cache, which drops them if another
program needs the memory.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LARGE", "map_weights"]

#: Bytes of weights from which sessions that serve nothing have no copy of them. A smaller copy stays below 300 MB.
LARGE = 256 << 20


def map_weights(options: Any) -> list[str]:
    """Set the options of a session that copies no weights, and return the names of the optimizers to disable.

    Args:
        options: ONNX Runtime's SessionOptions.
    """
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ["ConstantFolding"]  # weights of a half type would be cast to float32 all at once
