"""`Asker`: GET requests to the instances of a cluster, with the key and the certificates of the operator."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import Final

from fletcher.runtime.errors import InputError, ServiceError
from fletcher.runtime.os_errors import explain

from ..access.addresses import HostPort
from .config import Tls

__all__ = ["Answer", "Asker"]

#: Largest answer that is read, in bytes. A page of metrics has some hundred KB.
MOST_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of an instance.

    Attributes:
        status: HTTP status.
        body: its bytes.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Asker:
    """GET requests to instances. Safe to use from any thread.

    Attributes:
        key: API key, or None.
        timeout: longest wait for a connection and for each part of an answer, in seconds.
        tls: context of connections with TLS, or None.
        name: name in the certificates of the instances.
    """

    key: str | None = None
    timeout: float = 5.0
    tls: ssl.SSLContext | None = None
    name: str | None = None

    @classmethod
    def of(cls, tls: Tls, key: str | None, timeout: float) -> Asker:
        """Return an `Asker` for the instances of a cluster.

        Raises:
            InputError: the file of the CA cannot be read.
        """
        if tls.instance_ca is None:
            return cls(key, timeout)
        try:
            context = ssl.create_default_context(cafile=tls.instance_ca)
        except OSError as error:  # ssl.SSLError is one
            raise InputError(f"tls.instance_ca {tls.instance_ca} cannot be used: {explain(error)}") from error
        return cls(key, timeout, context, tls.instance_name)

    def get(self, address: HostPort, path: str) -> Answer:
        """Return the answer to a GET request.

        Raises:
            ServiceError: the instance cannot be reached, or does not answer in time.
        """
        connection = http.client.HTTPConnection(address.host, address.port, timeout=self.timeout)
        headers = {"host": self.name or str(address), "connection": "close"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        try:
            connection.connect()
            if self.tls is not None:
                connection.sock = self.tls.wrap_socket(connection.sock, server_hostname=self.name)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(MOST_BYTES))
        except (OSError, http.client.HTTPException) as error:
            reason = explain(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise ServiceError(f"{address} cannot be reached: {reason}") from error
        finally:
            connection.close()
