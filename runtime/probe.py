"""A look inside a graph: ONNX Runtime with the optimiser off, so that every value of the graph exists and can be asked for.

The graph comes as bytes with the wanted values among its outputs; its weights stay in the artefact, which is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .encodings import Encodings
from .errors import ArtifactError, MissingPackageError

__all__ = ["ProbeSession"]

#: The inputs of a graph that eats `Encodings` as they are.
PACKED_INPUTS = ("input_ids", "offsets")


class ProbeSession:
    """A graph on the CPU provider whose inner values can be read. A context manager, for one thread."""

    def __init__(self, graph: bytes, weights_folder: Path) -> None:
        """
        Args:
            graph: a serialised model; its external data are named relative to `weights_folder`.
            weights_folder: where its weights lie.

        Raises:
            MissingPackageError: onnxruntime is not installed.
            ArtifactError: ONNX Runtime cannot load the graph, or it does not eat packed tokens.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("onnxruntime", "cpu", "looking inside an artefact") from error
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
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime cannot load the probed graph of {weights_folder}: {error}") from error
        found = tuple(info.name for info in self._session.get_inputs())
        if set(found) != set(PACKED_INPUTS):
            raise ArtifactError(
                f"a graph of {weights_folder} has the inputs {', '.join(found)}; "
                f"only graphs with {' and '.join(PACKED_INPUTS)} can be looked into"
            )

    def run(self, batch: Encodings, values: Sequence[str]) -> list[NDArray[Any]]:
        """Computes one batch, and gives the values of those names, each in the graph's own layout."""
        arrays: list[NDArray[Any]] = self._session.run(list(values), {"input_ids": batch.ids, "offsets": batch.offsets})
        return [np.asarray(array) for array in arrays]

    def close(self) -> None:
        """Gives the memory back."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
