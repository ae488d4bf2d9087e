"""Modules after the encoder, inside the graph: pooling, projections, layer norm, L2 normalization, decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import (
    Activation,
    Architecture,
    Decoder,
    Dense,
    LayerAverage,
    Normalize,
    Pooling,
    Routes,
    Saturation,
    TokenOutput,
    Truncate,
)
from ...checkpoint.tensors import Norm
from ...graph.activations import emit_activation
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm
from ...graph.torch_activations import TORCH_ACTIVATIONS, emit_torch_activation
from .blocks import emit_linear
from .pooling import Pool

__all__ = ["emit_decoder", "emit_layer_average", "emit_modules", "emit_token_output"]

#: torch.nn.functional.normalize's epsilon.
NORMALIZE_EPSILON = 1e-12


def emit_decoder(graph: GraphBuilder, decoder: Decoder, value: str, name: str) -> str:
    """Add x · tableᵀ + bias of packed token vectors."""
    # The table as it is stored: it is usually the word embeddings', and a transposed copy would double them.
    inputs = [value, graph.weight(decoder.table)]
    if decoder.bias is not None:
        inputs.append(graph.weight(decoder.bias))
    return graph.node("Gemm", inputs, name, transB=1)


def emit_modules(
    graph: GraphBuilder,
    architecture: Architecture,
    hidden: str,
    pool: Pool,
    decode: Callable[[GraphBuilder, Decoder, str, str], str] = emit_decoder,
    *,
    texts: int | str = "texts",
) -> str:
    """Add the modules after the encoder, from token vectors to the output.

    Args:
        graph: graph to add to.
        architecture: architecture with the modules.
        hidden: token vectors.
        pool: adds one vector per text.
        decode: adds the vocabulary's logits of token vectors, under a name.
        texts: axis that counts texts.
    """
    value, width = hidden, architecture.hidden_size
    for index, module in enumerate(architecture.modules):
        name = f"modules.{index}"
        if isinstance(module, Pooling):
            pooled = [pool(mode, value, width, f"{name}/{mode}") for mode in module.modes]
            value = pooled[0] if len(pooled) == 1 else graph.node("Concat", pooled, f"{name}/pooled", axis=1)
        elif isinstance(module, Dense | Norm | Normalize | Truncate):
            value, width = _emit_module(graph, module, value, name), _width(module, width)
        elif isinstance(module, Routes):
            value = _emit_routes(graph, module, value, texts, name)
        elif isinstance(module, Decoder):
            value = decode(graph, module, value, f"{name}/logits")
        elif isinstance(module, Activation):
            value = emit_activation(graph, module.name, value, f"{name}/activation")
        elif isinstance(module, Saturation):
            value = graph.node("Relu", [value], f"{name}/relu")
            for time in range(module.times):
                value = graph.node("Add", [value, graph.constant(1.0)], f"{name}/one_more.{time}")
                value = graph.node("Log", [value], f"{name}/log.{time}")
    return value


def _emit_module(graph: GraphBuilder, module: Dense | Norm | Normalize | Truncate, value: str, name: str) -> str:
    """Add a module from vectors to vectors."""
    if isinstance(module, Dense):
        return _emit_dense(graph, module, value, name)
    if isinstance(module, Norm):
        return emit_norm(graph, module, value, f"{name}/norm")
    if isinstance(module, Normalize):
        return _emit_normalize(graph, value, name)
    length = graph.constant([module.length])
    return graph.node("Slice", [value, graph.constant([0]), length, graph.constant([1])], f"{name}/truncated")


def _width(module: Dense | Norm | Normalize | Truncate, width: int) -> int:
    """Return the width of a module's vectors, from the width of those that it gets."""
    if isinstance(module, Dense):
        return module.linear.weight.shape[1]
    return min(module.length, width) if isinstance(module, Truncate) else width


def _emit_routes(graph: GraphBuilder, routes: Routes, value: str, texts: int | str, name: str) -> str:
    """Add the results of all routes, each times 1 for the texts of its route and 0 for others, and their sum.

    That is exact: finite numbers times 1 and 0, of which one is not 0.
    """
    numbers = graph.input(TensorInfo("text_tasks", "int32", (texts,)))
    numbers = graph.node("Cast", [numbers], f"{name}/numbers", to=1)
    numbers = graph.node("Unsqueeze", [numbers, graph.constant([1])], f"{name}/column")
    total = ""
    for number, modules in enumerate(routes.modules):
        route, result = f"{name}/route.{number}", value
        for index, module in enumerate(modules):
            result = _emit_module(graph, module, result, f"{route}/modules.{index}")
        own = graph.constant(float(number))
        # 1 - |number - own| where that is positive; CoreML has neither Abs nor Equal.
        sides = [
            graph.node("Sub", pair, f"{route}/{side}")
            for side, pair in (("above", [numbers, own]), ("below", [own, numbers]))
        ]
        distance = graph.node("Max", sides, f"{route}/distance")
        share = graph.node("Sub", [graph.constant(1.0), distance], f"{route}/share")
        share = graph.node("Relu", [share], f"{route}/is_own")
        result = graph.node("Mul", [result, share], f"{route}/kept")
        total = graph.node("Add", [total, result], f"{route}/sum") if total else result
    return total


def emit_layer_average(graph: GraphBuilder, architecture: Architecture, states: Sequence[str]) -> str:
    """Add the sum of hidden states that the first module asks for, and return it; else return the last states.

    Args:
        graph: graph to add to.
        architecture: architecture with the modules.
        states: the embeddings, and the result of each layer.
    """
    first = architecture.modules[0] if architecture.modules else None
    if not isinstance(first, LayerAverage):
        return states[-1]
    weighted = [
        graph.node("Mul", [state, graph.constant(weight)], f"modules.0/weighted.{index}")
        for index, (state, weight) in enumerate(zip(states, first.weights, strict=True))
        if weight
    ]
    total = weighted[0]
    for index, value in enumerate(weighted[1:]):
        total = graph.node("Add", [total, value], f"modules.0/total.{index}")
    return total


def emit_token_output(graph: GraphBuilder, output: TokenOutput, hidden: str, rows: tuple[int | str, ...]) -> None:
    """Add a further output, with a row for each token.

    Args:
        graph: graph to add to.
        output: the output.
        hidden: last hidden states.
        rows: axes of the tokens.
    """
    value = hidden
    for index, module in enumerate(output.modules):
        name = f"modules.{output.name}.{index}"
        value = (
            _emit_dense(graph, module, value, name)
            if isinstance(module, Dense)
            else _emit_normalize(graph, value, name)
        )
    graph.node("Identity", [value], output.name)
    graph.output(TensorInfo(output.name, "float32", (*rows, output.width)))


def _emit_dense(graph: GraphBuilder, module: Dense, value: str, name: str) -> str:
    result = emit_linear(graph, module.linear, value, f"{name}/dense")
    if module.activation in TORCH_ACTIVATIONS:
        result = emit_torch_activation(graph, module.activation, result, f"{name}/activation")
    else:
        result = emit_activation(graph, module.activation, result, f"{name}/activation")
    if not module.is_residual:
        return result
    if module.projection is not None:
        value = emit_linear(graph, module.projection, value, f"{name}/projection")
    return graph.node("Add", [result, value], f"{name}/residual")


def _emit_normalize(graph: GraphBuilder, value: str, name: str) -> str:
    # Not ReduceL2, which CoreML lacks.
    squares = graph.node("Mul", [value, value], f"{name}/squares")
    squared = graph.node("ReduceSum", [squares, graph.constant([-1])], f"{name}/squared_norm", keepdims=1)
    norm = graph.node("Sqrt", [squared], f"{name}/norm")
    # The operator LpNormalization divides by the norm alone: a zero vector would become NaN.
    norm = graph.node("Max", [norm, graph.constant(NORMALIZE_EPSILON)], f"{name}/norm_floor")
    return graph.node("Div", [value, norm], f"{name}/normalized")
