"""A connection to Longbow: its calls, each with a deadline. Knows no job and no journal.

What the calls do is read from Longbow's source (github 23skdu/longbow, internal/store, January 2026) and was tried on a
server built from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
from numpy.typing import NDArray

from fletcher.runtime.closing import Closing
from fletcher.runtime.errors import InputError

from .target import Target, translate

__all__ = ["Condition", "Connection", "Hit", "Readiness"]

#: Longbow takes messages of up to 512 MiB; gRPC's own default is 4 MiB.
MESSAGE_BYTES: Final = 512 * 2**20

#: Longbow may answer pings more often than every five minutes with GOAWAY.
KEEPALIVE_MS: Final = 330_000

CHANNEL: Final = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Each connection a socket of its own: channels of the same address and options would share one.
    ("grpc.use_local_subchannel_pool", 1),
    # Our own backoff decides when to try again; gRPC's would hold a call back for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


_to_index = re.compile(r"global index queue has (\d+) jobs")


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `check_readiness` says.

    Attributes:
        status: READY, BUSY or NOT_FOUND.
        reason: why, where it is not ready.
        index_len: vectors in the index, those of deleted rows among them.
    """

    status: str
    reason: str
    index_len: int

    @property
    def to_index(self) -> int:
        """Batches, of all datasets, that were acknowledged and wait for the index."""
        found = _to_index.search(self.reason)
        return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row's column must be.

    Attributes:
        column: an int64 or a string.
        operator: =, !=, <, <=, > or >=; strings are compared byte by byte.
        value: a number's digits, or the string.
    """

    column: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search found.

    Attributes:
        id: its id.
        score: higher is nearer.
    """

    id: int
    score: float


class Connection(Closing):
    """One gRPC channel. Safe to use from several threads; a context manager."""

    def __init__(self, target: Target) -> None:
        """Opens no socket yet: the first call does.

        Raises:
            InputError: the file of certificates cannot be read.
        """
        self.target = target
        options: dict[str, Any] = {"generic_options": CHANNEL}
        if target.ca_file is not None:
            try:
                options["tls_root_certs"] = target.ca_file.read_bytes()
            except OSError as error:
                raise InputError(f"{target.ca_file}: the certificates cannot be read ({error.strerror})") from error
        self.client = fl.FlightClient(target.url, **options)

    def options(self, timeout: float | None = None) -> Any:
        """Options of a call: its deadline and the token."""
        headers = []
        if self.target.token is not None:
            headers.append((b"authorization", f"Bearer {self.target.token}".encode()))
        if self.target.trace:
            headers.append((b"x-request-id", self.target.trace.encode()))
        return fl.FlightCallOptions(timeout=timeout or self.target.timeout, headers=headers)

    def _act(self, kind: str, body: dict[str, Any]) -> bytes:
        action = fl.Action(kind, json.dumps(body).encode())
        return b"".join(result.body.to_pybytes() for result in self.client.do_action(action, self.options()))

    def readiness(self, dataset: str) -> Readiness:
        """Whether everything that was written is indexed, and how much that is. `READY` alone hides rows that were lost.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        with translate(self.target, "check_readiness"):
            answer = json.loads(self._act("check_readiness", {"dataset": dataset}))
        return Readiness(answer["status"], answer.get("reason", ""), int(answer.get("index_len", 0)))

    def schema(self, dataset: str) -> Any:
        """The columns of a dataset, a `pyarrow.Schema`, or None where no row was stored yet; no row of it is read.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        nothing = _ticket(dataset, [Condition("id", "<", "0")])
        with translate(self.target, "DoGet", dataset):
            try:
                reader = self.client.do_get(fl.Ticket(nothing), self.options())
                schema = reader.schema
            except (pa.ArrowException, fl.FlightError, OSError) as error:
                # A dataset is made when a stream to it opens, before its first row.
                if "never sent a data message" in str(error):
                    return None
                raise
            reader.cancel()
        return schema

    def delete(self, dataset: str, row: int) -> bool:
        """Marks the row that came last under an id as deleted. Its vector stays in the index, and searches find it.

        Returns:
            Whether there was one; a row that was marked before counts. Rows that Longbow read from its disk at its start are
            none to it.
        """
        with translate(self.target, "delete"):
            try:
                self._act("delete", {"dataset": dataset, "id": str(row)})
            except KeyError:  # NOT_FOUND: the id, or the dataset
                return False
        return True

    def delete_dataset(self, dataset: str) -> bool:
        """Removes a dataset; whether there was one."""
        with translate(self.target, "delete-dataset"):
            try:
                self._act("delete-dataset", {"dataset": dataset})
            except KeyError:
                return False
        return True

    def search(self, dataset: str, vector: NDArray[np.float32], k: int) -> list[Hit]:
        """The k rows whose vectors are nearest, nearest first.

        Raises:
            InputError: no such dataset, or vectors of another length.
            ServiceError: Longbow is not there, or has no index yet.
        """
        body = {"dataset": dataset, "vector": [float(value) for value in vector], "k": k}
        with translate(self.target, "VectorSearch", dataset):
            table = pa.ipc.open_stream(self._act("VectorSearch", body)).read_all()
        pairs = zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True)
        return [Hit(row, score) for row, score in pairs]

    def rows(self, dataset: str, conditions: Sequence[Condition], columns: Sequence[str]) -> Iterator[Any]:
        """Rows that meet all conditions, deleted ones among them, as record batches in no order.

        Longbow looks at every row for it, and sends whole rows, vectors included. There is always a condition, and never the
        bare name: a bare name is answered with the conditions of an earlier question, and without any Longbow ends when it
        comes to a batch whose rows were all deleted.

        Args:
            dataset: what to read; of none there are none.
            conditions: on columns of int64 and strings; Longbow passes over those on others.
            columns: wanted, where there are such.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        with translate(self.target, "DoGet", dataset):
            # Its deadline covers the whole answer, which may be gigabytes.
            options = self.options(max(self.target.timeout, 600.0))
            try:
                for chunk in self.client.do_get(fl.Ticket(_ticket(dataset, conditions)), options):
                    yield chunk.data.select([name for name in columns if name in chunk.data.schema.names])
            except KeyError:  # NOT_FOUND
                return
            except (pa.ArrowException, fl.FlightError, OSError) as error:
                if "never sent a data message" not in str(error):
                    raise

    def ids(self, dataset: str) -> NDArray[np.int64]:
        """The ids of all rows, deleted ones among them, a repeated one as often as it is there; int64, (n,).

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        batches = self.rows(dataset, [Condition("id", ">=", "0")], ["id"])
        return np.concatenate([np.zeros(0, np.int64), *(batch.column("id").to_numpy() for batch in batches)])

    def close(self) -> None:
        """Ends the channel and whatever runs on it."""
        self.client.close()


def _ticket(dataset: str, conditions: Sequence[Condition]) -> bytes:
    filters = [{"field": one.column, "operator": one.operator, "value": one.value} for one in conditions]
    return json.dumps({"name": dataset, "filters": filters}).encode()
