"""`InspectionSession`: a graph all of whose inner values can be read, with ONNX Runtime's optimizer off.

The graph comes as bytes with the requested values among its outputs; its weights stay in the artifact, which is only read.
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
    """A graph whose inner values can be read. A context manager, for one thread.

    Graphs for TensorRT and CoreML are made of standard operators, so that the CPU provider shows what they mean; what the
    device makes of them is for the served session to show. A graph for CUDA runs on the first GPU, as it is served there.
    """

    def __init__(self, graph: bytes, weights_folder: Path, target: Target) -> None:
        """Open a graph.

        Args:
            graph: a serialized model; its external data are named relative to `weights_folder`.
            weights_folder: where its weights lie.
            target: of the variant.

        Raises:
            MissingPackageError: onnxruntime is not installed, or for a cuda graph, none with CUDA.
            ProviderError: the target's provider cannot be used here, or does not run a node.
            ArtifactError: ONNX Runtime cannot load the graph.
        """
        own = (provider.inspect for provider in all_providers() if target in provider.targets)
        inspect = next((inspect for inspect in own if inspect is not None), None)
        self._session = (
            open_graph(graph, weights_folder, optimize=False) if inspect is None else inspect(graph, weights_folder)
        )

    def run(self, feeds: Mapping[str, NDArray[Any]], values: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute one batch and return the values of those names, each in the graph's own layout.

        Args:
            feeds: every input of the graph.
            values: names among its outputs.

        Raises:
            ProviderError: ONNX Runtime cannot compute them.
        """
        try:
            return dict(zip(values, self._session.run(list(values), dict(feeds)), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ProviderError(f"ONNX Runtime cannot compute a graph with the inputs {shapes}: {error}") from error

    def close(self) -> None:
        """Release the memory."""
        self._session = None
