"""`fletcher.quantize`: smaller and faster variants of an artifact, and the accuracy that they lose.

The package can be called: `fletcher.quantize(artifact, output)` is `quantize` of `quantized_artifact`.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .quantized_artifact import Quantized


class _CallablePackage(ModuleType):
    """`_CallablePackage`: module class of this package, which forwards a call to `quantized_artifact.quantize`.

    `from fletcher import quantize` names this package as well as the function, so the package does what the function does.
    See "Customizing module attribute access" in Python's data model. The function is imported by the first call, because
    it imports onnx.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Quantized:
        """Quantize an artifact; see `quantized_artifact.quantize`."""
        from .quantized_artifact import quantize

        return quantize(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of `quantized_artifact.quantize`, for `help` and `inspect.signature`."""
        from .quantized_artifact import quantize

        return inspect.signature(quantize)


sys.modules[__name__].__class__ = _CallablePackage
