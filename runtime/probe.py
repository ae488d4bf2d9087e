"""A look inside a graph: ONNX Runtime with the optimiser off, so that every value of the graph exists and can be asked for.

The graph comes as bytes with the wanted values among its outputs; its weights stay in the artefact, which is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from .errors import ArtifactError, MissingPackageError, ProviderError

__all__ = ["ProbeSession"]

CPU = "CPUExecutionProvider"

#: What a graph of each target is looked into with. Graphs for TensorRT and CoreML are made of standard operators, so the CPU
#: provider shows what they mean; what the device makes of them is for the served session to show.
PROVIDERS: Mapping[str, str] = MappingProxyType(
    {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": CPU, "coreml": CPU}
)


class ProbeSession:
    """A graph whose inner values can be read. A context manager, for one thread."""

    def __init__(self, graph: bytes, weights_folder: Path, target: str) -> None:
        """
        Args:
            graph: a serialised model; its external data are named relative to `weights_folder`.
            weights_folder: where its weights lie.
            target: of the variant.

        Raises:
            MissingPackageError: onnxruntime is not installed.
            ProviderError: this onnxruntime has no provider for the target.
            ArtifactError: ONNX Runtime cannot load the graph.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("onnxruntime", "cpu", "looking inside an artefact") from error
        provider = PROVIDERS[target]
        if provider not in onnxruntime.get_available_providers():
            raise ProviderError(
                f"a graph for {target} can be looked into on a machine with {provider} only; the onnxruntime here has "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Lets a graph in memory find its weights, so that no copy of either has to be written.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder.absolute())
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=[provider])
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime cannot load the probed graph of {weights_folder}: {error}") from error

    def run(self, feeds: Mapping[str, NDArray[Any]], values: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Computes one batch, and gives the values of those names, each in the graph's own layout.

        Args:
            feeds: every input of the graph.
            values: names among its outputs.
        """
        return dict(zip(values, self._session.run(list(values), dict(feeds)), strict=True))

    def close(self) -> None:
        """Gives the memory back."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
