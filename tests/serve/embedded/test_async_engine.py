"""`AsyncEngine`: calls of coroutines, their batches, cancellation, limits and its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fletcher.runtime import EmbedOptions, Encoder
from fletcher.runtime.errors import (
    ArtifactError,
    DeadlineError,
    InputError,
    OverloadedError,
    ServiceError,
    StoppingError,
)
from fletcher.runtime.inputs import Texts
from fletcher.serve import AsyncEngine, ServerOptions
from fletcher.serve.models.spec import ModelSpec

from ...convert.heads import test_splade
from ...convert.heads.tiny import DOCUMENTS, convert
from ..fake_encoder import FakeEncoder, expected

EXAMPLE = Path(__file__).parents[3] / "examples" / "embed_with_asyncio.py"


def test_calls_return_the_vectors_of_their_texts() -> None:
    async def run() -> None:
        async with AsyncEngine(FakeEncoder()) as engine:
            one = await engine.embed("ab")
            assert np.array_equal(one.vectors, [expected("ab")])
            two = await engine.embed(["ab", "cd"], EmbedOptions(input_type="query", dimensions=4))
            assert np.array_equal(two.vectors, [expected("ab", "query: ")[:4], expected("cd", "query: ")[:4]])
            assert two.tokens.tolist() == [11, 11]

    asyncio.run(run())


def test_a_folder_is_loaded_and_gives_the_vectors_of_the_encoder(tiny_artifact: Path) -> None:
    with Encoder.load(tiny_artifact, provider="mlas", cache=0) as encoder:
        right = encoder.embed(["a text"]).vectors

    async def run() -> None:
        specs = [ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)]
        for models in (tiny_artifact, str(tiny_artifact), specs):
            async with AsyncEngine(models) as engine:
                np.testing.assert_allclose((await engine.embed("a text")).vectors, right, atol=1e-6)
        async with AsyncEngine(specs) as engine:
            with pytest.raises(InputError, match="no model of this server returns scores"):
                await engine.score("a question", ["an answer"])  # it is not a reranker
            with pytest.raises(InputError, match="'other' is not served"):
                await engine.embed("a text", model="other")

    asyncio.run(run())


def test_every_output_of_an_encoder_has_a_coroutine(tiny_artifact: Path, tmp_path: Path) -> None:
    splade = Path(convert(test_splade.make(tmp_path / "splade"), "splade").path)
    weights = test_splade.expected(tmp_path / "splade")
    with Encoder.load(tiny_artifact, provider="mlas", cache=0) as encoder:
        task = encoder.prepare(Texts(("a text", "b")), EmbedOptions(input_type="query"), "token_vectors")
        states = task.finish(encoder.compute(task.encodings, task.output))

    async def run() -> None:
        async with AsyncEngine(splade) as encoder:
            sparse = await encoder.embed_sparse(DOCUMENTS)
            np.testing.assert_allclose(test_splade.dense(sparse), weights, atol=1e-5)
            with pytest.raises(InputError, match="no model of this server returns vectors"):
                await encoder.embed("a text")
        async with AsyncEngine(tiny_artifact) as encoder:
            tokens = await encoder.embed_tokens(["a text", "b"], input_type="query")
            np.testing.assert_allclose(tokens.vectors, states.vectors, atol=1e-6)
            assert np.array_equal(tokens.offsets, states.offsets)

    asyncio.run(run())


def test_calls_that_wait_together_share_batches_while_the_loop_runs() -> None:
    encoder = FakeEncoder(workers=1, token_budget=64)
    encoder.gate.clear()

    async def run() -> None:
        async with AsyncEngine(encoder) as engine:
            texts = [f"{number:02}" for number in range(32)]  # of four tokens
            calls = [asyncio.create_task(engine.embed(text)) for text in texts]
            await asyncio.sleep(0.1)
            assert not any(call.done() for call in calls)
            encoder.gate.set()
            answers = await asyncio.gather(*calls)
        assert np.array_equal([answer.vectors[0] for answer in answers], [expected(text) for text in texts])

    asyncio.run(run())
    assert len(encoder.batches) <= 4  # 32 calls of 4 tokens; the first batches begin before all calls are there


def test_a_call_that_is_cancelled_is_not_computed() -> None:
    encoder = FakeEncoder(workers=1, token_budget=4)
    encoder.gate.clear()

    async def run() -> None:
        async with AsyncEngine(encoder) as engine:
            first = asyncio.create_task(engine.embed("ab"))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(engine.embed("cd"))
            await asyncio.sleep(0.05)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            encoder.gate.set()
            await first

    asyncio.run(run())
    assert encoder.batches == [[4]]


def test_a_timeout_and_a_full_queue_are_errors() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()

    async def run() -> None:
        async with AsyncEngine(encoder, ServerOptions(queue_tokens=100)) as engine:
            with pytest.raises(DeadlineError, match=r"0\.05 s"):
                await engine.embed("ab", timeout=0.05)
            calls = [asyncio.create_task(engine.embed(f"text {number}")) for number in range(40)]
            done, waiting = await asyncio.wait(calls, timeout=0.5)
            assert done and waiting
            for call in done:
                with pytest.raises(OverloadedError) as caught:
                    await call
                assert caught.value.retry_after > 0
            encoder.gate.set()
            await asyncio.gather(*waiting)

    asyncio.run(run())


def test_close_answers_open_calls_and_refuses_later_ones() -> None:
    encoder = FakeEncoder(workers=1, delay=0.2)

    async def run() -> None:
        engine = AsyncEngine(encoder)
        with pytest.raises(ServiceError, match="not open"):
            await engine.embed("ab")
        await engine.open()
        await engine.open()  # once more does nothing
        call = asyncio.create_task(engine.embed("ab"))
        await asyncio.sleep(0.05)
        assert await engine.close()
        assert np.array_equal((await call).vectors, [expected("ab")])
        with pytest.raises((ServiceError, StoppingError)):
            await engine.embed("ab")
        assert await engine.close()

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(ArtifactError, match="none"):
            async with AsyncEngine(tmp_path / "none"):
                pass

    asyncio.run(run())


def test_the_example_runs(tiny_artifact: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tiny_artifact)], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.startswith("20 answers, each with vectors of the shape (1, ")
