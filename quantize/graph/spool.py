"""`Spool`: file without a name that holds new weights until all of them are written; their pages are not private memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.closing import Closing

__all__ = ["Spool"]

#: Bytes of the smallest array that goes to the file.
SMALLEST = 1 << 20


class Spool(Closing):
    """`Spool`: arrays in a file, which the system may drop from memory. The arrays are valid until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Create the file on the disk of a folder. It has no name there, so that nothing is left of it after an end."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  `close` ends it

    def keep(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return an array with the same elements: mapped from the file, or a small one as it is, made contiguous."""
        if values.nbytes < SMALLEST:
            return np.ascontiguousarray(values)
        place = self._file.tell()
        np.ascontiguousarray(values).tofile(self._file)
        self._file.flush()
        kept: NDArray[Any] = np.memmap(self._file, values.dtype, "r", place, values.shape)
        self._file.seek(0, 2)
        return kept

    def close(self) -> None:
        """Close the file."""
        self._file.close()
