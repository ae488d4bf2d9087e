"""Quantization of a single product. Its activations are those of calibration, so its expected mean is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.convert.export.export import export
from fletcher.convert.texts import SENTENCES
from fletcher.quantize.calibration import calibrate
from fletcher.quantize.graph.editor import GraphEditor
from fletcher.quantize.graph.matrices import find_matrices, float_variant
from fletcher.quantize.graph.products import ProductWriter
from fletcher.quantize.recipe import MatrixScheme, Recipe
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from ...convert.tiny import MAX_TOKENS, save_embedder

TEXTS = [text for text in SENTENCES if text.strip()]
DOWN = "layers.0.feed_forward.down"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("products")
    export(str(save_embedder(folder / "checkpoint")), folder / "artifact")
    return Artifact.open(folder / "artifact")


def _outputs(parent: Artifact, scheme: MatrixScheme | None, **settings: object) -> NDArray[np.float32]:
    """Return the product plus its bias, (tokens of all texts, hidden). The scheme None is float32."""
    variant = float_variant(parent)
    editor = GraphEditor(parent, variant)
    places = find_matrices(editor)
    node = next(place.node for place in places if place.matrix.name == DOWN)
    product = next(one.output[0] for one in editor.nodes if one.name == node)
    value = next(one.output[0] for one in editor.nodes if one.op_type == "Add" and product in one.input)
    if scheme is not None:
        recipe = Recipe(name="x", scheme="int8-static", **settings)  # type: ignore[arg-type]
        seen = calibrate(parent, recipe, {DOWN: scheme}, TEXTS)
        ProductWriter(editor, recipe, seen).rewrite(places, {DOWN: scheme})
    model = onnx.load_from_string(editor.inline())
    model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    graph = CpuGraph(model.SerializeToString(), parent.path)
    texts = Tokenizer(parent.tokenizer_file, MAX_TOKENS).encode(TEXTS)
    return np.asarray(graph.run(texts.tensors([info.name for info in variant.inputs]), [value])[0])


@pytest.mark.parametrize("scheme", ["int8-static", "w4", "int8-per-token"])
def test_bias_correction_restores_the_mean(parent: Artifact, scheme: MatrixScheme) -> None:
    """Ranges that clip a tenth of the values shift the mean of static products, and coarse weights that of any product."""
    settings = {"calibration": "percentile", "percentile": 90.0}
    expected = _outputs(parent, None).mean(axis=0)
    plain, corrected = (
        np.abs(_outputs(parent, scheme, bias_correction=chosen, **settings).mean(axis=0) - expected).max()
        for chosen in (False, True)
    )
    assert corrected <= 1e-3  # the bias does not correct the activations of w4, which are bytes
    assert scheme == "int8-per-token" or corrected < 0.2 * plain


@pytest.mark.parametrize("scheme", ["int8-static", "int8-per-token"])
def test_separate_columns_reduce_the_error(parent: Artifact, scheme: MatrixScheme) -> None:
    expected = _outputs(parent, None)
    errors = [np.abs(_outputs(parent, scheme, outliers=count) - expected).mean() for count in (0, 8, 64)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 1e-6  # all columns are separate
