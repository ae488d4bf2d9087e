"""`CudaGraphs`: CUDA graphs of small batches, captured at load. A replay needs one launch instead of about a hundred.

A captured graph has fixed shapes and addresses. A batch uses the smallest captured shape that holds it. The unused tokens of
the shape form one more text, whose vector is ignored. Attention does not cross texts, so the other vectors do not change.

ONNX Runtime stores a captured graph for the thread that captured it (cuda_execution_provider.cc, `PerThreadContext`), so one
thread runs all of them. The copy of the inputs, the replay and the copy of the output run on one stream, so there is no wait
between them. The session has a separate arena: the arena treats the memory of a captured graph as free, and runs of other
shapes would overwrite it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...artifact.manifest import Variant
from ...encodings import Encodings
from ...machine.cuda_driver import CudaDriver, Stream
from ...session.feeds import Feeds
from .buffers import CudaBuffers, Place, lay_out
from .ort import run_options, translate

__all__ = ["RUNGS", "CudaGraphs"]

logger = logging.getLogger("fletcher.runtime.providers.cuda.session")

#: Texts and tokens of the captured shapes: the size of one request, or of a few requests together.
RUNGS = ((1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 512), (4, 64), (4, 256), (16, 256), (16, 512))

#: Runs of each shape at load: the first allocates memory, the second captures, the third checks the replay.
WARM_UPS = 3

#: Largest number of prepared inputs for single texts, by length, for each shape.
NUM_PREPARED = 512


class _Rung:
    """`_Rung`: one captured shape."""

    def __init__(self, number: int, texts: int, tokens: int, variant: Variant, buffers: CudaBuffers) -> None:
        self.texts = texts
        self.tokens = tokens
        self.number = number
        self._inputs = variant.inputs
        # One more text holds the unused tokens.
        self._rules = msgspec.structs.replace(variant.feeds, shape=(texts + 1, tokens))
        self.buffers = buffers
        self._prepared: dict[int, NDArray[np.uint8]] = {}
        self.places = lay_out(self._feeds(Encodings.from_lists([np.zeros(tokens, np.int32)])).shapes)
        self._size = self.places[-1].end
        self._ids = next(place for place in self.places if place.name == "input_ids")
        host, _ = self.buffers.inputs.reserve(self._size)
        self._block = host.array[: self._size]
        self._views = [place.view(self._block) for place in self.places]
        output = variant.outputs[0]
        self.output = Place(output.name, 0, np.dtype(output.dtype), (texts + 1, int(output.shape[1])))
        self.buffers.outputs.reserve(self.output.end)
        # Position ids that skip padding tokens depend on the ids. Otherwise the length determines all inputs except the ids.
        self._by_length = variant.feeds.padding_id is None and "token_type_ids" not in self.names

    @property
    def names(self) -> set[str]:
        return {place.name for place in self.places}

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
        unused = self.tokens - batch.num_tokens
        if unused:
            batch = Encodings.concatenate([batch, Encodings.from_lists([np.zeros(unused, np.int32)])])
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
        rungs: Sequence[tuple[int, int]] = RUNGS,
    ) -> None:
        """Capture all shapes.

        Args:
            open_session: opens an ONNX Runtime session that computes on the given stream. It is called on the thread that
                uses the session.
            variant: variant whose first output has one row per text.
            driver: driver of the machine.
            index: number of the GPU.
            rungs: texts and tokens of each shape; no shape may have more tokens than the longest input of the model.

        Raises:
            ProviderError: the graph cannot be captured.
        """
        self.captured = 0
        self.replays = 0
        self._variant = variant
        self._driver = driver
        self._index = index
        self._shapes = sorted(rungs, key=lambda rung: (rung[1], rung[0]))
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
        texts, tokens = len(batch), batch.num_tokens
        return next((rung for rung in self._rungs if texts <= rung.texts and tokens <= rung.tokens), None)

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
        for texts, tokens in self._shapes:
            buffers = CudaBuffers(self._driver, self._index, stream)
            rung = _Rung(len(self._rungs) + 1, texts, tokens, self._variant, buffers)
            self._bindings.append(self._session.io_binding())
            rung.bind(self._bindings[-1], self._index)
            self._options.append(run_options(rung.number))
            self._rungs.append(rung)
            for _ in range(WARM_UPS):
                self._replay(rung, Encodings.from_lists([np.zeros(min(3, tokens), np.int32)]))
            self.captured += 1
        self.replays = 0

    def _replay(self, rung: _Rung, batch: Encodings) -> NDArray[Any]:
        number = rung.number - 1
        rung.fill(batch)
        try:
            self._session.run_with_iobinding(self._bindings[number], self._options[number])
        except Exception as error:
            error.__traceback__ = None  # it refers to the session, which must be freed before its stream
            raise translate(error, f"a captured graph of {rung.texts} texts and {rung.tokens} tokens") from error
        self.replays += 1
        return rung.buffers.download(rung.output)[: len(batch)]


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
