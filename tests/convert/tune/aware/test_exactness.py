"""Quantization-aware layers beside the graphs that `quantize` writes: each product, and whole vectors."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.aware.insert import make_aware
from fletcher.convert.tune.aware.modules import QuantizedEmbedding, QuantizedLinear
from fletcher.convert.tune.aware.product import GraphCodes
from fletcher.convert.tune.aware.ties import settled_vectors
from fletcher.quantize.graph.editor import GraphEditor
from fletcher.quantize.graph.matrices import find_matrices, float_variant
from fletcher.quantize.measure.parent_comparison import embed_texts
from fletcher.quantize.plan import plan_quantization
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import Recipe, load_recipe
from fletcher.runtime import Artifact
from fletcher.runtime.errors import InputError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.providers.mlas.graph import CpuGraph

from ...layers.models import POOLING
from ...tiny import HIDDEN, save_embedder

#: Built-in recipes whose arithmetic is imitated, without a floor for the canary: random weights lose more.
RECIPES = ["int8-per-token", "int8-per-token-reduced", "mixed", "int8-static", "openvino-static"]

TEXTS = list(SENTENCES[:24])


def recipe_of(name: str) -> Recipe:
    """Return a built-in recipe with a lower floor for the canary, or one with smoothing, outliers and correction at once."""
    recipe = load_recipe("int8-per-token" if name == "all-parts" else name)
    if name == "all-parts":
        recipe = msgspec.structs.replace(recipe, name=name, bias_correction=True, outliers=4)
    return msgspec.structs.replace(recipe, min_cosine=0.5)


@pytest.mark.parametrize("name", [*RECIPES, "all-parts"])
def test_each_product_computes_as_its_nodes(name: str, tiny_artifact: Path, tmp_path: Path) -> None:
    """The layers get the graph's own activations, so that both have the same codes."""
    recipe = recipe_of(name)
    artifact = Artifact.open(tiny_artifact)
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    quantize(artifact, tmp_path / "int8", recipe, texts=TEXTS, calibration=TEXTS, activations=plan.activations)
    written = Artifact.open(tmp_path / "int8")
    graph, source = (GraphEditor(one, one.manifest.variants[0]) for one in (written, artifact))
    nodes = {node.name: node for node in source.nodes}
    adds = {node.input[0]: node for node in source.nodes if node.op_type == "Add"}
    places = {place.matrix.name: place for place in find_matrices(source)}
    encodings = open_tokenizer(artifact).encode(TEXTS)
    variant = written.manifest.variants[0]
    feeds = encodings.tensors([info.name for info in variant.inputs])
    assert len(plan.products) == 8
    for product in plan.products:
        node = nodes[places[product.name].node]
        add = adds[node.output[0]]
        linear = nn.Linear(*product.weight.shape)
        linear.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(product.weight.T)))
        linear.bias = nn.Parameter(torch.from_numpy(np.array(source.values(add.input[1]), np.float32)))
        names = [node.input[0], add.output[0]]
        given, expected = CpuGraph(graph.expose(names), written.path).run(feeds, names)
        with torch.no_grad():
            found = QuantizedLinear(linear, product, recipe)(torch.from_numpy(np.array(given))).numpy()
            plain = linear(torch.from_numpy(np.array(given))).numpy()
        assert np.abs(found - expected).max() < 1e-4, product.name
        assert np.abs(plain - expected).max() > 1e-3, product.name  # float32 is not that near


@pytest.mark.parametrize("name", ["int8-per-token", "mixed", "int8-static"])
def test_vectors_of_the_graph_are_those_of_the_layers(
    name: str, tiny_artifact: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(name)
    artifact = Artifact.open(tiny_artifact)
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    quantize(artifact, tmp_path / "int8", recipe, texts=TEXTS, calibration=TEXTS, activations=plan.activations)
    written = Artifact.open(tmp_path / "int8")
    graph = embed_texts(written, written.manifest.variants[0], TEXTS, batch=1)
    plain = embed_texts(artifact, float_variant(artifact), TEXTS, batch=1)
    model = load_witness(tiny_checkpoint, artifact.manifest.card).model
    state = set(model.state_dict())
    replaced = make_aware(model, model[0].model.get_input_embeddings(), plan)
    assert len(replaced) == 13  # six linear layers in each of two layers, and the word table
    assert set(model.state_dict()) == state  # checkpoints of the training are those of the float model
    with torch.no_grad():
        layers = np.stack([model.encode(text, prompt="") for text in TEXTS])
    # The last bit of a float32 sum may move a value across the border between two codes. Most texts have no such value.
    differences = np.abs(layers - graph).max(axis=1)
    assert np.median(differences) < 1e-6
    assert (differences < 1e-4).mean() > 0.8
    assert np.median(np.abs(plain - graph).max(axis=1)) > 1e-3
    # With one code for such values all texts have the same vectors.
    settled = settled_vectors(model, written, TEXTS)
    assert np.abs(settled.layers - settled.graph).max() < 1e-4
    assert settled.others == 0
    assert settled.ties < settled.codes / 1000
    assert np.median(np.abs(settled.graph - graph).max(axis=1)) < 1e-6
    with torch.no_grad():  # the graph's codes are no longer used
        again = np.stack([model.encode(text, prompt="") for text in TEXTS])
    assert (again == layers).all()


@pytest.mark.parametrize("mode", ["cls", "lasttoken"])
def test_a_graph_of_pooled_rows_has_the_vectors_of_layers_with_all_rows(tmp_path: Path, mode: str) -> None:
    recipe = recipe_of("int8-per-token")
    checkpoint = save_embedder(tmp_path / "checkpoint")
    settings = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": False, POOLING[mode]: True}
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    export(str(checkpoint), tmp_path / "artifact")
    artifact = Artifact.open(tmp_path / "artifact")
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    quantize(artifact, tmp_path / "int8", recipe, texts=TEXTS, calibration=TEXTS, activations=plan.activations)
    model = load_witness(checkpoint, artifact.manifest.card).model
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    settled = settled_vectors(model, Artifact.open(tmp_path / "int8"), TEXTS)
    assert np.abs(settled.layers - settled.graph).max() < 1e-4
    assert settled.others == 0
    assert settled.ties < settled.codes / 1000


def test_a_graph_of_one_row_settles_that_row() -> None:
    """The row of the graph is the last of two: 1.5 steps lie between two codes in both rows."""
    codes = GraphCodes(torch.tensor([[1.0]]), pooled=-1)
    found = codes.settle(torch.tensor([[1.5], [1.5]]), torch.tensor([[2.0], [2.0]]))
    assert found.tolist() == [[2.0], [1.0]]
    assert (codes.ties, codes.others) == (1, 0)


def test_only_ties_are_settled_by_the_graph() -> None:
    """Values of 1.5, 0.2 and 3.5004 steps: the graph decides those on the border, and not the second one."""
    codes = GraphCodes(torch.tensor([[1.0, 1.0, 4.0]]))
    found = codes.settle(torch.tensor([[1.5, 0.2, 3.5004]]), torch.tensor([[2.0, 0.0, 4.0]]))
    assert found.tolist() == [[1.0, 0.0, 4.0]]
    assert (codes.ties, codes.others) == (1, 1)


def test_a_graph_of_other_weights_is_not_settled(tiny_artifact: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = recipe_of("int8-per-token")
    artifact = Artifact.open(tiny_artifact)
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    quantize(artifact, tmp_path / "int8", recipe, texts=TEXTS, calibration=TEXTS, activations=plan.activations)
    model = load_witness(tiny_checkpoint, artifact.manifest.card).model
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    with torch.no_grad():
        next(one for one in model.modules() if isinstance(one, QuantizedLinear)).weight *= 1.05
    settled = settled_vectors(model, Artifact.open(tmp_path / "int8"), TEXTS[:4])
    assert np.abs(settled.layers - settled.graph).max() > 1e-4
    assert settled.others > settled.ties


def test_a_word_table_has_a_scale_per_row() -> None:
    table = nn.Embedding(2, 3)
    table.weight = nn.Parameter(torch.tensor([[1.27, -0.004, 0.3], [0.0, 0.0, 0.0]]))
    found = QuantizedEmbedding(table)(torch.tensor([[0, 1]]))
    assert found.detach().numpy() == pytest.approx(np.array([[[1.27, 0.0, 0.3], [0, 0, 0]]]), abs=1e-6)
    found.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.numpy() == pytest.approx(np.ones((2, 3)))  # rounding counts as the identity


def test_recipes_that_cannot_be_imitated(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    for name, message in (
        ("int8-dynamic", "has the scheme int8-dynamic"),
        ("w4", "w4"),
        ("tensorrt-qdq", "for the target tensorrt"),
    ):
        with pytest.raises(InputError, match=message):
            plan_quantization(artifact, load_recipe(name), list(SENTENCES))


def test_weights_that_are_not_in_the_model(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    plan = plan_quantization(artifact, recipe_of("int8-per-token"), list(SENTENCES))
    model = load_witness(tiny_checkpoint, artifact.manifest.card).model
    with torch.no_grad():
        next(one for one in model.modules() if isinstance(one, nn.Linear)).weight += 1
    with pytest.raises(InputError, match=r"quantizes layers\.0\.attention\.qkv, whose weights are not"):
        make_aware(model, model[0].model.get_input_embeddings(), plan)
