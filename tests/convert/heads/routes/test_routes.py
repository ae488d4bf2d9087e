"""Models whose texts take the modules of their route (Router, Asym), compared with sentence-transformers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling

from fletcher.convert.checkpoint.routes.layout import routed_layout
from fletcher.convert.export.card import check_routes
from fletcher.convert.export.export import ExportOptions, export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import CheckpointError, InputError, OptionError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.models.spec import ModelSpec

from ....serve.fronts.channel.pair import open_engine, open_front
from ..tiny import DOCUMENTS
from .routers import DIMENSION, age_router, bert, dense, save_model, save_shared, save_two

TEXTS = [*DOCUMENTS, "w9 w9 w1", "<s> w3 unheard"]
#: Names of sentence-transformers' calls by input type, with their arguments.
CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "query": ("encode_query", {}),
    "document": ("encode_document", {}),
    "titles": ("encode", {"prompt_name": "titles"}),
    "raw": ("encode", {"prompt": ""}),
}


def expect(folder: Path, input_type: str) -> NDArray[np.float32]:
    """Return sentence-transformers' vectors, one text at a time."""
    model: Any = SentenceTransformer(str(folder), device="cpu")
    name, options = CALLS[input_type]
    return np.stack([getattr(model, name)(text, **options) for text in TEXTS])


def check(path: Path, folder: Path, *input_types: str) -> None:
    """Compare an artifact's vectors with sentence-transformers'."""
    with Encoder.load(path, provider="mlas", workers=1) as encoder:
        for input_type in input_types:
            found = encoder.embed(TEXTS, input_type=input_type).vectors
            np.testing.assert_allclose(found, expect(folder, input_type), rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with two encoders, and the artifact of each route beside it."""
    folder = save_two(tmp_path_factory.mktemp("two"))
    for route in ("query", "document"):
        export(str(folder), folder.parent / route, task=route)
    return folder


def test_each_input_type_takes_its_route(shared: Path) -> None:
    check(shared.parent / "artifact", shared, *CALLS)
    with Encoder.load(shared.parent / "artifact", provider="mlas", workers=1) as encoder:
        first, second = (encoder.embed(["w1 w2"], input_type=kind).vectors for kind in ("raw", "query"))
        assert encoder.dimension == DIMENSION and np.abs(first - second).max() > 0.01
        np.testing.assert_array_equal(
            encoder.embed(["w1"]).vectors, encoder.embed(["w1"], input_type="document").vectors
        )
        with pytest.raises(OptionError, match=r"has query, document, clustering, classification, titles, raw$"):
            encoder.embed(["w1"], input_type="passages")


def test_an_asym_of_an_old_version_is_read(tmp_path: Path) -> None:
    folder = save_shared(tmp_path, ("query", "doc"))
    age_router(folder)
    export(str(folder), tmp_path / "artifact")
    model = SentenceTransformer(str(folder), device="cpu")
    calls = {"query": {"task": "query"}, "document": {"task": "doc", "prompt_name": "document"}, "raw": {"prompt": ""}}
    with Encoder.load(tmp_path / "artifact", provider="mlas", workers=1) as encoder:
        for kind, options in calls.items():
            options |= {"prompt_name": "query"} if kind == "query" else {}
            expected = np.stack([model.encode(text, **options) for text in TEXTS])  # type: ignore[call-overload]
            np.testing.assert_allclose(encoder.embed(TEXTS, input_type=kind).vectors, expected, rtol=0, atol=2e-5)
    verify(tmp_path / "artifact").raise_if_failed()
    export(str(folder), tmp_path / "doc", task="doc")
    verify(tmp_path / "doc").raise_if_failed()


def test_a_route_inside_one_router_may_share_the_encoder(tmp_path: Path) -> None:
    encoder, pooling = bert(tmp_path / "base"), Pooling(32, pooling_mode="cls")
    routes = {"query": [encoder, pooling, dense(1, 32)], "document": [encoder, pooling]}
    folder = save_model(tmp_path, [Router(routes, default_route="query"), Normalize()])
    export(str(folder), tmp_path / "artifact")
    check(tmp_path / "artifact", folder, *CALLS)
    verify(tmp_path / "artifact").raise_if_failed()


def test_texts_of_several_routes_share_a_batch(shared: Path) -> None:
    with Encoder.load(shared.parent / "artifact", provider="mlas", workers=1) as encoder:
        rows = [encoder.prepare(Texts(tuple(TEXTS)), EmbedOptions(input_type=kind)) for kind in ("query", "document")]
        together = encoder.compute(type(rows[0].encodings).concatenate([task.encodings for task in rows]))
        alone = np.concatenate([encoder.compute(task.encodings) for task in rows])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_verification_compares_the_routes(shared: Path) -> None:
    report = verify(shared.parent / "artifact")
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} >= {"query", "document", "titles", "raw"}


def test_the_space_depends_on_the_modules_of_every_route(shared: Path, tmp_path: Path) -> None:
    digests = {Artifact.open(shared.parent / "artifact").manifest.content}
    for seed, route in ((1, "query"), (2, "document")):
        other = shutil.copytree(shared, tmp_path / route)
        dense(5 + seed, 20 if route == "document" else DIMENSION).save(
            str(next((other / "2_Router").glob(f"{route}_0_*")))
        )
        export(str(other), tmp_path / f"{route}.artifact")
        digests.add(Artifact.open(tmp_path / f"{route}.artifact").manifest.content)
    assert len({digest.weights for digest in digests if digest is not None}) == 3


def test_two_encoders_are_two_artifacts(two: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        export(str(two), tmp_path / "both")
    for route in ("query", "document"):
        assert f"fletcher-convert model export {two} -o OUT-{route} --task {route}" in str(caught.value)
        check(two.parent / route, two, route)
        with Encoder.load(two.parent / route, provider="mlas", workers=1) as encoder:
            assert encoder.card.name == f"model-{route}"
            model = SentenceTransformer(str(two), device="cpu")
            expected = model.encode("w1 w2", prompt="", task=route)
            np.testing.assert_allclose(encoder.embed(["w1 w2"], input_type="raw").vectors[0], expected, atol=2e-5)
            with pytest.raises(OptionError, match=f"are those of {route} alone"):
                encoder.embed(["w1"], input_type="clustering")


@pytest.mark.parametrize("route", ["query", "document"])
def test_the_artifact_of_a_route_is_verified(two: Path, route: str) -> None:
    report = verify(two.parent / route)
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} == {route, "raw"}
    verify_layers(two.parent / route).raise_if_failed()


def test_a_route_of_a_shared_encoder_alone(shared: Path, tmp_path: Path) -> None:
    export(str(shared), tmp_path / "query", task="query")
    check(tmp_path / "query", shared, "query")
    verify_layers(tmp_path / "query").raise_if_failed()
    with pytest.raises(InputError, match=r"--task titles: .* has the routes query, document"):
        export(str(shared), tmp_path / "titles", task="titles")


def test_a_front_answers_each_route(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> None:
    path = tmp_path_factory.mktemp("c") / "rows"
    spec = ModelSpec(path=str(shared.parent / "artifact"), name="routed", provider="mlas")
    with open_engine([spec], path), open_front(path) as front:
        front.wait_for_catalog()
        for kind in CALLS:
            request = EmbedRequest(Texts(tuple(TEXTS)), EmbedOptions(input_type=kind))
            found = front.models.submit_blocking("routed", request)[1].result(30)
            np.testing.assert_allclose(found.vectors, expect(shared, kind), rtol=0, atol=2e-5)


def test_routes_with_other_vectors_are_refused(tmp_path: Path) -> None:
    encoder, pooling = bert(tmp_path / "base"), Pooling(32, pooling_mode="mean")

    def refused(name: str, query: list[Any], document: list[Any]) -> str:
        folder = save_model(tmp_path / name, [encoder, pooling, Router({"query": query, "document": document})])
        with pytest.raises(CheckpointError) as caught:
            export(str(folder), tmp_path / "artifact")
        return str(caught.value)

    lengths = refused("lengths", [dense(1, 12)], [dense(2, 8)])
    assert "vectors of 12 elements, 8 elements by its routes" in lengths and "--task" in lengths
    norms = refused("norms", [dense(1), Normalize()], [dense(2)])
    assert "12 elements of norm 1, 12 elements" in norms


def test_other_routers_are_refused(shared: Path, tmp_path: Path) -> None:
    def refused(name: str, **changes: Any) -> str:
        copy = shutil.copytree(shared, tmp_path / name)
        file = copy / "2_Router" / "router_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        with pytest.raises(CheckpointError) as caught:
            export(str(copy), tmp_path / "artifact")
        return str(caught.value)

    config = json.loads((shared / "2_Router" / "router_config.json").read_text())
    assert "keys that Fletcher does not know: fallback" in refused("key", parameters={"fallback": "query"})
    assert "default_route is 'other'" in refused("default", parameters={"default_route": "other"})
    mapped = {**config["parameters"], "route_mappings": {"('query', 'text')": "document"}}
    assert "`route_mappings`, by which kinds of inputs" in refused("mapped", parameters=mapped)
    raw = {"raw": config["structure"]["query"], "document": config["structure"]["document"]}
    assert "the name 'raw'" in refused("raw", structure=raw, parameters={})
    assert re.search("no structure and types", refused("empty", structure={}))


def test_a_quantized_artifact_keeps_the_routes(shared: Path, tmp_path: Path) -> None:
    quantize(
        shared.parent / "artifact", tmp_path / "int8", "int8-per-token", texts=[" ".join(TEXTS[:n]) for n in range(40)]
    )
    with Encoder.load(tmp_path / "int8", provider="mlas", workers=1) as encoder:
        for kind in CALLS:
            cosines = np.sum(encoder.embed(TEXTS, input_type=kind).vectors * expect(shared, kind), axis=1)
            assert cosines.min() > 0.99


def test_what_a_router_cannot_be_part_of_is_refused(shared: Path) -> None:
    card = Artifact.open(shared.parent / "artifact").manifest.card
    with routed_layout(shared) as view:
        check_routes(view, card, ExportOptions())
        with pytest.raises(InputError, match="--exporter optimum traces one route: choose it with --task"):
            check_routes(view, card, ExportOptions(exporter="optimum"))
        with pytest.raises(
            CheckpointError, match="whose output is token_vectors; Fletcher converts embedders and SPLADE"
        ):
            check_routes(view, msgspec.structs.replace(card, output="token_vectors"), ExportOptions())
