"""Double of ONNX Runtime with a TensorRT provider: it parses options, and writes and loads engines.

ONNX Runtime's CPU provider computes the graph of an engine. It accepts only shapes of the profile: other batches raise the
same error as in TensorRT. The double also has the plug-in for RTX.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

TENSORRT, RTX, CUDA, CPU = (
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)

#: Names that the parser of onnxruntime-gpu 1.31.1 accepts, all of them tested with it, without options for other purposes.
#: True marks options that accept only the words True and False.
OPTIONS: Mapping[str, bool] = {
    "device_id": False,
    "trt_bf16_enable": True,
    "trt_builder_optimization_level": False,
    "trt_cuda_graph_enable": True,
    "trt_detailed_build_log": True,
    "trt_dump_ep_context_model": True,
    "trt_engine_cache_enable": True,
    "trt_engine_cache_path": False,
    "trt_engine_cache_prefix": False,
    "trt_ep_context_embed_mode": False,
    "trt_ep_context_file_path": False,
    "trt_fp16_enable": True,
    "trt_int8_enable": True,
    "trt_profile_max_shapes": False,
    "trt_profile_min_shapes": False,
    "trt_profile_opt_shapes": False,
    "trt_timing_cache_enable": True,
    "trt_timing_cache_path": False,
}
#: Names in tensorrt_rtx_provider_options.h of onnxruntime-ep-nv-tensorrt-rtx 0.5 that Fletcher could use.
RTX_OPTIONS = frozenset(
    {"nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes", "nv_runtime_cache_path"}
)

Ranges = dict[str, tuple[list[int], list[int]]]


class Options:
    """`SessionOptions` that records its entries, devices and provider options."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: list[Any] = []
        self.provider_options: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: Sequence[Any], options: Mapping[str, str]) -> None:
        self.devices, self.provider_options = list(devices), dict(options)


class FakeRuntime(types.ModuleType):
    """`FakeRuntime`: double of the module `onnxruntime`.

    Attributes:
        opened: model, provider, options of the provider and entries of the session, for each session.
        runs: shape of `input_ids` of each run.
        fail: function that is called first when a session is opened, with the model and the provider. It may raise an error.
        whole: whether TensorRT takes the whole graph.
        lost_nodes: whether a node nevertheless runs on another provider.
        vanishes: whether the library of the provider does not load, which ONNX Runtime does not report.
        devices: return value of `get_ep_devices`.
        registered: name and path of each registered plug-in.
    """

    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    SessionOptions = Options

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "1.31.1"
        self.opened: list[tuple[Path, str, dict[str, str], dict[str, str]]] = []
        self.runs: list[tuple[int, ...]] = []
        self.whole = True
        self.lost_nodes = False
        self.vanishes = False
        self.devices: list[Any] = []
        self.registered: list[tuple[str, str]] = []

    def fail(self, model: Path, provider: str) -> None:
        """Do nothing; tests replace this function."""

    def preload_dlls(self) -> None:
        """Do nothing: there are no libraries."""

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))
        self.devices += [device(RTX, "0000:1B:00.0")]

    def get_ep_devices(self) -> list[Any]:
        return self.devices

    def InferenceSession(
        self, model: Path, options: Options, providers: Any = None, enable_fallback: int = 1, **others: Any
    ) -> Session:
        provider, settings = (
            (options.devices[0].ep_name, options.provider_options) if providers is None else providers[0]
        )
        self.opened.append((Path(model), provider, dict(settings), options.entries))
        try:
            self.fail(Path(model), provider)
            return self._open(Path(model), options, provider, settings)
        except RuntimeError:
            if enable_fallback:  # as in onnxruntime_inference_collection.py
                return Session(self, [CPU], Path(model), None, CPU)
            raise

    def _open(self, model: Path, options: Options, provider: str, settings: Mapping[str, str]) -> Session:
        if provider == TENSORRT:
            for name, value in settings.items():
                if name not in OPTIONS or (OPTIONS[name] and value not in ("True", "False")):
                    raise RuntimeError(f"Invalid TensorRT EP option: {name}")
        if provider == RTX and not set(settings) <= RTX_OPTIONS:
            raise RuntimeError(f"Unknown provider option: {settings}")
        if self.vanishes:
            return Session(self, [CPU], model, None, CPU)
        assigned = CPU if self.lost_nodes else provider
        if provider == CUDA:
            return Session(self, [CUDA, CPU], model, None, assigned)
        if model.name == "context.onnx":
            return self._load(model, provider, assigned)
        ranges = _ranges(settings, "trt" if provider == TENSORRT else "nv")
        if self.whole:
            if provider == TENSORRT:
                _write_engine(model, settings, ranges)
            else:
                _write(Path(options.entries["ep.context_file_path"]), {"graph": str(model), "ranges": ranges})
        return Session(self, [provider, CPU], model, ranges, assigned)

    def _load(self, model: Path, provider: str, assigned: str) -> Session:
        context = json.loads(model.read_text())
        if "engine" in context:
            engine = model.parent / context["engine"]
            if not engine.read_text().startswith("engine"):
                raise RuntimeError("TensorRT EP could not deserialize engine from cache")
        return Session(self, [provider, CPU], Path(context["graph"]), context["ranges"], assigned)


class Session:
    """`Session`: double of a session, which computes on the CPU provider."""

    def __init__(
        self, runtime: FakeRuntime, providers: list[str], graph: Path, ranges: Ranges | None, assigned: str
    ) -> None:
        self._runtime = runtime
        self._providers = providers
        self._ranges = ranges
        self._assigned = assigned
        self._session = onnxruntime.InferenceSession(graph, providers=[CPU])

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [types.SimpleNamespace(name="layer0/norm", op_type="LayerNormalization")]
        return [types.SimpleNamespace(ep_name=self._assigned, get_nodes=lambda: nodes)]

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        for name, (low, high) in (self._ranges or {}).items():
            shape = feeds[name].shape
            if not all(first <= size <= last for first, size, last in zip(low, shape, high, strict=True)):
                raise RuntimeError(
                    f"TensorRT EP failed to call nvinfer1::IExecutionContext::setInputShape() for {name}"
                )
        self._runtime.runs.append(feeds["input_ids"].shape)
        return self._session.run(names, feeds)


def device(provider: str, address: str) -> Any:
    """Return a double of `OrtEpDevice`.

    Args:
        provider: name of the provider.
        address: PCI address of the GPU.
    """
    return types.SimpleNamespace(ep_name=provider, device=types.SimpleNamespace(metadata={"pci_bus_id": address}))


def _ranges(settings: Mapping[str, str], prefix: str) -> Ranges:
    """Return the smallest and largest shapes by input, as the provider parses them."""
    low, high = (_shapes(settings[f"{prefix}_profile_{side}_shapes"]) for side in ("min", "max"))
    return {name: (shape, high[name]) for name, shape in low.items()}


def _shapes(text: str) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for item in text.split(","):
        name, _, shape = item.partition(":")
        assert name not in shapes, "a second profile, which ONNX Runtime never runs"
        shapes[name] = [int(size) for size in shape.split("x")]
    return shapes


def _write_engine(graph: Path, settings: Mapping[str, str], ranges: Ranges) -> None:
    """Write the files of the provider: an engine, its profile, a context model that names the engine, and timings."""
    context = Path(settings["trt_ep_context_file_path"])
    engines = Path(settings["trt_engine_cache_path"])
    assert not engines.is_absolute(), "ONNX Runtime logs an error if it is not relative to the context model"
    (context.parent / engines).mkdir(exist_ok=True)
    (context.parent / engines / "node_sm90.engine").write_text(f"engine of {graph.name}")
    (context.parent / engines / "node_sm90.profile").write_text(json.dumps(ranges))
    _write(context, {"graph": str(graph), "ranges": ranges, "engine": str(engines / "node_sm90.engine")})
    (Path(settings["trt_timing_cache_path"]) / "TensorrtExecutionProvider_cache_sm90.timing").write_text("timings")


def _write(context: Path, content: Mapping[str, Any]) -> None:
    context.write_text(json.dumps(content))
