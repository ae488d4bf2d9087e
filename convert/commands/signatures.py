"""`fletcher-convert model sign` and `verify-signature`: signatures of artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.errors import InputError

__all__ = ["sign_model", "verify_model_signature"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the artifact.", show_default=False)]


def sign_model(
    ctx: typer.Context,
    folder: Folder,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key, PEM, of an elliptic curve: P-256, P-384 or P-521."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate of the key, PEM. Default: the key alone signs.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Certificate between that one and the root, PEM; repeat it for several."),
    ] = None,
    password: Annotated[
        str | None, typer.Option(envvar="FLETCHER_KEY_PASSWORD", help="Password of the key.", show_default=False)
    ] = None,
    sigstore: Annotated[
        bool,
        typer.Option(
            "--sigstore",
            help="Sign with an identity of Sigstore: that of a CI job, or of a person in a browser. It needs a network.",
        ),
    ] = False,
    trust_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Trust configuration of a Sigstore service, JSON. Default: the public service."
        ),
    ] = None,
) -> None:
    """Sign an artifact in OpenSSF's model-signing format. The signature is DIR/model.sig.

    Verify the artifact first: a later `verify` writes into the manifest, and the signature would not be valid any more.
    """
    from fletcher.runtime.origin.signature import Signer, sign

    if (key is None) != sigstore:
        raise InputError("name a private key with --key FILE, or sign with --sigstore")
    if key is None and (certificate is not None or chain):
        raise InputError("--certificate and --chain belong to a key: name it with --key FILE")
    if trust_config is not None and not sigstore:
        raise InputError("--trust-config belongs to Sigstore: add --sigstore")
    artifact = Artifact.open(folder)
    artifact.check_files()
    file = sign(folder, Signer(key, password, certificate, tuple(chain or ()), trust_config))
    reporter(ctx).result({"signature": file, "digest": artifact.digest})


def verify_model_signature(
    ctx: typer.Context,
    folder: Folder,
    identity: Annotated[
        str,
        typer.Argument(
            metavar="IDENTITY",
            help="key:PUBLIC_KEY.pem, certificate:ROOT.pem or sigstore:NAME,ISSUER (with ,TRUST.json for a private service).",
        ),
    ],
) -> None:
    """Check that an artifact is signed by an identity, and that no file of it was changed, added or removed since then."""
    from fletcher.runtime.origin.signature import verify_signature

    artifact = Artifact.open(folder)
    artifact.check_files()
    verify_signature(folder, identity)
    reporter(ctx).result({"signed by": identity, "digest": artifact.digest})
