"""Nodes of Fletcher's own operators (runtime/kernels), which take one pass over memory where others take several.

Qwen3-Embedding-0.6B's dimensions, bf16, 64 x 256 tokens, H200: of 44.3 ms, 22.5 were norms, rotations, SiLU and sums, and
ONNX Runtime's kernel that norms and rotates heads alone took 10.3. These operators read and write each element once:

* `SkipRmsNorm` adds the residual and norms the sum;
* `GatedActivation` computes activation(gate) · up. Gate and up stay two products: one of twice the width took 1.10 times as
  long;
* `HeadNormRotary` takes queries and keys from one product, and norms and rotates the heads. The value is a product of its
  own, which nothing has to copy. `Attention` reads all three as they are; `GroupQueryAttention` would copy them again.

A part of a layer that an operator cannot compute stays in standard operators; `Kernels.gaps` says which, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from fletcher.runtime.artifact.graph.operators import FLETCHER

from ...architecture import Attention, FeedForward
from ...graph.activations import TANH_GELUS
from ...graph.builder import GraphBuilder
from ...graph.norms import NORMS
from ..shared.blocks import emit_inner, emit_linear, side_by_side

__all__ = ["Kernels"]

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

#: Ends of the names of sums that an operator can compute with the norm that follows.
SUMS = ("/residual", "/residual_again")


class Kernels:
    """Emitter of the operators into one graph.

    Attributes:
        gaps: parts of the graph that have standard operators, and the reason, in words.
    """

    def __init__(self, islands: Collection[str]) -> None:
        """Begin with no gap.

        Args:
            islands: names of nodes whose values the graph's type cannot hold.
        """
        self._islands = islands
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

    def emit_heads(
        self, graph: GraphBuilder, attention: Attention, hidden: str, tables: tuple[str, str], name: str
    ) -> tuple[str, ...]:
        """Add query, key and value of texts in a rectangle; query and key are normed and rotated.

        Args:
            graph: graph to add to.
            attention: attention with a rotation of whole heads, and with norms of heads or none.
            hidden: hidden states, (texts, longest, hidden).
            tables: cosines and sines, (positions, pairs).
            name: name of the attention.

        Returns:
            The query, (texts, longest, heads · head_size), and key and value, (texts, longest, key heads · head_size).
        """
        assert attention.rotary is not None
        joined = side_by_side((attention.query, attention.key), f"{name}/query_key")
        packed = emit_linear(graph, joined, hidden, f"{name}/query_key")
        norms = (attention.query_norm, attention.key_norm)
        weights = ["" if norm is None else graph.weight(norm.weight) for norm in norms]
        query, key = graph.nodes(
            "HeadNormRotary",
            [packed, *tables, *weights] if any(weights) else [packed, *tables],
            f"{name}/heads",
            (f"{name}/query/rotated", f"{name}/key/rotated"),
            domain=FLETCHER,
            num_heads=attention.num_heads,
            kv_num_heads=attention.num_kv_heads,
            interleaved=int(attention.rotary.interleaved),
            epsilon=next((norm.epsilon for norm in norms if norm is not None), 0.0),
        )
        return query, key, emit_linear(graph, attention.value, hidden, f"{name}/value")

    def miss_attention(self, reason: str) -> None:
        """Note an attention whose heads have no operator."""
        self._miss(f"heads of the attention: {reason}")

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
                replaced, inputs, outputs = (norm.name,), [value, weight], [norm.output[0]]
                if (found := sums.pop(value, None)) is not None and floats[value] == floats[norm.output[0]]:
                    replaced, outputs = (found.name, norm.name), [norm.output[0], value]
                    inputs = [found.input[0], weight, found.input[1]]
                graph.replace(replaced, "SkipRmsNorm", inputs, outputs, domain=FLETCHER, epsilon=epsilon)

    def _miss(self, gap: str) -> None:
        if gap not in self.gaps:
            self.gaps.append(gap)

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
        if any(island == step or island.startswith(f"{step}/") for island in self._islands for step in inside):
            return "values of some layers are more than float16 can hold"
        return None
