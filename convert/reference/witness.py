"""`Witness`: sentence-transformers' own model of an untouched checkpoint folder, in float32 on the CPU, one text at a time.

It is independent of the graphs and of Fletcher's reading of the checkpoint's files. torch, transformers and
sentence-transformers are imported by `load_witness`. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import RAW, ModelCard
from fletcher.runtime.errors import InputError

from ..checkpoint.old_layout import encoder_folder
from ..checkpoint.routes.layout import route_encoder
from ..checkpoint.routes.router import Router
from ..checkpoint.sentence_transformers import read_modules
from .token_heads import FurtherAnswer, TokenMaps

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["STATIC", "TOKEN_FILTERS", "Answer", "Tokens", "Witness", "one_thread", "quiet"]

#: Modules that drop tokens of a ColBERT model after their vectors were computed.
TOKEN_FILTERS = ("MultiVectorMask",)


#: Module of sentence-transformers without a model of transformers: a table of word vectors.
STATIC = "StaticEmbedding"

#: Parameters below which one thread computes: MiniLM (23 million) took a sixth of the processor time of two threads.
SMALL = 60_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """Input of the model for one text or pair, as sentence-transformers made it.

    Attributes:
        features: tensors by name, each with one row.
    """

    features: Mapping[str, Any]

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the token ids, special and expansion tokens included."""
        ids = self.features["input_ids"]
        return tuple((ids[0] if ids.dim() == 2 else ids).tolist())  # StaticEmbedding has one row of all texts

    @property
    def types(self) -> tuple[int, ...] | None:
        """Return the token types, or None if the model gets none."""
        types = self.features.get("token_type_ids")
        return None if types is None else tuple(types[0].tolist())

    @property
    def attended(self) -> int:
        """Return the number of tokens that are attended to; the others are ColBERT's expansion."""
        return int(self.features["attention_mask"][0].sum())


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of the reference for one text or pair.

    Attributes:
        tokens: input of the model; None if the reference refuses the text before it.
        values: vector, scores or weights, (dimension,), or token vectors, (tokens, dimension); None if only the token ids
            were requested or the reference refuses the text.
        refused: reason why the reference refuses the text; empty if it does not.
        further: further outputs of the text, if the model has them and values were requested.
    """

    tokens: Tokens | None
    values: NDArray[np.float32] | None
    refused: str = ""
    further: FurtherAnswer | None = None


def input_modules(model: Any, route: str | None = None) -> list[Any]:
    """Return the modules of a model of sentence-transformers that get token ids, see `Witness.input_modules`."""
    if type(model[0]).__name__ != "Router":
        return [model[0]]
    routes = model[0].sub_modules
    names = [route] if route is not None else sorted(routes)  # document, query
    return list(dict.fromkeys(routes[name][0] for name in names))


def name_routes(router: Router | None, card: ModelCard) -> Mapping[str, str]:
    """Return the value of `task` for the input types for which `encode` needs one, see `Witness.routes`."""
    if router is None:
        return {}
    named = {name: route for name, route in router.input_types.items() if route not in ("query", "document")}
    return {**named, RAW: router.input_types[card.input_type]} if isinstance(card.input_type, str) else named


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of sentence-transformers and transformers, which are for their own users, in a block."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread in a block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _TokensOnly(Exception):  # noqa: N818  control flow: it ends a call of the model after the tokenizer
    pass


@dataclass(frozen=True, slots=True)
class Witness:
    """Reference model.

    Attributes:
        folder: the checkpoint.
        card: card of the artifact: the limit and prompts that a card of the zoo or an option of the export sets.
        model: `SentenceTransformer`, `CrossEncoder`, `SparseEncoder` or `MultiVectorEncoder`.
        method: the classes that compute, in words, for reports.
        tools: versions of the packages that compute.
        notes: settings that the artifact has and the checkpoint has not, which were applied to the reference.
        prompts: prompts of the zoo's card by input type; None calls the reference with the checkpoint's own.
        strips: whether blanks around a text are removed first, as sentence-transformers 5 does and 6 does not.
        maps: maps from a token's state to BGE-M3's further outputs; None for other models.
        select: loads the weights for an input type, for a model with adapters for tasks; None for other models.
        routes: value of `task` by input type, for a model with a Router: for the input types whose route `encode_query` and
            `encode_document` do not choose, and for `raw` texts of an artifact of one route.
    """

    folder: Path
    card: ModelCard
    model: Any
    method: str
    tools: Mapping[str, str]
    notes: tuple[str, ...] = ()
    prompts: Mapping[str, str] | None = None
    strips: bool = False
    maps: TokenMaps | None = None
    select: Callable[[str], None] | None = None
    routes: Mapping[str, str] = field(default_factory=dict)

    @property
    def encoder_folder(self) -> Path:
        """Return the folder of the configuration and of the tokenizer's files."""
        if type(self.input_modules[0]).__name__ == STATIC and (modules := read_modules(self.folder)):
            return modules[0].folder
        return route_encoder(self.folder, self.card.input_type) or encoder_folder(self.folder)

    @property
    def input_modules(self) -> list[Any]:
        """Return the modules that get token ids: the first one, or the first one of each of its routes, documents' first."""
        return input_modules(self.model, self.routes.get(RAW))

    @property
    def transformer(self) -> Any:
        """Return transformers' model, which the first module calls."""
        return self.input_modules[0].model

    @property
    def tokenizer(self) -> Any:
        """Return transformers' tokenizer; of static embeddings one around theirs, without special tokens around a text."""
        module = self.input_modules[0]
        return _wrapped(module.tokenizer.to_str()) if type(module).__name__ == STATIC else module.tokenizer

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Compute a small model with one thread in a block: on short texts several threads wait for one another."""
        is_small = sum(parameter.numel() for parameter in self.model.parameters()) < SMALL
        with one_thread() if is_small else contextlib.nullcontext():
            yield

    @property
    def own_prompts(self) -> dict[str, str]:
        """Return the checkpoint's prompts by their names; empty ones are left out."""
        return {name: prompt for name, prompt in self.model.prompts.items() if prompt}

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, special ones included, before truncation and without a prompt."""
        return len(self.tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"])

    def tokenize_raw(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return token ids of texts without a prompt, cut to the longest input of the model.

        Args:
            texts: the texts.
            special: whether the tokenizer adds special tokens.
        """
        options = {
            "truncation": True,
            "max_length": self.card.max_tokens,
            "padding": False,
            "add_special_tokens": special,
        }
        return [self.tokenizer(text, **options)["input_ids"] for text in texts]

    def tokenize(self, text: str, input_type: str = RAW, query: str | None = None) -> Tokens:
        """Return the model's input for a text with its prompt, or for a pair.

        Raises:
            InputError: the reference refuses the text.
        """
        answer = self.answer(text, input_type, query, ids_only=True)
        if answer.tokens is None:
            raise InputError(f"{self.method} refuses the text {text!r}: {answer.refused}")
        return answer.tokens

    def answer(self, text: str, input_type: str = RAW, query: str | None = None, *, ids_only: bool = False) -> Answer:
        """Call the reference as its users do.

        Args:
            text: the text, without a prompt.
            input_type: `query` calls `encode_query`, `document` calls `encode_document`, `raw` calls `encode` without a
                prompt, and another one names the prompt; without a prompt of that name, `encode` adds its default.
            query: first text of a pair, for a reranker.
            ids_only: whether to stop before the model computes.
        """
        if self.select is not None and not ids_only:
            self.select(input_type)
        seen: dict[str, Any] = {}

        def keep(module: Any, given: tuple[Any, ...]) -> None:
            seen.update({name: value for name, value in given[0].items() if hasattr(value, "shape")})
            if ids_only:
                raise _TokensOnly

        def keep_states(module: Any, given: Any, result: Mapping[str, Any]) -> None:
            states["last"] = result["token_embeddings"][0]

        states: dict[str, Any] = {}
        handles = [module.register_forward_pre_hook(keep) for module in self.input_modules]
        if self.maps is not None:
            handles.append(self.model[0].register_forward_hook(keep_states))
        try:
            with quiet():
                values = self._call(text, input_type, query)
        except _TokensOnly:
            values = None
        except Exception as error:  # noqa: BLE001  the reference's own code, on a text made to break it
            return Answer(None, None, _reason(error) if not _is_blank(seen) else "it has no token")
        finally:
            for handle in handles:
                handle.remove()
        if _is_blank(seen):
            return Answer(None, None, "it has no token")
        if values is not None and not np.isfinite(values).all():
            return Answer(Tokens(seen), None, "its result has NaN or infinity")
        tokens = Tokens(seen)
        further = None
        if self.maps is not None and values is not None:
            further = self.maps.compute(states["last"], tokens.ids)
        return Answer(tokens, values, further=further)

    def compute(self, tokens: Tokens) -> NDArray[np.float32]:
        """Run the modules on the model's input.

        Returns:
            Scores (labels,), a vector (dimension,), weights (vocabulary,), or a vector for each token (tokens, dimension),
            those of skipped tokens included.
        """
        import torch

        features = {name: value.clone() for name, value in tokens.features.items()}
        routed = {"task": self.routes.get(RAW)}
        if self.card.output == "token_vectors":
            features.setdefault("token_type_ids", torch.zeros_like(features["input_ids"]))
        with torch.inference_mode():
            for module in self.model:
                if type(module).__name__ not in TOKEN_FILTERS:
                    features = module(features, **routed) if type(module).__name__ == "Router" else module(features)
        return np.asarray(self._result(features)[0].numpy(), np.float32)

    def _result(self, features: Mapping[str, Any]) -> Tensor:
        """Return the output in the modules' features, with one row."""
        if self.card.output == "scores":
            return self.model.activation_fn(features["scores"])  # type: ignore[no-any-return]
        name = "token_embeddings" if self.card.output == "token_vectors" else "sentence_embedding"
        return features[name]  # type: ignore[no-any-return]

    def _call(self, text: str, input_type: str, query: str | None) -> NDArray[np.float32]:
        """Return the result of the reference's public method on one text."""
        options: dict[str, Any] = {"show_progress_bar": False}
        if self.tokenizer.pad_token is None:  # a text alone needs none
            options["processing_kwargs"] = {"text": {"padding": False}}
        if query is not None:
            return np.asarray(self.model.predict([(query, text)], **options), np.float32).reshape(-1)
        methods = {"query": self.model.encode_query, "document": self.model.encode_document}
        method = methods.get(input_type, self.model.encode)
        if (route := self.routes.get(input_type)) is not None:
            method, options["task"] = self.model.encode, route
        if self.strips:
            text, options["prompt"] = (self._prompt(input_type) + text).strip(), ""
        elif input_type == RAW:
            options["prompt"] = ""
        elif route is not None:
            options["prompt"] = self._prompt(input_type)
        elif self.prompts is not None and input_type not in self.own_prompts:
            options["prompt"] = self.prompts.get(input_type, "")
        elif input_type not in methods and input_type in self.model.prompts:
            options["prompt_name"] = input_type
        result = method([text], **options)[0]
        if hasattr(result, "is_sparse") and result.is_sparse:
            result = result.to_dense()
        return np.asarray(result, np.float32)

    def _prompt(self, input_type: str) -> str:
        """Return the prompt that the reference adds for an input type."""
        own = self.own_prompts
        if input_type == RAW:
            return ""
        if self.prompts is not None and input_type not in own:
            return self.prompts.get(input_type, "")
        if input_type in ("query", "document") or input_type in self.model.prompts:
            return own.get(input_type, "")
        return own.get(self.model.default_prompt_name or "", "")


@cache
def _wrapped(description: str) -> Any:
    """Return transformers' tokenizer around a description, without its special tokens and truncation."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = {**json.loads(description), "post_processor": None, "truncation": None, "padding": None}
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=Tokenizer.from_str(json.dumps(plain)))


def _is_blank(features: Mapping[str, Any]) -> bool:
    """Return whether the model was called without any token."""
    ids = features.get("input_ids")
    return ids is not None and ids.shape[-1] == 0


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
