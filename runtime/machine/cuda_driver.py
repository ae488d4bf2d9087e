"""NVIDIA's driver: GPUs of the machine, their memory, and buffers for copies.

`libcuda` comes with the driver, so that a missing or old driver is seen here, before ONNX Runtime is asked. It honors
CUDA_VISIBLE_DEVICES, and numbers GPUs as ONNX Runtime does. Contexts are the primary ones, which all of a process share.
Source of names and codes: the CUDA Driver API's reference, version 13.
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

__all__ = ["CudaDriver", "DeviceMemory", "PinnedMemory", "Stream", "load_driver"]

LIBRARY = "libcuda.so.1"

OUT_OF_MEMORY, NO_DEVICE = 2, 100

#: Codes after which a context, and whatever uses it, is of no use any more: an address, an assertion, a launch or the
#: hardware failed, or the GPU is gone.
FATAL = frozenset({46, 214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 999})

#: Memory of the host that every context may copy from.
PORTABLE = 1

#: A stream that does not wait for the default one.
NON_BLOCKING = 1


class CudaDriver:
    """Functions of the driver; each raises the error that its code means."""

    def __init__(self, library: Any, quick: Any = None) -> None:
        """Initialize the driver.

        Args:
            library: `libcuda`, or what stands in for it.
            quick: the same for calls that touch nothing but the calling thread, opened so that they keep the GIL: to give it
                up and to take it again costs more than they do where other threads want it. All others give it up: a driver
                that does not answer must not stop every other thread, the watchdog's among them. None is `library`.

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
        """Return the newest CUDA that the driver supports."""
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
        """Return NVIDIA's name of a GPU."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, ctypes.c_int(256), self._device(index))
        return text.value.decode()

    def pci(self, index: int) -> str:
        """Return a GPU's address on the bus, as Linux writes it."""
        text = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", text, ctypes.c_int(32), self._device(index))
        return text.value.decode().lower()

    def memory(self, index: int) -> int:
        """Return a GPU's memory in bytes."""
        size = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device(index))
        return size.value

    def capability(self, index: int) -> tuple[int, int]:
        """Return a GPU's compute capability, (9, 0) for Hopper."""
        return self._attribute(index, 75), self._attribute(index, 76)

    def memory_info(self, index: int) -> tuple[int, int]:
        """Return the bytes free now and in all; creates the GPU's context if there is none yet."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self.on(index):
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @contextmanager
    def on(self, index: int) -> Iterator[None]:
        """Make a GPU's primary context the calling thread's for a while."""
        context = self._contexts.get(index)
        if context is None:
            context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device(index))
            self._contexts[index] = context  # kept for the life of the process, as ONNX Runtime keeps it
        self._check(self._quick.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent_v2")
        try:
            yield
        finally:
            self._quick.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def call(self, index: int, function: str, *arguments: Any) -> None:
        """Call a function in a GPU's context.

        Raises:
            DeviceMemoryError: there is not enough memory.
            DeviceLostError: the context is of no use any more.
            ProviderError: it failed otherwise.
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
        """Return the driver's own words for a code."""
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(name))
        self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        words = [value.decode() for value in (name.value, text.value) if value]
        return ", ".join([*words, f"code {code}"])


class PinnedMemory:
    """Memory of the host that does not move, so that copies to and from a GPU run beside everything else.

    Attributes:
        array: uint8, (size,).
    """

    def __init__(self, driver: CudaDriver, index: int, size: int) -> None:
        """Allocate the memory.

        Raises:
            DeviceMemoryError: the host has not enough memory that may be pinned.
        """
        self._driver = driver
        self._index = index
        self.pointer = ctypes.c_void_p()
        driver.call(index, "cuMemHostAlloc", ctypes.byref(self.pointer), ctypes.c_size_t(size), ctypes.c_uint(PORTABLE))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(
            ctypes.cast(self.pointer, ctypes.POINTER(ctypes.c_uint8)), (size,)
        )

    def close(self) -> None:
        """Release it; the array must not be used afterwards."""
        _release(self._driver, self._index, "cuMemFreeHost", self.pointer)


class DeviceMemory:
    """Memory of a GPU.

    Attributes:
        address: where it lies.
        size: bytes.
    """

    def __init__(self, driver: CudaDriver, index: int, size: int) -> None:
        """Allocate the memory.

        Raises:
            DeviceMemoryError: the GPU has not enough.
        """
        self._driver = driver
        self._index = index
        self.size = size
        pointer = ctypes.c_uint64()
        driver.call(index, "cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self.address = pointer.value

    def close(self) -> None:
        """Gives it back."""
        _release(self._driver, self._index, "cuMemFree_v2", ctypes.c_uint64(self.address))


class Stream:
    """Queue of work that runs beside other streams.

    Attributes:
        pointer: the driver's name of it.
    """

    def __init__(self, driver: CudaDriver, index: int) -> None:
        self._driver = driver
        self._index = index
        self.pointer = ctypes.c_void_p()
        driver.call(index, "cuStreamCreate", ctypes.byref(self.pointer), ctypes.c_uint(NON_BLOCKING))

    def upload(self, memory: DeviceMemory, source: PinnedMemory, size: int) -> None:
        """Begin to copy the first bytes to the GPU."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(memory.address), source.pointer, size)

    def download(self, target: PinnedMemory, memory: DeviceMemory, size: int) -> None:
        """Begin to copy the first bytes to the host."""
        self._copy("cuMemcpyDtoHAsync_v2", target.pointer, ctypes.c_uint64(memory.address), size)

    def wait(self) -> None:
        """Wait for all of its work, without the GIL."""
        self._driver.call(self._index, "cuStreamSynchronize", self.pointer)

    def close(self) -> None:
        """Gives it back."""
        _release(self._driver, self._index, "cuStreamDestroy_v2", self.pointer)

    def _copy(self, function: str, target: Any, source: Any, size: int) -> None:
        self._driver.call(self._index, function, target, source, ctypes.c_size_t(size), self.pointer)


def _release(driver: CudaDriver, index: int, function: str, what: Any) -> None:
    try:
        driver.call(index, function, what)
    except DeviceLostError:
        return  # what a lost context held is gone with it


@cache
def load_driver(open_library: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver:
    """Return the driver of this machine, opened once.

    Raises:
        ProviderError: there is none, or it finds no GPU.
    """
    try:
        library = open_library(LIBRARY)
    except OSError as error:
        raise ProviderError(f"this machine has no NVIDIA driver ({LIBRARY} cannot be loaded: {error})") from error
    return CudaDriver(library, ctypes.PyDLL(LIBRARY, handle=library._handle))
