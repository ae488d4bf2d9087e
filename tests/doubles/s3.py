"""Double of an S3 server with objects in memory, for requests of pyarrow's filesystem (HEAD, ranged GET, ListObjectsV2)."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["S3Double"]


class S3Double:
    """`S3Double`: server of one bucket on a free port of the loopback interface; a context manager.

    Attributes:
        bucket: name of the bucket.
        objects: contents by key.
        requests: methods and paths of the requests so far.
    """

    def __init__(self, bucket: str, objects: dict[str, bytes]) -> None:
        self.bucket = bucket
        self.objects = objects
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def url(self, key: str) -> str:
        """Return the URL of an object or a folder, as a user writes it for a private server."""
        endpoint = quote(f"127.0.0.1:{self._server.server_port}", safe="")
        return f"s3://{self.bucket}/{key}?scheme=http&region=us-east-1&endpoint_override={endpoint}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(double: S3Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            content = self._object()
            if content is None:
                self._answer(404, b"", {})
            else:
                self._answer(200, content, {"accept-ranges": "bytes"})

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                self._answer(200, self._listing(query.get("prefix", [""])[0]), {"content-type": "application/xml"})
                return
            content = self._object()
            if content is None:
                body = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
                self._answer(404, body, {"content-type": "application/xml"})
                return
            if byte_range := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
                first, last = int(byte_range[1]), min(int(byte_range[2]), len(content) - 1)
                headers = {"content-range": f"bytes {first}-{last}/{len(content)}"}
                self._answer(206, content[first : last + 1], headers)
                return
            self._answer(200, content, {})

        def _object(self) -> bytes | None:
            double.requests.append(f"{self.command} {self.path}")
            bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
            return double.objects.get(key) if bucket == double.bucket else None

        def _listing(self, prefix: str) -> bytes:
            double.requests.append(f"LIST {prefix}")
            entries = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for key, content in sorted(double.objects.items())
                if key.startswith(prefix)
            )
            count = entries.count("<Contents>")
            head = f"<Name>{double.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
            head += "<IsTruncated>false</IsTruncated>"
            return f"<ListBucketResult>{head}{entries}</ListBucketResult>".encode()

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            headers = {
                "content-length": str(len(body)),
                "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT",
                "etag": '"0"',
                **headers,
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
