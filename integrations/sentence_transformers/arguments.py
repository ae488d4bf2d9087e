"""Arguments of sentence-transformers' `SentenceTransformer(...)` and `encode(...)`: those that are taken, and the others.

The names, their order and their defaults are those of sentence-transformers 6.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypedDict

from fletcher.runtime.errors import OptionError

__all__ = [
    "ArgumentError",
    "EncodeArguments",
    "EncodeFields",
    "ModelArguments",
    "ModelFields",
    "Precision",
    "renamed_inputs",
]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


class ArgumentError(OptionError, ValueError):
    """An argument that is not taken, or that has a value that is not allowed; a `ValueError`, as in sentence-transformers."""


#: Reason for each argument that is not taken with another value than its default.
NOT_TAKEN: Mapping[str, str] = MappingProxyType(
    {
        "modules": "an artifact has all its modules in one graph",
        "trust_remote_code": "no code of a checkpoint is run",
        "token": "set the environment variable HF_TOKEN",
        "use_auth_token": "set the environment variable HF_TOKEN",
        "local_files_only": "set the environment variable HF_HUB_OFFLINE=1",
        "model_kwargs": "the model runs on an execution provider: set `provider` and `precision` of LoadOptions",
        "processor_kwargs": "the tokenizer is the artifact's",
        "config_kwargs": "the configuration is the artifact's",
        "model_card_data": "models are not saved",
        "pool": "the encoder computes on all processors by itself",
        "chunk_size": "it sizes the work of a process pool, and the encoder has none",
    }
)


def _refuse_others(arguments: Any) -> None:
    """Raise an error if an argument that is not taken differs from its default.

    Raises:
        ArgumentError: the message names the argument and the reason.
    """
    for field in fields(arguments):
        reason = NOT_TAKEN.get(field.name)
        if reason is not None and getattr(arguments, field.name) != field.default:
            raise ArgumentError(field.name, f"Fletcher's SentenceTransformer does not take `{field.name}`: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """Keyword arguments of `SentenceTransformer(...)`.

    Attributes:
        device: `cpu`, `cuda`, or None for the fastest provider that was measured.
        prompts: prompts by name, which replace those of the model.
        default_prompt_name: name of the prompt that `encode` adds if the caller names none. Default: the checkpoint's.
        cache_folder: folder of converted models. Default: Fletcher's cache.
        revision: branch, tag or commit of a hub id.
        backend: `torch` or `onnx` for any provider, `openvino` for OpenVINO.
        similarity_fn_name: `cosine`, `dot`, `euclidean` or `manhattan`. Default: the checkpoint's, or `cosine`.
        truncate_dim: elements of a vector that are kept. Default: all.

    `NOT_TAKEN` has the reasons for the others.
    """

    modules: Any = None
    device: str | None = None
    prompts: Mapping[str, str] | None = None
    default_prompt_name: str | None = None
    cache_folder: str | Path | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    local_files_only: bool = False
    token: Any = None
    use_auth_token: Any = None
    model_kwargs: Any = None
    processor_kwargs: Any = None
    config_kwargs: Any = None
    model_card_data: Any = None
    backend: str = "torch"
    similarity_fn_name: Any = None
    truncate_dim: int | None = None

    @classmethod
    def bind(cls, given: Mapping[str, Any]) -> Self:
        """Return the arguments of a call.

        Raises:
            ArgumentError: an argument is unknown or not taken.
        """
        unknown = [name for name in given if name not in cls.__dataclass_fields__]
        if unknown:
            raise ArgumentError(unknown[0], f"SentenceTransformer has no argument `{unknown[0]}`")
        arguments = cls(**given)
        _refuse_others(arguments)
        return arguments

    @property
    def provider(self) -> str:
        """Name of the execution provider for the device and the backend.

        Raises:
            ArgumentError: no provider stands for them.
        """
        if self.backend not in ("torch", "onnx", "openvino"):
            raise ArgumentError("backend", f"backend is {self.backend!r}: use torch, onnx or openvino")
        provider = {None: "auto", "cpu": "mlas", "cuda": "cuda"}.get(None if self.device is None else str(self.device))
        if provider is None:
            raise ArgumentError(
                "device",
                f"device is {str(self.device)!r}: use cpu or cuda, or leave it out. CUDA_VISIBLE_DEVICES chooses GPUs",
            )
        if self.backend != "openvino":
            return provider
        if provider == "cuda":
            raise ArgumentError("device", "device is 'cuda', and backend is openvino, which runs on processors")
        return "openvino"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeArguments:
    """Arguments of `encode`, `encode_query` and `encode_document` after `inputs`.

    Attributes:
        prompt_name: name of a prompt.
        prompt: text before each text; it has precedence over `prompt_name`.
        batch_size: a positive number. Batches are planned by tokens, so it does not change the result.
        show_progress_bar: whether progress is shown on standard error. None shows it if the level of the logger
            `fletcher.integrations` is INFO or DEBUG.
        output_value: `sentence_embedding`, or `token_embeddings` for the last hidden state of each token.
        precision: type of the elements; None is `float32`.
        convert_to_numpy: whether the result is an array; otherwise it is a list of tensors.
        convert_to_tensor: whether the result is one tensor.
        device: None, or the device that the model runs on.
        normalize_embeddings: whether vectors are scaled to length 1, after they were cut.
        truncate_dim: elements of a vector that are kept. Default: those of the model.

    `NOT_TAKEN` has the reasons for the others.
    """

    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int = 32
    show_progress_bar: bool | None = None
    output_value: str | None = "sentence_embedding"
    precision: Precision | None = "float32"
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    device: Any = None
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    pool: Any = None
    chunk_size: int | None = None

    @classmethod
    def bind(cls, positional: Sequence[Any], named: Mapping[str, Any]) -> Self:
        """Return the arguments of a call, which may have them by position too.

        Raises:
            ArgumentError: an argument is unknown or not taken, or has a value that is not allowed.
            TypeError: there are too many arguments, or one is given twice.
        """
        names = list(cls.__dataclass_fields__)
        if len(positional) > len(names):
            raise TypeError(f"encode takes at most {len(names) + 1} arguments, {len(positional) + 1} were given")
        given = dict(zip(names, positional, strict=False))
        if twice := [name for name in named if name in given]:
            raise TypeError(f"encode got the argument {twice[0]!r} by position and by name")
        if unknown := [name for name in named if name not in names]:
            raise ArgumentError(
                unknown[0],
                f"Fletcher's SentenceTransformer.encode does not take `{unknown[0]}`; it takes {', '.join(names)}",
            )
        arguments = cls(**(given | dict(named)))
        _refuse_others(arguments)
        arguments._check()
        return arguments

    def _check(self) -> None:
        if self.batch_size <= 0:
            raise ArgumentError("batch_size", f"batch_size must be a positive integer, got {self.batch_size}")
        if self.output_value not in ("sentence_embedding", "token_embeddings"):
            raise ArgumentError(
                "output_value",
                f"Fletcher's SentenceTransformer does not take `output_value`={self.output_value!r}: use "
                "sentence_embedding or token_embeddings",
            )
        if self.precision not in (None, "float32", "int8", "uint8", "binary", "ubinary"):
            raise ArgumentError(
                "precision", f"precision is {self.precision!r}: use float32, int8, uint8, binary or ubinary"
            )

    @property
    def as_array(self) -> bool:
        """True if the result is an array."""
        return self.convert_to_numpy and not self.convert_to_tensor and self.output_value == "sentence_embedding"


def renamed_inputs(inputs: Any, named: dict[str, Any], missing: object) -> Any:
    """Return the inputs of a call, which older scripts name `sentences`, and remove that name.

    Raises:
        TypeError: there are no inputs, or both names are given.
    """
    if "sentences" not in named:
        if inputs is missing:
            raise TypeError("encode needs `inputs`: a text or a list of texts")
        return inputs
    if inputs is not missing:
        raise TypeError("encode got `sentences` and `inputs`: they are the same argument")
    warnings.warn("`sentences` is the former name of `inputs`", FutureWarning, stacklevel=3)
    return named.pop("sentences")


class ModelFields(TypedDict, total=False):
    """Fields of `ModelArguments` that are taken, as keyword arguments, for type checkers."""

    device: str | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    cache_folder: str | Path | None
    revision: str | None
    backend: Literal["torch", "onnx", "openvino"]
    similarity_fn_name: Any
    truncate_dim: int | None


class EncodeFields(TypedDict, total=False):
    """Fields of `EncodeArguments` that are taken, as keyword arguments, for type checkers."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int
    show_progress_bar: bool | None
    output_value: Literal["sentence_embedding", "token_embeddings"]
    precision: Precision | None
    convert_to_numpy: bool
    convert_to_tensor: bool
    device: Any
    normalize_embeddings: bool
    truncate_dim: int | None
    sentences: Any
