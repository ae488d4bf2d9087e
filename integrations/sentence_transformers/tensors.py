"""Tensors of torch, for scripts that ask for them. An artifact runs without torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import MissingPackageError

__all__ = ["tensor_or_array", "to_array", "to_tensor"]


def to_tensor(array: NDArray[Any], purpose: str) -> Any:
    """Return an array as a tensor that shares its memory.

    Raises:
        MissingPackageError: torch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise MissingPackageError("torch", "verify", purpose) from error
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def tensor_or_array(array: NDArray[Any]) -> Any:
    """Return an array as a tensor if torch is installed, or as it is."""
    return array if importlib.util.find_spec("torch") is None else to_tensor(array, "")


def to_array(values: Any) -> NDArray[Any]:
    """Return an array of an array, a tensor, or a list of them."""
    torch = sys.modules.get("torch")  # a caller with tensors has imported it
    if torch is not None and isinstance(values, torch.Tensor):
        half = values.dtype == torch.bfloat16  # NumPy has no such type
        return np.asarray((values.float() if half else values).detach().cpu().numpy())
    if isinstance(values, list | tuple) and values and not isinstance(values[0], int | float):
        return np.stack([to_array(value) for value in values])
    return np.asarray(values)
