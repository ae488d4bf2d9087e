"""Signatures of artifacts in OpenSSF's model-signing format: who made an artifact, and that no file changed since then.

The signature is a Sigstore bundle in the file `model.sig` of the artifact's folder. It covers every other file of the folder,
the manifest too. Signers are key pairs (elliptic curves P-256, P-384 and P-521), certificates, and identities of Sigstore.
Sigstore's public service needs a network for signatures and for its keys; a private one is described by a file, and then a
signature is checked without a network. Source: https://github.com/sigstore/model-transparency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, MissingPackageError, SignatureError

__all__ = ["SIGNATURE", "Identity", "Signer", "parse_identity", "sign", "verify_signature"]

#: File of the signature in an artifact's folder.
SIGNATURE = "model.sig"

IDENTITY_FORMS = (
    "key:PUBLIC_KEY.pem, certificate:ROOT.pem or sigstore:NAME,ISSUER (with ,TRUST.json for a private service)"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """The signer that is required.

    Attributes:
        kind: kind of the signer.
        files: the public key, the certificates that are trusted, or the trust configuration of a Sigstore service
            (`ClientTrustConfig`, JSON); empty for Sigstore's public service.
        name: identity in Sigstore's certificate, such as an address of mail.
        issuer: provider that vouches for the name, such as `https://accounts.google.com`.
    """

    kind: Literal["key", "certificate", "sigstore"]
    files: tuple[Path, ...] = ()
    name: str = ""
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class Signer:
    """The means of a signature: a key alone, a key with its certificate, or Sigstore if there is no key.

    Attributes:
        key: private key, PEM.
        password: password of the key; None if it has none.
        certificate: certificate of the key, PEM.
        chain: certificates from the signer's to the root, without the signer's.
        trust: trust configuration of a Sigstore service, JSON; None means the public service.
    """

    key: Path | None = None
    password: str | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    trust: Path | None = None


def parse_identity(text: str) -> Identity:
    """Return the identity that a text describes: `key:FILE`, `certificate:FILE[,FILE…]` or `sigstore:NAME,ISSUER[,FILE]`.

    Raises:
        InputError: the text has none of these forms.
    """
    kind, _, rest = text.partition(":")
    parts = tuple(part for part in rest.split(",") if part)
    if kind == "key" and len(parts) == 1:
        return Identity("key", (Path(parts[0]),))
    if kind == "certificate" and parts:
        return Identity("certificate", tuple(map(Path, parts)))
    if kind == "sigstore" and len(parts) in (2, 3):
        return Identity("sigstore", tuple(map(Path, parts[2:])), name=parts[0], issuer=parts[1])
    raise InputError(f"{text!r} is not the identity of a signer: write {IDENTITY_FORMS}")


def sign(folder: Path, signer: Signer) -> Path:
    """Sign every file of an artifact's folder, and return the file of the signature.

    Args:
        folder: the artifact's folder; the caller has checked its files.
        signer: key, certificate, or nothing for Sigstore, which opens a browser or uses the credentials of a CI job.

    Raises:
        MissingPackageError: the extra `signing` is not installed.
        InputError: a key or certificate cannot be used, or Sigstore does not sign.
    """
    library = _library()
    config = library.signing.Config().set_hashing_config(_hashing(library, folder))
    file = folder / SIGNATURE
    unfinished = folder / f".{SIGNATURE}.new"
    try:
        if signer.key is None:
            config.use_sigstore_signer(use_ambient_credentials=True, trust_config=signer.trust)
        elif signer.certificate is None:
            config.use_elliptic_key_signer(private_key=signer.key, password=signer.password)
        else:
            config.use_certificate_signer(
                private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=signer.chain
            )
        config.sign(folder, unfinished)
        unfinished.replace(file)
    except Exception as error:  # the library and cryptography raise ValueError, TypeError, OSError and their own
        needs = "; Sigstore needs a network, and a browser or the credentials of a CI job" if signer.key is None else ""
        raise InputError(f"{folder} cannot be signed: {_reason(error)}{needs}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return file


def verify_signature(folder: Path, identity: str) -> None:
    """Check that an artifact is signed by an identity, and that no file changed, is missing or was added since then.

    Args:
        folder: the artifact's folder.
        identity: see `parse_identity`.

    Raises:
        InputError: the identity has no known form, or its files cannot be read.
        MissingPackageError: the extra `signing` is not installed.
        SignatureError: there is no signature, another signer made it, the folder differs from what was signed, or the
            signature cannot be checked.
    """
    wanted = parse_identity(identity)
    library = _library()
    for file in wanted.files:
        if not file.is_file():
            raise InputError(f"{file}, which {identity!r} names, is not a file")
    if not (folder / SIGNATURE).is_file():
        raise SignatureError(f"{folder} has no signature ({SIGNATURE}), and one of {identity} is required")
    config = library.verifying.Config().set_hashing_config(_hashing(library, folder))
    try:
        if wanted.kind == "key":
            config.use_elliptic_key_verifier(public_key=wanted.files[0])
        elif wanted.kind == "certificate":
            config.use_certificate_verifier(certificate_chain=wanted.files)
        else:
            trust = wanted.files[0] if wanted.files else None
            config.use_sigstore_verifier(identity=wanted.name, oidc_issuer=wanted.issuer, trust_config=trust)
    except Exception as error:  # as in `sign`
        needs = "; Sigstore's public service needs a network" if wanted.kind == "sigstore" and not wanted.files else ""
        raise SignatureError(
            f"the signature of {folder} cannot be checked with {identity}: {_reason(error)}{needs}"
        ) from error
    try:
        config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # as in `sign`; whatever it is, the signature was not verified
        raise SignatureError(
            f"the signature of {folder} is not one of {identity} for these files ({_reason(error)}), so the artifact is not "
            "loaded: get it again from its origin"
        ) from error


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise MissingPackageError("model-signing", "signing", "signatures of artifacts") from error
    return model_signing


def _hashing(library: Any, folder: Path) -> Any:
    """Return the configuration of the hashes: all files but the signature; links are errors."""
    ignored: Sequence[Path] = (folder / SIGNATURE, folder / f".{SIGNATURE}.new")
    return library.hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False).set_allow_symlinks(False)


def _reason(error: Exception) -> str:
    """Return the first line of an error, because the library lists every file."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
