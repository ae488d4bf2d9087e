"""`ObjectStore`: objects below a URL's bucket, by obstore, which has the protocols, the credentials and the repetitions.

Credentials come from obstore's own chain: variables of the environment, web identities, and the metadata services of AWS,
Google Cloud and Azure. Nothing of them, and no text of a server or of obstore that may repeat them, is in an error's message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError, MissingPackageError, RefusedError, SourceError, UnreachableError
from .url import ArtifactUrl

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Opened

__all__ = ["ObjectStore", "Small"]

#: Seconds without a byte of an answer after which a request is repeated: while objects are read, and while they are written,
#: where an answer begins when all of a part has been sent.
READ_SECONDS: Final = 20
WRITE_SECONDS: Final = 300

#: The longest time of a request.
REQUEST_SECONDS: Final = 900

#: Repetitions of a request, and the longest pause before one.
RETRIES: Final = 5
LONGEST_PAUSE: Final = timedelta(seconds=5)

#: Variables that may name a server of one's own.
ENDPOINTS: Final = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "GOOGLE_BASE_URL",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
)

#: Bytes of a block of an object that is read: small enough for a processor's cache, in which it is hashed and copied.
BLOCK_BYTES: Final = 1 << 20

#: Bytes of a part of an upload, and parts that are sent at the same time.
PART_BYTES: Final = 8 << 20
PARTS: Final = 8

#: Error codes of S3, GCS and Azure in the body of an answer. No other part of a body is shown.
_CODE = re.compile(r"<Code>([A-Za-z]{3,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
#: Causes that obstore's text can name.
_CAUSES: Final = (
    ("ConnectionRefused", "it refuses connections"),
    ("dns error", "its name is not known"),
    ("TimedOut", "it was silent for too long"),
    ("ertificate", "its certificate is not trusted"),
)
_REFUSED = ("ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")


@dataclass(frozen=True, slots=True)
class Small:
    """A small object.

    Attributes:
        data: its bytes.
        version: its ETag; empty if the server gives none.
    """

    data: bytes
    version: str


class ObjectStore:
    """Objects of a bucket, container or folder below a URL. Safe to use from several threads."""

    def __init__(self, url: ArtifactUrl, *, silence: int | None = None) -> None:
        """Open a store; no request is made.

        Args:
            url: the URL.
            silence: seconds without a byte of an answer after which a request is repeated. Default: READ_SECONDS.

        Raises:
            MissingPackageError: obstore is not installed.
            InputError: the store needs a setting that the environment does not have.
        """
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ModuleNotFoundError as error:
            raise MissingPackageError("obstore", "objects", f"{url.scheme}:// URLs") from error
        self._url = url
        root = f"{url.scheme}://{url.root}" if url.root else "file:///"
        try:
            if url.scheme == "file":
                self._store: Opened = from_url(root)
            else:
                self._store = from_url(root, client_options=_client(silence or READ_SECONDS), retry_config=_retries())
        except (BaseError, ValueError) as error:
            # obstore's first line names the setting that is missing, and no value of one.
            reason = str(error).partition("\n")[0].rpartition("error: ")[2][:200]
            raise InputError(
                f"{url} cannot be opened: {reason}. The how-to about models by URL lists the settings"
            ) from None

    def read(self, name: str, limit: int, *, unless: str = "") -> Small | None:
        """Return a small object.

        Args:
            name: name below the URL; empty for the URL itself.
            limit: largest size in bytes.
            unless: version that the caller has; the server sends nothing if it is still that one.

        Returns:
            The object; None if its version is `unless`.

        Raises:
            FileNotFoundError: there is no such object.
            UnreachableError, RefusedError: the server does not answer, or refuses access.
            SourceError: another answer of the server, or the object is too large.
        """
        import obstore
        from obstore.exceptions import BaseError, NotModifiedError

        try:
            answer = obstore.get(self._store, self._path(name), options={"if_none_match": unless} if unless else {})
            meta = answer.meta
            if meta["size"] > limit:
                raise SourceError(f"{self._shown(name)} has {meta['size']} bytes, and at most {limit} are expected")
            return Small(bytes(answer.bytes()), meta.get("e_tag") or "")
        except NotModifiedError:
            return None
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self._shown(name)} does not exist") from error
        except (BaseError, OSError) as error:
            raise self._translate(error, name) from None

    def stream_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """Yield bytes of an object, in blocks of at least `BLOCK_BYTES` but for the last one.

        Raises:
            UnreachableError, RefusedError, SourceError: as for `read`; also if the object does not exist or is shorter.
        """
        import obstore
        from obstore.exceptions import BaseError

        arrived = 0
        try:
            answer = obstore.get(self._store, self._path(name), options={"range": (start, start + length)})
            for block in answer.stream(min_chunk_size=BLOCK_BYTES):
                arrived += len(block)
                yield memoryview(block)
        except (BaseError, OSError) as error:
            raise self._translate(error, name) from None
        if arrived != length:
            raise SourceError(f"{self._shown(name)} is shorter than its artifact's manifest says")

    def put(self, name: str, content: Path | bytes, *, create: bool = False) -> bool:
        """Write an object.

        Args:
            name: name below the URL; empty for the URL itself.
            content: a file, or bytes.
            create: write it only if there is no such object, on servers that can do so.

        Returns:
            False if `create` and the object exists.

        Raises:
            UnreachableError, RefusedError, SourceError: as for `read`.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            if create:
                obstore.put(self._store, self._path(name), content, mode="create", use_multipart=False)
            else:
                obstore.put(self._store, self._path(name), content, chunk_size=PART_BYTES, max_concurrency=PARTS)
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise self._translate(error, name) from None
        return True

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of all objects below the URL, by name.

        Raises:
            UnreachableError, RefusedError, SourceError: as for `read`.
        """
        import obstore
        from obstore.exceptions import BaseError

        prefix = self._url.path
        try:
            for batch in obstore.list(self._store, prefix or None):
                for meta in batch:
                    yield meta["path"][len(prefix) :].lstrip("/"), meta["size"]
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._translate(error, "") from None

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self._url.path, name) if part)

    def _shown(self, name: str) -> str:
        return f"{self._url}/{name}" if name else str(self._url)

    def _translate(self, error: Exception, name: str) -> SourceError:
        """Return the error for the user, with the code of the server's answer and nothing else of it."""
        from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

        place, text = self._shown(name), str(error)
        code = next(iter(_CODE.findall(text)), "")
        status = next(iter(_STATUS.findall(text)), "")
        said = " ".join(part for part in (status, code) if part)
        if isinstance(error, FileNotFoundError) or status == "404":  # the list of a missing bucket has the status alone
            return SourceError(f"{place} does not exist{f' ({said})' if said else ''}")
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in _REFUSED
        if refused or status in ("401", "403"):
            return RefusedError(
                f"{place}: access is refused ({said or type(error).__name__}): check the credentials of the environment, "
                "whether they have expired, and what they may do"
            )
        if isinstance(error, PermissionError):
            return RefusedError(f"{place}: access is refused by the file system")
        if "non-partial response" in text or isinstance(error, NotSupportedError):
            return SourceError(f"{place}: the server does not answer requests for parts of an object")
        if status.startswith("3"):
            return SourceError(
                f"{place}: the server sends elsewhere ({said}): the region or the endpoint is another bucket's"
            )
        if status.startswith("4") and status not in ("408", "425", "429"):
            return SourceError(f"{place}: the server refuses the request ({said})")
        if isinstance(error, OSError) and error.errno is not None:
            return SourceError(f"{place}: {error.strerror}")
        if "redential" in text:  # the chain ended without credentials: the metadata service of no cloud answers
            return RefusedError(
                f"{place}: no credentials were found: the how-to about models by URL lists the settings"
            )
        causes = [said] * bool(said) + [words for sign, words in _CAUSES if sign in text]
        reason = f" ({', '.join(causes)})" if causes else ""
        return UnreachableError(
            f"{place}: the server cannot be reached or breaks off{reason}: check network and endpoint"
        )


def _client(silence: int) -> ClientConfig:
    endpoints = [os.environ.get(name, "") for name in ENDPOINTS]
    allowed = any(
        os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("true", "1") for cloud in ("AWS", "GOOGLE", "AZURE")
    )
    options: dict[str, Any] = {
        # An endpoint of http:// is the operator's choice: without this option obstore refuses it.
        "allow_http": allowed or any(endpoint.startswith("http://") for endpoint in endpoints),
        "connect_timeout": "5s",
        "read_timeout": f"{silence}s",
        "timeout": f"{REQUEST_SECONDS}s",
    }
    return options  # type: ignore[return-value]  # a dict of the TypedDict's own keys


def _retries() -> RetryConfig:
    return {"max_retries": RETRIES, "backoff": {"max_backoff": LONGEST_PAUSE}, "retry_timeout": timedelta(minutes=3)}
