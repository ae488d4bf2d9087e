"""No output of a real server has a secret: list of processes, log, answers, metrics, audit log."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from fletcher.serve.access.keys_file import add_key
from tests.doubles.issuer import Issuer

from .tls.conftest import Authority

SECONDS = 60.0
TEXT = "the text of a patient"


@pytest.mark.slow
@pytest.mark.parametrize("fronts", [0, 1])
def test_no_output_has_a_secret(tiny_artifact: Path, tmp_path: Path, fronts: int) -> None:
    authority, issuer = Authority(), Issuer()
    pair = authority.server()
    certificate, key_file = pair.write(tmp_path)
    key = add_key(tmp_path / "keys.json", "alice", "admin")
    token = issuer.token(scope="admin")
    (tmp_path / "longbow").write_text("longbow-s3cret\n")
    (tmp_path / "store").write_text("redis://:redis-s3cret@127.0.0.1:1/0\n")
    secrets = ["longbow-s3cret", "redis-s3cret", key, token, token.split(".")[2], TEXT, "wrong-s3cret"]
    secrets += pair.key.decode().splitlines()[1:-1]
    arguments = [
        str(tiny_artifact),
        *("--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--fronts", str(fronts), "--provider", "mlas"),
        *("--tls-cert", str(certificate), "--tls-key", str(key_file), "--keys", str(tmp_path / "keys.json")),
        *("--jwt", str(issuer.write_settings(tmp_path / "jwt.toml")), "--audit", str(tmp_path / "audit.jsonl")),
        *("--longbow", "grpc+tls://127.0.0.1:1", "--longbow-token-file", str(tmp_path / "longbow")),
        *("--limit-store-file", str(tmp_path / "store"), "--limit", "requests=1000/s", "--log-level", "debug"),
        *("--admin", "on"),
    ]
    command = "from fletcher.serve.commands.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", command, "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(running.stderr), daemon=True)  # type: ignore[arg-type]
    reader.start()
    outputs: list[str] = []
    try:
        url = ""
        while not url:
            line = running.stdout.readline()
            assert line, "".join(log)
            url = line.removeprefix("HTTP on ").strip() if line.startswith("HTTP on ") else ""
            outputs.append(line)
        process = psutil.Process(running.pid)
        for one in (process, *process.children(recursive=True)):
            outputs += one.cmdline()
        with httpx.Client(verify=authority.trust(), base_url=url, timeout=SECONDS) as client:
            for bearer in (
                key,
                token,
                "wrong-s3cret",
                token[:-6] + "AAAAAA",
                issuer.token(exp=1, scope="wrong-s3cret"),
            ):
                headers = {"authorization": f"Bearer {bearer}"}
                for answer in (
                    client.post("/v1/embeddings", json={"model": "tiny", "input": TEXT}, headers=headers),
                    client.post("/v1/ingest", json={"dataset": "d", "texts": [TEXT]}, headers=headers),
                    client.get("/metrics", headers=headers),
                    client.get("/admin/models", headers=headers),
                    client.post("/admin/models", json={"path": "/absent"}, headers=headers),
                ):
                    outputs += [answer.text, str(answer.headers)]
        key_file.write_text(pair.key.decode()[:120])
        running.send_signal(signal.SIGHUP)
        end = time.monotonic() + SECONDS
        while not any("half-written" in line for line in log):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(SECONDS)
        reader.join(SECONDS)
        running.stdout.close()
        running.stderr.close()
        issuer.close()
    outputs += log
    outputs.append((tmp_path / "audit.jsonl").read_text())
    assert any('"event":"request"' in output for output in outputs)
    for secret in secrets:
        assert not [output for output in outputs if secret in output], secret
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0
