"""`LoadOptions`: options of loading and running a model. They are the same for Python, command lines, TOML and HTTP."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypedDict

from msgspec import Meta

from ..errors import InputError, OptionError
from .sizes import parse_size
from .struct import Options

__all__ = ["LoadFields", "LoadOptions"]


class LoadOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`LoadOptions`: options of loading and running a model; `docs/reference/generated/options.md` lists the fields.

    Raises:
        OptionError: a value has a wrong type, is out of its bounds, or is not a size.
    """

    PANEL: ClassVar[str | None] = "Model options"

    variant: Annotated[
        str | None,
        Meta(
            description="Graph of the artifact to run, for example `cpu-fp32`. Default: the first one that the provider "
            "runs; with `auto`, one for a GPU before one for the CPU."
        ),
    ] = None
    precision: Annotated[
        str | None,
        Meta(
            description="Precision of the graph to run, for example fp32, fp16 or int8-per-token. Default: on an NVIDIA GPU "
            "fp16, if the artifact has it and its canary passes, else fp32; on a CPU the artifact's first one.",
            extra={"metavar": "NAME"},
        ),
    ] = None
    provider: Annotated[
        str,
        Meta(
            description="Execution provider: auto, mlas, openvino, openvino-bf16, cuda, tensorrt, tensorrt-rtx or coreml. "
            "`auto` takes the fastest one that was measured on this machine; `fletcher-serve devices DIR` shows them."
        ),
    ] = "auto"
    allow_fallback: Annotated[
        bool,
        Meta(
            description="Run on mlas if the provider fails. The fallback is logged, counted and shown by /ready. Without "
            "this option a failing provider is an error."
        ),
    ] = False
    min_cosine: Annotated[
        Annotated[float, Meta(ge=0.0, le=1.0)] | None,
        Meta(
            description="Smallest cosine with the reference that `auto` may accept for speed, for example 0.9999. "
            "Default: the variant's own tolerance."
        ),
    ] = None
    workers: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Batches that run at the same time, each on one core. Default: measured on this machine."),
    ] = None
    token_budget: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Tokens that a batch should hold. Default: measured on this machine."),
    ] = None
    exact: Annotated[
        bool,
        Meta(
            description="Compute every text in a batch of its own, so that its vector is the same to the last bit whatever "
            "texts come with it. It needs more time for short texts."
        ),
    ] = False
    memory_limit: Annotated[
        int | str | None,
        Meta(
            description="Largest resident memory of the process, in bytes or as text such as 2GB. Default: the limit of the "
            "container, if it has one.",
            extra={"metavar": "SIZE"},
        ),
    ] = None
    cache: Annotated[
        int | str,
        Meta(
            description="Size of the cache of vectors, for texts that come again, in bytes or as text such as 64MiB; 0 turns "
            "it off.",
            extra={"metavar": "SIZE"},
        ),
    ] = 0

    digest: Annotated[
        Annotated[str, Meta(pattern="^(sha256:)?[0-9a-f]{64}$")] | None,
        Meta(
            description="Digest that the artifact must have, as `fletcher-convert model inspect` shows it. Default: any "
            "digest is accepted.",
            extra={"metavar": "SHA256"},
        ),
    ] = None
    require_signature: Annotated[
        str | None,
        Meta(
            description="Signer of the artifact: `key:PUBLIC_KEY.pem`, `certificate:ROOT.pem` or "
            "`sigstore:NAME,ISSUER` (with `,TRUST.json` for a private service). Default: no signature is required.",
            extra={"metavar": "IDENTITY"},
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact and self.token_budget is not None:
            raise OptionError(
                "token_budget", "token_budget and exact exclude each other: exact means one text per batch"
            )
        sizes = {"memory_limit": self.memory_limit, "cache": self.cache}
        for field, size in sizes.items():
            if size is None or (field == "cache" and size in (0, "0")):
                continue
            try:
                parse_size(size)
            except InputError as error:
                raise OptionError(field, f"{field}: {error}") from None

    @property
    def memory_limit_bytes(self) -> int | None:
        """Memory limit in bytes; None if there is no limit."""
        return None if self.memory_limit is None else parse_size(self.memory_limit)

    @property
    def cache_bytes(self) -> int:
        """Size of the vector cache in bytes; 0 if it is off."""
        return 0 if self.cache in (0, "0") else parse_size(self.cache)


class LoadFields(TypedDict, total=False):
    """Fields of `LoadOptions` as keyword arguments, for type checkers. A test checks that both have the same fields."""

    variant: str | None
    precision: str | None
    provider: str
    allow_fallback: bool
    min_cosine: float | None
    workers: int | None
    token_budget: int | None
    exact: bool
    memory_limit: int | str | None
    cache: int | str
    digest: str | None
    require_signature: str | None
