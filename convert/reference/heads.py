"""Reference for rerankers, SPLADE and ColBERT: transformers' own classes in float32, one text at a time.

The steps after transformers' model are written here independently of the graphs, from sentence-transformers' documentation,
and checked against its `CrossEncoder`, `SparseEncoder` and `MultiVectorEncoder` in the tests. torch is imported by a load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard, Output
from fletcher.runtime.errors import CheckpointError

from ..checkpoint.sentence_transformers import find_config, read_modules
from .load import load_model, truncated_ids

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeadReference", "TokenizedText"]

#: transformers' automatic classes.
CLASSES: Mapping[Output, str] = MappingProxyType(
    {
        "scores": "AutoModelForSequenceClassification",
        "sparse": "AutoModelForMaskedLM",
        "token_vectors": "AutoModel",
    }
)


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Text, or pair of texts, as transformers' tokenizer encodes it for the model.

    Attributes:
        ids: token ids.
        types: token types; None if the model gets none.
        attended: number of tokens that are attended to; the others are ColBERT's expansion.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    attended: int


@dataclass(frozen=True, slots=True)
class HeadReference:
    """Reference model with a head, run by torch.

    Attributes:
        card: settings of the model.
        tokenizer: transformers' fast tokenizer.
        model: transformers' model with its head, in evaluation mode.
        steps: steps from the model's output to the result of one text, in order; for ColBERT, one step for each module.
        tools: versions of the packages that compute.
    """

    card: ModelCard
    tokenizer: Any
    model: Any
    steps: tuple[Callable[[Tensor], Tensor], ...]
    tools: dict[str, str]

    @classmethod
    def load(cls, folder: str | Path, card: ModelCard) -> HeadReference:
        """Load a checkpoint folder; never run code that comes with it.

        Raises:
            MissingPackageError: torch or transformers is not installed.
            CheckpointError: transformers cannot load it, or would make up weights.
        """
        folder = Path(folder)
        late = card.output == "token_vectors"
        loaded = load_model(folder, CLASSES[card.output], unused=("pooler.",) if late else ())
        if late:
            _add_markers(folder, loaded.tokenizer, card)
        return cls(card, loaded.tokenizer, loaded.model, tuple(_steps(folder, card)), loaded.tools)

    def finish(self, state: Tensor) -> Tensor:
        """Return one text's result from logits, (labels,) or (tokens, vocabulary), or states, (tokens, hidden)."""
        for step in self.steps:
            state = step(state)
        return state

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, special ones included, before truncation and without a prompt."""
        return len(self.tokenizer(text, truncation=False)["input_ids"])

    def tokenize_raw(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids of texts without a prompt, special tokens included, cut to the longest input of the model."""
        return truncated_ids(self.tokenizer, texts, self.card.max_tokens)

    def tokenize(self, text: str, *, query: str | None = None, role: str = "document") -> TokenizedText:
        """Tokenize a text with its prompt, or a pair.

        Args:
            text: the text.
            query: first text of a pair.
            role: `query` or `document`.
        """
        late = self.card.late_interaction
        limit = self.card.max_tokens
        if late is not None:
            limit = late.query_tokens if role == "query" else late.document_tokens
        prompted = self.card.prompts.get(role, "") + text
        # Lists, as in CrossEncoder: without them the tokenizer drops an empty second text.
        texts = ([prompted],) if query is None else ([query], [text])
        encoded = self.tokenizer(*texts, truncation="longest_first", max_length=limit, padding=False)
        ids = list(encoded["input_ids"][0])
        attended = len(ids)
        types = encoded["token_type_ids"][0] if "token_type_ids" in encoded else None
        if late is not None and late.expansion is not None and role == "query":
            mask = self.tokenizer.convert_tokens_to_ids(late.expansion.token)
            ids += [mask] * (late.expansion.length - len(ids))
            attended = len(ids) if late.expansion.attended else attended
            types = None
        return TokenizedText(tuple(ids), None if types is None else tuple(types), attended)

    def compute(self, row: TokenizedText) -> NDArray[np.float32]:
        """Compute one text's scores (labels,), weights (vocabulary,) or token vectors (tokens, dimension), float32."""
        import torch

        ids = torch.tensor([row.ids])
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(len(row.ids)) < row.attended).long()[None]}
        if row.types is not None:
            inputs["token_type_ids"] = torch.tensor([row.types])
        with torch.no_grad():
            output = self.model(**inputs)
            state = output.last_hidden_state if self.card.output == "token_vectors" else output.logits
            result: NDArray[np.float32] = self.finish(state[0]).numpy().astype(np.float32)
        return result


def _steps(folder: Path, card: ModelCard) -> list[Callable[[Tensor], Tensor]]:
    import torch

    if card.output == "scores":
        return [torch.sigmoid if card.activation == "sigmoid" else torch.nn.Identity()]
    if card.output == "sparse":
        poolings = [module for module in read_modules(folder) if module.kind == "SpladePooling"]
        twice = any(find_config(module).get("activation_function") == "log1p_relu" for module in poolings)

        def saturate(logits: Tensor) -> Tensor:
            weights = torch.log1p(torch.relu(logits))
            return (torch.log1p(weights) if twice else weights).amax(dim=0)

        return [saturate]
    steps: list[Callable[[Tensor], Tensor]] = [
        partial(torch.nn.functional.linear, weight=weight, bias=bias) for weight, bias in _projections(folder)
    ]
    return [*steps, partial(torch.nn.functional.normalize, dim=-1)] if card.normalize else steps


def _projections(folder: Path) -> list[tuple[Tensor, Tensor | None]]:
    """Return weights and biases of the token-level products, in order."""
    from safetensors.torch import load_file

    modules = read_modules(folder)
    if not modules:
        return [(load_file(folder / "model.safetensors")["linear.weight"].float(), None)]
    projections = []
    for module in modules:
        if module.kind == "Dense":
            if not str(find_config(module).get("activation_function")).endswith("Identity"):
                raise CheckpointError(f"{module.folder} has an activation, which the reference does not support")
            tensors = load_file(module.folder / "model.safetensors")
            bias = tensors.get("linear.bias")
            projections.append((tensors["linear.weight"].float(), None if bias is None else bias.float()))
    return projections


def _add_markers(folder: Path, tokenizer: Any, card: ModelCard) -> None:
    """Register the markers of PyLate's and Stanford's checkpoints as tokens that are not split."""
    from tokenizers import AddedToken

    if any(module.kind == "MultiVectorMask" for module in read_modules(folder)):
        return
    vocabulary = tokenizer.get_vocab()
    markers: Sequence[str] = [
        marker
        for prompt in card.prompts.values()
        for marker in [next((word for word in (prompt, prompt.split()[0]) if word in vocabulary), "")]
        if marker and tokenizer.tokenize(marker) != [marker]
    ]
    if markers:
        tokenizer.add_tokens(
            [AddedToken(marker, normalized=False, special=True) for marker in markers], special_tokens=True
        )
