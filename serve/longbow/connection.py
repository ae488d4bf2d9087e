"""A connection to Longbow: its calls, each with a deadline, and gRPC's errors as ours. Knows no job and no journal.

What the calls do is read from Longbow's source (github 23skdu/longbow, internal/store, January 2026).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
from numpy.typing import NDArray

from fletcher.runtime.errors import DeadlineError, FletcherError, InputError, ServiceError

__all__ = ["Connection", "Hit", "Readiness", "Target", "translate"]

SCHEMES: Final = ("grpc", "grpc+tcp", "grpc+tls")

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


_plain = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where Longbow is, and how to get in.

    Attributes:
        url: `grpc://HOST:PORT`, or `grpc+tls://` for a proxy in front (Longbow itself has no TLS).
        token: sent as `authorization: Bearer …`, for a proxy; Longbow ignores it.
        ca_file: certificates to trust, PEM; None trusts the system's.
        timeout: seconds that a call may take.
        trace: sent as `x-request-id` with every call, so that a proxy's log shows which job it was; empty is none.
    """

    url: str
    token: str | None = None
    ca_file: Path | None = None
    timeout: float = 30.0
    trace: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in SCHEMES or not parts.hostname or port is None or parts.path not in ("", "/"):
            raise InputError(
                f"the address of Longbow is {self.url!r}, and must be grpc://HOST:PORT, such as grpc://127.0.0.1:3000, or "
                "grpc+tls://HOST:PORT for a proxy in front of it"
            )
        if self.token is not None and parts.scheme != "grpc+tls" and parts.hostname not in ("127.0.0.1", "localhost"):
            raise InputError(f"a token would go to {self.url} unencrypted: use grpc+tls://")
        if self.timeout <= 0:
            raise InputError(f"a timeout of {self.timeout:g} s was asked for; it must be above 0")
        if self.trace and not _plain.fullmatch(self.trace):
            raise InputError(f"the trace is {self.trace!r}: use up to 128 letters, digits and . _ : -")


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


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search found.

    Attributes:
        id: its id.
        score: higher is nearer.
    """

    id: int
    score: float


class Connection:
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
        """The columns of a dataset, a `pyarrow.Schema`; no row of it is read.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        with translate(self.target, "DoGet", dataset):
            reader = self.client.do_get(fl.Ticket(dataset.encode()), self.options())
            schema = reader.schema
            reader.cancel()
        return schema

    def delete(self, dataset: str, row: int) -> bool:
        """Marks the row that came last under an id as deleted.

        Returns:
            Whether there was one; a row that was marked before counts.
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

    def row(self, dataset: str, row: int) -> dict[str, Any] | None:
        """`id`, `text` and `metadata` of the row that came last under an id; None where there is none."""
        ticket = {"name": dataset, "filters": [{"field": "id", "operator": "=", "value": str(row)}]}
        last: dict[str, Any] | None = None
        for batch in self._get(dataset, json.dumps(ticket).encode()):
            names = [name for name in batch.schema.names if name in ("id", "text", "metadata")]
            for found in batch.select(names).to_pylist():
                last = found
        return last

    def ids(self, dataset: str) -> NDArray[np.int64]:
        """The ids of all rows that are not deleted, a repeated one as often as it is there; int64, (n,).

        Longbow has no call for ids alone: every row crosses the network, a batch at a time.
        """
        parts = [np.zeros(0, np.int64)]
        parts += [batch.column("id").to_numpy() for batch in self._get(dataset, dataset.encode())]
        return np.concatenate(parts)

    def _get(self, dataset: str, ticket: bytes) -> Iterator[Any]:
        with translate(self.target, "DoGet", dataset):
            # Its deadline covers the whole answer, which may be gigabytes.
            reader = self.client.do_get(fl.Ticket(ticket), self.options(max(self.target.timeout, 600.0)))
            for chunk in reader:
                yield chunk.data

    def close(self) -> None:
        """Ends the channel and whatever runs on it."""
        self.client.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def translate(target: Target, call: str, dataset: str | None = None) -> Iterator[None]:
    """gRPC's errors as ours. A `ServiceError` may pass by itself, an `InputError` never does.

    Raises:
        DeadlineError: no answer in time.
        ServiceError: Longbow is not there, refuses, or failed.
        InputError: what was asked for cannot be: another dimension, another schema, no such dataset, no right to it.
    """
    where = f"Longbow at {target.url}"
    try:
        yield
    except FletcherError:
        raise
    except fl.FlightTimedOutError as error:
        raise DeadlineError(
            f"{where} did not answer {call} within {target.timeout:g} s. It blocks without a word when its memory is over "
            f"90 % full: look at longbow_memory_utilization, raise LONGBOW_MAX_MEMORY, or give more time ({_brief(error)})"
        ) from error
    except (fl.FlightUnauthenticatedError, fl.FlightUnauthorizedError) as error:
        raise InputError(f"{where} refuses {call}: {_brief(error)}. Give a token that it takes") from error
    except KeyError as error:  # pyarrow's NOT_FOUND
        raise InputError(f"{where} has no dataset {dataset!r}: {_brief(error)}") from error
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"{where} has no {call}: {_brief(error)}. Is it Longbow's data port (3000)?") from error
    except pa.ArrowInvalid as error:
        # Its own server gives InvalidArgument; a Flight error of another kind is none of these.
        raise InputError(
            f"{where} refuses {call}{f' into {dataset!r}' if dataset else ''}: {_brief(error)}. A dataset keeps the columns "
            "and the length of vectors that it began with: use another dataset, or the model that it was made with"
        ) from error
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        raise ServiceError(f"{where} failed on {call}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """gRPC's message without the client's debugging context and the server's stack trace."""
    text = str(error).strip("'\"")
    for mark in (". gRPC client debug context", ". Client context", ". Detail:"):
        text = text.partition(mark)[0]
    return text[:400]
