"""Doubles of NVIDIA's driver with memory of the host, and of ONNX Runtime's CUDA provider with standard operators.

The driver records its allocations, so that tests find memory that was not released. A copy is made when its stream is waited
for, so code that does not wait reads old values. The session reads its inputs from the bound addresses, runs the graph with
`PackedMultiHeadAttention` replaced by standard operators, and writes the bound output: at once, or, with a given stream, when
that stream is waited for. Captured runs are counted by thread and graph, as in ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.machine.cuda_driver import CudaDriver
from fletcher.runtime.machine.gpus import Gpu
from fletcher.runtime.providers.mlas.graph import CpuGraph
from tests.convert.targets.support.contrib_operators import spell_out

__all__ = ["FakeCuda", "FakeOnnxRuntime"]

GIB = 1 << 30

#: Pending work of each open stream, by the driver's handle, with increasing numbers.
QUEUES: dict[int, list[tuple[int, Callable[[], object]]]] = {}

#: Stream of each recorded event, and the number of the next work of all streams.
EVENTS: dict[int, tuple[int, int]] = {}
_names = itertools.count(1)
_numbers = itertools.count()

#: Guards the work of streams, which several threads may wait for.
_working = threading.RLock()


class FakeCuda:
    """`FakeCuda`: double of `libcuda`.

    Attributes:
        gpus: number of GPUs.
        memory: bytes of each GPU.
        version: newest CUDA version, in the driver's format.
        codes: codes that functions return instead of their work, by name.
        held: allocated memory by address.
        pushed: number of contexts that are current in a thread.
        streams: number of open streams.
        events: number of open events.
    """

    def __init__(self, gpus: int = 1, *, version: int = 13000, memory: int = 8 * GIB, **codes: int) -> None:
        self.gpus = gpus
        self.version = version
        self.memory = memory
        self.codes = codes
        self.held: dict[int, Any] = {}
        self.pushed = 0
        self.streams = 0
        self.events = 0

    def driver(self) -> CudaDriver:
        """Return a driver that uses this double."""
        return CudaDriver(self)

    def gpu(self, index: int = 0) -> Gpu:
        """Return a GPU as `read_gpus` would."""
        return Gpu(index, "Fake", self.memory, (9, 0), f"0000:{index:02x}:00.0")

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and (code := self.codes.get(name)):
            return lambda *_: code
        return super().__getattribute__(name)

    def cuInit(self, _: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: Any) -> int:
        if index.value >= self.gpus:
            return 101
        device._obj.value = index.value
        return 0

    def cuDeviceGetName(self, text: Any, _: Any, device: Any) -> int:
        text.value = f"Fake {device.value}".encode()
        return 0

    def cuDeviceGetPCIBusId(self, text: Any, _: Any, device: Any) -> int:
        text.value = f"0000:{device.value + 10:02X}:00.0".encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, _: Any) -> int:
        size._obj.value = self.memory
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, _: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute.value]
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        context._obj.value = device.value + 1
        return 0

    def cuCtxPushCurrent_v2(self, _: Any) -> int:
        self.pushed += 1
        return 0

    def cuCtxPopCurrent_v2(self, _: Any) -> int:
        self.pushed -= 1
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.memory - sum(map(len, self.held.values())), self.memory
        return 0

    def cuMemHostAlloc(self, pointer: Any, size: Any, _: Any) -> int:
        pointer._obj.value = self._allocate(size.value)
        return 0

    def cuMemAlloc_v2(self, pointer: Any, size: Any) -> int:
        if size.value > self.memory - sum(map(len, self.held.values())):
            return 2
        pointer._obj.value = self._allocate(size.value)
        return 0

    def cuMemFreeHost(self, pointer: Any) -> int:
        del self.held[pointer.value]
        return 0

    def cuMemFree_v2(self, pointer: Any) -> int:
        del self.held[pointer.value]
        return 0

    def cuStreamCreate(self, pointer: Any, flags: Any) -> int:
        assert flags.value == 1, "the stream would wait for the default stream"
        self.streams += 1
        pointer._obj.value = next(_names)
        QUEUES[pointer._obj.value] = []
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:
        self.streams -= 1
        del QUEUES[stream.value]
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        _finish(stream.value)
        return 0

    def cuEventCreate(self, pointer: Any, flags: Any) -> int:
        assert flags.value == 3, "waiting threads would use the processor"
        self.events += 1
        pointer._obj.value = next(_names)
        return 0

    def cuEventRecord(self, event: Any, stream: Any) -> int:
        EVENTS[event.value] = stream.value, next(_numbers)
        return 0

    def cuEventSynchronize(self, event: Any) -> int:
        _finish(*EVENTS[event.value])
        return 0

    def cuEventDestroy_v2(self, event: Any) -> int:
        self.events -= 1
        EVENTS.pop(event.value, None)
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        copy = partial(ctypes.memmove, target.value, source.value, size.value)
        _add(stream.value, copy)
        return 0

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self.cuMemcpyHtoDAsync_v2(target, source, size, stream)

    def cuGetErrorName(self, code: Any, text: Any) -> int:
        text._obj.value = f"CUDA_ERROR_{code.value}".encode()
        return 0

    def cuGetErrorString(self, _: Any, text: Any) -> int:
        text._obj.value = b"in words"
        return 0

    def _allocate(self, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(buffer)
        self.held[address] = buffer
        return address


def _add(stream: int, work: Callable[[], object]) -> None:
    """Add work to a stream."""
    with _working:
        QUEUES[stream].append((next(_numbers), work))


def _finish(stream: int, until: float = math.inf) -> None:
    """Do the pending work of a stream up to a number."""
    with _working:
        queue = QUEUES[stream]
        while queue and queue[0][0] < until:
            queue.pop(0)[1]()


#: Entry with the folder of the weights, for a graph that is not a file.
WEIGHTS = "session.model_external_initializers_file_folder_path"


class _Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self.outputs: dict[str, NDArray[Any]] = {}

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.inputs[name] = _at(address, np.dtype(dtype), shape)

    def bind_output(self, name: str, device: str, index: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.outputs[name] = _at(address, np.dtype(dtype), shape)

    def clear_binding_outputs(self) -> None:
        self.outputs = {}


def _at(address: int, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


class _Session:
    def __init__(
        self, runtime: FakeOnnxRuntime, graph: Path | bytes, settings: Any, options: Mapping[str, str]
    ) -> None:
        self._runtime = runtime
        self.settings = settings
        self.options = options
        if isinstance(graph, bytes):
            model, folder = onnx.load_from_string(graph), Path(settings.entries[WEIGHTS])
        else:
            model, folder = onnx.load(graph, load_external_data=False), graph.parent
        self._graph = CpuGraph(spell_out(model).SerializeToString(), folder)

    def get_providers(self) -> list[str]:
        return self._runtime.runs_on

    def io_binding(self) -> _Binding:
        return _Binding()

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._graph.run(feeds, outputs)

    def run_with_iobinding(self, binding: _Binding, run_options: Any = None) -> None:
        runtime = self._runtime
        if self.options.get("enable_cuda_graph") == "1":
            assert run_options is not None
            key = (threading.get_ident(), run_options.entries["gpu_graph_id"])
            addresses = {name: array.ctypes.data for name, array in binding.inputs.items()}
            assert runtime.addresses.setdefault(key, addresses) == addresses, "a captured graph has fixed addresses"
            runtime.captured[key] += 1
        if runtime.fail is not None:
            runtime.fail(next(iter(binding.inputs.values())))
        work = partial(self._compute, dict(binding.inputs), *binding.outputs.items())
        stream = self.options.get("user_compute_stream")
        if stream is None:
            work()
            return
        _add(int(stream), work)
        if run_options is None or run_options.entries.get("disable_synchronize_execution_providers") != "1":
            _finish(int(stream))

    def _compute(self, inputs: dict[str, NDArray[Any]], output: tuple[str, NDArray[Any]]) -> None:
        name, target = output
        np.copyto(target, self._graph.run(inputs, [name])[0])


class FakeOnnxRuntime:
    """`FakeOnnxRuntime`: double of the package `onnxruntime`.

    Attributes:
        runs_on: providers that sessions report.
        captured: number of runs by thread and graph.
        addresses: addresses of the inputs by thread and graph.
        fail: function that is called before each run with its first input, and may raise an error.
        sessions: all sessions.
        open_error: error that opening a session raises, or None.
    """

    __version__ = "1.31.1"
    cuda_version = "13.0"

    def __init__(self, fail: Callable[[NDArray[Any]], None] | None = None) -> None:
        self.runs_on = ["CUDAExecutionProvider"]
        self.captured: Counter[tuple[int, str]] = Counter()
        self.addresses: dict[tuple[int, str], dict[str, int]] = {}
        self.fail = fail
        self.sessions: list[_Session] = []
        self.open_error: Exception | None = None

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        """Do nothing: there are no libraries."""

    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0)

    class SessionOptions(SimpleNamespace):
        def __init__(self) -> None:
            super().__init__(entries={})

        def add_session_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

    class RunOptions(SimpleNamespace):
        def __init__(self) -> None:
            super().__init__(entries={})

        def add_run_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

    def InferenceSession(
        self,
        graph: Path | bytes,
        options: Any,
        *,
        providers: Sequence[tuple[str, Mapping[str, str]]],
        enable_fallback: int,
    ) -> _Session:
        assert enable_fallback == 0, "ONNX Runtime would run on the processor without an error"
        assert options.entries["session.disable_cpu_ep_fallback"] == "1"
        if self.open_error is not None:
            raise self.open_error
        ((name, settings),) = providers
        assert name == "CUDAExecutionProvider"
        self.sessions.append(_Session(self, graph, options, settings))
        return self.sessions[-1]
