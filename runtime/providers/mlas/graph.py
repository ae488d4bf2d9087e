"""`CpuGraph`: graph of any target on ONNX Runtime's CPU provider, to record values, make canaries and compare.

It is not for serving; a `Session` is. ONNX Runtime inserts casts and computes types without a kernel for the processor in
float32. It has no such casts for bfloat16, and rejects these graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, MissingPackageError, ProviderError
from .mapped import map_weights

__all__ = ["CpuGraph", "open_graph"]


def open_graph(graph: bytes, weights_folder: Path, *, optimize: bool = True, mapped: bool = False) -> Any:
    """Open an ONNX Runtime session of a graph in memory with weights in a folder, without writing a copy of either.

    Args:
        graph: serialized model whose external data are relative to `weights_folder`.
        weights_folder: folder of the weights.
        optimize: whether ONNX Runtime may join nodes, which removes the values between them.
        mapped: whether the weights stay where they are, and the memory of values is returned at once; see `mapped.py`.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        ArtifactError: ONNX Runtime cannot load the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", "running a graph on the processor") from error
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights_folder.absolute())
    )
    disabled = map_weights(options) if mapped else []
    if mapped:  # nodes in the order of the graph: a value's maximum before the next values, so that few are kept
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = not mapped  # an arena grows by powers of two, and keeps the largest values of a run
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ArtifactError(f"ONNX Runtime cannot load a graph of {weights_folder}: {error}") from error


class CpuGraph:
    """`CpuGraph`: graph that runs on the calling thread."""

    def __init__(self, graph: bytes, weights_folder: Path, *, mapped: bool = False) -> None:
        """Open a graph.

        Args:
            graph: serialized model whose external data are relative to `weights_folder`.
            weights_folder: folder of the weights.
            mapped: whether the weights stay in their file; see `mapped.py`.

        Raises:
            MissingPackageError: onnxruntime is not installed.
            ArtifactError: ONNX Runtime cannot load the graph.
        """
        self._session = open_graph(graph, weights_folder, mapped=mapped)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Compute the named outputs.

        Raises:
            ProviderError: ONNX Runtime cannot compute them.
        """
        try:
            values = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ProviderError(f"ONNX Runtime cannot compute a graph with the inputs {shapes}: {error}") from error
        return [np.asarray(value) for value in values]
