"""Address of Longbow, and the translation of its errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.flight as fl

from fletcher.runtime.errors import DeadlineError, FletcherError, InputError, ServiceError
from fletcher.runtime.options.secrets import read_secret

from ..options import LongbowOptions

__all__ = ["Target", "translate"]

SCHEMES: Final = ("grpc", "grpc+tcp", "grpc+tls")

_plain = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Target:
    """Address of Longbow, with credentials.

    Attributes:
        url: `grpc://HOST:PORT`, or `grpc+tls://` for a proxy (Longbow itself has no TLS).
        token: token for a proxy, sent as `authorization: Bearer …`; Longbow ignores it.
        ca_file: file of trusted certificates (PEM); None is those of the system.
        timeout: seconds that a call may take.
        trace: id that is sent as `x-request-id` with every call, so that the log of a proxy names the job; empty sends
            none.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout: float = 30.0
    trace: str = ""

    @classmethod
    def of(cls, options: LongbowOptions, trace: str = "") -> Target:
        """Return the target that options describe.

        Raises:
            InputError: the address, the token or the trace id cannot be used.
        """
        ca_file = None if options.longbow_ca is None else Path(options.longbow_ca)
        token = read_secret(options.longbow_token, options.longbow_token_file, "--longbow-token-file")
        return cls(options.longbow, token, ca_file, options.timeout, trace)

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
            raise InputError(f"a token would be sent to {self.url} unencrypted: use grpc+tls://")
        if self.timeout <= 0:
            raise InputError(f"the timeout is {self.timeout:g} s, and must be above 0")
        if self.trace and not _plain.fullmatch(self.trace):
            raise InputError(f"the trace is {self.trace!r}: use up to 128 letters, digits and . _ : -")


@contextmanager
def translate(target: Target, call: str, dataset: str | None = None) -> Iterator[None]:
    """Translate gRPC's errors.

    A call that raised a `ServiceError` may succeed later; one that raised an `InputError` does not.

    Raises:
        DeadlineError: Longbow did not answer in time.
        ServiceError: Longbow cannot be reached, or failed.
        InputError: Longbow rejects the request: another dimension or schema, an unknown dataset, or missing rights.
    """
    where = f"Longbow at {target.url}"
    try:
        yield
    except FletcherError:
        raise
    except fl.FlightTimedOutError as error:
        raise DeadlineError(
            f"{where} did not answer {call} within {target.timeout:g} s. It blocks without an error when more than 90 % "
            "of its memory is in use: check longbow_gc_tuner_heap_utilization, raise LONGBOW_MAX_MEMORY, or raise the "
            "timeout "
            f"({_brief(error)})"
        ) from error
    except (fl.FlightUnauthenticatedError, fl.FlightUnauthorizedError) as error:
        raise InputError(f"{where} rejects {call}: {_brief(error)}. Give a valid token") from error
    except KeyError as error:  # pyarrow's NOT_FOUND
        raise InputError(f"{where} has no dataset {dataset!r}: {_brief(error)}") from error
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"{where} has no {call}: {_brief(error)}. Is it Longbow's data port (3000)?") from error
    except pa.ArrowInvalid as error:
        # Longbow reports InvalidArgument; other Flight errors are not `ArrowInvalid`.
        raise InputError(
            f"{where} rejects {call}{f' into {dataset!r}' if dataset else ''}: {_brief(error)}. The columns of a dataset "
            "and the dimension of its vectors cannot change: use another dataset, or the model of the dataset"
        ) from error
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        raise ServiceError(f"{where} failed on {call}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    """Return gRPC's message without the client's debugging context and the server's stack trace."""
    text = str(error).strip("'\"")
    for mark in (". gRPC client debug context", ". Client context", ". Detail:"):
        text = text.partition(mark)[0]
    return text[:400]
