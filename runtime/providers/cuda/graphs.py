"""`CudaGraphs`: CUDA graphs of small batches, captured at load. A replay needs one launch instead of about a hundred.

A captured graph has fixed shapes and addresses. A batch uses the smallest captured shape that holds it. The unused tokens of
the shape form more texts, whose vectors are ignored. Attention does not cross texts, so the other vectors do not change.

Launches dominate the time of a small batch: in a loaded server of MiniLM in fp16 on one H200, a batch of 14 texts took 1.5 ms
of the processor without a graph and 0.6 ms with one. A batch of a few thousand tokens of this model still takes little longer
than one text. With a larger model it takes longer, so a large shape is kept only if its replay takes at most `LAUNCH_BOUND`
times as long as the smallest shape's.

ONNX Runtime stores a captured graph for the thread that captured it (cuda_execution_provider.cc, `PerThreadContext`), so one
thread runs all of them. The copy of the inputs, the replay and the copy of the output run on one stream, so there is no wait
between them. The session has a separate arena: the arena treats the memory of a captured graph as free, and runs of other
shapes would overwrite it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import Variant
from ...encodings import Encodings
from ...machine.cuda_driver import CudaDriver, Stream
from ...session.feeds import Feeds
from .buffers import CudaBuffers, Place, lay_out
from .ort import run_options, translate

__all__ = ["SHAPES", "CudaGraphs", "Shape"]

logger = logging.getLogger("fletcher.runtime.providers.cuda.session")


class Shape(NamedTuple):
    """`Shape`: shape of a captured graph.

    Attributes:
        texts: largest number of texts of a batch.
        tokens: tokens of the graph.
        longest: tokens of the longest text.
    """

    texts: int
    tokens: int
    longest: int

    @property
    def rows(self) -> int:
        """Number of texts in the graph: those of a batch, and those that hold the unused tokens."""
        return self.texts + -(-self.tokens // self.longest)


#: Captured shapes: one request, a few requests together, and the short texts that a server gathers.
SHAPES = (
    *(Shape(1, tokens, tokens) for tokens in (16, 32, 64, 128, 256, 512)),
    *(Shape(4, tokens, tokens) for tokens in (64, 256)),
    *(Shape(16, tokens, tokens) for tokens in (256, 512)),
    *(Shape(texts, tokens, 64) for texts, tokens in ((64, 512), (64, 1024), (128, 2048), (256, 4096))),
    *(Shape(texts, tokens, 256) for texts, tokens in ((32, 1024), (32, 2048), (64, 4096))),
)

#: Tokens up to which every shape is kept, and the largest time of a larger one, as a multiple of the smallest shape's time.
ALWAYS_TOKENS = 512
LAUNCH_BOUND = 2.0

#: Runs of each shape at load: the first allocates memory, the second captures, the third checks the replay.
WARM_UPS = 3

#: Largest number of prepared inputs for single texts, by length, for each shape.
NUM_PREPARED = 512


class _Rung:
    """`_Rung`: one captured shape."""

    def __init__(self, number: int, shape: Shape, variant: Variant, buffers: CudaBuffers) -> None:
        self.shape = shape
        self.number = number
        self._inputs = variant.inputs
        self._rules = msgspec.structs.replace(variant.feeds, shape=(shape.rows, shape.longest))
        self.buffers = buffers
        self._prepared: dict[int, NDArray[np.uint8]] = {}
        self.places = lay_out(self._feeds(Encodings.from_lists([np.zeros(1, np.int32)])).shapes)
        self._size = self.places[-1].end
        self._ids = next(place for place in self.places if place.name == "input_ids")
        host, _ = self.buffers.inputs.reserve(self._size)
        self._block = host.array[: self._size]
        self._views = [place.view(self._block) for place in self.places]
        output = variant.outputs[0]
        self.output = Place(output.name, 0, np.dtype(output.dtype), (shape.rows, int(output.shape[1])))
        self.buffers.outputs.reserve(self.output.end)
        # Position ids that skip padding tokens depend on the ids. Otherwise the length determines all inputs except the ids.
        chosen = {"token_type_ids", "text_tasks", "task_ids"}
        self._by_length = variant.feeds.padding_id is None and not self.names & chosen

    @property
    def names(self) -> set[str]:
        return {place.name for place in self.places}

    def holds(self, texts: int, tokens: int, longest: int) -> bool:
        """Return whether the shape holds a batch."""
        return texts <= self.shape.texts and tokens <= self.shape.tokens and longest <= self.shape.longest

    def bind(self, binding: Any, index: int) -> None:
        """Bind the places of inputs and output."""
        _, device = self.buffers.inputs.reserve(self._size)
        for place in self.places:
            address = device.address + place.offset
            binding.bind_input(place.name, "cuda", index, place.dtype.type, list(place.shape), address)
        _, device = self.buffers.outputs.reserve(self.output.end)
        shape = list(self.output.shape)
        binding.bind_output(self.output.name, "cuda", index, self.output.dtype.type, shape, device.address)

    def fill(self, batch: Encodings) -> None:
        """Write the inputs of a batch, and start to copy them to the GPU."""
        if len(batch) == 1 and self._by_length:
            length = batch.num_tokens
            block = self._prepared.get(length)
            if block is None:
                self._feeds(batch).write(self._views)
                if len(self._prepared) < NUM_PREPARED:
                    self._prepared[length] = self._block.copy()
            else:
                self._block[:] = block
                ids = self._ids.view(self._block)
                ids[:length] = batch.ids
                ids[length:] = 0
        else:
            self._feeds(batch).write(self._views)
        self.buffers.upload(self._size)

    def _feeds(self, batch: Encodings) -> Feeds:
        unused = self.shape.tokens - batch.num_tokens
        if unused:
            lengths = [self.shape.longest] * (unused // self.shape.longest) + [unused % self.shape.longest]
            rest = Encodings.from_lists([np.zeros(length, np.int32) for length in lengths if length])
            batch = Encodings.concatenate([batch, rest])
        return Feeds(self._inputs, self._rules, batch)


class CudaGraphs:
    """`CudaGraphs`: captured shapes and the thread that replays them. `run` may be called from any thread.

    Attributes:
        captured: number of captured shapes; all are captured at load.
        replays: number of computed batches.
    """

    def __init__(
        self,
        open_session: Callable[[Stream], Any],
        variant: Variant,
        driver: CudaDriver,
        index: int,
        shapes: Sequence[Shape] = SHAPES,
    ) -> None:
        """Capture the shapes.

        Args:
            open_session: opens an ONNX Runtime session that computes on the given stream. It is called on the thread that
                uses the session.
            variant: variant whose first output has one row per text.
            driver: driver of the machine.
            index: number of the GPU.
            shapes: shapes to capture; `longest` of none may be above the longest input of the model.

        Raises:
            ProviderError: the graph cannot be captured.
        """
        self.captured = 0
        self.replays = 0
        self._variant = variant
        self._driver = driver
        self._index = index
        self._shapes = sorted(shapes, key=lambda shape: (shape.tokens, shape.longest, shape.texts))
        self._rungs: list[_Rung] = []
        self._bindings: list[Any] = []
        self._options: list[Any] = []
        self._session: Any = None
        self._stream: Stream | None = None
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._busy = threading.Lock()
        ready = _Call(lambda: self._capture(open_session))
        self._calls.put(ready)
        self._thread = threading.Thread(target=self._work, name="fletcher-cuda-graphs", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.close()
            raise

    @property
    def largest(self) -> int:
        """Return the tokens of the largest captured shape."""
        return max((rung.shape.tokens for rung in self._rungs), default=0)

    def fits(self, batch: Encodings) -> bool:
        """Return whether a captured shape holds a batch."""
        return self._rung_of(batch) is not None

    def run(self, batch: Encodings) -> NDArray[Any] | None:
        """Return the first output of a batch, (n, dimension), or None if no shape holds it or another batch is running.

        Raises:
            ProviderError: the GPU failed.
        """
        rung = self._rung_of(batch)
        if rung is None or not self._busy.acquire(blocking=False):
            return None
        try:
            call = _Call(lambda: self._replay(rung, batch))
            self._calls.put(call)
            values: NDArray[Any] = call.result()
            return values
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the thread and release the memory. `run` returns None afterwards."""
        self._busy.acquire()
        self._calls.put(None)
        self._thread.join()

    def _rung_of(self, batch: Encodings) -> _Rung | None:
        texts, tokens, longest = len(batch), batch.num_tokens, int(batch.lengths.max())
        return next((rung for rung in self._rungs if rung.holds(texts, tokens, longest)), None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
        for rung in self._rungs:
            rung.buffers.close()
        self._rungs, self._bindings, self._session = [], [], None
        if self._stream is not None:
            self._stream.close()

    def _capture(self, open_session: Callable[[Stream], Any]) -> None:
        self._stream = stream = Stream(self._driver, self._index)
        self._session = open_session(stream)
        smallest = 0.0
        for shape in self._shapes:
            buffers = CudaBuffers(self._driver, self._index, stream)
            rung = _Rung(len(self._rungs) + 1, shape, self._variant, buffers)
            self._rungs.append(rung)  # from here on `_work` closes its buffers
            self._bindings.append(self._session.io_binding())
            rung.bind(self._bindings[-1], self._index)
            self._options.append(run_options(rung.number))
            for _ in range(WARM_UPS):
                started = time.perf_counter()
                self._replay(rung, Encodings.from_lists([np.zeros(min(3, shape.tokens), np.int32)]))
            seconds = time.perf_counter() - started
            if shape.tokens > ALWAYS_TOKENS and seconds > LAUNCH_BOUND * smallest:
                self._rungs.pop().buffers.close()
                break
            smallest = smallest or seconds
            self.captured += 1
        self.replays = 0

    def _replay(self, rung: _Rung, batch: Encodings) -> NDArray[Any]:
        assert self._stream is not None
        number = rung.number - 1
        rung.fill(batch)
        try:
            self._session.run_with_iobinding(self._bindings[number], self._options[number])
        except Exception as error:
            error.__traceback__ = None  # it refers to the session, which must be freed before its stream
            shape = rung.shape
            raise translate(error, f"a captured graph of {shape.texts} texts and {shape.tokens} tokens") from error
        self.replays += 1
        rung.buffers.download(rung.output)
        self._stream.wait()
        return rung.buffers.read(rung.output)[: len(batch)]


class _Call:
    """`_Call`: function that runs on the thread of the captured graphs, and its result.

    The result is guarded by a plain lock, because an event or a future wakes its waiter through a condition, which adds some
    microseconds to a latency of a few hundred.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._done = threading.Lock()
        self._done.acquire()
        self._value: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:  # noqa: BLE001  `result` raises it
            self._error = error
        finally:
            self._done.release()

    def result(self) -> Any:
        """Wait for the result and return it, or raise the error of the function."""
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._value
