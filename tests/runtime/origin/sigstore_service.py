"""`SigstoreService`: a Sigstore of one's own on the loopback: the certificates of Fulcio and the log of Rekor.

It answers the calls of the package `sigstore`, which checks what comes: the certificate's chain, its timestamp of a
certificate log (RFC 6962), the signed entry of the log, its inclusion (a tree of one entry) and the signed checkpoint. The
service itself believes every token, and its log keeps nothing.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = ["SigstoreService", "key_usage", "sigstore_service"]

#: Extensions of a certificate of Fulcio (the issuer of the token, as text) and of RFC 6962 (timestamps of logs).
ISSUER, TIMESTAMPS = ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")

Key = ec.EllipticCurvePrivateKey


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _public(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class SigstoreService:
    """Keys of the authority and of both logs.

    Attributes:
        url: where it answers; it is also the issuer of identities.
    """

    def __init__(self) -> None:
        self.url = ""
        self._authority, self._certificate_log, self._log = _new_key(), _new_key(), _new_key()
        now = datetime.datetime.now(datetime.UTC)
        self._root = (
            x509.CertificateBuilder()
            .subject_name(_name("authority"))
            .issuer_name(_name("authority"))
            .public_key(self._authority.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(root=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._authority.public_key()), critical=False)
            .sign(self._authority, hashes.SHA256())
        )

    def token(self, name: str) -> str:
        """Return the token of an identity, as a job of CI has it in `SIGSTORE_ID_TOKEN`."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": name, "aud": "sigstore", "iat": now, "nbf": now - 5, "exp": now + 600}
        return jwt.encode(claims, "x" * 32)

    def trust(self) -> dict[str, Any]:
        """Return the trust configuration of a client (`ClientTrustConfig`)."""
        since = {"start": "2020-01-01T00:00:00Z"}

        def log(key: Key) -> dict[str, Any]:
            public = {"rawBytes": _encoded(_public(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": _encoded(hashlib.sha256(_public(key)).digest())},
            }

        service = {"url": self.url, "majorApiVersion": 1, "validFor": since, "operator": "tests"}
        root = {"rawBytes": _encoded(self._root.public_bytes(Encoding.DER))}
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "tests", "commonName": "authority"},
                        "uri": self.url,
                        "certChain": {"certificates": [root]},
                        "validFor": since,
                    }
                ],
                "ctlogs": [log(self._certificate_log)],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }

    # Answers ------------------------------------------------------------------------------------------------------------

    def discover(self) -> dict[str, Any]:
        """Answer where tokens are given, which the tests do not ask for."""
        return {"authorization_endpoint": f"{self.url}/auth", "token_endpoint": f"{self.url}/token"}

    def certify(self, request: dict[str, Any], token: str) -> dict[str, Any]:
        """Answer with a certificate for ten minutes, of the identity in a token."""
        claims = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
        asked = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(minutes=10))
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(claims["sub"])]), critical=True)
            .add_extension(key_usage(root=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()), critical=False
            )
            .add_extension(x509.UnrecognizedExtension(ISSUER, claims["iss"].encode()), critical=False)
        )
        unlogged = builder.sign(self._authority, hashes.SHA256())
        logged = builder.add_extension(
            x509.UnrecognizedExtension(TIMESTAMPS, self._timestamps(unlogged.tbs_certificate_bytes)), critical=False
        ).sign(self._authority, hashes.SHA256())
        chain = [one.public_bytes(Encoding.PEM).decode() for one in (logged, self._root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _timestamps(self, certificate: bytes) -> bytes:
        """Return the timestamp of a certificate log for a certificate that has none: RFC 6962, sections 3.2 and 3.3."""
        milliseconds = int(time.time() * 1000)
        issuer = hashlib.sha256(_public(self._authority)).digest()
        entry = issuer + len(certificate).to_bytes(3, "big") + certificate
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0"
        signature = _sign(self._certificate_log, signed)
        identity = hashlib.sha256(_public(self._certificate_log)).digest()
        # Hash function 4 is SHA-256, signature algorithm 3 is ECDSA.
        one = b"\0" + identity + struct.pack("!QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        assert len(listed) < 128, "its length has one byte in DER"
        return b"\x04" + bytes([len(listed)]) + listed

    def record(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer with the only entry of a new log: a signed envelope."""
        proposed = request["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        (verifier,) = proposed["verifiers"]
        payload = base64.b64decode(envelope["payload"])
        root = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(proposed["envelope"].encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": each["sig"], "verifier": verifier} for each in envelope["signatures"]],
        }
        body = _canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": root})
        identity = hashlib.sha256(_public(self._log)).digest()
        top = hashlib.sha256(b"\0" + body).digest()
        note = f"tests\n1\n{_encoded(top)}\n"
        checkpoint = f"{note}\n\u2014 tests {_encoded(identity[:4] + _sign(self._log, note.encode()))}\n"
        promised = {
            "body": _encoded(body),
            "integratedTime": int(time.time()),
            "logID": identity.hex(),
            "logIndex": 0,
        }
        proof = {"checkpoint": checkpoint, "hashes": [], "logIndex": 0, "rootHash": top.hex(), "treeSize": 1}
        verification = {
            "inclusionProof": proof,
            "signedEntryTimestamp": _encoded(_sign(self._log, _canonical(promised))),
        }
        return {top.hex(): promised | {"verification": verification}}


def key_usage(*, root: bool) -> x509.KeyUsage:
    """Return what the key of a certificate is for: to sign certificates if it is a root, else to sign data."""
    return x509.KeyUsage(
        digital_signature=not root,
        key_cert_sign=root,
        crl_sign=root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@contextmanager
def sigstore_service(file: Path) -> Iterator[SigstoreService]:
    """Run a service, and write its trust configuration into a file."""
    service = SigstoreService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/.well-known/openid-configuration"
            self._answer(service.discover())

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/api/v2/signingCert":
                self._answer(service.certify(request, self.headers["authorization"].removeprefix("Bearer ")))
            else:
                assert self.path == "/api/v1/log/entries"
                self._answer(service.record(request))

        def _answer(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        file.write_text(json.dumps(service.trust()))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
