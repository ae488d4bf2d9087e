"""`CudaSession`: packed batches on one GPU, several at the same time, small ones as captured CUDA graphs.

All other batches run on one stream: copy of the inputs, graph, copy of the output. Their threads wait for an event behind the
output. So the GPU begins a batch when it ends the one before, the host prepares the next one meanwhile, and threads that wait
do not use the processor. A stream for each batch, for which ONNX Runtime waits, gave 0.95 of this speed with three batches of
1,000 texts at a time of MiniLM in fp16 on one H200.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.folder import Artifact
from ...artifact.manifest import TOKEN_OUTPUTS, Variant
from ...artifact.outputs import join_values, names_of
from ...batch import Batch
from ...encodings import Encodings
from ...errors import DeviceLostError, DeviceMemoryError, ProviderError
from ...machine.cuda_driver import CudaDriver, Event, Stream, load_driver
from ...machine.gpus import SLOTS, Gpu
from ...session.counters import Counters
from ...session.feeds import HOST_INPUTS, Feeds
from ...session.session import Session
from . import TITLE
from .buffers import CudaBuffers, Place, lay_out
from .graphs import SHAPES, CudaGraphs
from .ort import open_inference_session, provider_options, run_options, translate

__all__ = ["CudaSession", "open_cuda"]

logger = logging.getLogger("fletcher.runtime.providers.cuda.session")

#: Largest share of the GPU's free memory for the second copy of the weights that captured graphs need.
GRAPHS_SHARE = 0.1


class CudaSession(Session):
    """`CudaSession`: packed graph on one GPU. Safe to use from several threads; `SLOTS` batches run at the same time.

    Attributes:
        gpu: GPU of the session.
        graphs: captured small shapes, or None.
    """

    provider = TITLE

    def __init__(
        self,
        graph: Path,
        variant: Variant,
        gpu: Gpu,
        *,
        max_tokens: int,
        capture: bool = True,
        driver: CudaDriver | None = None,
    ) -> None:
        """Load a graph on a GPU.

        Args:
            graph: ONNX file, with the weights in the same folder.
            variant: variant of the graph.
            gpu: GPU that runs the graph.
            max_tokens: longest input of the model, in tokens.
            capture: whether small shapes are captured as CUDA graphs.
            driver: NVIDIA driver; None is the driver of this machine.

        Raises:
            MissingPackageError: no ONNX Runtime with CUDA is installed.
            ArtifactError: the graph cannot be loaded.
            DeviceMemoryError: the GPU does not have enough memory for the graph.
            ProviderError: the graph cannot run on this GPU.
        """
        self.gpu = gpu
        self.graphs: CudaGraphs | None = None
        self._variant = variant
        self._outputs = {info.name: info for info in variant.outputs}
        driver = load_driver() if driver is None else driver
        open_session = partial(open_inference_session, graph)
        self._closed = False
        self._open: list[_Slot] = []
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        self._stream = Stream(driver, gpu.index)
        try:
            session = open_session(provider_options(gpu.index, stream=self._stream))
            launching = threading.Lock()
            for _ in range(SLOTS):
                slot = _Slot(session, self._stream, launching, driver, gpu.index)
                self._open.append(slot)
                self._slots.put(slot)
            del session  # only the slots refer to it, so that it is freed before its stream
            if capture:
                self.graphs = self._capture(graph, open_session, driver, max_tokens)
                self.small_tokens = 0 if self.graphs is None else self.graphs.largest
        except BaseException:
            self.close()
            raise

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        """Compute one batch on the calling thread, without the GIL; see `Session.run`.

        Raises:
            DeviceMemoryError: the GPU does not have enough free memory for this batch.
            DeviceLostError: the GPU failed.
            ProviderError: the session was closed, has no such output, or cannot compute the batch.
        """
        if self._closed:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        first = self._variant.outputs[0].name
        names = [first] if output is None else names_of(output)
        if not set(names) <= set(self._outputs):
            raise ProviderError(f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert it again")
        if self.graphs is not None and names == [first] and isinstance(batch, Encodings):
            held = self.graphs.run(batch)
            if held is not None:
                return held
        places = lay_out([self._describe(name, batch) for name in names])
        feeds = Feeds(self._variant.inputs, self._variant.feeds, batch)
        with self._slot() as slot:
            values = slot.run(feeds, places, batch)
        return values[0] if len(values) == 1 else join_values(names, values, batch)

    def _describe(self, name: str, batch: Batch) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
        """Return name, type and shape of an output of a batch."""
        info = self._outputs[name]
        rows = batch.num_tokens if name in TOKEN_OUTPUTS else len(batch)
        return name, np.dtype(info.dtype), (rows, *(int(side) for side in info.shape[1:]))

    def is_held(self, batch: Batch, output: str | None = None) -> bool:
        """Return whether a batch has a captured shape, whose memory was allocated at load."""
        is_first = output is None or output == self._variant.outputs[0].name
        return is_first and self.graphs is not None and isinstance(batch, Encodings) and self.graphs.fits(batch)

    def counters(self) -> Counters:
        """Return the counters of the session."""
        graphs = self.graphs
        if graphs is None:
            return {}
        return {
            "cuda_graphs_captured": ("Captured CUDA graphs; all are captured at load", lambda: float(graphs.captured)),
            "cuda_graph_replays": ("Batches computed by replaying a captured graph", lambda: float(graphs.replays)),
        }

    def close(self) -> None:
        """Wait for the batches in progress, and release the memory."""
        if self.graphs is not None:
            self.graphs.close()
            self.graphs = None
        if self._closed:
            return
        self._closed = True
        for _ in self._open:
            self._slots.get().close()
        self._open = []
        self._stream.close()

    @contextmanager
    def _slot(self) -> Iterator[_Slot]:
        slot = self._slots.get()
        try:
            yield slot
        finally:
            self._slots.put(slot)

    def _capture(
        self, graph: Path, open_session: Callable[..., Any], driver: CudaDriver, max_tokens: int
    ) -> CudaGraphs | None:
        """Capture the small shapes if they need only little memory of the GPU, else return None."""
        variant, index = self._variant, self.gpu.index
        # The unused tokens of a shape form texts, which must not be longer than the longest input.
        shapes = [shape for shape in SHAPES if shape.longest <= max_tokens]
        weights = graph.with_name(variant.weights).stat().st_size
        if variant.outputs[0].name in TOKEN_OUTPUTS or not shapes:
            return None
        if any(info.name in HOST_INPUTS for info in variant.inputs):
            return None  # a captured graph keeps the values that operators read on the host
        if any(info.name == "input_ids" and len(info.shape) > 1 for info in variant.inputs):
            return None  # in a rectangle, the unused tokens of a shape are whole rows of its longest text
        if weights > GRAPHS_SHARE * driver.memory_info(index)[0]:
            self._not_captured(f"its weights ({weights >> 20} MiB) would be on the GPU twice")
            return None
        try:
            return CudaGraphs(
                lambda stream: open_session(provider_options(index, stream=stream, capture=True)),
                variant,
                driver,
                index,
                shapes,
            )
        except DeviceMemoryError as error:
            self._not_captured(str(error))
            return None

    def _not_captured(self, reason: str) -> None:
        fields = {"variant": self._variant.name, "gpu": self.gpu.index, "reason": reason}
        logger.warning("small batches are not captured", extra={"fields": fields})


class _Slot:
    """`_Slot`: buffers, binding and event of one batch in progress."""

    def __init__(self, session: Any, stream: Stream, launching: threading.Lock, driver: CudaDriver, index: int) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._options = run_options()
        self._stream = stream
        self._launching = launching
        self._buffers = CudaBuffers(driver, index, stream)
        self._event = Event(driver, index)
        self._index = index

    def run(self, feeds: Feeds, outputs: Sequence[Place], batch: Batch) -> list[NDArray[Any]]:
        """Copy the inputs, compute the batch, and return copies of the outputs."""
        places = lay_out(feeds.shapes)
        host, device = self._buffers.inputs.reserve(places[-1].end)
        feeds.write([place.view(host.array) for place in places])
        for place in places:
            if place.name in HOST_INPUTS:
                self._binding.bind_cpu_input(place.name, place.view(host.array))
                continue
            self._binding.bind_input(
                place.name, "cuda", self._index, place.dtype.type, list(place.shape), device.address + place.offset
            )
        _, device = self._buffers.outputs.reserve(outputs[-1].end)
        self._binding.clear_binding_outputs()
        for place in outputs:
            self._binding.bind_output(
                place.name, "cuda", self._index, place.dtype.type, list(place.shape), device.address + place.offset
            )
        with self._launching:  # batches that interleave on the stream would all end with the last one
            self._buffers.upload(places[-1].end)
            try:
                self._session.run_with_iobinding(self._binding, self._options)
            except Exception as error:
                failure = translate(
                    error, f"ONNX Runtime cannot compute a batch of {len(batch)} texts and {batch.num_tokens} tokens"
                )
                if not isinstance(failure, DeviceLostError):
                    self._stream.wait()  # the GPU may still read the buffers, which the next batch overwrites
                raise failure from error
            self._buffers.download(outputs[-1])
            self._event.record(self._stream)
        self._event.wait()
        return [self._buffers.read(place) for place in outputs]

    def close(self) -> None:
        """Release the buffers and the reference to the session."""
        self._binding = self._session = None
        self._buffers.close()
        self._event.close()


def open_cuda(artifact: Artifact, variant: Variant, gpu: Gpu, *, capture: bool = True) -> CudaSession:
    """Load a variant of the target `cuda` on a GPU.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        gpu: GPU that runs the graph.
        capture: see `CudaSession`.

    Raises:
        FletcherError: any error of `CudaSession`.
    """
    return CudaSession(
        artifact.path / variant.file,
        variant,
        gpu,
        max_tokens=artifact.manifest.card.max_tokens,
        capture=capture,
    )
