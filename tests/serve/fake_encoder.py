"""`FakeEncoder`: encoder whose vectors can be calculated by hand. Tests control its speed and its failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.canary import Canary, CanaryResult
from fletcher.runtime.errors import InputError, NotFiniteError
from fletcher.runtime.inputs import Inputs, Pairs, Requested, Texts, TokenIds
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.session.counters import DeviceMetric, EncoderMetrics
from fletcher.runtime.space.space import Space
from fletcher.runtime.tasks.task import Task, finish_rows, refuse_long
from fletcher.runtime.tokenizing.token_details import TextToken
from fletcher.serve.engine.embed_request import PLAIN, EmbedRequest
from fletcher.serve.engine.terms import USUAL, Terms

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


SPACE = Space(
    weights="by hand",
    graph="by hand",
    tokenizer="by hand",
    precision="float",
    output="vectors",
    dimension=DIMENSION,
    normalize=False,
    max_tokens=MAX_TOKENS,
    cut="right",
    prompts=CARD.prompts,
)


def ids_of(text: str) -> list[int]:
    """Return token ids of a text: one for each character, between the ids 1 and 2."""
    return [1, *(10 + ord(character) % 90 for character in text), 2]


def vector_of(ids: Sequence[int]) -> NDArray[np.float32]:
    """Return a vector. Element k is the sum of ids[j] * (j + 1)**k, modulo 1009, so that short texts differ."""
    total = [
        sum(int(token) * (place + 1) ** power for place, token in enumerate(ids)) % 1009 for power in range(DIMENSION)
    ]
    return np.array(total, np.float32)


def expected(text: str, prompt: str = "") -> NDArray[np.float32]:
    """Return the vector that HTTP and Flight must return for a text."""
    ids = ids_of(prompt + text)
    if len(ids) > MAX_TOKENS:
        ids = [*ids[: MAX_TOKENS - 1], 2]
    return vector_of(ids)


def info(**changes: Any) -> ModelInfo:
    """Return the description of the fake model, with changes."""
    described = ModelInfo(
        card=CARD,
        digest="c0ffee",
        variant="cpu-fp32",
        provider="by hand",
        provider_name="fake",
        dimension=DIMENSION,
        max_tokens=MAX_TOKENS,
        outputs=("vectors",),
        workers=2,
        token_budget=64,
        space=SPACE,
        reason="there is no other",
    )
    return msgspec.structs.replace(described, **changes)


def canary(*, passed: bool, reason: str = "") -> CanaryResult:
    """Return the result of a canary."""
    return CanaryResult(passed, 1.0 if passed else -1.0, 0.0, reason)


def request_for(
    texts: Sequence[str],
    options: EmbedOptions = PLAIN,
    terms: Terms = USUAL,
) -> EmbedRequest:
    """Return a request for the vectors of texts."""
    return EmbedRequest(Texts(tuple(texts)), options, "vectors", terms)


class FakeEncoder:
    """A `Backend`.

    Attributes:
        info: description of the model.
        gate: event that batches wait for.
        delay: seconds that a batch takes.
        batches: lengths of the texts of all batches, in order.
        fails: error that the next batches raise, or None.
        canary: result of its canary.
        devices: counts of its devices.
    """

    def __init__(self, *, workers: int = 2, token_budget: int = 64, delay: float = 0.0) -> None:
        self.info = info(workers=workers, token_budget=token_budget)
        self.devices: list[DeviceMetric] = []
        self.delay = delay
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []
        self.fails: Exception | None = None
        self.canary = canary(passed=True)
        self._poison = ids_of(POISON)

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> Encodings:
        prompt = EmbedOptions(input_type=input_type).prompt(self.info.card)
        return self._truncate([ids_of(prompt + text) for text in texts])

    def _truncate(self, rows: Sequence[Sequence[int]]) -> Encodings:
        cut = [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS - 1], row[-1]] for row in rows]
        encodings = Encodings.from_lists(cut)
        dropped = np.array([len(row) - len(short) for row, short in zip(rows, cut, strict=True)], np.int32)
        return Encodings(encodings.ids, encodings.offsets, dropped)

    def prepare(self, inputs: Inputs, options: EmbedOptions, output: Requested, /, *, salt: str = "") -> Task:
        if output != "vectors" or isinstance(inputs, Pairs):
            raise InputError("fake-model gives vectors of texts alone")
        if options.splits:
            raise InputError("fake-model cuts no texts")
        if isinstance(inputs, TokenIds):
            for index, row in enumerate(inputs.rows):
                for token in row:
                    if not 0 <= token < 100:
                        raise InputError(f"row {index} holds the token id {token}; the vocabulary has ids 0 to 99")
            rows = inputs.rows if inputs.special_tokens else [[1, *row, 2] for row in inputs.rows]
            encodings = self._truncate(rows)
        else:
            encodings = self.tokenize(inputs.texts, options.input_type)
        if options.overflow == "refuse":
            refuse_long(encodings, self.info.card)
        return Task(encodings, None, partial(finish_rows, encodings, None, self.info.card, options))

    def prepare_rows(
        self, encodings: Encodings, output: str | None, /, *, rows: ValueRows | None = None, salt: str = ""
    ) -> Task:
        return Task(encodings, output, lambda values: values, rows)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        self.gate.wait()
        if self.delay:
            time.sleep(self.delay)
        self.batches.append(batch.lengths.tolist())
        if self.fails is not None:
            raise self.fails
        rows = [batch.ids[start:end].tolist() for start, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
        if self._poison in rows:
            bad = [number for number, row in enumerate(rows) if row == self._poison]
            raise NotFiniteError(bad, f"the session gave NaN or infinity for row {bad[0]} of a batch of {len(rows)}")
        return np.stack([vector_of(row) for row in rows])

    def describe_tokens(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        return [
            [TextToken(10 + ord(character) % 90, character, False, at, at + 1) for at, character in enumerate(text)]
            for text in texts
        ]

    def changed_files(self) -> str:
        return ""

    def check_canary(self) -> CanaryResult:
        return self.canary

    def reference_canary(self) -> Canary:
        texts = ("", "a text")
        return Canary(texts, self.tokenize(texts, "document"), np.stack([expected(text) for text in texts]), "by hand")

    def metrics(self) -> EncoderMetrics:
        return EncoderMetrics(
            {
                "tokenizer_texts": ("Texts tokenized", lambda: 7.0),
                "tokenizer_tokens": ("Tokens produced", lambda: 30.0),
                "tokenizer_seconds": ("Seconds inside", lambda: 0.5),
                "vector_cache_hits": ("Texts whose vectors were in the cache", lambda: 3.0),
            },
            self.devices,
        )
