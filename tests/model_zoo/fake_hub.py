"""`FakeHub`: HTTP interface of the HuggingFace hub on the loopback, as far as `snapshot_download` uses it."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Server of repositories at one commit, under `main` and under the commit.

    Attributes:
        commit: the commit.
        files: file contents by repository and name.
        gated: repositories that need the token `secret`.
        cut: bytes of a file's body after which the connection is cut, once.
        requests: (method, path, Range header) of every request.
    """

    commit: str = COMMIT
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def add(self, repository: str, folder: Path) -> None:
        self.files[repository] = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Write no log."""

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            organization, name, *tail = parts[2:] if api else parts
            repository = f"{organization}/{name}"
            if repository not in hub.files:
                self.refuse(401, "RepoNotFound", "Repository not found")
            elif repository in hub.gated and self.headers.get("Authorization") != "Bearer secret":
                self.refuse(401, "GatedRepo", "Access to this model is restricted")
            elif (tail[1] if len(tail) > 1 else "main") not in ("main", hub.commit):
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
            elif api and tail[:1] == ["tree"]:
                self.send_json([_entry(file, data) for file, data in hub.files[repository].items()])
            elif api:
                siblings = [{"rfilename": file} for file in hub.files[repository]]
                self.send_json({"id": repository, "modelId": repository, "sha": hub.commit, "siblings": siblings})
            else:
                self.send_file(repository, "/".join(tail[2:]), with_body=with_body)

        def refuse(self, status: int, code: str, message: str) -> None:
            body = json.dumps({"error": message}).encode()
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, repository: str, file: str, *, with_body: bool) -> None:
            data = hub.files[repository].get(file)
            if data is None:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{_blob(data)}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not with_body:
                return
            end = hub.cut.pop(file, None)
            self.wfile.write(data[start:end])
            if end is not None:
                self.close_connection = True  # fewer bytes than announced: the client sees a cut connection

    return Handler


def _blob(data: bytes) -> str:
    """Return git's id of a blob, which is the ETag of a small file at the hub."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(file: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(data), "oid": _blob(data)}
