"""Connection to Longbow: one method for each call, each with a deadline.

The behavior of the calls follows Longbow's source (github 23skdu/longbow, internal/store, January 2026).
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

#: Longbow accepts messages of up to 512 MiB; gRPC's default limit is 4 MiB.
MESSAGE_BYTES: Final = 512 * 2**20

#: Longbow may close a connection with GOAWAY if pings come more often than every five minutes.
KEEPALIVE_MS: Final = 330_000

CHANNEL: Final = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Each connection has a separate socket: by default, channels of the same address and options share one.
    ("grpc.use_local_subchannel_pool", 1),
    # `Backoff` decides when to try again; gRPC's own backoff would delay a call for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


_to_index = re.compile(r"global index queue has (\d+) jobs")


@dataclass(frozen=True, slots=True)
class Readiness:
    """Answer of the action `check_readiness`.

    Attributes:
        status: READY, BUSY or NOT_FOUND.
        reason: reason why the dataset is not ready, or empty.
        index_len: number of vectors in the index, including those of deleted rows.
    """

    status: str
    reason: str
    index_len: int

    @property
    def to_index(self) -> int:
        """Number of acknowledged batches, of all datasets, that wait for the index."""
        match = _to_index.search(self.reason)
        return int(match[1]) if match else 0


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition on a column, which filters rows.

    Attributes:
        column: name of a column of int64 or strings.
        operator: =, !=, <, <=, > or >=; strings are compared byte by byte.
        value: the decimal digits of a number, or a string.
    """

    column: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A result of a search.

    Attributes:
        id: id of the row.
        score: similarity; a higher score is nearer.
    """

    id: int
    score: float


class Connection(Closing):
    """One gRPC channel. Safe to use from several threads. A context manager."""

    def __init__(self, target: Target) -> None:
        """Create the channel. The first call opens the socket.

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
        """Return the options of a call: its deadline, the token and the trace id.

        Args:
            timeout: seconds; None is the timeout of the target.
        """
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
        """Return the state of a dataset's index.

        The status `READY` does not exclude lost rows: compare `index_len`, too.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        with translate(self.target, "check_readiness"):
            answer = json.loads(self._act("check_readiness", {"dataset": dataset}))
        return Readiness(answer["status"], answer.get("reason", ""), int(answer.get("index_len", 0)))

    def schema(self, dataset: str) -> Any:
        """Return the `pyarrow.Schema` of a dataset without reading a row, or None if the dataset has no row yet.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        nothing = _ticket(dataset, [Condition("id", "<", "0")])
        with translate(self.target, "DoGet", dataset):
            try:
                reader = self.client.do_get(fl.Ticket(nothing), self.options())
                schema = reader.schema
            except (pa.ArrowException, fl.FlightError, OSError) as error:
                # Longbow creates a dataset when a stream to it opens, before the first row.
                if "never sent a data message" in str(error):
                    return None
                raise
            reader.cancel()
        return schema

    def delete(self, dataset: str, row: int) -> bool:
        """Mark the last row of an id as deleted. Its vector stays in the index, and searches still return it.

        Returns:
            True if the id has a row, even if the row was marked before. Longbow does not see the rows that it read from
            its disk at its start.
        """
        with translate(self.target, "delete"):
            try:
                self._act("delete", {"dataset": dataset, "id": str(row)})
            except KeyError:  # NOT_FOUND: the id or the dataset does not exist
                return False
        return True

    def delete_dataset(self, dataset: str) -> bool:
        """Delete a dataset. Return whether it existed."""
        with translate(self.target, "delete-dataset"):
            try:
                self._act("delete-dataset", {"dataset": dataset})
            except KeyError:
                return False
        return True

    def search(self, dataset: str, vector: NDArray[np.float32], k: int) -> list[Hit]:
        """Return the k rows with the nearest vectors, nearest first.

        Raises:
            InputError: the dataset does not exist, or its vectors have another dimension.
            ServiceError: Longbow cannot be reached, or the dataset has no index yet.
        """
        body = {"dataset": dataset, "vector": [float(value) for value in vector], "k": k}
        with translate(self.target, "VectorSearch", dataset):
            table = pa.ipc.open_stream(self._act("VectorSearch", body)).read_all()
        pairs = zip(table.column("id").to_pylist(), table.column("score").to_pylist(), strict=True)
        return [Hit(row, score) for row, score in pairs]

    def rows(self, dataset: str, conditions: Sequence[Condition], columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows that meet all conditions, including deleted rows, as record batches in arbitrary order.

        Longbow scans all rows and sends whole rows, including the vectors. The request always has a condition: to a
        ticket that is only a name, Longbow applies the conditions of an earlier ticket, and without any condition the
        server terminates when it reads a batch whose rows are all deleted.

        Args:
            dataset: name of the dataset; one that does not exist yields nothing.
            conditions: conditions on columns of int64 or strings, at least one; Longbow ignores those on other types.
            columns: names of the columns to return; missing columns are skipped.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        with translate(self.target, "DoGet", dataset):
            # The deadline covers the whole answer, which may have gigabytes.
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
        """Return the ids of all rows, int64, (n,). Deleted rows and repeated ids are included.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        batches = self.rows(dataset, [Condition("id", ">=", "0")], ["id"])
        return np.concatenate([np.zeros(0, np.int64), *(batch.column("id").to_numpy() for batch in batches)])

    def close(self) -> None:
        """Close the channel and cancel all of its calls."""
        self.client.close()


def _ticket(dataset: str, conditions: Sequence[Condition]) -> bytes:
    filters = [{"field": one.column, "operator": one.operator, "value": one.value} for one in conditions]
    return json.dumps({"name": dataset, "filters": filters}).encode()
