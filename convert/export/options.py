"""Options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from fletcher.model_zoo import HEADS, Head
from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.errors import InputError

from ..checkpoint.tokenizer_version import TokenizerLike

__all__ = ["ExportFields", "ExportOptions", "Exporter"]

Exporter = Literal["fletcher", "optimum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of `export`.

    Attributes:
        targets: targets to write graphs for: `cpu`, `cuda`, `tensorrt`, `coreml`.
        precisions: precisions of weights and arithmetic: `fp32`, `fp16`, `bf16`; every target is written in each of them.
        pooling: pooling mode, for a checkpoint that does not name one. Default: the checkpoint's.
        max_tokens: longest input, special tokens included, at most the model's own limit. Default: that limit.
        head: kind of the model, for a checkpoint that does not name it: `embedding`, `classification`, `splade`, `colbert`.
            Default: the checkpoint's.
        tokenizer_like: major version of transformers, `4` or `5`, whose token ids the artifact gives where the two differ; it
            also stands for sentence-transformers 5 and 6, which strip texts and do not. Default: the version that the
            checkpoint's files name, 4 if they name none.
        exporter: `fletcher` writes the graph from the checkpoint's configuration; `optimum` traces the encoder with torch,
            for families that Fletcher does not author.
        verify: whether to compare the artifact with sentence-transformers, by the extra `verify`. An artifact that
            differs is not written.
        dimensions: shorter lengths that the vectors were trained for (Matryoshka), which requests may then ask for. Default:
            those that the checkpoint lists.
        task: task whose adapter is merged, for a checkpoint with adapters for several tasks, or route that is taken, for one
            with a Router. Default: an artifact of all of them, whose texts choose one by their input type.
        ignored_keys: keys and files of the checkpoint that are not known to Fletcher and that the user declares harmless.
        kernels: whether the graphs for `cuda` have Fletcher's own operators, in fp16 or bf16. A machine that loads them
            needs their library, which `fletcher-serve kernels build` makes.
        name: name of the model on its card, for a checkpoint that is none of the zoo's. Default: that of its source.

    Raises:
        InputError: a pooling mode, a head, an exporter, a version or a length that does not exist.
    """

    targets: Sequence[str] = ("cpu",)
    precisions: Sequence[str] = ("fp32",)
    pooling: PoolingMode | None = None
    max_tokens: int | None = None
    head: Head | None = None
    exporter: Exporter = "fletcher"
    verify: bool = False
    dimensions: Sequence[int] = ()
    ignored_keys: Sequence[str] = ()
    tokenizer_like: TokenizerLike | None = None
    task: str | None = None
    kernels: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, object, Sequence[str]], ...] = (
            ("pooling", self.pooling, get_args(PoolingMode)),
            ("head", self.head, HEADS),
            ("exporter", self.exporter, get_args(Exporter)),
            ("tokenizer-like", self.tokenizer_like, get_args(TokenizerLike)),
        )
        for name, value, known in choices:
            if value is not None and value not in known:
                raise InputError(f"--{name} {value} is unknown: choose from {', '.join(known)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"--max-tokens {self.max_tokens}: must be at least 1")
        if wrong := [length for length in self.dimensions if length < 1]:
            raise InputError(f"--dimensions {wrong[0]}: must be at least 1")


class ExportFields(TypedDict, total=False):
    """Fields of `ExportOptions`, as keyword arguments of `export`."""

    targets: Sequence[str]
    precisions: Sequence[str]
    pooling: PoolingMode | None
    max_tokens: int | None
    head: Head | None
    exporter: Exporter
    verify: bool
    dimensions: Sequence[int]
    ignored_keys: Sequence[str]
    tokenizer_like: TokenizerLike | None
    task: str | None
    kernels: bool
    name: str | None
