"""Adapters of several tasks in one graph: the columns of the task of each text, and the tables' rows with its adapter.

The host gives the number of the task: for packed tokens `task_ids`, (tokens,), and for a rectangle `text_tasks`, (texts,).
"""

from __future__ import annotations

import numpy as np

from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import Embedding, TaskAdapters
from ...checkpoint.tensors import constant
from ...graph.builder import GraphBuilder
from .blocks import TASK_COLUMNS, emit_adapter

__all__ = ["emit_adapted_rows", "emit_adapted_words"]


def emit_adapted_words(graph: GraphBuilder, embedding: Embedding, ids: str, numbers: TensorInfo) -> str:
    """Add the rows of the word table, with the adapters of each text's task if the model has such adapters.

    Args:
        graph: graph to add to.
        embedding: the tables.
        ids: token ids, (tokens,) or (texts, longest).
        numbers: input with the number of the task.
    """
    word = graph.node("Gather", [graph.weight(embedding.word), ids], "embeddings/word")
    if embedding.adapters is None:
        return word
    low = graph.node("Gather", [graph.weight(embedding.adapters.word.down), ids], "embeddings/word/adapter/low")
    return emit_adapted_rows(graph, embedding.adapters, (word, low), numbers)


def emit_adapted_rows(graph: GraphBuilder, adapters: TaskAdapters, rows: tuple[str, str], numbers: TensorInfo) -> str:
    """Add the columns of each text's task, and the tables' rows with the adapters of that task.

    Args:
        graph: graph to add to.
        adapters: adapters of the tables.
        rows: rows of the word table and of its adapter's first matrix.
        numbers: input with the number of the task: `task_ids`, (tokens,), or `text_tasks`, (texts,) of a rectangle.
    """
    _emit_columns(graph, adapters, numbers)
    word = emit_adapter(graph, adapters.word, rows[1], rows[0], "embeddings/word/adapted")
    first = graph.weight(adapters.token_type.down)
    return emit_adapter(graph, adapters.token_type, first, word, "embeddings/token_type/adapted")


def _emit_columns(graph: GraphBuilder, adapters: TaskAdapters, numbers: TensorInfo) -> None:
    """Add 1 in the columns of each text's task and 0 in the others, (tokens, columns) or (texts, 1, columns).

    It is 1 - |number - task of the column| where that is positive; CoreML has neither Abs nor Equal nor Gather.
    """
    tasks = np.repeat(np.arange(adapters.tasks, dtype=np.float32), adapters.rank)
    own = graph.weight(constant(f"tasks.{adapters.tasks}.{adapters.rank}", tasks))
    given = graph.node("Cast", [graph.input(numbers)], "tasks/numbers", to=1)
    axes = [1] if numbers.name == "task_ids" else [1, 2]
    given = graph.node("Unsqueeze", [given, graph.constant(axes)], "tasks/column")
    above = graph.node("Sub", [given, own], "tasks/above")
    below = graph.node("Sub", [own, given], "tasks/below")
    distance = graph.node("Max", [above, below], "tasks/distance")
    share = graph.node("Sub", [graph.constant(1.0), distance], "tasks/share")
    graph.node("Relu", [share], TASK_COLUMNS)
