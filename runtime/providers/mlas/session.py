"""`MlasSession`: session of a graph for the processor on ONNX Runtime's CPU provider (MLAS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.outputs import join_values, names_of
from ...batch import Batch
from ...errors import ArtifactError, MissingPackageError, ProviderError
from ...session.session import Session
from ...versions import version_numbers

__all__ = ["MlasSession"]

PROVIDER = "CPUExecutionProvider"

#: Microseconds that a thread of a run spins for its next part before it sleeps. Waking a thread takes about as long as a part
#: of a short text's matrix product, so other cores would not help short texts without spinning. A thread that spins without a
#: limit blocks other work on its core (benchmarks/cpu/alone.py).
SPIN_MICROSECONDS = 100

#: First version of ONNX Runtime with a limit for spinning. With older versions, threads sleep at once.
BOUNDED_SPINNING = (1, 26)


class MlasSession(Session):
    """`MlasSession`: packed CPU graph. Its inputs are token ids without padding, and its outputs are those of its head.

    One session serves several threads: ONNX Runtime runs a session with one intra-op thread on the calling thread, so the
    workers share the weights and the memory arena.
    """

    provider = "MLAS"

    def __init__(self, graph: Path, *, threads: int) -> None:
        """Load a graph.

        Args:
            graph: ONNX file, with the weights in the same folder.
            threads: threads inside one run; 1 uses only the calling thread.

        Raises:
            MissingPackageError: onnxruntime is not installed.
            ArtifactError: ONNX Runtime cannot load the graph.
            ProviderError: ONNX Runtime would not run the graph on the CPU provider.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("onnxruntime", "cpu", "running an artifact") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # ONNX Runtime would keep a memory pattern for every shape. Without patterns, 1,000 more random batches take 2 MB more
        # instead of 13 MB (benchmarks/memory), at the same speed.
        options.enable_mem_pattern = False
        options.log_severity_level = 3  # warnings are about internals of the optimizer; errors raise
        # Idle threads that spin slow down all other sessions and the tokenizer.
        spins = threads > 1 and version_numbers(onnxruntime.__version__) >= BOUNDED_SPINNING
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
        options.add_session_config_entry("session.force_spinning_stop", "1")  # when the run ends
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=[PROVIDER])
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime cannot load {graph}: {error}") from error
        if self._session.get_providers() != [PROVIDER]:
            raise ProviderError(f"{graph} should run on {PROVIDER}, and runs on {self._session.get_providers()}")
        self._inputs = tuple(info.name for info in self._session.get_inputs())
        self._outputs = [info.name for info in self._session.get_outputs()]

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch on the calling thread, without the GIL; see `Session.run`.

        Raises:
            ProviderError: the session was closed, has no such output, or ONNX Runtime cannot compute the batch.
        """
        session = self._session  # `close` may come from another thread
        if session is None:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        names = self._outputs[:1] if output is None else names_of(output)
        if output is not None and not set(names) <= set(self._outputs):
            raise ProviderError(f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert it again")
        try:
            values: list[NDArray[np.float32]] = session.run(names, batch.tensors(self._inputs))
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ProviderError(
                f"ONNX Runtime cannot compute a batch of {len(batch)} texts and {batch.num_tokens} tokens: {error}"
            ) from error
        return values[0] if len(values) == 1 else join_values(names, values, batch)

    def close(self) -> None:
        """Release the memory."""
        self._session = None
