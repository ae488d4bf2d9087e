"""`--exporter optimum`: encoders that Fletcher does not author, traced by Optimum and joined with Fletcher's own nodes.

Optimum's graph takes a rectangle of padded ids and a mask. The nodes around it are those of every graph of the target `cpu`:
from packed ids and offsets to the rectangle, and from its token vectors through pooling and projections to the output. So the
runtime feeds it like any other graph. Padding is computed, and the values inside have no meaningful names.

Only this file imports optimum, when it traces a checkpoint (extra `export`).
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fletcher.model_zoo.card import ModelCard, Output
from fletcher.runtime.artifact.manifest import Target, TensorInfo
from fletcher.runtime.errors import CheckpointError, InputError, MissingPackageError

from ..architecture import Architecture, Embedding
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Weight
from ..graph.builder import GraphBuilder
from ..heads import read_head_modules
from ..precision import Float, Precision
from ..targets.cpu.packed_layout import PackedLayout, emit_packed_layout
from ..targets.cpu.pooling import emit_pooling
from ..targets.shared.emission import Emission
from ..targets.shared.modules import emit_modules, emit_token_output
from .trace_check import check_trace, run_model

__all__ = ["OptimumTrace", "check_traceable", "trace"]

EXPORTER = "optimum"

#: Optimum's tasks.
TASKS: Mapping[Output, str] = MappingProxyType(
    {
        "vectors": "feature-extraction",
        "scores": "text-classification",
        "sparse": "fill-mask",
        "token_vectors": "feature-extraction",
    }
)

#: transformers' classes for the same outputs.
_CLASSES: Mapping[Output, str] = MappingProxyType(
    {
        "vectors": "AutoModel",
        "scores": "AutoModelForSequenceClassification",
        "sparse": "AutoModelForMaskedLM",
        "token_vectors": "AutoModel",
    }
)

#: Newest version that torch's tracing exporter writes, and one of the graph builder's.
OPSET = 20

#: Inputs of a traced graph that Fletcher provides.
_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "token_type_ids"})

#: Largest tensor in bytes that stays in the graph.
INLINE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class OptimumTrace:
    """Checkpoint that Optimum traced.

    Attributes:
        architecture: sizes and modules of the model; its layers are not described.
        model: Optimum's graph, weights included.
        padding_id: token id that fills the rectangle.
        tools: versions of the tracing packages.
    """

    architecture: Architecture
    model: onnx.ModelProto
    padding_id: int
    tools: Mapping[str, str]

    def emit(
        self, target: str, architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
    ) -> tuple[Emission, ...]:
        """Return the graph; the signature is that of `targets.emit.emit`."""
        graph = GraphBuilder(f"{architecture.family}-{EXPORTER}", precision, OPSET)
        ids = graph.input(TensorInfo("input_ids", "int32", ("tokens",)))
        offsets = graph.input(TensorInfo("offsets", "int64", ("texts_plus_1",)))
        layout = emit_packed_layout(graph, offsets)
        result = _splice(graph, self.model, _emit_inputs(graph, self, ids, layout))
        if architecture.output != "scores":
            width = graph.node("Shape", [result], "traced/width", start=2)
            shape = graph.node("Concat", [graph.constant([-1]), width], "traced/flat_shape", axis=0)
            flat = graph.node("Reshape", [result, shape], "traced/flat")
            result = graph.node("Gather", [flat, layout.packed], "traced/packed")  # (tokens, width)
        value = emit_modules(
            graph, architecture, result, lambda mode, hidden, _, name: emit_pooling(graph, mode, hidden, layout, name)
        )
        graph.node("Identity", [value], architecture.output)
        rows = "tokens" if architecture.output == "token_vectors" else "texts"
        graph.output(TensorInfo(architecture.output, "float32", (rows, dimension)))
        for output in architecture.token_outputs:
            emit_token_output(graph, output, result, ("tokens",))
        return (Emission(graph, exporter=EXPORTER),)


def check_traceable(pairs: Sequence[tuple[Target, Float]]) -> None:
    """Check that only the target `cpu` in fp32 is requested.

    Raises:
        InputError: another target or precision is requested.
    """
    if list(pairs) != [("cpu", "fp32")]:
        raise InputError("the exporter optimum gives graphs for the target cpu in fp32 only: leave out the others")


def trace(checkpoint: Checkpoint, card: ModelCard) -> OptimumTrace:
    """Trace a checkpoint; never run code that comes with it.

    Raises:
        MissingPackageError: optimum or torch is not installed.
        CheckpointError: Optimum cannot export it, or a module after the encoder is not authored.
    """
    architecture = _describe(checkpoint, card)
    if card.include_prompt is False:
        raise CheckpointError(
            f"{checkpoint.folder} leaves prompts out of its pooling, which the exporter optimum does not do"
        )
    try:
        import torch
        import transformers
        from optimum.exporters.onnx import main_export
        from optimum.version import __version__ as optimum_version
    except ImportError as error:
        raise MissingPackageError(error.name or "optimum-onnx", "export", "--exporter optimum") from None
    padding_id = int(checkpoint.config.get("pad_token_id") or 0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of the tracer: about control flow, and its own deprecations
        # Before Optimum patches parts of transformers for its tracer.
        vocabulary = architecture.embedding.word.shape[0]
        witness = run_model(_load(checkpoint, card), vocabulary, padding_id, card.max_tokens)
        try:
            main_export(
                str(checkpoint.folder),
                folder,
                task=TASKS[card.output],
                opset=OPSET,
                dtype="fp32",
                framework="pt",
                library_name="transformers",
                local_files_only=True,
                trust_remote_code=False,
                do_validation=False,  # `export` and `verify` compare the whole graph
                no_post_process=True,
            )
        except Exception as error:  # torch's tracer raises whatever the model's code raises
            raise CheckpointError(
                f"Optimum cannot export {checkpoint.folder}: {str(error) or type(error).__name__}"
            ) from error
        file = Path(folder) / "model.onnx"
        model = onnx.load(file)
        names = [value.name for value in model.graph.input]
        if unknown := sorted(set(names) - _INPUTS):
            raise CheckpointError(
                f"Optimum's graph of {architecture.family} needs {', '.join(unknown)}, which Fletcher does not provide"
            )
        check_trace(file, names, model.graph.output[0].name, padding_id, witness)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("", opsets.get("ai.onnx")) != OPSET or len(opsets) > 1 or model.functions:
        raise CheckpointError(
            f"Optimum exported {checkpoint.folder} with the operator sets {opsets}, not {OPSET} alone"
        )
    tools = {"optimum": optimum_version, "torch": str(torch.__version__), "transformers": transformers.__version__}
    return OptimumTrace(architecture, model, padding_id, tools)


def _load(checkpoint: Checkpoint, card: ModelCard) -> Any:
    """Load the model that Optimum will trace, in float32.

    Raises:
        CheckpointError: transformers cannot load it, or it has a decoder beside its encoder.
    """
    import torch
    import transformers

    try:
        model = getattr(transformers, _CLASSES[card.output]).from_pretrained(
            str(checkpoint.folder), torch_dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever the model's code raises
        raise CheckpointError(
            f"transformers cannot load {checkpoint.folder}: {str(error) or type(error).__name__}"
        ) from error
    has_decoder = card.output in ("vectors", "token_vectors") and hasattr(model, "decoder")
    if model.config.is_encoder_decoder or has_decoder:
        raise CheckpointError(
            f"{checkpoint.folder} has the model type {model.config.model_type}, an encoder with a decoder. Optimum exports "
            "the two as graphs of their own, and Fletcher converts neither: sentence-transformers runs the model as it is"
        )
    return model.eval()


def _describe(checkpoint: Checkpoint, card: ModelCard) -> Architecture:
    """Return an architecture without layers: sizes, and the modules after the encoder."""
    config = checkpoint.config
    hidden = next(
        (config[key] for key in ("hidden_size", "dim", "d_model", "n_embd") if isinstance(config.get(key), int)), None
    )
    vocabulary = config.get("vocab_size")
    if hidden is None or not isinstance(vocabulary, int):
        raise CheckpointError(f"{checkpoint.folder / 'config.json'} has no hidden_size or no vocab_size")
    late = card.late_interaction
    if late is not None and late.expansion is not None and not late.expansion.attended:
        raise CheckpointError(
            f"{checkpoint.folder} fills queries with tokens to which no token attends, which the exporter optimum does not "
            "reproduce"
        )
    word = Weight("", (vocabulary, hidden), _no_table)
    architecture = Architecture(
        family=str(config.get("model_type")),
        hidden_size=hidden,
        embedding=Embedding(word=word, positions=None, token_type=None, norm=None),
        layers=(),
        max_positions=card.max_tokens,
        output=card.output,
    )
    return read_head_modules(checkpoint, card, architecture)


def _no_table() -> Any:
    raise ValueError("a traced model's tables are in its graph")


def _emit_inputs(graph: GraphBuilder, traced: OptimumTrace, ids: str, layout: PackedLayout) -> dict[str, str]:
    """Return the traced graph's inputs: int64 rectangles, (texts, longest)."""
    names = [info.name for info in traced.model.graph.input]

    def rectangle(packed: str, padding: int, name: str) -> str:
        spread = graph.node("Gather", [packed, layout.rectangle], f"traced/{name}_spread")
        fill = graph.constant(np.array(padding, np.int32))
        return graph.node(
            "Cast", [graph.node("Where", [layout.valid, spread, fill], f"traced/{name}_filled")], name, to=7
        )

    rectangles = {"input_ids": rectangle(ids, traced.padding_id, "traced/ids")}
    if "attention_mask" in names:
        rectangles["attention_mask"] = graph.node("Cast", [layout.valid], "traced/mask", to=7)
    if "position_ids" in names:  # decoders': 0, 1, … of each text, also where they are padded on the right
        shape = graph.node("Shape", [layout.valid], "traced/shape")
        rectangles["position_ids"] = graph.node("Expand", [layout.steps, shape], "traced/positions")
    if "token_type_ids" in names:
        types = graph.input(TensorInfo("token_type_ids", "int32", ("tokens",)))
        rectangles["token_type_ids"] = rectangle(types, 0, "traced/types")
    return rectangles


def _splice(graph: GraphBuilder, model: onnx.ModelProto, inputs: Mapping[str, str]) -> str:
    """Add the traced nodes, with other names for their graph's inputs, and return the name of its first output."""
    weights, small = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.nbytes > INLINE_BYTES:
            weights.append(Weight(tensor.name, values.shape, _constantly(values)))
        else:
            small.append(tensor)
    nodes = [_renamed(node, inputs) for node in model.graph.node]
    result = str(model.graph.output[0].name)
    graph.splice(nodes, small, weights, result)
    return result


def _constantly(values: np.ndarray[Any, np.dtype[np.float32]]) -> Callable[[], Any]:
    return lambda: values


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node with renamed inputs, in the graphs inside it too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    for attribute in copy.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            renamed = [_renamed(part, names) for part in inner.node]
            del inner.node[:]
            inner.node.extend(renamed)
    return copy
