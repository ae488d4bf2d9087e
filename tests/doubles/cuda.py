"""A GPU that is the processor: NVIDIA's driver on the host's memory, and ONNX Runtime's CUDA provider on standard operators.

The driver keeps what it allocates in a list, so that tests see what was not given back. Copies are done when their stream is
waited for, and not before: who does not wait reads what was there. The session reads its inputs from the addresses that were
bound, runs the graph with `PackedMultiHeadAttention` spelled out, and writes to the bound output: at once, or when the stream
that it was given is waited for. Captured runs are counted by thread and by graph, as ONNX Runtime counts them.
"""

from __future__ import annotations

import ctypes
import itertools
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

#: What each open stream has still to do, by the driver's name of it.
QUEUES: dict[int, list[Callable[[], object]]] = {}
_names = itertools.count(1)


class FakeCuda:
    """`libcuda`.

    Attributes:
        memory: bytes of each GPU.
        version: newest CUDA, as the driver writes it.
        codes: what a function answers instead of doing its work, by name.
        held: what is allocated, by address.
        pushed: contexts that are a thread's just now.
    """

    def __init__(self, gpus: int = 1, *, version: int = 13000, memory: int = 8 * GIB, **codes: int) -> None:
        self.gpus = gpus
        self.version = version
        self.memory = memory
        self.codes = codes
        self.held: dict[int, Any] = {}
        self.pushed = 0
        self.streams = 0

    def driver(self) -> CudaDriver:
        """The driver over it."""
        return CudaDriver(self)

    def gpu(self, index: int = 0) -> Gpu:
        """What `read_gpus` would say."""
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
        assert flags.value == 1, "a stream that waits for the default one"
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

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        copy = partial(ctypes.memmove, target.value, source.value, size.value)
        QUEUES[stream.value].append(copy)
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


def _finish(stream: int) -> None:
    """All that a stream has still to do."""
    queue = QUEUES[stream]
    while queue:
        queue.pop(0)()


#: Where a session looks for the weights of a graph that is no file.
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
        QUEUES[int(stream)].append(work)
        if run_options is None or run_options.entries.get("disable_synchronize_execution_providers") != "1":
            _finish(int(stream))

    def _compute(self, inputs: dict[str, NDArray[Any]], output: tuple[str, NDArray[Any]]) -> None:
        name, target = output
        np.copyto(target, self._graph.run(inputs, [name])[0])


class FakeOnnxRuntime:
    """The package `onnxruntime`.

    Attributes:
        runs_on: where sessions say that they run.
        captured: runs by thread and graph.
        fail: called before each run with its first input, to raise.
        sessions: all that were made.
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
        """Nothing to load."""

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
        assert enable_fallback == 0, "it would run on the processor unasked"
        assert options.entries["session.disable_cpu_ep_fallback"] == "1"
        if self.open_error is not None:
            raise self.open_error
        ((name, settings),) = providers
        assert name == "CUDAExecutionProvider"
        self.sessions.append(_Session(self, graph, options, settings))
        return self.sessions[-1]
