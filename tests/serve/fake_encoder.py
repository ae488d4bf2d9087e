"""An encoder whose vectors can be worked out by hand, with a handle on its speed and its failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Embeddings, Encodings
from fletcher.runtime.embed_options import EmbedOptions
from fletcher.runtime.errors import InputError
from fletcher.runtime.session.counters import DeviceMetric
from fletcher.runtime.tasks.task import Task, finish, refuse_long
from fletcher.runtime.tokenizing.token_details import TextToken

DIMENSION = 8
MAX_TOKENS = 16
#: The text whose vector is NaN.
POISON = "poison"

CARD = ModelCard(
    name="fake-model",
    family="bert",
    dimension=DIMENSION,
    max_tokens=MAX_TOKENS,
    pooling=("mean",),
    normalize=False,
    license="Apache-2.0",
    prompts={"query": "query: "},
    matryoshka=(4,),
    aliases=("fake",),
)


@dataclass(frozen=True)
class Digest:
    digest: str = "c0ffee"


@dataclass(frozen=True)
class Named:
    name: str = "cpu-fp32"


@dataclass(frozen=True)
class Verdict:
    passed: bool
    reason: str


def ids_of(text: str) -> list[int]:
    """A token a character, between 1 and 2."""
    return [1, *(10 + ord(character) % 90 for character in text), 2]


def vector_of(ids: Sequence[int]) -> NDArray[np.float32]:
    """Element k is the sum of ids[j] * (j + 1)**k, modulo 1009: no two short texts share one by accident."""
    total = [
        sum(int(token) * (place + 1) ** power for place, token in enumerate(ids)) % 1009 for power in range(DIMENSION)
    ]
    return np.array(total, np.float32)


def expected(text: str, prompt: str = "") -> NDArray[np.float32]:
    """The vector that any door must give for a text."""
    ids = ids_of(prompt + text)
    if len(ids) > MAX_TOKENS:
        ids = [*ids[: MAX_TOKENS - 1], 2]
    return vector_of(ids)


class FakeEncoder:
    """What `Backend` asks for.

    Attributes:
        gate: computing waits until it is set.
        delay: seconds a batch takes.
        batches: lengths of the texts of every batch, in order.
        fails: raised by the next batches, if set.
        canary: what the canary says.
        devices: what its devices count.
    """

    def __init__(self, *, workers: int = 2, token_budget: int = 64, delay: float = 0.0) -> None:
        self.card = CARD
        self.devices: list[DeviceMetric] = []
        self.artifact = Digest()
        self.variant = Named()
        self.provider = "by hand"
        self.provider_name = "fake"
        self.reason = "there is no other"
        self.has_token_states = False
        self.fallback: str | None = None
        self.dimension = DIMENSION
        self.max_tokens = MAX_TOKENS
        self.workers = workers
        self.token_budget = token_budget
        self.delay = delay
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.fails: Exception | None = None
        self.canary = Verdict(True, "")
        self._poison = ids_of(POISON)

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings:
        prompt = self.card.prompts.get(input_type or "document", "")
        return self._truncate([ids_of(prompt + text) for text in texts])

    def encodings_from_ids(self, rows: Sequence[Sequence[int]]) -> Encodings:
        for index, row in enumerate(rows):
            for token in row:
                if not 0 <= token < 100:
                    raise InputError(f"row {index} holds the token id {token}; the vocabulary has ids 0 to 99")
        return self._truncate(rows)

    def _truncate(self, rows: Sequence[Sequence[int]]) -> Encodings:
        kept = [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS - 1], row[-1]] for row in rows]
        encodings = Encodings.from_lists(kept)
        dropped = np.array([len(row) - len(cut) for row, cut in zip(rows, kept, strict=True)], np.int32)
        return Encodings(encodings.ids, encodings.offsets, dropped)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        self.gate.wait()
        if self.delay:
            time.sleep(self.delay)
        self.batches.append(batch.lengths.tolist())
        if self.fails is not None:
            raise self.fails
        rows = [batch.ids[start:end].tolist() for start, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
        vectors = np.stack([vector_of(row) for row in rows])
        for index, row in enumerate(rows):
            if row == self._poison:
                vectors[index, 3] = np.nan
        return vectors

    def counters(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "tokenizer_texts": ("Texts tokenized", lambda: 7.0),
            "tokenizer_tokens": ("Tokens made", lambda: 30.0),
            "tokenizer_seconds": ("Seconds inside", lambda: 0.5),
            "vector_cache_hits": ("Texts whose vectors were known", lambda: 3.0),
        }

    def device_metrics(self) -> Sequence[DeviceMetric]:
        return self.devices

    def check(self, options: EmbedOptions) -> None:
        options.check(self.card, late=False)
        if options.splits:
            raise InputError("fake-model cuts no texts")

    def prepare(self, texts: Sequence[str], options: EmbedOptions) -> Task:
        encodings = self.tokenize(texts, options.input_type)
        if options.overflow == "refuse":
            refuse_long(encodings, self.card)
        return self.prepare_ids(encodings, options)

    def prepare_ids(self, encodings: Encodings, options: EmbedOptions) -> Task:
        def done(values: NDArray[np.float32]) -> Embeddings:
            return finish(Embeddings(values, encodings.lengths, encodings.dropped), None, self.card, options)

        return Task(encodings, None, done)

    def prepare_output(self, texts: Sequence[str], options: EmbedOptions, query: str | None = None) -> Task:
        raise InputError("fake-model gives vectors of texts alone")

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        return [
            [TextToken(10 + ord(character) % 90, character, False, at, at + 1) for at, character in enumerate(text)]
            for text in texts
        ]

    def check_canary(self) -> Verdict:
        return self.canary
