"""Work whose result or error a future gets, on whichever thread runs it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["settle"]

T = TypeVar("T")


def settle(future: Future[T], work: Callable[[], T]) -> None:
    """Run work, and give the future its result or its error.

    Args:
        future: a future that is running.
        work: the work; also an error that ends a thread is the future's.
    """
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 (the future has it)
        future.set_exception(error)
    else:
        future.set_result(result)
