"""OpenAI's route, with OpenAI's client over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import POISON, FakeEncoder, expected, request_for, vector_of


@pytest.fixture
def client(http_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http_url}/v1", api_key="unused", max_retries=0, timeout=10) as connected:
        yield connected


def test_the_default_is_base64_and_decodes_to_the_same_vectors(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="fake-model", input=["ab", "cd"])
    for item, text in zip(answer.data, ["ab", "cd"], strict=True):
        np.testing.assert_array_equal(np.array(item.embedding, np.float32), expected(text))
    assert answer.usage.prompt_tokens == 8
    assert answer.model == "fake-model"
    assert answer.data[0].model_extra == {"tokens_seen": 4, "tokens_dropped": 0}


def test_floats_dimensions_token_ids_and_extensions(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="fake-model", input="ab", encoding_format="float", dimensions=4, user="me")
    assert floats.data[0].embedding == expected("ab")[:4].tolist()
    ids = client.embeddings.create(model="fake-model", input=[[5, 6], [7]])
    assert [item.embedding for item in ids.data] == [vector_of([5, 6]).tolist(), vector_of([7]).tolist()]
    one = client.embeddings.create(model="fake-model", input=[5, 6])
    assert one.data[0].embedding == vector_of([5, 6]).tolist()
    query = client.embeddings.create(model="fake-model", input="ab", extra_body={"input_type": "query"})
    assert query.data[0].embedding == expected("ab", "query: ").tolist()


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-model"]
    assert client.models.retrieve("fake-model").owned_by == "fletcher"


def test_errors_raise_the_classes_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="fake-model", input=[])
    assert bad.value.param == "input"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="gpt-4", input="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="fake-model", input=POISON)
    assert unknown.value.request_id


def test_overload_is_a_rate_limit_error() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with (
        Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off", queue_tokens=4)) as server,
        openai.OpenAI(base_url=f"{server.addresses.http}/v1", api_key="unused", max_retries=0, timeout=10) as client,
    ):
        blocker = server.engine.submit(request_for(["ab"]))
        while server.engine.admission.tokens:
            pass
        waiting = server.engine.submit(request_for(["cd"]))
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model="fake-model", input="ef")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        encoder.gate.set()
        blocker.result(10)
        waiting.result(10)
