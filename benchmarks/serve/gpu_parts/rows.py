"""Rows of the benchmark: the load of each, and the goals that its result is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["POOLS", "ROWS", "Goal", "Pool", "Row"]

Kind = Literal["numbered", "ragged", "exact"]


@dataclass(frozen=True, slots=True)
class Pool:
    """Texts that a row's load and the engine embed. All texts of a pool differ.

    Attributes:
        kind: `numbered` short questions, `ragged` runs of words of docstrings, or texts of `exact`ly `tokens` tokens.
        count: number of texts.
        tokens: tokens of each text, special tokens included; 0 if the texts differ in length.
    """

    kind: Kind
    count: int
    tokens: int = 0


#: Pools by name. A load repeats its pool. The server computes a text that is in flight twice only once, so a quarter of a
#: pool has to be larger than the number of texts that one of four Flight streams has in flight.
POOLS = {
    "short": Pool("numbered", 65_536),
    "ragged": Pool("ragged", 131_072),
    "50 tokens": Pool("exact", 32_768, 50),
    "512 tokens": Pool("exact", 8_192, 512),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound of one figure.

    Attributes:
        figure: `texts/s`, `tokens/s`, `of engine`, `p50 ms` or `p99 ms`.
        bound: smallest value for a rate or a ratio, largest value for a latency.
    """

    figure: Literal["texts/s", "tokens/s", "of engine", "p50 ms", "p99 ms"]
    bound: float

    def __str__(self) -> str:
        bound = f"{self.bound:,.0f}" if self.bound >= 1000 else f"{self.bound:g}"
        return f"{self.figure} {'<=' if self.figure.endswith('ms') else '>='} {bound}"

    def met(self, figures: Mapping[str, float | None]) -> bool:
        """Report whether a row's figures meet the goal; a figure that is missing does not."""
        value = figures[self.figure]
        if value is None:
            return False
        return value <= self.bound if self.figure.endswith("ms") else value >= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One load.

    Attributes:
        model: `minilm` or `bert-base`.
        protocol: `http` (/v1/embeddings, base64) or `flight` (DoExchange).
        texts: texts of a request or rows of a record batch.
        connections: keep-alive connections of HTTP, each with one request in flight, or streams of Flight.
        pool: name of the texts in `POOLS`.
        dtype: type of the vectors' elements in the answer, and of the engine's vectors that the row is compared with.
        goals: goals of the row.
    """

    model: str
    protocol: Literal["http", "flight"]
    texts: int
    connections: int
    pool: str
    dtype: str
    goals: tuple[Goal, ...]

    def __str__(self) -> str:
        if self.protocol == "http":
            size = "1 text" if self.texts == 1 else f"{self.texts} texts"
            load = f"HTTP, {size} a request, {self.connections} connections"
        else:
            load = f"Flight, {self.connections} streams of {self.texts:,} rows"
        return f"{self.model}, {self.pool}: {load}, {self.dtype}"


#: Rows by name, in the order of measurement. A client of HTTP gets float32 unless it asks for another type.
ROWS = {
    "http-1": Row("minilm", "http", 1, 256, "short", "float32", (Goal("texts/s", 25_000), Goal("p99 ms", 25))),
    "http-1-light": Row("minilm", "http", 1, 64, "short", "float32", (Goal("p50 ms", 3), Goal("p99 ms", 8))),
    "http-32": Row("minilm", "http", 32, 64, "ragged", "float32", (Goal("of engine", 0.85),)),
    "http-256": Row("minilm", "http", 256, 32, "ragged", "float32", (Goal("of engine", 0.9),)),
    "flight-1024": Row("minilm", "flight", 1024, 4, "ragged", "float16", (Goal("of engine", 0.95),)),
    "flight-4096": Row("minilm", "flight", 4096, 4, "ragged", "float16", (Goal("of engine", 0.95),)),
    "bert-50": Row("bert-base", "http", 16, 128, "50 tokens", "float32", (Goal("tokens/s", 1.6e6),)),
    "bert-512": Row("bert-base", "flight", 256, 4, "512 tokens", "float16", (Goal("tokens/s", 1.8e6),)),
}
