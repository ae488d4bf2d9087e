"""Measured figures and published prices from which simulation.py computes, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["API", "BULK", "DAY_TEXTS", "HAPROXY_MS", "RENTAL", "ROWS", "Bulk", "Price", "Row"]

#: Texts of a day in the second question.
DAY_TEXTS: Final = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """`Row`: requests of one text to one server, measured on an H200 (docs/reference/benchmarks.md, "The server on a GPU").

    Attributes:
        connections: connections of the clients, each with one request at a time.
        rate: requests per second.
        cores: cores of the whole server.
        engine_cores: cores of its engine process.
        batch: texts of a batch.
    """

    connections: int
    rate: float
    cores: float
    engine_cores: float
    batch: float


#: Requests of one text, all-MiniLM-L6-v2.
ROWS: Final = (
    Row(connections=64, rate=14_700, cores=5.2, engine_cores=1.06, batch=23),
    Row(connections=256, rate=29_600, cores=7.6, engine_cores=1.10, batch=57),
)


@dataclass(frozen=True, slots=True)
class Bulk:
    """`Bulk`: streams of many texts to one H200 (docs/reference/benchmarks.md, "The server on a GPU").

    Attributes:
        name: model and length of its texts.
        tokens: tokens of a text.
        texts: texts per second of one GPU, over Arrow Flight.
        cores: cores of the server meanwhile.
        dimension: numbers of a vector.
    """

    name: str
    tokens: float
    texts: float
    cores: float
    dimension: int


#: The engine computes 151,700 texts/s of MiniLM, and Flight with streams of 4,096 rows has 1.01 of that. BERT-base: tokens/s
#: by tokens of a text; HTTP at 50 tokens, Flight at 512.
BULK: Final = (
    Bulk("MiniLM, 61 tokens", 60.6, 1.01 * 151_700, 1.6, 384),
    Bulk("BERT-base, 50 tokens", 50, 2_010_000 / 50, 3.1, 768),
    Bulk("BERT-base, 512 tokens", 512, 2_060_000 / 512, 0.4, 768),
)

#: CPU of HAProxy for a request, in milliseconds: the most that benchmarks/cluster/balancer.py accepts. It measures less.
HAPROXY_MS: Final = 0.06


@dataclass(frozen=True, slots=True)
class Price:
    """`Price`: a published price.

    Attributes:
        dollars: US dollars for one unit.
        unit: an hour of a GPU, or a million tokens.
        name: name of the offer, with its date.
        url: its page.
    """

    dollars: float
    unit: str
    name: str
    url: str


RENTAL: Final = Price(
    4.54, "hour", "H200 on demand, Spheron, 2026-03-17", "https://www.spheron.network/blog/nvidia-h200-vs-b200-vs-gb200"
)
API: Final = Price(
    0.02,
    "million tokens",
    "text-embedding-3-small, OpenAI, 2026-07-03 (batch: half of it)",
    "https://developers.openai.com/api/docs/models/text-embedding-3-small",
)
