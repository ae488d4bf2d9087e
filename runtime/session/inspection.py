"""A look inside a graph: ONNX Runtime with the optimizer off, so that every value of the graph exists and can be asked for.

The graph comes as bytes with the wanted values among its outputs; its weights stay in the artifact, which is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from ..artifact.manifest import Target
from ..errors import ProviderError
from ..providers.cuda.ort import open_inference_session, provider_options
from ..providers.mlas.graph import open_graph

__all__ = ["ProbeSession"]


class ProbeSession:
    """A graph whose inner values can be read. A context manager, for one thread.

    Graphs for TensorRT and CoreML are made of standard operators, so that the CPU provider shows what they mean; what the
    device makes of them is for the served session to show. A graph for CUDA runs on the first GPU, as it is served there.
    """

    def __init__(self, graph: bytes, weights_folder: Path, target: Target) -> None:
        """
        Args:
            graph: a serialized model; its external data are named relative to `weights_folder`.
            weights_folder: where its weights lie.
            target: of the variant.

        Raises:
            MissingPackageError: onnxruntime is not installed, or for a cuda graph, none with CUDA.
            ProviderError: CUDA cannot be used here, or does not run a node.
            ArtifactError: ONNX Runtime cannot load the graph.
        """
        if target == "cuda":
            options = provider_options(0)
            self._session = open_inference_session(graph, options, weights_folder=weights_folder, optimize=False)
        else:
            self._session = open_graph(graph, weights_folder, optimize=False)

    def run(self, feeds: Mapping[str, NDArray[Any]], values: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Computes one batch, and gives the values of those names, each in the graph's own layout.

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
        """Gives the memory back."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
