"""Nodes of Fletcher's own operators (runtime/kernels), which take one pass over memory where others take several.

Qwen3-Embedding-0.6B's dimensions, bf16, 64 x 256 tokens, H200: of 44.3 ms, 22.5 were norms, rotations, SiLU and sums, and
ONNX Runtime's kernel that norms and rotates heads alone took 10.3. These operators read and write each element once:

* `SkipRmsNorm` adds the residual and norms the sum;
* `GatedActivation` computes activation(gate) · up. Gate and up stay two products: one of twice the width took 1.10 times as
  long;
* `HeadNormRotary` takes queries and keys from one product, and norms and rotates the heads. The value is a product of its
  own, which nothing has to copy. For `PackedMultiHeadAttention`, which has no grouped heads, it also takes the value where
  that has fewer heads than the query, and writes key and value once for each head of the query.

A part of a layer that an operator cannot compute stays in standard operators; `Kernels.gaps` says which, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fletcher.runtime.artifact.graph.operators import FLETCHER

from ...architecture import Architecture, Attention, FeedForward
from ...checkpoint.tensors import Linear
from ...graph.activations import TANH_GELUS
from ...graph.builder import GraphBuilder
from ...graph.norms import NORMS
from ...precision import Precision
from ..shared.blocks import emit_inner, emit_linear, side_by_side
from ..shared.positions import rotary_weights

__all__ = ["Kernels", "named_attentions", "refuse_heads"]

#: Elements in the 16 bytes that a thread reads at once.
VECTOR = 8

#: Elements of the widest row that `SkipRmsNorm` has a kernel for.
WIDEST = 16_384

#: Activations of gates: transformers' names to those of the operator.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("silu", "swish"), "silu"),
        **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
        **dict.fromkeys(sorted(TANH_GELUS), "gelu_tanh"),
    }
)

#: Reason of parts that compute in float32.
HALF = "values of some layers are more than float16 can hold"

#: Ends of the names of sums that an operator can compute with the norm that follows.
SUMS = ("/residual", "/residual_again")


class Kernels:
    """Emitter of the operators into one graph.

    Attributes:
        gaps: parts of the graph that have standard operators, and the reason, in words.
    """

    def __init__(self, precision: Precision) -> None:
        """Begin with no gap.

        Args:
            precision: types of the nodes; its islands are nodes whose values the graph's type cannot hold.
        """
        self._precision = precision
        self.gaps: list[str] = []

    def emit_inner(self, graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
        """Add a feed-forward part up to its down projection, as `emit_inner` does."""
        if part.gate is None or (reason := self._no_gate(part, name)) is not None:
            self._miss(f"feed-forward parts: {'they have no gate' if part.gate is None else reason}")
            return emit_inner(graph, part, hidden, name)
        gate = emit_linear(graph, part.gate, hidden, f"{name}/gate")
        up = emit_linear(graph, part.up, hidden, f"{name}/up")
        activation = ACTIVATIONS[part.activation]
        return graph.node("GatedActivation", [gate, up], f"{name}/gated", domain=FLETCHER, activation=activation)

    def emit_feed_forward(self, graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
        """Add a feed-forward part, as `emit_feed_forward` does."""
        return emit_linear(graph, part.down, self.emit_inner(graph, part, hidden, name), f"{name}/down")

    def find_heads(self, architecture: Architecture, *, causal: bool) -> frozenset[str]:
        """Return the names of the attentions whose heads `emit_heads` can add, and note the others.

        Args:
            architecture: encoder and modules.
            causal: whether the operator that reads the heads has a causal mask and no window.
        """
        found = set()
        for name, attention in named_attentions(architecture):
            reason = self._no_heads(attention, name)
            if causal and attention.mask != "causal":
                reason = "the operator of ONNX Runtime for windows has a kernel of its own for them"
            if reason is None:
                found.add(name)
            else:
                self._miss(f"heads of the attention: {reason}")
        return frozenset(found)

    def emit_heads(
        self,
        graph: GraphBuilder,
        attention: Attention,
        hidden: str,
        name: str,
        *,
        num_positions: int,
        repeats: int,
        positions: str = "",
    ) -> tuple[str, str, str]:
        """Add query, key and value; query and key are normed and rotated.

        Args:
            graph: graph to add to.
            attention: one of `find_heads`.
            hidden: hidden states, (texts, longest, hidden), or packed, (tokens, hidden).
            name: name of the attention.
            num_positions: tokens of the longest text.
            repeats: how many times key and value have each of their heads.
            positions: position of each packed token in its text, int32, (tokens,).

        Returns:
            The query, (…, heads · head_size), key and value, (…, key heads · repeats · head_size).
        """
        assert attention.rotary is not None
        linears: tuple[Linear, ...] = (attention.query, attention.key)
        outputs: tuple[str, ...] = (f"{name}/query/rotated", f"{name}/key/rotated")
        if repeats > 1:
            linears = (*linears, attention.value)
            outputs = (outputs[0], f"{name}/key/repeated", f"{name}/value/repeated")
        tables = rotary_weights(graph, attention.rotary, num_positions)
        joined = side_by_side(linears, f"{name}/packed")
        packed = emit_linear(graph, joined, hidden, f"{name}/packed")
        norms = (attention.query_norm, attention.key_norm)
        weights = ["" if norm is None else graph.weight(norm.weight) for norm in norms]
        inputs = [packed, *tables, *weights, positions]
        while not inputs[-1]:
            inputs.pop()
        query, key, *value = graph.nodes(
            "HeadNormRotary",
            inputs,
            f"{name}/heads",
            outputs,
            domain=FLETCHER,
            num_heads=attention.num_heads,
            kv_num_heads=attention.num_kv_heads,
            repeats=repeats,
            interleaved=int(attention.rotary.interleaved),
            epsilon=next((norm.epsilon for norm in norms if norm is not None), 0.0),
        )
        return query, key, value[0] if value else emit_linear(graph, attention.value, hidden, f"{name}/value")

    def join_sums(self, graph: GraphBuilder) -> None:
        """Join each sum of a residual with the RMS norm that reads it, and replace the other RMS norms of rows."""
        floats = graph.float_values
        sums = {node.output[0]: node for node in graph.written if node.op_type == "Add" and node.name.endswith(SUMS)}
        for norm in graph.written:
            if norm.op_type not in NORMS.values() or floats[norm.output[0]] == "fp32":
                continue
            width = graph.weights[norm.input[1]].shape[0]
            if norm.op_type != NORMS["rms_norm"]:
                self._miss("norms: an operator for LayerNorm does not exist")
            elif width % VECTOR or width > WIDEST:
                self._miss(f"norms: rows have {width} elements, not a multiple of {VECTOR} up to {WIDEST}")
            else:
                value, weight = norm.input
                epsilon = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
                replaced, inputs, outputs = [norm.name], [value, weight], [norm.output[0]]
                if (found := sums.pop(value, None)) is not None and floats[value] == floats[norm.output[0]]:
                    replaced, outputs = [found.name, norm.name], [norm.output[0], value]
                    inputs = [found.input[0], weight, found.input[1]]
                graph.replace(replaced, "SkipRmsNorm", inputs, outputs, domain=FLETCHER, epsilon=epsilon)

    def _miss(self, gap: str) -> None:
        if gap not in self.gaps:
            self.gaps.append(gap)

    def _no_heads(self, attention: Attention, name: str) -> str | None:
        """Return the reason why `HeadNormRotary` cannot compute the heads of an attention, or None."""
        if (reason := refuse_heads(attention)) is not None:
            return reason
        linears = (attention.query, attention.key, attention.value)
        if len({(linear.bias is None, linear.adapter is None) for linear in linears}) > 1:
            return "query, key and value are not alike"
        inside = tuple(f"{name}/{step}" for step in ("query", "key", "value"))
        if any(island.startswith(inside) for island in self._precision.islands):
            return HALF
        return self._no_half(name)

    def _no_gate(self, part: FeedForward, name: str) -> str | None:
        """Return the reason why `GatedActivation` cannot compute a gate, or None."""
        assert part.gate is not None
        if part.activation not in ACTIVATIONS:
            return f"the operator has no {part.activation}"
        if part.up.weight.shape[1] % VECTOR:
            return f"they have {part.up.weight.shape[1]} elements, not a multiple of {VECTOR}"
        if (
            (part.up.bias is None) != (part.gate.bias is None)
            or part.up.adapter is not None
            or part.gate.adapter is not None
        ):
            return "gate and up are not alike"
        inside = tuple(f"{name}/{step}" for step in ("up", "gate", "activation", "gated"))
        if any(
            island == step or island.startswith(f"{step}/") for island in self._precision.islands for step in inside
        ):
            return HALF
        return self._no_half(name)

    def _no_half(self, name: str) -> str | None:
        """Return the reason why a part of a layer computes in float32, or None."""
        return None if self._precision.only in name else "experts alone compute in half precision"


def refuse_heads(attention: Attention) -> str | None:
    """Return the reason why no operator norms and rotates the heads of an attention at once, or None if one does.

    The conditions are those of `HeadNormRotary` and of ONNX Runtime's `GroupQueryAttention`, which rotates heads of a
    multiple of 16 elements and holds at most 256.
    """
    rotary = attention.rotary
    norms = [norm for norm in (attention.query_norm, attention.key_norm) if norm is not None]
    if rotary is None:
        return "they are not rotated"
    if 2 * len(rotary.frequencies) != attention.head_size or attention.head_size % 16 or attention.head_size > 256:
        return "the rotation is not that of whole heads of a multiple of 16 elements, up to 256"
    if any(norm.kind != "rms_norm" or norm.weight.shape != (attention.head_size,) for norm in norms):
        return "their norms are not RMS norms of each head"
    if len({norm.epsilon for norm in norms}) > 1 or attention.value_norm is not None:
        return "their norms are not those of Qwen3"
    return None


def named_attentions(architecture: Architecture) -> Iterator[tuple[str, Attention]]:
    """Yield each attention and the prefix of its nodes' names, in the order of computation."""
    for layer in architecture.layers:
        for block in layer.blocks:
            if isinstance(block.core, Attention):
                yield f"{layer.name}/attention", block.core
