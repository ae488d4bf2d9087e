"""The time for which a thread of a server's process keeps Python's lock."""

from typing import Final

__all__ = ["SWITCH_SECONDS"]

#: Seconds for which a thread keeps Python's lock while others want it. The default, 5 ms, is as long as several batches of a
#: GPU: a thread whose batch or tokenizer is done would wait that long for a thread that decodes messages.
SWITCH_SECONDS: Final = 0.0005
