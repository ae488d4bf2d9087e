"""Points of transformers' model on one text, recorded by forward hooks: the reference's side of the comparison.

Query, key, mask and scale are recorded in calls of transformers' `eager_attention_forward`, which is wrapped during a trace,
and scores are computed from them in float32. MPNet, DeBERTa and ConvBERT do not call it: their scores are computed from their
query and key projections, and from the bias that their attention module gets or computes, if there is one.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .families import Tap
from .scores import OUT_OF_SIGHT
from .traced_model import TracedModel

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

__all__ = ["Tracer"]

#: The function that a model calls for its attention when it is loaded with `attn_implementation="eager"`.
ATTENTION_FUNCTION = "eager_attention_forward"

#: End of the names of transformers' classifiers.
CLASSIFIER = "ForSequenceClassification"


class Tracer:
    """Hooks on a reference model; a context manager that removes them."""

    def __init__(self, traced: TracedModel) -> None:
        """Prepare the hooks; entering the context adds them.

        Args:
            traced: the model.
        """
        self._traced = traced
        self._model = traced.model
        self._family = traced.family
        # Paths of the encoder's modules are relative to it, the others as they are.
        self._modules: dict[str, Any] = {
            path.removeprefix(traced.prefix): module for path, module in self._model.named_modules()
        }
        self._stack = contextlib.ExitStack()
        self._found: dict[str, Tensor] = {}
        self._layer = -1
        self._num_tokens = 0
        self._products = 1  # products that the scores are a sum of

    def run(self, row: Sequence[int], types: Sequence[int] | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every point of one text, by key; shapes as in `GraphProbe.run`. The order is that of computation.

        Args:
            row: token ids, special tokens included.
            types: their token types, if the model gets any.
        """
        import torch

        self._found, self._layer, self._num_tokens = {}, -1, len(row)
        ids = torch.tensor([list(row)], dtype=torch.long)
        seen = torch.arange(len(row)) < _num_seen(row, self._traced.unseen_tail)
        inputs = {"input_ids": ids, "attention_mask": seen.long()[None]}
        if types is not None:
            inputs["token_type_ids"] = torch.tensor([list(types)], dtype=torch.long)
        with torch.no_grad():
            output = self._model(**inputs)
            if not self._has_attention_function:
                for layer in range(self._layer + 1):
                    self._score_by_taps(f"layers.{layer}")
            self._drop_idle_activations()
            points = {key: self._found[key] for key in self._ordered_keys()}
            points.update(self._traced.finish(output))
        return {key: value.numpy().astype(np.float32) for key, value in points.items()}

    def _drop_idle_activations(self) -> None:
        """Drop activations that are the identity (`linear`), for which a graph has no node."""
        for layer in range(self._layer + 1):
            name = f"layers.{layer}/feed_forward"
            before = self._found.get(f"{name}/gate", self._found.get(f"{name}/up"))
            after = self._found.get(f"{name}/activation")
            if before is not None and after is not None and before.equal(after):
                del self._found[f"{name}/activation"]

    # Hooks ------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Tracer:
        with contextlib.ExitStack() as stack:
            for point, taps in self._family.embeddings.items():
                if self._exist(taps):
                    for tap in taps:
                        self._tap(stack, tap.path, tap, lambda point=point: f"embeddings/{point}")  # type: ignore[misc]
            layers = [path for path in self._modules if re.fullmatch(self._family.layer, path)]
            for path in layers:
                stack.callback(self._modules[path].register_forward_pre_hook(self._next_layer).remove)
                for point, tap in self._layer_taps():
                    full = f"{path}.{tap.path}" if tap.path else path
                    if tap.other and full not in self._modules:
                        full = f"{path}.{tap.other}"
                    needed = not tap.needs or f"{path}.{tap.needs}" in self._modules
                    if needed and full in self._modules and not self._is_identity(full):
                        self._tap(stack, full, tap, lambda point=point: f"layers.{self._layer}/{point}")  # type: ignore[misc]
                if self._family.bias_method is not None:
                    self._wrap_bias(stack, path, *self._family.bias_method)
            if self._family.final_norm is not None:
                self._tap(stack, self._family.final_norm, Tap("", "out"), lambda: "final_norm")
            for key, tap in self._traced.taps.items():
                path = tap.path.removeprefix(self._traced.prefix)
                self._tap(stack, path, tap, lambda key=key: key, of_tokens=False)  # type: ignore[misc]
            if self._has_attention_function:
                stack.enter_context(self._wrapped_attention())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _layer_taps(self) -> list[tuple[str, Tap]]:
        extra = {"attention/bias": self._family.bias, "attention/softmax": self._family.softmax}
        return [*self._family.points.items(), *((key, tap) for key, tap in extra.items() if tap is not None)]

    def _exist(self, taps: Sequence[Tap]) -> bool:
        paths = (path for tap in taps for path in (tap.path, tap.needs) if path)
        return all(path in self._modules for path in paths)

    def _is_identity(self, path: str) -> bool:
        return type(self._modules[path]).__name__ == "Identity"

    def _next_layer(self, *_: object) -> None:
        self._layer += 1

    def _tap(
        self, stack: contextlib.ExitStack, path: str, tap: Tap, key: Callable[[], str], *, of_tokens: bool = True
    ) -> None:
        """Record a module's input or output; a second tensor for the same point is added to the first.

        Args:
            stack: receives the removal of the hook.
            path: path of the module.
            tap: input or output.
            key: returns the point's key.
            of_tokens: whether the value has a row for each token.
        """

        def keep(value: Any) -> None:
            tensor: Tensor = value[0] if isinstance(value, tuple) else value
            # The only text, without the padding of models that add some. A copy: Longformer scales its query in place.
            tensor = tensor.chunk(tap.parts, dim=-1)[tap.part].select(tap.texts, 0).clone()
            if of_tokens and tensor.dim() == 2:
                tensor = tensor[: self._num_tokens]
            if tap.heads is not None:
                tensor = tensor.movedim(tap.heads, 1).flatten(1)  # (tokens, heads · size)
            if tap.first and key() in self._found:
                return
            self._found[key()] = self._found[key()] + tensor if key() in self._found else tensor

        handle: RemovableHandle
        if tap.side == "out":
            handle = self._modules[path].register_forward_hook(lambda module, given, output: keep(output))
        elif tap.side == "rows":
            handle = self._modules[path].register_forward_hook(lambda module, given, _: keep(module.weight[given[0]]))
        else:
            handle = self._modules[path].register_forward_pre_hook(lambda module, given: keep(given[tap.argument]))
        stack.callback(handle.remove)

    # Scores -----------------------------------------------------------------------------------------------------------

    @property
    def _has_attention_function(self) -> bool:
        return hasattr(sys.modules[type(self._model).__module__], ATTENTION_FUNCTION)

    @contextlib.contextmanager
    def _wrapped_attention(self) -> Iterator[None]:
        """Wrap the attention function of the model's own file: `get_interface` looks it up at each call."""
        file = sys.modules[type(self._model).__module__]
        original = getattr(file, ATTENTION_FUNCTION)

        def attend(
            module: Any,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            scaling: float | None = None,
            **rest: Any,
        ) -> tuple[Tensor, Tensor]:
            output, softmax = original(module, query, key, value, attention_mask, scaling=scaling, **rest)
            layer = f"layers.{self._layer}"
            if self._family.rotary:
                self._found[f"{layer}/attention/query/rotated"] = _side_by_side(query)
                self._found[f"{layer}/attention/key/rotated"] = _side_by_side(key)
            scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
            bias = None if attention_mask is None else attention_mask[0]
            if (learned := rest.get("position_bias")) is not None:  # T5's, which its function adds besides the mask
                bias = learned[0] if bias is None else learned[0] + bias
            # Fewer heads of keys: each one belongs to a group of query heads, side by side.
            keys = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0)
            self._score(layer, query[0], keys, scale, bias, softmax[0])
            return output, softmax

        setattr(file, ATTENTION_FUNCTION, attend)
        try:
            yield
        finally:
            setattr(file, ATTENTION_FUNCTION, original)

    def _wrap_bias(self, stack: contextlib.ExitStack, layer: str, path: str, name: str) -> None:
        """Record the results of a method that returns the bias of a layer's scores."""
        module = self._modules[f"{layer}.{path}"]
        original = getattr(module, name)

        def compute(*given: Any) -> Any:
            self._found[f"layers.{self._layer}/attention/bias"] = bias = original(*given)
            self._products = int(given[-1])
            return bias

        setattr(module, name, compute)
        stack.callback(delattr, module, name)  # the instance's attribute, before the class's

    def _score_by_taps(self, layer: str) -> None:
        softmax = self._found.pop(f"{layer}/attention/softmax", None)
        heads = self._model.config.num_attention_heads if softmax is None else len(softmax)
        query, key = (
            projected.reshape(len(projected), heads, -1).transpose(0, 1)
            for projected in (self._found[f"{layer}/attention/{name}"] for name in ("query", "key"))
        )
        bias = self._found.pop(f"{layer}/attention/bias", None)
        if softmax is None:
            softmax, bias = self._windowed(layer, query, key)
        # The tap took the first of a batch of one already: (heads, tokens, tokens).
        self._score(layer, query, key, 1 / math.sqrt(query.shape[-1] * self._products), bias, softmax)

    def _windowed(self, layer: str, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmax of scores in the layer's window, and the mask; the model computes them in another form."""
        import torch

        assert self._family.window is not None
        sizes = getattr(self._model.config, self._family.window)
        size = sizes if isinstance(sizes, int) else sizes[int(layer.rpartition(".")[2])]
        step = torch.arange(query.shape[1])
        outside = (step - step[:, None]).abs() > size // 2
        if type(self._model).__name__.endswith(CLASSIFIER):  # whose first token has global attention
            outside[:, 0] = False
        bias = torch.zeros(outside.shape).masked_fill(outside, torch.finfo(torch.float32).min)[None]
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        return (scores + bias).softmax(dim=-1), bias

    def _score(
        self, layer: str, query: Tensor, key: Tensor, scale: float, bias: Tensor | None, softmax: Tensor
    ) -> None:
        """Record scores of one text.

        Args:
            layer: prefix of the keys.
            query: (heads, tokens, head_size).
            key: same.
            scale: of the products.
            bias: mask and bias, (heads or 1, tokens, tokens).
            softmax: (heads, tokens, tokens).
        """
        raw = query @ key.transpose(1, 2)
        scaled = raw * scale
        biased = scaled if bias is None else scaled + bias
        seen = biased - scaled > -OUT_OF_SIGHT
        name = f"{layer}/attention"
        self._found[f"{name}/raw_scores"] = raw
        self._found[f"{name}/scaled_scores"] = scaled
        self._found[f"{name}/mask"] = seen.float()
        self._found[f"{name}/biased_scores"] = biased.masked_fill(~seen, 0.0)
        self._found[f"{name}/softmax"] = softmax
        self._found[f"{name}/softmax_sums"] = softmax.new_ones(softmax.shape[:-1])

    def _ordered_keys(self) -> list[str]:
        """Return the keys sorted by place: embeddings, layers, final norm; inside a layer in the order of recording."""
        layers = {f"layers.{layer}": layer for layer in range(self._layer + 1)}
        place = {"embeddings": -1, "final_norm": len(layers), **layers}

        def rank(key: str) -> int:
            return place.get(key.partition("/")[0], len(layers) + 1)

        return sorted(self._found, key=rank)


def _num_seen(row: Sequence[int], tail: int | None) -> int:
    """Return the number of tokens up to the last one that is not of the id `tail`; at least one."""
    return max((place for place, token in enumerate(row, 1) if token != tail), default=1)


def _side_by_side(heads: Tensor) -> Tensor:
    """Reshape (1, heads, tokens, size) to (tokens, heads · size)."""
    return heads[0].transpose(0, 1).flatten(1)
