"""`Closing`: objects are closed once when their `with` block ends, also after an error."""

from __future__ import annotations

import pytest

from fletcher.runtime.closing import Closing


class File(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_context_returns_the_object_and_closes_it_at_its_end() -> None:
    file = File()
    with file as entered:
        assert entered is file and file.closed == 0
    assert file.closed == 1


def test_an_error_closes_the_object_and_is_raised() -> None:
    file = File()
    with pytest.raises(ValueError, match="broken"), file:
        raise ValueError("broken")
    assert file.closed == 1


def test_a_class_without_close_cannot_be_made() -> None:
    class Open(Closing):
        pass

    with pytest.raises(TypeError, match="close"):
        Open()  # type: ignore[abstract]
