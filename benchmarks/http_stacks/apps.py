"""Applications of the comparison: one text in, one base64 vector of 384 float32 out, on `POST /v1/embeddings` over a stub.

`fletcher` is Fletcher's application and engine over an encoder that hardly computes. Its difference from `bare` is the
cost of admission, batching, the workers' threads, metrics and errors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

DIMENSION = 384


class Request(msgspec.Struct):
    input: str
    model: str
    encoding_format: Literal["float", "base64"] = "float"


class Item(msgspec.Struct):
    embedding: bytes
    index: int = 0
    object: str = "embedding"


class Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class Answer(msgspec.Struct):
    data: list[Item]
    model: str
    usage: Usage
    object: str = "list"


_vector = np.random.default_rng(0).standard_normal(DIMENSION).astype(np.float32)
_decoder = msgspec.json.Decoder(Request)
_encoder = msgspec.json.Encoder()


async def stub(text: str) -> NDArray[np.float32]:
    """Return a vector in place of the engine."""
    return _vector


async def answer(body: bytes) -> bytes:
    """Answer a request with msgspec; all candidates whose framework lets them choose the JSON library use it."""
    request = _decoder.decode(body)
    vector = await stub(request.input)
    return _encoder.encode(Answer([Item(vector.tobytes())], request.model, Usage(8, 8)))


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request as an ASGI application without a framework."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    content = await answer(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def starlette() -> Any:
    """Build an application with Starlette's router, request and response, and msgspec's JSON."""
    from starlette.applications import Starlette
    from starlette.requests import Request as StarletteRequest
    from starlette.responses import Response
    from starlette.routing import Route

    async def embeddings(request: StarletteRequest) -> Response:
        return Response(await answer(await request.body()), media_type="application/json")

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])


def litestar() -> Any:
    """Build an application in Litestar's usual way: typed data in, a struct out."""
    from litestar import Litestar, post

    @post("/v1/embeddings", status_code=200)
    async def embeddings(data: Request) -> Answer:
        vector = await stub(data.input)
        return Answer([Item(vector.tobytes())], data.model, Usage(8, 8))

    return Litestar([embeddings], openapi_config=None)


def fletcher() -> Any:
    """Build Fletcher's application and engine over an encoder that hardly computes."""
    from fletcher.model_zoo.card import ModelCard
    from fletcher.runtime import Embeddings, Encodings
    from fletcher.runtime.model_info import ModelInfo
    from fletcher.runtime.options.embed import EmbedOptions
    from fletcher.runtime.session.counters import EncoderMetrics
    from fletcher.runtime.space.space import Space
    from fletcher.runtime.tasks.task import Task
    from fletcher.serve.engine.engine import Engine
    from fletcher.serve.http.app import HttpApp
    from fletcher.serve.models.registry import Models
    from fletcher.serve.models.spec import ModelSpec

    class StubEncoder:
        """`StubEncoder`: an encoder with eight tokens per text and vectors from one table."""

        card = ModelCard(
            name="bench",
            family="bert",
            dimension=DIMENSION,
            max_tokens=256,
            pooling=("mean",),
            normalize=True,
            license="MIT",
        )
        info = ModelInfo(
            card=card,
            digest="0",
            variant="none",
            provider="none",
            provider_name="none",
            dimension=DIMENSION,
            max_tokens=256,
            outputs=("vectors",),
            workers=1,
            space=Space(
                weights="none",
                graph="none",
                tokenizer="none",
                precision="float",
                output="vectors",
                dimension=DIMENSION,
                normalize=True,
                max_tokens=256,
                cut="right",
            ),
            token_budget=512,
        )
        table = np.zeros((1024, DIMENSION), np.float32)

        def prepare(self, inputs: Any, options: EmbedOptions, output: str, /, *, salt: str = "") -> Task:
            encodings = Encodings.from_lists([[1, 2, 3, 4, 5, 6, 7, 8]] * len(inputs.texts))
            return Task(encodings, None, lambda values: Embeddings(values, encodings.lengths, encodings.dropped))

        def prepare_rows(self, encodings: Any, output: Any, /, *, rows: Any = None, salt: str = "") -> Any:
            raise NotImplementedError

        def describe_tokens(self, texts: Any, *, special: bool) -> Any:
            raise NotImplementedError

        def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
            return self.table[: len(batch)]

        def check_canary(self) -> Any:
            raise NotImplementedError

        def metrics(self) -> EncoderMetrics:
            return EncoderMetrics({})

    def make_engine(encoder: Any, metrics: Any) -> Engine:
        return Engine(encoder, metrics=metrics)

    models = Models(lambda spec: StubEncoder(), make_engine)
    models.add_loaded(ModelSpec(path="", name="bench"), StubEncoder())
    return HttpApp(models)


def application(name: str) -> Any:
    """Return the ASGI application of a candidate."""
    makers = {"bare": lambda: bare, "starlette": starlette, "litestar": litestar, "fletcher": fletcher}
    return makers[name]()


def serve_uvicorn(name: str, port: int) -> None:
    """Serve with uvicorn, configured as in `fletcher.serve.http.server`."""
    import uvicorn

    uvicorn.run(
        application(name),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


def serve_granian(name: str, port: int, loop: str) -> None:
    """Serve with Granian, with one worker and one runtime thread, to compare it with one event loop."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    Granian(
        f"{Path(__file__).stem}:granian_{name}",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        workers=1,
        runtime_threads=1,
        loop=Loops(loop),
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        working_dir=Path(__file__).parent,
        factory=True,
    ).serve()


def granian_bare() -> Any:
    """Return the application `bare`, for Granian's worker process."""
    return bare


granian_starlette, granian_litestar, granian_fletcher = starlette, litestar, fletcher

if __name__ == "__main__":
    stack, candidate, port_text, *loops = sys.argv[1:]
    if stack == "uvicorn":
        serve_uvicorn(candidate, int(port_text))
    else:
        serve_granian(candidate, int(port_text), loops[0])
