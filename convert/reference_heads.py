"""The reference for rerankers, SPLADE and ColBERT: transformers' own classes in float32, one text at a time.

What comes after transformers' model is written here a second time, from sentence-transformers' documentation, and checked
against its `CrossEncoder`, `SparseEncoder` and `MultiVectorEncoder` in the tests. torch is imported when one is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard, Output
from fletcher.runtime.errors import CheckpointError, MissingPackageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeadReference", "Row"]

#: transformers' automatic classes.
CLASSES: Mapping[Output, str] = MappingProxyType(
    {
        "scores": "AutoModelForSequenceClassification",
        "sparse": "AutoModelForMaskedLM",
        "token_vectors": "AutoModel",
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """A text, or a pair of texts, as transformers' tokenizer gives it to the model.

    Attributes:
        ids: token ids.
        types: token types; None where the model is given none.
        attended: how many tokens are attended to; the others are ColBERT's expansion.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    attended: int


@dataclass(frozen=True, slots=True)
class HeadReference:
    """A checkpoint that torch runs.

    Attributes:
        card: its settings.
        tokenizer: transformers' fast tokenizer.
        model: transformers' model with its head, in evaluation mode.
        finish: what makes the result of one text out of the model's.
        tools: versions of what computes, by package.
    """

    card: ModelCard
    tokenizer: Any
    model: Any
    finish: Callable[[Tensor], Tensor]
    tools: dict[str, str]

    @classmethod
    def load(cls, folder: str | Path, card: ModelCard) -> HeadReference:
        """Loads a checkpoint folder; never runs code that came with it.

        Raises:
            MissingPackageError: torch or transformers is not installed.
            CheckpointError: transformers cannot load it, or would make up weights.
        """
        folder = Path(folder)
        try:
            import torch
            import transformers
        except ImportError as error:
            raise MissingPackageError(error.name or "torch", "verify", "comparing with the HuggingFace model") from None
        told: Any = transformers.utils.logging
        told.disable_progress_bar()
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            model, loading = getattr(transformers, CLASSES[card.output]).from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                output_loading_info=True,
                **local,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise CheckpointError(f"transformers {transformers.__version__} cannot load {folder}: {error}") from error
        made_up = sorted(loading["missing_keys"])
        if card.output == "token_vectors":
            made_up = [name for name in made_up if not name.startswith("pooler.")]
            _add_markers(folder, tokenizer, card)
        if made_up:
            raise CheckpointError(
                f"{folder} lacks weights that transformers {transformers.__version__} would initialise at random: "
                f"{', '.join(made_up[:5])}. It cannot be a reference"
            )
        tools = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
        return cls(card, tokenizer, model.eval(), _finisher(folder, card), tools)

    def count_tokens(self, text: str) -> int:
        """Length of a text, special tokens included, before truncation and without a prompt."""
        return len(self.tokenizer(text, truncation=False)["input_ids"])

    def tokenize(self, text: str, *, query: str | None = None, role: str = "document") -> Row:
        """A text with its prompt, or a pair.

        Args:
            text: the text.
            query: of a pair, the text before it.
            role: `query` or `document`.
        """
        late = self.card.late_interaction
        limit = self.card.max_tokens
        if late is not None:
            limit = late.query_tokens if role == "query" else late.document_tokens
        prompted = self.card.prompts.get(role, "") + text
        # Lists, as CrossEncoder gives them: of a lone pair, an empty second text counts as none.
        texts = ([prompted],) if query is None else ([query], [text])
        found = self.tokenizer(*texts, truncation="longest_first", max_length=limit, padding=False)
        ids = list(found["input_ids"][0])
        attended = len(ids)
        types = found["token_type_ids"][0] if "token_type_ids" in found else None
        if late is not None and late.expansion is not None and role == "query":
            mask = self.tokenizer.convert_tokens_to_ids(late.expansion.token)
            ids += [mask] * (late.expansion.length - len(ids))
            attended = len(ids) if late.expansion.attended else attended
            types = None
        return Row(tuple(ids), None if types is None else tuple(types), attended)

    def compute(self, row: Row) -> NDArray[np.float32]:
        """One text's scores (labels,), weights (vocabulary,) or token vectors (tokens, dimension), float32."""
        import torch

        ids = torch.tensor([row.ids])
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(len(row.ids)) < row.attended).long()[None]}
        if row.types is not None:
            inputs["token_type_ids"] = torch.tensor([row.types])
        with torch.no_grad():
            found = self.model(**inputs)
            state = found.last_hidden_state if self.card.output == "token_vectors" else found.logits
            result: NDArray[np.float32] = self.finish(state[0]).numpy().astype(np.float32)
        return result


def _finisher(folder: Path, card: ModelCard) -> Callable[[Tensor], Tensor]:
    import torch

    if card.output == "scores":
        return torch.sigmoid if card.activation == "sigmoid" else torch.nn.Identity()
    if card.output == "sparse":
        settings = _read(folder / "1_SpladePooling" / "config.json")
        twice = settings.get("activation_function", "relu") == "log1p_relu"

        def saturate(logits: Tensor) -> Tensor:
            weights = torch.log1p(torch.relu(logits))
            return (torch.log1p(weights) if twice else weights).amax(dim=0)

        return saturate
    projections = _projections(folder)

    def project(states: Tensor) -> Tensor:
        for weight, bias in projections:
            states = torch.nn.functional.linear(states, weight, bias)
        return torch.nn.functional.normalize(states, dim=-1) if card.normalize else states

    return project


def _projections(folder: Path) -> list[tuple[Tensor, Tensor | None]]:
    """Weights and biases of the token-level products, in order."""
    from safetensors.torch import load_file

    listing = folder / "modules.json"
    if not listing.is_file():
        return [(load_file(folder / "model.safetensors")["linear.weight"].float(), None)]
    found = []
    for entry in msgspec.json.decode(listing.read_bytes()):
        if str(entry["type"]).endswith(".Dense"):
            if not str(_read(folder / entry["path"] / "config.json").get("activation_function")).endswith("Identity"):
                raise CheckpointError(f"{folder / entry['path']} has an activation, which the reference does not know")
            tensors = load_file(folder / entry["path"] / "model.safetensors")
            bias = tensors.get("linear.bias")
            found.append((tensors["linear.weight"].float(), None if bias is None else bias.float()))
    return found


def _add_markers(folder: Path, tokenizer: Any, card: ModelCard) -> None:
    """Makes the markers of PyLate's and Stanford's checkpoints tokens that are not split, as they insert the tokens' ids."""
    from tokenizers import AddedToken

    listing = folder / "modules.json"
    if listing.is_file() and b"MultiVectorMask" in listing.read_bytes():
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


def _read(file: Path) -> dict[str, Any]:
    return dict(msgspec.json.decode(file.read_bytes())) if file.is_file() else {}
