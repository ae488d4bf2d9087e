"""`CudaBuffers`: inputs and outputs of one run on a GPU, each a block of pinned memory and one of the GPU, one copy each way.

A run has half a dozen small inputs. Copied one by one each costs a call and a wait; here they lie behind one another, so that
one copy brings them all, from memory that the GPU reads by itself while the processor does something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...machine.cuda_driver import CudaDriver, DeviceMemory, PinnedMemory, Stream

__all__ = ["Block", "CudaBuffers", "Place", "lay_out"]

#: Arrays begin at multiples of this many bytes, as ONNX Runtime's own do.
ALIGNMENT = 256

#: Blocks grow to a power of two from this many bytes, so that few sizes of them are ever made.
SMALLEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Place of an array in a block.

    Attributes:
        name: of the input or output.
        offset: bytes from the block's beginning.
        dtype: of its elements.
        shape: of the array.
    """

    name: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """Offset of the array's end in the block, in bytes."""
        size = self.dtype.itemsize
        for side in self.shape:
            size *= side
        return self.offset + size

    def view(self, block: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the array in a block."""
        return block[self.offset : self.end].view(self.dtype).reshape(self.shape)


def lay_out(arrays: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> list[Place]:
    """Return the places of arrays, given by name, type and shape, behind one another."""
    places: list[Place] = []
    end = 0
    for name, dtype, shape in arrays:
        places.append(Place(name, end, dtype, shape))
        end = -(-places[-1].end // ALIGNMENT) * ALIGNMENT
    return places


class Block:
    """Pinned memory and as much memory of the GPU, grown to the largest size that was requested. One thread at a time."""

    def __init__(self, driver: CudaDriver, index: int) -> None:
        self._driver = driver
        self._index = index
        self._host: PinnedMemory | None = None
        self._device: DeviceMemory | None = None

    def reserve(self, size: int) -> tuple[PinnedMemory, DeviceMemory]:
        """Return both sides, of at least so many bytes; their content is lost if they were smaller.

        Raises:
            DeviceMemoryError: there is not enough memory.
        """
        if self._host is None or self._device is None or self._device.size < size:
            self.close()
            rounded = max(SMALLEST, 1 << (size - 1).bit_length())
            self._host = PinnedMemory(self._driver, self._index, rounded)
            self._device = DeviceMemory(self._driver, self._index, rounded)
        return self._host, self._device

    def close(self) -> None:
        """Release both."""
        host, device = self._host, self._device
        self._host = self._device = None
        if host is not None:
            host.close()
        if device is not None:
            device.close()


class CudaBuffers:
    """Block of inputs and block of outputs, copied on a stream. One thread at a time.

    Attributes:
        inputs, outputs: the blocks.
    """

    def __init__(self, driver: CudaDriver, index: int, stream: Stream) -> None:
        """Begin with empty blocks.

        Args:
            driver: the machine's.
            index: of the GPU.
            stream: of the copies; the caller closes it.
        """
        self.inputs = Block(driver, index)
        self.outputs = Block(driver, index)
        self._stream = stream

    def upload(self, size: int) -> None:
        """Begin to copy the first bytes of the inputs to the GPU."""
        host, device = self.inputs.reserve(size)
        self._stream.upload(device, host, size)

    def download(self, place: Place) -> NDArray[Any]:
        """Return an output, in memory of its own, after all earlier work of its stream."""
        host, device = self.outputs.reserve(place.end)
        self._stream.download(host, device, place.end)
        self._stream.wait()
        return place.view(host.array).copy()

    def close(self) -> None:
        """Release the blocks."""
        self.inputs.close()
        self.outputs.close()
