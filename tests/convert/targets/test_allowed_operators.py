"""The runtime's lists of operators hold exactly what the emitters and the quantization write."""

from __future__ import annotations

import ast
import functools
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from fletcher.convert.architecture import (
    Activation,
    Architecture,
    Decoder,
    Dense,
    Normalize,
    Pooling,
    Saturation,
    Truncate,
)
from fletcher.convert.checkpoint.tensors import Linear, Norm, Weight
from fletcher.convert.graph.activations import AUTHORED
from fletcher.convert.graph.torch_activations import TORCH_ACTIVATIONS
from fletcher.convert.targets.emit import PRECISIONS, choose, emit
from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.graph.operators import EMITTED, QUANTIZED
from fletcher.runtime.artifact.manifest import Target

from ..verify.parity import make_card
from .models import MODELS, REFUSED, SLOW
from .sessions import architecture_of

pytestmark = pytest.mark.heavy  # by the seconds that it computes

QUANTIZE = Path(__file__).parents[3] / "quantize" / "graph"


def _weight(name: str, *shape: int) -> Weight:
    return Weight(name, shape, lambda: np.zeros(shape, np.float32))


def _heads(architecture: Architecture) -> list[Architecture]:
    """Return an encoder with each kind of module behind it."""
    hidden = architecture.hidden_size
    linear = Linear(_weight("extra.weight", hidden, hidden), _weight("extra.bias", hidden))
    norm = Norm(_weight("extra_norm.weight", hidden), _weight("extra_norm.bias", hidden), 1e-5)
    dense = [Dense(linear, name) for name in sorted({*AUTHORED, *TORCH_ACTIVATIONS})]
    vectors = (Dense(linear, "tanh", is_residual=True, projection=linear), norm, Normalize(), Truncate(4))
    architectures = [replace(architecture, modules=(Pooling((mode,)),)) for mode in get_args(PoolingMode)]
    architectures.append(replace(architecture, modules=(Pooling(("mean", "cls")), Normalize())))
    architectures.append(replace(architecture, modules=(Pooling(("cls",)), *dense, *vectors, Activation("relu"))))
    decoder = Decoder(_weight("decoder.weight", 50, hidden), _weight("decoder.bias", 50))
    sparse = (decoder, Saturation(2), Pooling(("max",)))
    architectures.append(replace(architecture, modules=sparse, output="sparse"))
    late = (Dense(linear, "identity"), Normalize())
    architectures.append(replace(architecture, modules=late, output="token_vectors"))
    architectures.append(replace(architecture, modules=late, output="token_vectors", unseen_tail=3))
    return architectures


@functools.cache
def _emitted() -> Mapping[str, frozenset[tuple[str, str]]]:
    """Return domain and name of the operators of every family and head, by target."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name, make in MODELS.items():
        if name in SLOW:
            continue  # families whose operators are those of other models
        tiny = make()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            card = make_card(tiny.save(folder), tiny.hidden, tiny.longest)
            plain = architecture_of(folder, card)
        for architecture in (plain, *_heads(plain)):
            for target, precisions in PRECISIONS.items():
                if target == "coreml" and architecture.output == "sparse":
                    continue  # CoreML has no logarithm
                if name in REFUSED.get(target, ()):
                    continue
                for precision in precisions:
                    for emission in emit(target, architecture, tiny.hidden, tiny.longest, choose(target, precision)):
                        found[target] |= emission.graph.operators
    return {target: frozenset(operators) for target, operators in found.items()}


@pytest.mark.parametrize("target", sorted(PRECISIONS))
def test_the_list_of_a_target_is_what_its_emitter_writes(target: Target) -> None:
    assert EMITTED[target] == _emitted()[target]


def test_the_list_of_quantized_operators_is_what_the_quantization_writes() -> None:
    """Every call that makes a node has the operator as a literal, or as one of the words of a conditional expression."""
    written = set()
    for file in QUANTIZE.glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            if call.func.attr in ("node", "make_node") and isinstance(call.args[0], ast.Constant):
                domain = any(keyword.arg == "domain" for keyword in call.keywords)
                written.add(("com.microsoft" if domain else "", str(call.args[0].value)))
    assert written == QUANTIZED
