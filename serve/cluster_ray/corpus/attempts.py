"""`Attempts`: actor that counts how often each part was begun, so that an engine knows that another may have died in it."""

from __future__ import annotations

__all__ = ["Attempts"]


class Attempts:
    """Parts that were begun. After a restart it has lost them, and answers that each was."""

    def __init__(self, *, restarted: bool = False) -> None:
        """Start without parts.

        Args:
            restarted: True if the actor's process died before.
        """
        self._lost = restarted or _was_restarted()
        self._begun: set[int] = set()

    def begin(self, number: int) -> bool:
        """Note that a part begins, and return whether it may have begun before."""
        before = self._lost or number in self._begun
        self._begun.add(number)
        return before


def _was_restarted() -> bool:
    try:
        import ray

        return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)
    except ModuleNotFoundError:
        return False
