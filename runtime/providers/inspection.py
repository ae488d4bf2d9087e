"""`InspectionSession`: session of a graph whose inner values can all be read, without ONNX Runtime's optimizer.

The graph is given as bytes, with the requested values among its outputs. Its weights are read from the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..artifact.manifest import Target
from ..closing import Closing
from ..errors import ProviderError
from .mlas.graph import open_graph
from .selection import all_providers

__all__ = ["InspectionSession"]


class InspectionSession(Closing):
    """`InspectionSession`: session of a graph whose inner values can be read. A context manager, for one thread.

    Graphs for TensorRT and CoreML consist of standard operators, so the CPU provider computes their values; the values on the
    device itself are those of the served session. A graph for CUDA runs on the first GPU, as when it is served.
    """

    def __init__(self, graph: bytes, weights_folder: Path, target: Target) -> None:
        """Open a graph.

        Args:
            graph: serialized model whose external data are relative to `weights_folder`.
            weights_folder: folder of the weights.
            target: target of the variant.

        Raises:
            MissingPackageError: onnxruntime is not installed, or has no CUDA although the target is `cuda`.
            ProviderError: the target's provider cannot be used here, or does not run a node.
            ArtifactError: ONNX Runtime cannot load the graph.
        """
        candidates = (provider.inspect for provider in all_providers() if target in provider.targets)
        inspect = next((inspect for inspect in candidates if inspect is not None), None)
        self._session = (
            open_graph(graph, weights_folder, optimize=False) if inspect is None else inspect(graph, weights_folder)
        )

    def run(self, feeds: Mapping[str, NDArray[Any]], values: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute one batch and return the named values, each in the layout of the graph.

        Args:
            feeds: all inputs of the graph.
            values: names of outputs of the graph.

        Raises:
            ProviderError: ONNX Runtime cannot compute them.
        """
        try:
            return dict(zip(values, self._session.run(list(values), dict(feeds)), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no common base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ProviderError(f"ONNX Runtime cannot compute a graph with the inputs {shapes}: {error}") from error

    def close(self) -> None:
        """Release the memory."""
        self._session = None
