"""`CudaBuffers`: memory of the inputs and outputs of one run on a GPU, with one copy in each direction.

A run has about six small inputs. One copy per input would cost a call and a wait each. Here the inputs are stored one after
another, so that one copy transfers all of them. The GPU reads pinned memory itself while the processor does other work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...machine.cuda_driver import CudaDriver, DeviceMemory, PinnedMemory, Stream

__all__ = ["Block", "CudaBuffers", "Place", "lay_out"]

#: Arrays start at multiples of this many bytes, like the arrays of ONNX Runtime.
ALIGNMENT = 256

#: Smallest size of a block in bytes. Blocks grow to powers of two, so that there are few different sizes.
SMALLEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """`Place`: place of an array in a block.

    Attributes:
        name: name of the input or output.
        offset: bytes from the start of the block.
        dtype: type of the elements.
        shape: shape of the array.
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
        """Return the array as a view of a block."""
        return block[self.offset : self.end].view(self.dtype).reshape(self.shape)


def lay_out(arrays: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> list[Place]:
    """Return places one after another for arrays, which are given by name, type and shape."""
    places: list[Place] = []
    end = 0
    for name, dtype, shape in arrays:
        places.append(Place(name, end, dtype, shape))
        end = -(-places[-1].end // ALIGNMENT) * ALIGNMENT
    return places


class Block:
    """`Block`: pinned memory and GPU memory of the same size, which grow to the largest requested size. Not thread-safe."""

    def __init__(self, driver: CudaDriver, index: int) -> None:
        self._driver = driver
        self._index = index
        self._host: PinnedMemory | None = None
        self._device: DeviceMemory | None = None

    def reserve(self, size: int) -> tuple[PinnedMemory, DeviceMemory]:
        """Return the pinned memory and the GPU memory with at least `size` bytes. Their content is lost if they have to grow.

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
        """Release both memories."""
        host, device = self._host, self._device
        self._host = self._device = None
        if host is not None:
            host.close()
        if device is not None:
            device.close()


class CudaBuffers:
    """`CudaBuffers`: block of inputs and block of outputs, copied on a stream. Not thread-safe.

    Attributes:
        inputs, outputs: the blocks.
    """

    def __init__(self, driver: CudaDriver, index: int, stream: Stream) -> None:
        """Start with empty blocks.

        Args:
            driver: driver of the machine.
            index: number of the GPU.
            stream: stream of the copies. The caller closes it.
        """
        self.inputs = Block(driver, index)
        self.outputs = Block(driver, index)
        self._stream = stream

    def upload(self, size: int) -> None:
        """Start to copy the first `size` bytes of the inputs to the GPU."""
        host, device = self.inputs.reserve(size)
        self._stream.upload(device, host, size)

    def download(self, place: Place) -> None:
        """Start to copy an output to the host."""
        host, device = self.outputs.reserve(place.end)
        self._stream.download(host, device, place.end)

    def read(self, place: Place) -> NDArray[Any]:
        """Return a copy of an output. Wait for its download first."""
        host, _ = self.outputs.reserve(place.end)
        return place.view(host.array).copy()

    def close(self) -> None:
        """Release the blocks."""
        self.inputs.close()
        self.outputs.close()
