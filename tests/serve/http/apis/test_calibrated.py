"""Calibrated probabilities of `/similarity` and the rerank routes, with one process and with a front."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.artifact.calibration import Calibration
from fletcher.runtime.artifact.writing import calibrate
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ....convert.heads import test_classification
from ....convert.heads.tiny import DOCUMENTS, QUERY, convert

TEXTS = list(DOCUMENTS)

#: 0 below a cosine of 0, 1 from 0.5 on, a straight line between.
COSINES = Calibration(
    measure="cosine",
    method="isotonic",
    input_type="raw",
    values=(0.0, 0.5),
    probabilities=(0.0, 1.0),
    pairs=100,
    positive=0.5,
    error=0.01,
    variant="cpu-fp32",
)
LOGITS = Calibration(
    measure="logit",
    method="logistic",
    input_type="raw",
    slope=2.0,
    intercept=-1.0,
    pairs=100,
    positive=0.5,
    error=0.01,
    variant="cpu-fp32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_artifact: Path) -> Path:
    """Return a folder with the calibrated artifacts `reranker.artifact` and `embedder`."""
    folder = tmp_path_factory.mktemp("calibrated")
    convert(test_classification.make(folder / "reranker"))
    shutil.copytree(tiny_artifact, folder / "embedder")
    for name, calibration in (("reranker.artifact", LOGITS), ("embedder", COSINES)):
        calibrate(folder / name, calibration, digest=Artifact.open(folder / name).digest)
    return folder


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "fronts"])
def http(request: pytest.FixtureRequest, folder: Path, tiny_artifact: Path) -> Iterator[httpx.Client]:
    paths = {"embedder": folder / "embedder", "reranker": folder / "reranker.artifact", "plain": tiny_artifact}
    specs = [
        ModelSpec(path=str(path), name=name, provider="mlas", workers=1, cache="0") for name, path in paths.items()
    ]
    options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10, fronts=request.param)
    with (
        Supervisor(specs, options) if request.param else Server(specs, options) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=60) as client,
    ):
        yield client


def test_similarities_are_probabilities_on_request(http: httpx.Client, folder: Path) -> None:
    sentences = ["a storm", "the harbour", "the bank"]
    body = {"inputs": {"source_sentence": "a strong wind", "sentences": sentences}, "model": "embedder"}
    with Encoder.load(folder / "embedder", provider="mlas") as encoder:
        vectors = encoder.embed(["a strong wind", *sentences], input_type="raw").vectors.astype(np.float64)
    cosines = vectors[1:] @ vectors[0]
    assert http.post("/similarity", json=body).json() == pytest.approx(cosines.tolist(), abs=1e-6)
    found = http.post("/similarity", json=body | {"calibrated": True}).json()
    assert found == pytest.approx(np.clip(2 * cosines, 0, 1).tolist(), abs=1e-5)


def test_ranks_are_probabilities_on_request(http: httpx.Client, folder: Path) -> None:
    logits = CrossEncoder(str(folder / "reranker")).predict(
        [(QUERY, text) for text in TEXTS], show_progress_bar=False, activation_fn=torch.nn.Identity()
    )
    expected = dict(enumerate((1 / (1 + np.exp(-(2 * logits - 1)))).tolist()))
    order = np.argsort(-logits).tolist()
    ranks = http.post("/rerank", json={"query": QUERY, "texts": TEXTS, "calibrated": True}).json()
    assert [one["index"] for one in ranks] == order
    assert {one["index"]: one["score"] for one in ranks} == pytest.approx(expected, abs=1e-5)
    for route in ("/v1/rerank", "/v2/rerank"):
        body = {"query": QUERY, "documents": TEXTS, "calibrated": True, "model": "reranker"}
        results = http.post(route, json=body).json()["results"]
        assert {one["index"]: one["relevance_score"] for one in results} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "model": "plain"},
            "plain has no calibration: fit one with `fletcher-convert calibrate",
        ),
        (
            "/similarity",
            {
                "inputs": {"source_sentence": "a", "sentences": ["b"]},
                "model": "embedder",
                "parameters": {"input_type": "query"},
            },
            "embedder was calibrated with the input type 'raw', not 'query'",
        ),
        (
            "/rerank",
            {"query": "a", "texts": ["b"], "model": "reranker", "raw_scores": True},
            "raw_scores and calibrated contradict each other",
        ),
    ],
)
def test_requests_that_cannot_be_calibrated_are_refused(
    http: httpx.Client, route: str, body: dict[str, object], message: str
) -> None:
    answer = http.post(route, json=body | {"calibrated": True})
    assert answer.status_code == 422
    assert message in answer.text.replace("\\u0027", "'")
