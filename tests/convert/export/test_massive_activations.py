"""fp16 of language models in which one channel has values of 100,000, as a few channels of trained ones have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors import safe_open

from fletcher.convert.export.export import export
from fletcher.convert.export.precision_islands import find_islands, record_maxima
from fletcher.runtime import Artifact
from fletcher.runtime.encodings import Encodings

from ..families.decoders.models import make_tiny
from ..targets.models import MODELS
from ..targets.sessions import TargetSession, architecture_of, models_of
from ..targets.support.contrib_operators import spell_out
from ..targets.support.rounding import RoundingGraph
from ..targets.tiny import Tiny
from ..verify.parity import make_card

CHANNEL = 7
MASSIVE = 1e5
LENGTHS = (9, 4, 1, 17)
#: Parts of attention whose values are ordinary.
CALM = ("query", "raw_scores", "masked_scores", "context")


def make_loud(name: str) -> Tiny:
    """Return a tiny model whose first layer adds about `MASSIVE` to one channel, which the norms after it make small."""
    tiny = make_tiny(name)
    layers = tiny.model.layers
    added = float(name.startswith("gemma"))  # the factor of Gemma's norms is 1 + weight
    before = ["input_layernorm", "pre_feedforward_layernorm" if added else "post_attention_layernorm"]
    norms = [getattr(layer, part) for layer in layers[1:] for part in before]
    with torch.no_grad():
        _scale([*norms, tiny.model.norm], 1e4, 1e-4, added)
        # The channel is the same in every token's embedding, so that what the first layer makes of it is nearly the same.
        tiny.model.embed_tokens.weight[:, CHANNEL] = 300.0 / (tiny.hidden**0.5 if added else 1.0)
        _scale([layers[0].input_layernorm], 40.0, 0.01, added)
        _scale([getattr(layers[0], before[1])], 4.0, 3.0, added)
        seen: list[torch.Tensor] = []
        handle = layers[0].mlp.register_forward_hook(lambda _, inputs, output: seen.append(output))
        tiny.model(torch.tensor(_rows(tiny)[0])[None])
        handle.remove()
        # Gemma has a norm after it: where one channel is much larger than the others, it is about the root of their number.
        result = 500.0 if added else MASSIVE
        layers[0].mlp.down_proj.weight[CHANNEL] *= result / seen[0][..., CHANNEL].abs().mean()
        if added:
            layers[0].post_feedforward_layernorm.weight[CHANNEL] = MASSIVE / tiny.hidden**0.5
    return tiny


def _scale(norms: Sequence[Any], others: float, channel: float, added: float) -> None:
    """Multiply the factors of norms, that of `CHANNEL` by another number than the others."""
    for norm in norms:
        factor = (norm.weight + added) * others
        factor[CHANNEL] *= channel / others
        norm.weight.copy_(factor - added)


@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
@pytest.mark.parametrize("name", ["qwen3", "gemma3_both"])
def test_islands_hold_what_fp16_cannot(tmp_path: Path, name: str, target: str) -> None:
    tiny = make_loud(name)
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    architecture = architecture_of(tmp_path, card)
    rows = _rows(tiny)
    texts = Encodings.from_lists(rows)
    (emission,), (graph,) = models_of(architecture, card, tmp_path, "tensorrt", "fp32")
    maxima = record_maxima(emission, graph, texts)
    found = find_islands(graph, maxima, "fp16")
    assert {f"layers.{index}/feed_forward/residual" for index in (0, 1, 2)} <= found
    assert not any("/attention/" in name and name.partition("/attention/")[2] in CALM for name in found)
    assert not find_islands(graph, maxima, "bf16")
    with torch.no_grad():
        states = [tiny.model(torch.tensor([row])).last_hidden_state[0] for row in rows]
    theirs = np.stack([state.mean(0).double().numpy() for state in states])
    worst = {}
    for islands in (frozenset[str](), found):
        emissions, models = models_of(architecture, card, tmp_path, target, "fp16", islands)
        with safe_open(tmp_path / f"{target}.fp16.safetensors", framework="numpy") as file:
            tables = {name: file.get_tensor(name) for part in emissions for name in part.feeds.tables.values()}
        graphs = [RoundingGraph(spell_out(part), tmp_path) for part in models]
        session = TargetSession(emissions, graphs, tables)
        with np.errstate(invalid="ignore", over="ignore"):
            ours = session.run(texts).astype(np.float64)
            cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        worst[bool(islands)] = float(np.min(cosines))
    assert not worst[False] >= 0.9999  # NaN fails this comparison
    assert worst[True] >= 0.9999


@pytest.mark.parametrize("name", ["embedding_gemma2", "gemma3_both", "modernbert", "qwen3", "qwen3_window"])
def test_masks_are_no_overflow(tmp_path: Path, name: str) -> None:
    tiny = MODELS[name]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    (emission,), (graph,) = models_of(architecture_of(tmp_path, card), card, tmp_path, "tensorrt", "fp32")
    maxima = record_maxima(emission, graph, Encodings.from_lists(_rows(tiny)))
    assert not find_islands(graph, maxima, "fp16")
    assert not find_islands(graph, maxima, "bf16")


def _rows(tiny: Tiny) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, tiny.vocabulary, length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("name", ["gemma3_both", "embedding_gemma2"])
def test_the_manifest_lists_gates_that_are_fp32_on_cuda(tmp_path: Path, name: str) -> None:
    """Gates with a GELU by tanh are fp32, whatever their values; the graph shows which nodes they are."""
    checkpoint = MODELS[name]().save(tmp_path / "checkpoint")
    export(
        str(checkpoint), tmp_path / "artifact", targets=("cuda",), precisions=("fp16",), pooling="mean", max_tokens=20
    )
    (variant,) = Artifact.open(tmp_path / "artifact").manifest.variants
    nodes = onnx.load(tmp_path / "artifact" / variant.file, load_external_data=False).graph.node
    casts = {node.output[0] for node in nodes if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT}
    gates = {node.name for node in nodes if node.op_type == "Gelu"}
    assert len(gates) >= 3
    assert gates <= set(variant.islands)
    assert {node.input[0] for node in nodes if node.op_type == "Gelu"} <= casts
