"""Reader of products and tables that have adapters for several tasks beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...architecture import Embedding, TaskAdapters
from ...checkpoint.tensors import Adapter, Linear, TensorReader, Weight

__all__ = ["AdapterReader"]


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """Tensors NAME.weight with NAME.lora_A and NAME.lora_B, each of all tasks.

    Attributes:
        tensors: tensors of the checkpoint.
        tasks: number of tasks.
        rank: rank of each adapter.
        scale: factor of each adapter.
    """

    tensors: TensorReader
    tasks: int
    rank: int
    scale: float

    def linear(self, name: str, num_in: int, num_out: int) -> Linear:
        """Return a product with its adapter."""
        return self._adapted(self.tensors.linear(name, num_in, num_out), name, num_out, slice(None))

    def linears(self, name: str, num_in: int, parts: Mapping[str, int]) -> tuple[Linear, ...]:
        """Return products that are stored in one tensor; they share the first matrix of its adapter."""
        total, start, adapted = sum(parts.values()), 0, []
        for linear, size in zip(self.tensors.linears(name, num_in, parts), parts.values(), strict=True):
            adapted.append(self._adapted(linear, name, total, slice(start, start + size)))
            start += size
        return tuple(adapted)

    def embedding(self, embedding: Embedding, types: int) -> Embedding:
        """Return the embedding with the adapters of its tables.

        Args:
            embedding: the embedding, whose rows of types are those of the type 0.
            types: rows of the table of types.
        """
        rows, width = embedding.word.shape
        word = self._table("embeddings.word_embeddings", rows, width)
        kinds = self._table("embeddings.token_type_embeddings", types, width)
        first = Weight(f"{kinds.down.name}.0", (1, kinds.down.shape[1]), lambda: kinds.down.load()[:1])
        adapters = TaskAdapters(self.tasks, self.rank, word, Adapter(first, kinds.up))
        return replace(embedding, adapters=adapters)

    def _adapted(self, linear: Linear, name: str, total: int, rows: slice) -> Linear:
        """Add the adapter of `NAME.weight` to a product of some of its rows."""
        num_in, num_out = linear.weight.shape
        columns = self.tasks * self.rank
        first = self.tensors.take(f"{name}.lora_A", (self.tasks, self.rank, num_in))
        second = self.tensors.take(f"{name}.lora_B", (self.tasks, total, self.rank))

        def load_down() -> NDArray[np.float32]:
            return np.ascontiguousarray(first.load().reshape(columns, num_in).T)

        def load_up() -> NDArray[np.float32]:
            part = second.load()[:, rows].transpose(0, 2, 1).reshape(columns, num_out)
            return np.asarray(part * np.float32(self.scale), np.float32)

        stem = linear.weight.name.removesuffix(".weight")
        down = Weight(f"{name}.lora_A", (num_in, columns), load_down)
        return replace(linear, adapter=Adapter(down, Weight(f"{stem}.lora_B", (columns, num_out), load_up)))

    def _table(self, name: str, rows: int, width: int) -> Adapter:
        columns = self.tasks * self.rank
        first = self.tensors.take(f"{name}.lora_A", (self.tasks, rows, self.rank))
        second = self.tensors.take(f"{name}.lora_B", (self.tasks, self.rank, width))

        def load_down() -> NDArray[np.float32]:
            return np.ascontiguousarray(first.load().transpose(1, 0, 2).reshape(rows, columns))

        def load_up() -> NDArray[np.float32]:
            return np.asarray(second.load().reshape(columns, width) * np.float32(self.scale), np.float32)

        return Adapter(
            Weight(f"{name}.lora_A", (rows, columns), load_down), Weight(f"{name}.lora_B", (columns, width), load_up)
        )
