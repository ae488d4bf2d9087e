"""`RemoteModel`: a model of a Fletcher server, over HTTP with the standard library alone."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import DeadlineError, InputError, OverloadedError, ServiceError

__all__ = ["RemoteModel"]

#: Texts of one request. The server shares its time among requests, and a request of this size is a second's work of a small
#: model.
TEXTS = 256

#: Header by which a balancer in front of several servers chooses those with the model.
MODEL_HEADER = "X-Gateway-Model-Name"

#: Statuses after which the same request may succeed.
BUSY = (429, 503)


class RemoteModel:
    """A model of a server. Safe to use from several threads.

    A request that the server refuses because it is busy is sent again after the server's `Retry-After`, until `timeout` has
    passed. The server is first asked by the first call.

    Attributes:
        url: address of the server, with its prefix if it has one and without `/v1`.
        requested: name of the served model; None is the first one that fits.
        api_key: key of the server, or None.
        timeout: seconds for a request, repetitions included.
    """

    def __init__(
        self, url: str, requested: str | None = None, api_key: str | None = None, timeout: float = 60.0
    ) -> None:
        """Keep the address; nothing is sent."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.requested = requested
        self.api_key = api_key
        self.timeout = timeout
        self._described: dict[str, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """Name of the model that gives vectors, as the server knows it."""
        return self.requested or str(self._describe("vectors")["id"])

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._describe("vectors")["dimension"])

    def embed(self, texts: Sequence[str], input_type: str) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, (n, dimension).

        Raises:
            InputError: the server refuses the texts or the options.
            OverloadedError: the server is busy until the timeout.
            ServiceError: the server cannot be reached, or it fails.
        """
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        name = self.name
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(texts), TEXTS):
            part = list(texts[start : start + TEXTS])
            body = {"model": name, "input": part, "input_type": input_type, "encoding_format": "bytes"}
            vectors.append(np.frombuffer(self._send("/v1/embeddings", body), "<f4").reshape(len(part), -1))
        return np.concatenate(vectors)  # a copy that callers may change

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each document for a query, float32, (n,).

        Raises:
            InputError, OverloadedError, ServiceError: as for `embed`.
        """
        if not documents:
            return np.zeros(0, np.float32)
        name = self.requested or self._describe("scores")["id"]
        body = {"model": name, "query": query, "documents": list(documents)}
        scores = np.zeros(len(documents), np.float32)
        for result in msgspec.json.decode(self._send("/v1/rerank", body))["results"]:
            scores[result["index"]] = result["relevance_score"]
        return scores

    def close(self) -> None:
        """Do nothing: no connection stays open between calls."""

    def _describe(self, output: str) -> dict[str, Any]:
        """Return the server's description of the requested model, or of the first one with an output.

        Raises:
            InputError: the server has no such model.
        """
        if output in self._described:
            return self._described[output]
        models: list[dict[str, Any]] = msgspec.json.decode(self._send("/v1/models", None))["data"]
        for model in models:
            if self.requested in model["names"] if self.requested else model["output"] == output:
                self._described[output] = model
                return model
        wanted = repr(self.requested) if self.requested else f"that gives {output}"
        raise InputError(f"{self.url} has no model {wanted}; it has {', '.join(model['id'] for model in models)}")

    def _send(self, path: str, body: Any) -> bytes:
        """Return the answer to a request: POST with a body, or GET."""
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        model = self.requested if body is None else body["model"]
        if model and model.isascii() and model.isprintable():
            headers[MODEL_HEADER] = model
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        end = time.monotonic() + self.timeout
        while True:
            try:
                with urllib.request.urlopen(request, timeout=max(end - time.monotonic(), 0.001)) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                wait = _wait(error)
                if wait is None or time.monotonic() + wait > end:
                    raise _failure(error) from None
                time.sleep(wait)
            except TimeoutError:
                raise DeadlineError(f"{self.url} did not answer within {self.timeout:g} s") from None
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    raise DeadlineError(f"{self.url} did not answer within {self.timeout:g} s") from None
                raise ServiceError(f"{self.url} cannot be reached: {reason}") from error


def _wait(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds after which a refused request may be sent again, or None if it must not."""
    if error.code not in BUSY:
        return None
    try:
        return max(float(error.headers.get("Retry-After", "1")), 0.05)
    except ValueError:
        return 1.0  # a proxy may send a date


def _failure(error: urllib.error.HTTPError) -> InputError | ServiceError:
    """Return the error of an answer that is not 200."""
    text = error.read(1 << 16)
    try:
        message = str(msgspec.json.decode(text)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = text.decode("utf-8", "replace")[:300]
    message = f"{error.url} answered {error.code}: {message}"
    if error.code in BUSY:
        return OverloadedError(message, _wait(error) or 1.0)
    if error.code in (400, 404, 413, 415, 422):
        return InputError(message)
    return ServiceError(message)
