"""`Issuer`: an issuer of signed tokens, with a JWKS server on the loopback. Tokens are made with PyJWT and `cryptography`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

__all__ = ["Issuer", "make_key", "public_jwk"]

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def make_key(algorithm: str, bits: int = 2048) -> Any:
    """Return a private key for an algorithm."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, bits)


def public_jwk(key: Any, algorithm: str, kid: str | None, **fields: object) -> dict[str, object]:
    """Return the public part of a key as a JWK."""
    made: dict[str, object] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **fields}


class Issuer:
    """An issuer. It is open from its construction until `close`.

    Attributes:
        keys: published keys by id, each with its algorithm.
        reads: number of reads of the keys.
        broken: status with which the server answers instead, or 0.
        delay: seconds before an answer.
        late: seconds by which its clock is ahead, as its header `Date` says.
    """

    url = "https://issuer.example.org/"

    def __init__(self) -> None:
        self.keys: dict[str, tuple[Any, str]] = {}
        self.extra: list[Mapping[str, object]] = []
        self.reads = self.broken = 0
        self.delay = self.late = 0.0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.reads += 1
                time.sleep(issuer.delay)
                body = b"" if issuer.broken else issuer.jwks
                self.send_response_only(issuer.broken or 200)
                self.send_header("date", formatdate(time.time() + issuer.late, usegmt=True))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return

        # `HTTPServer` would look up the name of this machine, which takes a second where there is no network.
        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.add("one")

    @property
    def jwks_url(self) -> str:
        """URL of the keys."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    @property
    def jwks(self) -> bytes:
        """The keys as a JWK Set."""
        keys = [public_jwk(key, algorithm, kid) for kid, (key, algorithm) in self.keys.items()]
        return json.dumps({"keys": [*keys, *self.extra]}).encode()

    def add(self, kid: str, algorithm: str = "ES256") -> Any:
        """Publish a new key."""
        self.keys[kid] = make_key(algorithm), algorithm
        return self.keys[kid][0]

    def claims(self, **changes: object) -> dict[str, object]:
        """Return the claims of a token for a user; None removes one."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": "fletcher",
            "sub": "alice",
            "iat": now,
            "exp": now + 600,
            "scope": "embed",
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, kid: str = "one", **changes: object) -> str:
        """Return a token that a key has signed."""
        key, algorithm = self.keys[kid]
        return jwt.encode(self.claims(**changes), key, algorithm, headers={"kid": kid})

    def write_settings(self, path: Path, *, jwks: str | None = None, more: str = "") -> Path:
        """Write the settings of a server that accepts the tokens."""
        path.write_text(
            f'issuer = "{self.url}"\naudience = "fletcher"\njwks = "{jwks or self.jwks_url}"\n{more}\n'
            '[scopes.admin]\nrole = "admin"\n[scopes.embed]\n'
            '[scopes.small]\nmodels = ["small"]\n[scopes.few.limits.requests]\nday = 2\n'
        )
        return path

    def close(self) -> None:
        """End the server of the keys."""
        self._server.shutdown()
        self._server.server_close()
