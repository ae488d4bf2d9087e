"""`plain_layout`: any checkpoint in the layout of a sentence-transformers model with one list of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fletcher.model_zoo import Checkout, Progress, fetch

from ..checkpoint.adapters import with_base
from ..checkpoint.old_layout import usual_layout
from ..checkpoint.routes.layout import routed_layout
from ..checkpoint.static_layout import static_layout
from ..checkpoint.task_adapters import task_layout

__all__ = ["Layout", "plain_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """`Layout`: folders of a checkpoint while it is read.

    Attributes:
        folder: the files in the plain layout; the checkpoint's own folder if it has that layout.
        routed: the checkpoint's own folder, or another one if a route of a Router was taken.
        base: base model of an adapter, or None.
    """

    folder: Path
    routed: Path
    base: Checkout | None


@contextmanager
def plain_layout(checkout: Checkout, task: str | None, progress: Progress) -> Iterator[Layout]:
    """Give a checkpoint the plain layout, by temporary folders.

    Args:
        checkout: the checkpoint.
        task: task of a Router or of adapters; None for all.
        progress: receives the bytes of a download of a base model.

    Raises:
        InputError: there is no such task.
        CheckpointError: the checkpoint has no such layout.
    """
    with ExitStack() as stack:
        routed = stack.enter_context(routed_layout(checkout.folder, task))
        usual = stack.enter_context(static_layout(stack.enter_context(usual_layout(routed))))
        usual = stack.enter_context(task_layout(usual, task if routed == checkout.folder else None))
        folder, base = stack.enter_context(with_base(usual, partial(fetch, progress=progress)))
        yield Layout(folder, routed, base)
