"""NVIDIA's driver: GPUs of the machine, their memory, and buffers for copies.

`libcuda` comes with the driver, so a missing or old driver is detected here, before ONNX Runtime is loaded. It honors
CUDA_VISIBLE_DEVICES, and numbers GPUs as ONNX Runtime does. Contexts are primary contexts, which all libraries of a process
share. Source of names and codes: the CUDA Driver API reference, version 13.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceLostError, DeviceMemoryError, ProviderError

__all__ = ["CudaDriver", "DeviceMemory", "Event", "PinnedMemory", "Stream", "load_driver"]

LIBRARY = "libcuda.so.1"

OUT_OF_MEMORY, NO_DEVICE = 2, 100

#: Codes after which a context and all its users cannot work any more: an address, an assertion, a launch or the hardware
#: failed, or the GPU disappeared.
FATAL = frozenset({46, 214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 999})

#: Flag of host memory that every context may copy from.
PORTABLE = 1

#: Flag of a stream that does not wait for the default stream.
NON_BLOCKING = 1

#: Flags of an event: a thread that waits for it sleeps instead of spinning, and the event has no time.
BLOCKING_SYNC, DISABLE_TIMING = 1, 2


class CudaDriver:
    """`CudaDriver`: functions of the driver. Each one raises the error of the code that the driver returns."""

    def __init__(self, library: Any, quick: Any = None) -> None:
        """Initialize the driver.

        Args:
            library: `libcuda`, or a test double of it.
            quick: the same library, opened so that calls keep the GIL. It serves calls that only affect the calling thread:
                when other threads want the GIL, releasing and taking it costs more than such a call. All other calls release
                the GIL: a driver that does not answer must not stop the other threads, such as the watchdog. None is
                `library`.

        Raises:
            ProviderError: the driver does not start, or finds no GPU.
        """
        self._library = library
        self._quick = library if quick is None else quick
        self._contexts: dict[int, ctypes.c_void_p] = {}
        code = library.cuInit(0)
        if code:
            raise ProviderError(f"the NVIDIA driver does not start: {self._text(code)}")

    def cuda_version(self) -> tuple[int, int]:
        """Return the newest CUDA version that the driver supports, as (major, minor)."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def count(self) -> int:
        """Return the number of GPUs that this process may use."""
        count = ctypes.c_int()
        code = self._library.cuDeviceGetCount(ctypes.byref(count))
        if code == NO_DEVICE:
            return 0
        self._check(code, "cuDeviceGetCount")
        return count.value

    def name(self, index: int) -> str:
        """Return the product name of a GPU."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, ctypes.c_int(256), self._device(index))
        return text.value.decode()

    def pci(self, index: int) -> str:
        """Return the PCI address of a GPU, as Linux writes it."""
        text = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", text, ctypes.c_int(32), self._device(index))
        return text.value.decode().lower()

    def memory(self, index: int) -> int:
        """Return the memory of a GPU in bytes."""
        size = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device(index))
        return size.value

    def capability(self, index: int) -> tuple[int, int]:
        """Return the compute capability of a GPU, for example (9, 0) for Hopper."""
        return self._attribute(index, 75), self._attribute(index, 76)

    def memory_info(self, index: int) -> tuple[int, int]:
        """Return the free bytes and the total bytes of a GPU. Create the GPU's context if it does not exist."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self.on(index):
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @contextmanager
    def on(self, index: int) -> Iterator[None]:
        """Make the primary context of a GPU current in the calling thread, for the body of a `with` statement."""
        context = self._contexts.get(index)
        if context is None:
            context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device(index))
            self._contexts[index] = context  # never released, as in ONNX Runtime
        self._check(self._quick.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent_v2")
        try:
            yield
        finally:
            self._quick.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def call(self, index: int, function: str, *arguments: Any) -> None:
        """Call a function of the driver in the context of a GPU.

        Raises:
            DeviceMemoryError: there is not enough memory.
            DeviceLostError: the context cannot work any more.
            ProviderError: the call failed for another reason.
        """
        with self.on(index):
            self._call(function, *arguments)

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _attribute(self, index: int, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device(index))
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(getattr(self._library, function)(*arguments), function)

    def _check(self, code: int, function: str) -> None:
        if not code:
            return
        text = f"{function}: {self._text(code)}"
        if code == OUT_OF_MEMORY:
            raise DeviceMemoryError(f"the GPU has not enough free memory ({text})")
        if code in FATAL:
            raise DeviceLostError(f"the GPU failed ({text}): its sessions have to be opened again")
        raise ProviderError(f"the NVIDIA driver refused a call ({text})")

    def _text(self, code: int) -> str:
        """Return the driver's name and description of a code."""
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
        self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        parts = [value.decode() for value in (name.value, text.value) if value]
        return ", ".join([*parts, f"code {code}"])


class PinnedMemory:
    """`PinnedMemory`: page-locked memory of the host, so that copies to and from a GPU run in parallel with other work.

    Attributes:
        array: the memory, uint8, (size,).
        pointer: address of the memory.
    """

    def __init__(self, driver: CudaDriver, index: int, size: int) -> None:
        """Allocate the memory.

        Raises:
            DeviceMemoryError: the host does not have enough memory that can be pinned.
        """
        self._driver = driver
        self._index = index
        self.pointer = ctypes.c_void_p()
        driver.call(index, "cuMemHostAlloc", ctypes.byref(self.pointer), ctypes.c_size_t(size), ctypes.c_uint(PORTABLE))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(
            ctypes.cast(self.pointer, ctypes.POINTER(ctypes.c_uint8)), (size,)
        )

    def close(self) -> None:
        """Release the memory; the array must not be used afterwards."""
        _release(self._driver, self._index, "cuMemFreeHost", self.pointer)


class DeviceMemory:
    """`DeviceMemory`: memory of a GPU.

    Attributes:
        address: address on the GPU.
        size: number of bytes.
    """

    def __init__(self, driver: CudaDriver, index: int, size: int) -> None:
        """Allocate the memory.

        Raises:
            DeviceMemoryError: the GPU does not have enough free memory.
        """
        self._driver = driver
        self._index = index
        self.size = size
        pointer = ctypes.c_uint64()
        driver.call(index, "cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self.address = pointer.value

    def close(self) -> None:
        """Release the memory."""
        _release(self._driver, self._index, "cuMemFree_v2", ctypes.c_uint64(self.address))


class Stream:
    """`Stream`: queue of work on a GPU that runs in parallel with other streams.

    Attributes:
        pointer: handle of the driver.
    """

    def __init__(self, driver: CudaDriver, index: int) -> None:
        self._driver = driver
        self._index = index
        self.pointer = ctypes.c_void_p()
        driver.call(index, "cuStreamCreate", ctypes.byref(self.pointer), ctypes.c_uint(NON_BLOCKING))

    def upload(self, memory: DeviceMemory, source: PinnedMemory, size: int) -> None:
        """Start to copy the first `size` bytes to the GPU."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(memory.address), source.pointer, size)

    def download(self, target: PinnedMemory, memory: DeviceMemory, size: int) -> None:
        """Start to copy the first `size` bytes to the host."""
        self._copy("cuMemcpyDtoHAsync_v2", target.pointer, ctypes.c_uint64(memory.address), size)

    def wait(self) -> None:
        """Wait for all work of the stream, without the GIL."""
        self._driver.call(self._index, "cuStreamSynchronize", self.pointer)

    def close(self) -> None:
        """Release the stream."""
        _release(self._driver, self._index, "cuStreamDestroy_v2", self.pointer)

    def _copy(self, function: str, target: Any, source: Any, size: int) -> None:
        self._driver.call(self._index, function, target, source, ctypes.c_size_t(size), self.pointer)


class Event:
    """`Event`: point in the work of a stream that a thread can wait for, while other threads add more work to the stream."""

    def __init__(self, driver: CudaDriver, index: int) -> None:
        self._driver = driver
        self._index = index
        self._pointer = ctypes.c_void_p()
        flags = ctypes.c_uint(BLOCKING_SYNC | DISABLE_TIMING)
        driver.call(index, "cuEventCreate", ctypes.byref(self._pointer), flags)

    def record(self, stream: Stream) -> None:
        """Set the point after all work that the stream has now."""
        self._driver.call(self._index, "cuEventRecord", self._pointer, stream.pointer)

    def wait(self) -> None:
        """Wait until the work before the point is done, without the GIL and without using the processor."""
        self._driver.call(self._index, "cuEventSynchronize", self._pointer)

    def close(self) -> None:
        """Release the event."""
        _release(self._driver, self._index, "cuEventDestroy_v2", self._pointer)


def _release(driver: CudaDriver, index: int, function: str, handle: Any) -> None:
    try:
        driver.call(index, function, handle)
    except DeviceLostError:
        return  # a lost context has no memory or streams any more


@cache
def load_driver(open_library: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver:
    """Return the driver of this machine. It is loaded once.

    Raises:
        ProviderError: there is no driver, it does not start, or it finds no GPU.
    """
    try:
        library = open_library(LIBRARY)
    except OSError as error:
        raise ProviderError(f"this machine has no NVIDIA driver ({LIBRARY} cannot be loaded: {error})") from error
    return CudaDriver(library, ctypes.PyDLL(LIBRARY, handle=library._handle))
