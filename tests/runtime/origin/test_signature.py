"""Signatures: made and checked with keys and certificates, in the format of OpenSSF's own package and command."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fletcher import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import ChecksumError, InputError, SignatureError
from fletcher.runtime.origin.signature import SIGNATURE, Identity, Signer, parse_identity, sign, verify_signature

pytest.importorskip("model_signing")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .sigstore_service import key_usage, sigstore_service


def write_key(folder: Path, name: str, password: str | None = None) -> ec.EllipticCurvePrivateKey:
    """Write NAME.pem and NAME.pub."""
    key = ec.generate_private_key(ec.SECP256R1())
    hidden = (
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password.encode())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    (folder / f"{name}.pem").write_bytes(private)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return key


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    write_key(folder, "ann")
    write_key(folder, "bob")
    return folder


def test_a_signed_artifact_loads(own_artifact: Path, keys: Path) -> None:
    sign(own_artifact, Signer(keys / "ann.pem"))
    Encoder.load(own_artifact, provider="mlas", require_signature=f"key:{keys / 'ann.pub'}").close()
    Encoder.load(own_artifact, provider="mlas").close()
    with pytest.raises(SignatureError, match="so the artifact is not loaded"):
        Encoder.load(own_artifact, provider="mlas", require_signature=f"key:{keys / 'bob.pub'}")


def test_an_artifact_without_a_signature_is_refused(own_artifact: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match="has no signature"):
        Encoder.load(own_artifact, provider="mlas", require_signature=f"key:{keys / 'ann.pub'}")


@pytest.mark.parametrize("change", ["manifest", "weights", "added", "removed", "link", "signature"])
def test_a_change_after_the_signature_is_noticed(own_artifact: Path, keys: Path, change: str) -> None:
    sign(own_artifact, Signer(keys / "ann.pem"))
    identity = f"key:{keys / 'ann.pub'}"
    verify_signature(own_artifact, identity)
    match change:
        case "manifest":
            file = own_artifact / "fletcher.json"
            file.write_bytes(file.read_bytes() + b"\n")
        case "weights":
            file = own_artifact / "weights.fp32.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        case "added":
            (own_artifact / "planted.bin").write_bytes(b"x")
        case "removed":
            (own_artifact / "canary.safetensors").unlink()
        case "link":
            (own_artifact / "tokenizer.json").rename(own_artifact.parent / "elsewhere")
            (own_artifact / "tokenizer.json").symlink_to(own_artifact.parent / "elsewhere")
        case "signature":
            (own_artifact / SIGNATURE).write_text("{}")
    with pytest.raises(SignatureError, match="is not one of key:"):
        verify_signature(own_artifact, identity)


def test_the_signature_of_another_artifact_does_not_fit(own_artifact: Path, tmp_path: Path, keys: Path) -> None:
    other = Path(shutil.copytree(own_artifact, tmp_path / "other"))
    (other / "weights.fp32.safetensors").write_bytes(b"other")
    sign(other, Signer(keys / "ann.pem"))
    shutil.copy(other / SIGNATURE, own_artifact / SIGNATURE)
    with pytest.raises(SignatureError):
        verify_signature(own_artifact, f"key:{keys / 'ann.pub'}")


def test_openssfs_own_command_accepts_our_signature_and_we_accept_its(own_artifact: Path, keys: Path) -> None:
    """The package's command is the reference for the format."""
    command = [sys.executable, "-m", "model_signing"]
    signature = own_artifact / SIGNATURE
    sign(own_artifact, Signer(keys / "ann.pem"))
    options = ["--signature", str(signature), "--public_key", str(keys / "ann.pub")]
    verified = subprocess.run(
        [*command, "verify", "key", str(own_artifact), *options], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    signature.unlink()
    options = ["--signature", str(signature), "--private_key", str(keys / "bob.pem")]
    subprocess.run([*command, "sign", "key", str(own_artifact), *options], capture_output=True, check=True)
    verify_signature(own_artifact, f"key:{keys / 'bob.pub'}")


def issue(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return a certificate: a root if it has no issuer, else one for signatures of code."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    root = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(key_usage(root=root), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not root:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(signer, hashes.SHA256())


def test_a_certificate_signs(own_artifact: Path, keys: Path) -> None:
    for name in ("root", "other"):
        key = write_key(keys, name)
        certificate = issue(name, key, None, key)
        (keys / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        if name == "root":
            signer = write_key(keys, "signer")
            own = issue("signer", signer, certificate, key)
            (keys / "signer.crt").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    sign(own_artifact, Signer(keys / "signer.pem", certificate=keys / "signer.crt", chain=(keys / "root.crt",)))
    Encoder.load(own_artifact, provider="mlas", require_signature=f"certificate:{keys / 'root.crt'}").close()
    with pytest.raises(SignatureError):
        verify_signature(own_artifact, f"certificate:{keys / 'other.crt'}")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let this process look like a job of GitLab, whose token the package finds, and requests reach the loopback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("GITHUB_ACTIONS", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITLAB_CI", "true")
    return monkeypatch


def test_an_identity_of_sigstore_signs(own_artifact: Path, tmp_path: Path, job: pytest.MonkeyPatch) -> None:
    """The packages `model-signing` and `sigstore` sign and check; certificates and log are those of a service of our own."""
    trust, other = tmp_path / "trust.json", tmp_path / "other.json"
    with sigstore_service(trust) as service:
        job.setenv("SIGSTORE_ID_TOKEN", service.token("ann@example.com"))
        sign(own_artifact, Signer(trust=trust))
    with sigstore_service(other):
        pass
    # The service has ended: a signature is checked without a network.
    signer = f"sigstore:ann@example.com,{service.url},{trust}"
    Encoder.load(own_artifact, provider="mlas", require_signature=signer).close()
    for wrong in (
        f"sigstore:bob@example.com,{service.url},{trust}",
        f"sigstore:ann@example.com,https://accounts.google.com,{trust}",
        f"sigstore:ann@example.com,{service.url},{other}",
    ):
        with pytest.raises(SignatureError, match="is not one of sigstore:"):
            verify_signature(own_artifact, wrong)
    (own_artifact / "canary.safetensors").write_bytes(b"other")
    with pytest.raises(SignatureError, match="is not one of sigstore:"):
        verify_signature(own_artifact, signer)


def test_without_a_network_the_public_sigstore_is_named(
    own_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # a closed port
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):  # of the keys that were fetched before
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be signed: .*; Sigstore needs a network, and a browser or the cred"):
        sign(own_artifact, Signer())
    (own_artifact / SIGNATURE).write_text("{}")
    with pytest.raises(SignatureError, match=r"cannot be checked with .*; Sigstore's public service needs a network"):
        verify_signature(own_artifact, "sigstore:ann@example.com,https://accounts.google.com")


def test_a_password_opens_a_key(own_artifact: Path, keys: Path) -> None:
    write_key(keys, "eve", "secret")
    with pytest.raises(InputError, match="cannot be signed"):
        sign(own_artifact, Signer(keys / "eve.pem"))
    assert not (own_artifact / SIGNATURE).exists()


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("key:a.pem", Identity("key", (Path("a.pem"),))),
        ("certificate:a.pem,b.pem", Identity("certificate", (Path("a.pem"), Path("b.pem")))),
        (
            "sigstore:me@example.com,https://accounts.google.com",
            Identity("sigstore", name="me@example.com", issuer="https://accounts.google.com"),
        ),
        ("sigstore:me,https://id,trust.json", Identity("sigstore", (Path("trust.json"),), "me", "https://id")),
    ],
)
def test_identities_are_read(text: str, identity: Identity) -> None:
    assert parse_identity(text) == identity


@pytest.mark.parametrize("text", ["", "me@example.com", "key:", "key:a,b", "sigstore:me@example.com", "pgp:1234"])
def test_other_identities_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not the identity of a signer"):
        parse_identity(text)


def test_a_missing_key_is_named(own_artifact: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.pem, which .* names, is not a file"):
        Encoder.load(own_artifact, provider="mlas", require_signature="key:missing.pem")


def test_a_digest_is_required(own_artifact: Path) -> None:
    digest = Artifact.open(own_artifact).digest
    for text in (digest, f"sha256:{digest}"):
        Encoder.load(own_artifact, provider="mlas", digest=text).close()
    with pytest.raises(ChecksumError, match=f"has the digest sha256:{digest}, and sha256:0{{64}} is required"):
        Encoder.load(own_artifact, provider="mlas", digest="0" * 64)


def test_the_commands_sign_and_verify(own_artifact: Path, keys: Path) -> None:
    def run(*arguments: str | Path) -> tuple[int, str]:
        code = "from fletcher.convert.commands.cli import main; main()"
        command = [sys.executable, "-c", code, "model", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("sign", own_artifact, "--key", keys / "ann.pem")[0] == 0
    assert run("verify-signature", own_artifact, f"key:{keys / 'ann.pub'}")[0] == 0
    code, output = run("verify-signature", own_artifact, f"key:{keys / 'bob.pub'}")
    assert code == 1 and "is not one of key:" in output and "Traceback" not in output
    code, output = run("sign", own_artifact, "--key", keys / "ann.pem", "--trust-config", "trust.json")
    assert code != 0 and "--trust-config belongs to Sigstore" in output
    code, output = run("sign", own_artifact)
    assert code != 0 and "name a private key with --key FILE" in output
