"""`CoreMlSession`: CoreML through ONNX Runtime. Each text runs alone, in the smallest graph of fixed shape that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.folder import Artifact
from ...artifact.manifest import TOKEN_OUTPUTS, Variant
from ...artifact.outputs import join_values, names_of
from ...batch import Batch
from ...errors import ArtifactError, MissingPackageError, ProviderError
from ...session.feeds import make_feeds, pack
from ...session.session import Session
from .buckets import bucket_of_rows, buckets_of, length_of
from .options import COREML_EP, SESSION_ENTRIES, ComputeUnits, coreml_options, model_cache

__all__ = ["CoreMlSession", "open_coreml"]

logger = logging.getLogger("fletcher.runtime.providers.coreml.session")

CPU_EP = "CPUExecutionProvider"

#: Operators that determine the speed. CoreML has to run all of them; small nodes may stay on the processor.
PRODUCTS = frozenset({"MatMul", "Gemm"})


class CoreMlSession(Session):
    """`CoreMlSession`: session of all buckets of an artifact. Safe to run from several threads at once; a context manager."""

    def __init__(
        self, artifact: Artifact, variant: Variant, open_graph: Callable[[Path], Any], *, provider: str
    ) -> None:
        """Open the graphs of all lengths.

        Args:
            artifact: artifact that contains the graphs.
            variant: variant of one bucket; all variants that differ only in their length are opened.
            open_graph: opens an ONNX Runtime session for the file of a graph.
            provider: title of the provider.

        Raises:
            ArtifactError: a variant does not have the fixed shape of one text, or cannot be loaded.
            ProviderError: a graph would not run on CoreML.
        """
        self.provider = provider
        self._buckets = buckets_of(artifact, variant)
        self._lengths = tuple(length_of(bucket) for bucket in self._buckets)
        self._outputs = {info.name: info for info in variant.outputs}
        self._first = variant.outputs[0].name
        self._tables = artifact.tables(variant)  # the same rows for every length
        self._sessions: Sequence[Any] | None = [open_graph(artifact.path / bucket.file) for bucket in self._buckets]

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        """Compute one batch row by row; see `Session.run`.

        Raises:
            InputError: a text is longer than every bucket.
            ProviderError: the session was closed, has no such output, or ONNX Runtime cannot compute a row.
        """
        sessions = self._sessions  # `close` may come from another thread
        if sessions is None:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        names = [self._first] if output is None else names_of(output)
        if not set(names) <= set(self._outputs):
            raise ProviderError(f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert it again")
        places = bucket_of_rows(batch, self._lengths).tolist()
        if len(places) == 1:
            return self._compute(sessions[places[0]], self._buckets[places[0]], batch, names)
        values = [
            self._compute(sessions[place], self._buckets[place], batch.select(np.array([row])), names)
            for row, place in enumerate(places)
        ]
        return np.concatenate(values)

    def close(self) -> None:
        """Release the memory as soon as the runs in progress have ended."""
        self._sessions = None
        self._tables = {}

    def _compute(self, session: Any, bucket: Variant, row: Batch, names: list[str]) -> NDArray[Any]:
        feeds = make_feeds(bucket.inputs, bucket.feeds, row, self._tables)
        try:
            outputs: list[NDArray[Any]] = session.run(names, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise ProviderError(
                f"{self.provider} cannot compute a text of {row.num_tokens} tokens with {bucket.name}: {error}"
            ) from error
        values = [
            pack(value, row) if name in TOKEN_OUTPUTS else value for name, value in zip(names, outputs, strict=True)
        ]
        return values[0] if len(values) == 1 else join_values(names, values, row)


def open_coreml(artifact: Artifact, variant: Variant, *, units: ComputeUnits, provider: str) -> CoreMlSession:
    """Open the buckets of a `coreml` variant on CoreML. CoreML compiles each of them at the first load.

    Args:
        artifact: artifact that contains the graphs.
        variant: variant of one bucket.
        units: devices that CoreML may choose from.
        provider: title of the provider.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        ArtifactError: ONNX Runtime cannot load a graph.
        ProviderError: onnxruntime has no CoreML, or CoreML does not run a matrix product of a graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "apple", "running an artifact on CoreML") from error
    if COREML_EP not in onnxruntime.get_available_providers():
        raise ProviderError(
            f"onnxruntime {onnxruntime.__version__} has no CoreML: pip install 'longbow-fletcher[apple]' on a Mac"
        )
    options = coreml_options(units, model_cache(artifact, str(onnxruntime.__version__), units))
    return CoreMlSession(artifact, variant, lambda graph: _open_graph(onnxruntime, graph, options), provider=provider)


def _open_graph(onnxruntime: Any, graph: Path, provider_options: dict[str, str]) -> Any:
    """Open a session whose products all run on CoreML.

    Raises:
        ArtifactError: ONNX Runtime cannot load the graph.
        ProviderError: CoreML does not run a matrix product of the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    for name, value in SESSION_ENTRIES.items():
        options.add_session_config_entry(name, value)
    # The processor may run small nodes. Without `enable_fallback=0`, ONNX Runtime would open the session without CoreML.
    providers = [(COREML_EP, provider_options), CPU_EP]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ArtifactError(f"ONNX Runtime cannot load {graph} on CoreML: {error}") from error
    _check_assignment(session, graph)
    return session


def _check_assignment(session: Any, graph: Path) -> None:
    """Raise an error unless CoreML runs all matrix products of a graph; log the other nodes on the processor.

    Raises:
        ProviderError: a matrix product or the whole graph stays on the processor.
    """
    if not session.get_providers() or session.get_providers()[0] != COREML_EP:
        raise ProviderError(f"{graph} should run on {COREML_EP}, and runs on {session.get_providers()}")
    elsewhere = [
        node
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != COREML_EP
        for node in group.get_nodes()
    ]
    products = [node for node in elsewhere if node.op_type in PRODUCTS]
    if products:
        raise ProviderError(
            f"CoreML leaves matrix products of {graph} to the processor ({len(products)}, the first: {products[0].name}): "
            "load a cpu variant, or update macOS and onnxruntime"
        )
    if elsewhere:
        fields = {
            "graph": graph.name,
            "nodes": len(elsewhere),
            "first": f"{elsewhere[0].name} ({elsewhere[0].op_type})",
        }
        logger.info("nodes on the processor", extra={"fields": fields})
