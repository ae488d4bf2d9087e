"""Every kind of model through two fronts and an engine process: the answers are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from fletcher.convert.export.export import export
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...convert.families.rotary.test_nomic_bert import EXPERTS, HIDDEN, VOCABULARY, Nomic
from ...convert.heads.language_models import save as save_reranker
from ...convert.layers.models import export_mean, save_artifact
from ...convert.verify.parity import save_tokenizer

TEXTS = ["w1 w2 w3", "w4", "unheard of", "w5 w6 " * 12, "hello the world", "a"]
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "decoder": ("/v1/embeddings", {"input": TEXTS}),
    "experts": ("/v1/embeddings", {"input": TEXTS}),
    "static": ("/v1/embeddings", {"input": TEXTS}),
    "bge-m3": ("/v1/embeddings", {"input": TEXTS, "include": "all"}),
    "reranker": ("/v1/rerank", {"query": "hello", "documents": TEXTS}),
}


def _make_experts(folder: Path) -> Path:
    checkpoint = Nomic(**EXPERTS, n_positions=100).save(folder / "checkpoint")
    save_tokenizer(checkpoint, VOCABULARY)
    return export_mean(checkpoint, HIDDEN)


def _make_static(folder: Path, tokenizer: Path) -> Path:
    table = StaticEmbedding(Tokenizer.from_file(str(tokenizer)), embedding_dim=24)
    SentenceTransformer(modules=[table], device="cpu").save(str(folder / "model"))
    export(str(folder / "model"), folder / "artifact")
    return folder / "artifact"


def _make_reranker(folder: Path) -> Path:
    export(str(save_reranker(folder / "checkpoint")), folder / "artifact", tokenizer_like="5")
    return folder / "artifact"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory, bge_m3_artifact: Path) -> Iterator[list[httpx.Client]]:
    """Yield a client of a server in this process, and one of two fronts, with all models."""
    paths = {
        "decoder": save_artifact("qwen3", tmp_path_factory.mktemp("decoder")),
        "experts": _make_experts(tmp_path_factory.mktemp("experts")),
        "static": _make_static(tmp_path_factory.mktemp("static"), bge_m3_artifact / "tokenizer.json"),
        "bge-m3": bge_m3_artifact,
        "reranker": _make_reranker(tmp_path_factory.mktemp("reranker")),
    }
    specs = [ModelSpec(path=str(path), name=name, provider="mlas", cache=0) for name, path in paths.items()]
    with ExitStack() as stack:
        options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10)
        one = stack.enter_context(Server(specs, options))
        options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=2, drain_seconds=10)
        several = stack.enter_context(Supervisor(specs, options))
        addresses = (one.addresses.http, several.addresses.http)
        yield [stack.enter_context(httpx.Client(base_url=str(address), timeout=60)) for address in addresses]


@pytest.mark.parametrize("name", ASKED)
def test_answers_of_two_fronts_are_those_of_one_process(clients: list[httpx.Client], name: str) -> None:
    path, body = ASKED[name]
    answers = [client.post(path, json=body | {"model": name}) for client in clients]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    one, several = (_numbers(answer.json()["results" if name == "reranker" else "data"]) for answer in answers)
    assert one.keys() == several.keys()
    assert sum(values.size for values in one.values()) >= 2 * len(
        TEXTS
    )  # an index of each text, and a score or a vector
    for key, values in one.items():
        np.testing.assert_allclose(several[key], values, rtol=0, atol=1e-6, err_msg=key)


def _numbers(value: Any, place: str = "") -> dict[str, Any]:
    """Return all numbers of an answer, by their place in it; lists of numbers as arrays."""
    if isinstance(value, dict):
        pairs = [(f"{place}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list) and not all(isinstance(part, int | float) for part in value):
        pairs = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {place: np.asarray(value)} if isinstance(value, int | float | list) else {}
    return {key: found for where, part in pairs for key, found in _numbers(part, where).items()}
