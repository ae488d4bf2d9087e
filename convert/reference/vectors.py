"""Reference for vectors: the HuggingFace model in float32, as its authors published it, one text at a time.

Texts are computed one by one, so that padding cannot change a vector. torch is imported by a load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import INPUT_TYPES, RAW, ModelCard
from fletcher.runtime.errors import CheckpointError, InputError

from ..checkpoint.sentence_transformers import read_files
from .load import load_model, truncated_ids
from .modules import Module, build_modules

__all__ = ["Reference"]

#: Prefixes of weights that a checkpoint may lack: BERT's pooler, which no sentence vector uses.
UNUSED_WEIGHTS = ("pooler.",)


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference model with its modules, run by torch.

    Attributes:
        card: settings of the model.
        tokenizer: transformers' fast tokenizer.
        model: transformers' model, or `JinaBert`, in evaluation mode.
        modules: steps after the model.
        tools: versions of the packages that compute.
    """

    card: ModelCard
    tokenizer: Any
    model: Any
    modules: tuple[Module, ...]
    tools: dict[str, str]

    @classmethod
    def load(cls, folder: str | Path, card: ModelCard) -> Reference:
        """Load a checkpoint folder; never run code that comes with it.

        Args:
            folder: `config.json`, safetensors weights, the tokenizer, and sentence-transformers' modules if any.
            card: longest input, prompts, and pooling of a checkpoint without `modules.json`.

        Raises:
            MissingPackageError: torch or transformers is not installed.
            CheckpointError: transformers cannot load it, or would make up weights.
        """
        folder = Path(folder)
        loaded = load_model(folder, "AutoModel", unused=UNUSED_WEIGHTS)
        tokenizer = loaded.tokenizer
        if not tokenizer.is_fast:
            raise CheckpointError(f"{folder} has no fast tokenizer (tokenizer.json)")
        files = read_files(folder)
        if files.transformer is not None and files.transformer.do_lower_case:
            _lowercase_first(tokenizer)
        return cls(card, tokenizer, loaded.model, tuple(build_modules(files, card)), loaded.tools)

    def tokenize(self, texts: Sequence[str], input_type: str | None = None) -> list[list[int]]:
        """Return token ids with special tokens, of texts with their prompt, truncated to the longest input.

        Args:
            texts: texts without their prompt.
            input_type: input type, whose prompt is added. Default: document.

        Raises:
            InputError: the card does not have the input type.
        """
        prompt = self._prompt(input_type)
        return truncated_ids(self.tokenizer, [prompt + text for text in texts], self.card.max_tokens)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, special ones included, before truncation and without a prompt."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return len(backend.encode(text).ids)

    def embed(
        self, rows: Sequence[Sequence[int]], *, each: Callable[[int], None] = lambda tokens: None
    ) -> NDArray[np.float32]:
        """Compute the vectors of token ids.

        Args:
            rows: token ids of each text, special tokens included.
            each: called after each text with its number of tokens.

        Returns:
            float32, (n, dimension).

        Raises:
            InputError: a text has no token.
        """
        import torch

        vectors = []
        for index, row in enumerate(rows):
            if not len(row):
                raise InputError(
                    f"text {index} has no token, so the reference model cannot compute a vector: leave it out"
                )
            ids = torch.tensor([list(row)], dtype=torch.long)
            with torch.no_grad():
                state = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
                for module in self.modules:
                    state = module(state)
            vectors.append(state.numpy().astype(np.float32))
            each(len(row))
        return np.stack(vectors) if vectors else np.zeros((0, self.card.dimension), np.float32)

    def _prompt(self, input_type: str | None) -> str:
        name = "document" if input_type is None else input_type
        if name == RAW:
            return ""
        if name in self.card.prompts or name in INPUT_TYPES:
            return self.card.prompts.get(name, "")
        names = ", ".join(dict.fromkeys((*INPUT_TYPES, RAW, *self.card.prompts)))
        raise InputError(f"input type {name!r} is unknown to {self.card.name}: it has {names}")


def _lowercase_first(tokenizer: Any) -> None:
    """Put lowercasing before the tokenizer's own normalization, as sentence-transformers does."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer is not None else [])
    backend.normalizer = normalizers.Sequence(steps)
