"""`OpenVinoSession`: a graph for the processor on OpenVINO's CPU plug-in, in fp32 or bf16."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...batch import Batch
from ...errors import MissingPackageError, ProviderError
from ...session.session import Session
from . import TITLES

__all__ = ["OpenVinoSession"]

#: Compiled kernels that OpenVINO and its oneDNN keep, one for each shape that came. Their defaults, 5,000 and 1,024, took
#: 2.8 GB over 3,000 random batches of a model of bert-tiny's dimensions. With 100 shapes it held 206 MB after 500 batches and
#: the process grew by 10 % more, with 40 it holds 107 MB and grows by 2.4 % (benchmarks/memory/growth.py).
SHAPE_KERNELS, ONEDNN_KERNELS = 40, 64

#: The package that OpenVINO reports its use with.
TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()

#: OpenVINO's names of the precisions.
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession(Session):
    """Graph on OpenVINO's CPU plug-in. Safe to run from several threads at once; a context manager.

    Attributes:
        provider: with the arithmetic that it really uses.
    """

    def __init__(self, graph: Path, *, precision: Literal["fp32", "bf16"] | str, threads: int, workers: int) -> None:
        """Compile a graph.

        Args:
            graph: an ONNX file; its weights are mapped, not read, and copied once where the plug-in lays them out anew.
            precision: arithmetic of the matrix products, `fp32` or `bf16`.
            threads: processor threads inside one run.
            workers: runs that may be under way at once; more wait.

        Raises:
            MissingPackageError: openvino is not installed.
            ProviderError: OpenVINO cannot read or compile the graph, or would not run it as it was asked to.
        """
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(ONEDNN_KERNELS))  # read at its first use
        openvino = _import_quietly()
        requested = PRECISIONS[precision]
        config = {
            "INFERENCE_PRECISION_HINT": requested,
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers * threads,
            # Pinned streams of two processes would meet on the same cores.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": SHAPE_KERNELS,
        }
        core = openvino.Core()
        try:
            model = core.read_model(graph)
        except Exception as error:  # OpenVINO's errors are plain RuntimeErrors
            raise ProviderError(f"OpenVINO {openvino.__version__} cannot read {graph}: {_first_line(error)}") from error
        try:
            compiled = core.compile_model(model, "CPU", config)
        except Exception as error:
            raise ProviderError(
                f"OpenVINO {openvino.__version__} cannot compile {graph}: {_first_line(error)}"
            ) from error
        actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        devices = compiled.get_property("EXECUTION_DEVICES")
        if actual != requested or devices != ["CPU"]:
            raise ProviderError(
                f"{graph} was to run on OpenVINO's CPU in {requested}, and runs on {devices} in {actual}"
            )
        self.provider = TITLES[precision]
        self._inputs = tuple(port.any_name for port in model.inputs)
        self._outputs = {port.any_name: index for index, port in enumerate(model.outputs)}
        self._requests: queue.SimpleQueue[Any] | None = queue.SimpleQueue()
        for _ in range(workers):
            self._requests.put(compiled.create_infer_request())

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch, without the GIL; see `Session.run`.

        Raises:
            ProviderError: the session was closed, has no such output, or OpenVINO cannot compute the batch.
        """
        requests = self._requests
        if requests is None:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        if output is not None and output not in self._outputs:
            raise ProviderError(
                f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert the checkpoint again"
            )
        request = requests.get()
        try:
            request.infer(batch.tensors(self._inputs), share_inputs=True)
            # A copy: the next run of this request writes into the same memory.
            return np.array(request.get_output_tensor(self._outputs[output] if output else 0).data, np.float32)
        except Exception as error:
            raise ProviderError(
                f"OpenVINO cannot compute a batch of {len(batch)} texts and {batch.num_tokens} tokens: "
                f"{_first_line(error)}"
            ) from error
        finally:
            requests.put(request)

    def close(self) -> None:
        """Release the memory once the runs under way have ended."""
        self._requests = None


def _import_quietly() -> Any:
    """Import openvino without its telemetry.

    The import itself reports to Google Analytics (version, system, how often it is used) and leaves an identity in the user's
    home, unless a file there says no; no setting of the process does (openvino 2026.4, tools/ovc/__init__.py). Where
    `openvino_telemetry` cannot be imported OpenVINO uses a stub, so that is what it sees.

    Raises:
        MissingPackageError: openvino is not installed.
    """
    with _IMPORTING:
        theirs = sys.modules.pop(TELEMETRY, None)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError("openvino", "openvino", "running a graph on OpenVINO") from error
        finally:
            del sys.modules[TELEMETRY]
            if theirs is not None:
                sys.modules[TELEMETRY] = theirs
    return openvino


def _first_line(error: Exception) -> str:
    """Return OpenVINO's message without its own source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (message or lines or [type(error).__name__])[0]
