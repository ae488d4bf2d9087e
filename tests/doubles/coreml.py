"""Double of ONNX Runtime with a CoreML provider: it checks options, records shapes, and computes on the CPU.

Option names and values are those of `coreml_provider_factory.h` and `coreml_options.cc`, which reject all others. A compiled
model is a file in the cache folder, named by the path of the graph. If the file does not exist, a compilation is counted.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

COREML, CPU = "CoreMLExecutionProvider", "CPUExecutionProvider"

#: Names of options, and the allowed values of each; None allows any text.
OPTIONS: Mapping[str, frozenset[str] | None] = {
    "MLComputeUnits": frozenset({"ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"}),
    "ModelFormat": frozenset({"MLProgram", "NeuralNetwork"}),
    "RequireStaticInputShapes": frozenset({"0", "1"}),
    "EnableOnSubgraphs": frozenset({"0", "1"}),
    "SpecializationStrategy": frozenset({"Default", "FastPrediction"}),
    "ProfileComputePlan": frozenset({"0", "1"}),
    "AllowLowPrecisionAccumulationOnGPU": frozenset({"0", "1"}),
    "ModelCacheDirectory": None,
}


class Options:
    """`SessionOptions` that records its entries."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeCoreMl(types.ModuleType):
    """`FakeCoreMl`: double of the module `onnxruntime` on a Mac.

    Attributes:
        opened: file name of the graph and options of CoreML, for each session.
        runs: file name of the graph and shapes by input, for each run.
        compiled: file names of the compiled graphs.
        on_cpu: operators of the nodes that stay on the processor.
        providers: return value of `get_available_providers`.
        fail: message of the error that opening a session raises; empty raises no error.
        fail_run: message of the error that a run raises; empty raises no error.
    """

    SessionOptions = Options

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "1.31.1"
        self.opened: list[tuple[str, dict[str, str]]] = []
        self.runs: list[tuple[str, dict[str, tuple[int, ...]]]] = []
        self.compiled: list[str] = []
        self.on_cpu: tuple[str, ...] = ()
        self.providers = [COREML, CPU]
        self.fail = self.fail_run = ""

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(
        self, graph: Path, options: Options, *, providers: Sequence[Any], enable_fallback: int
    ) -> Session:
        assert enable_fallback == 0, "ONNX Runtime would open the session without CoreML"
        (name, settings), other = providers
        assert (name, other) == (COREML, CPU)
        assert options.entries["session.record_ep_graph_assignment_info"] == "1"
        for option, value in settings.items():
            if option not in OPTIONS:
                raise RuntimeError(f"Unknown option: {option}")
            allowed = OPTIONS[option]
            if allowed is not None and value not in allowed:
                raise RuntimeError(f"Invalid value for option {option}: {value}")
        if self.fail:
            raise RuntimeError(self.fail)
        self.opened.append((graph.name, dict(settings)))
        compiled = Path(settings["ModelCacheDirectory"]) / hashlib.sha256(str(graph).encode()).hexdigest()[:16]
        if not compiled.exists():
            compiled.write_text(graph.name)
            self.compiled.append(graph.name)
        return Session(self, graph)


class Session:
    """`Session`: double of a session. It computes on the CPU provider, and accepts only the shapes of the graph."""

    def __init__(self, runtime: FakeCoreMl, graph: Path) -> None:
        self._runtime = runtime
        self._graph = graph
        self._session = onnxruntime.InferenceSession(graph, providers=[CPU])
        self._shapes = {info.name: tuple(info.shape) for info in self._session.get_inputs()}

    def get_providers(self) -> list[str]:
        return [name for name in (COREML, CPU) if name in self._runtime.providers]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        def group(provider: str, operators: Sequence[str]) -> Any:
            nodes = [types.SimpleNamespace(name=f"layer0/{kind}", op_type=kind) for kind in operators]
            return types.SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

        groups = [group(COREML, ["MatMul", "Softmax"])]
        return [*groups, group(CPU, self._runtime.on_cpu)] if self._runtime.on_cpu else groups

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        if self._runtime.fail_run:
            raise RuntimeError(self._runtime.fail_run)
        shapes = {name: array.shape for name, array in feeds.items()}
        assert shapes == self._shapes, "CoreML would compile the graph again"
        self._runtime.runs.append((self._graph.name, shapes))
        return self._session.run(names, feeds)
