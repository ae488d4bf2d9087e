"""`settled_vectors`: a graph beside the trained layers, which take the graph's code where a value lies between two codes.

Torch and ONNX Runtime add float32 numbers in other orders. The last bit decides the code of such a value, and both codes are
right. With the same codes the rest of the computation must give the same vectors. The module is imported by a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from fletcher.quantize.graph.editor import GraphEditor
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.providers.mlas.graph import CpuGraph

from .modules import QuantizedLinear
from .product import GraphCodes

__all__ = ["Settled", "settled_vectors"]


@dataclass(frozen=True, slots=True)
class Settled:
    """`Settled`: vectors of a graph and of the trained layers, with one code for each value.

    Attributes:
        graph: vectors of the graph, float32, (texts, dimension).
        layers: vectors of the layers, float32, (texts, dimension).
        codes: number of codes of activations.
        ties: number of them that the layers took from the graph.
        others: number of them that differ although the value does not lie between both codes.
    """

    graph: NDArray[np.float32]
    layers: NDArray[np.float32]
    codes: int
    ties: int
    others: int


def settled_vectors(model: Any, artifact: Artifact, texts: Sequence[str]) -> Settled:
    """Compute texts, one at a time, with the first graph of an artifact and with the layers that imitate it.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced.
        artifact: the artifact that `quantize` wrote from it.
        texts: the texts, without prompts.
    """
    variant = artifact.manifest.variants[0]
    editor = GraphEditor(artifact, variant)
    # The names that `quantize.graph.products` gives to the readers of codes: the product itself, or the node before it.
    ends = {"MatMulIntegerToFloat": "/integers", "DequantizeLinear": "/dq"}
    names = {
        node.name.removesuffix(ends[node.op_type]): node.input[0]
        for node in editor.nodes
        if node.op_type in ends and node.name.endswith(ends[node.op_type])
    }
    pooled = -1 if any(node.name.endswith("/lasttoken") for node in editor.nodes) else 0
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    wanted = sorted({names[layer.product] for layer in layers})
    runner = CpuGraph(editor.expose(wanted, TensorProto.UINT8), artifact.path)
    inputs, output = [info.name for info in variant.inputs], variant.outputs[0].name
    encodings = open_tokenizer(artifact).encode(list(texts))
    found, expected = [], []
    codes = ties = others = 0
    try:
        for row, text in enumerate(texts):
            feeds = encodings.select(np.array([row])).tensors(inputs)
            *values, vector = runner.run(feeds, [*wanted, output])
            given = dict(zip(wanted, values, strict=True))
            for layer in layers:
                rows = given[names[layer.product]].reshape(-1, layer.in_features).astype(np.float32)
                layer.graph = GraphCodes(torch.from_numpy(rows - layer.rounding.zero), pooled)
            with torch.no_grad():
                expected.append(model.encode(text, prompt="", convert_to_numpy=True))
            found.append(vector[0])
            counted = [layer.graph for layer in layers if layer.graph is not None]
            codes += sum(one.codes.numel() for one in counted)
            ties += sum(one.ties for one in counted)
            others += sum(one.others for one in counted)
    finally:
        for layer in layers:
            layer.graph = None
    return Settled(np.stack(found), np.stack(expected), codes, ties, others)
