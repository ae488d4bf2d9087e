"""`OpenVinoSession`: session of a graph for the processor on OpenVINO's CPU plug-in, in fp32 or bf16."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...artifact.outputs import join_values, names_of
from ...batch import Batch
from ...errors import MissingPackageError, ProviderError
from ...session.session import Session
from . import TITLES

__all__ = ["OpenVinoSession"]

#: Numbers of compiled kernels that OpenVINO and its oneDNN keep, one for each shape. The defaults, 5,000 and 1,024, needed
#: 2.8 GB after 3,000 random batches of a model of bert-tiny's dimensions. With 100 shapes, OpenVINO held 206 MB after 500
#: batches, and the process grew by another 10 %; with 40 shapes it holds 107 MB, and the process grows by 2.4 %
#: (benchmarks/memory/growth.py).
SHAPE_KERNELS, ONEDNN_KERNELS = 40, 64

#: Elements of a token's activations that share a scale in products with weights in 8 bits, which OpenVINO then computes in
#: 8 bits. Without it a product with such weights takes 2.6 times as long (AVX512-VNNI), as long as one with float weights.
BLOCK = 128

#: Package with which OpenVINO reports its use.
TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()

#: Names of the precisions in OpenVINO.
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession(Session):
    """`OpenVinoSession`: graph on OpenVINO's CPU plug-in. Safe to run from several threads at once; a context manager.

    Attributes:
        provider: title of the provider, with the precision in use.
    """

    def __init__(self, graph: Path, *, precision: Literal["fp32", "bf16"] | str, threads: int, workers: int) -> None:
        """Compile a graph.

        Args:
            graph: ONNX file. Its weights are memory-mapped, and copied once if the plug-in changes their layout.
            precision: precision of the matrix products, `fp32` or `bf16`.
            threads: processor threads inside one run.
            workers: number of runs that may be in progress at once; further runs wait.

        Raises:
            MissingPackageError: openvino is not installed.
            ProviderError: OpenVINO cannot read or compile the graph, or would not run it in the requested precision on the
                CPU.
        """
        os.environ.setdefault(
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(ONEDNN_KERNELS)
        )  # oneDNN reads it at its first use
        openvino = _import_quietly()
        requested = PRECISIONS[precision]
        config = {
            "INFERENCE_PRECISION_HINT": requested,
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers * threads,
            # Pinned streams of two processes would use the same cores.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": SHAPE_KERNELS,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": BLOCK,
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
                f"{graph} should run on OpenVINO's CPU in {requested}, and runs on {devices} in {actual}"
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
        names = [] if output is None else names_of(output)
        if not set(names) <= set(self._outputs):
            raise ProviderError(
                f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert the checkpoint again"
            )
        request = requests.get()
        try:
            request.infer(batch.tensors(self._inputs), share_inputs=True)
            # The values are copied, because the next run of this request writes into the same memory.
            ports = [self._outputs[name] for name in names] or [0]
            values = [np.array(request.get_output_tensor(port).data, np.float32) for port in ports]
            return values[0] if len(values) == 1 else join_values(names, values, batch)
        except Exception as error:
            raise ProviderError(
                f"OpenVINO cannot compute a batch of {len(batch)} texts and {batch.num_tokens} tokens: "
                f"{_first_line(error)}"
            ) from error
        finally:
            requests.put(request)

    def close(self) -> None:
        """Release the memory as soon as the runs in progress have ended."""
        self._requests = None


def _import_quietly() -> Any:
    """Import openvino without its telemetry.

    Importing openvino sends its version, the system and the frequency of use to Google Analytics, and stores an identity in
    the user's home. A file in the home can prevent this, but a setting of the process cannot (openvino 2026.4,
    tools/ovc/__init__.py). OpenVINO uses a stub if `openvino_telemetry` cannot be imported, so this function makes its
    import fail.

    Raises:
        MissingPackageError: openvino is not installed.
    """
    with _IMPORTING:
        imported = sys.modules.pop(TELEMETRY, None)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # importing it fails
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError("openvino", "openvino", "running a graph on OpenVINO") from error
        finally:
            del sys.modules[TELEMETRY]
            if imported is not None:
                sys.modules[TELEMETRY] = imported
    return openvino


def _first_line(error: Exception) -> str:
    """Return OpenVINO's message without the lines about its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (message or lines or [type(error).__name__])[0]
