"""Sessions of CUDA on a fake GPU that computes on the processor: buffers, bindings and captured shapes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime import Encodings, Variant
from fletcher.runtime.errors import (
    ArtifactError,
    DeviceLostError,
    DeviceMemoryError,
    MissingPackageError,
    ProviderError,
)
from fletcher.runtime.providers.cuda import graphs
from fletcher.runtime.providers.cuda import ort as cuda_ort
from fletcher.runtime.providers.cuda import session as cuda_session
from fletcher.runtime.providers.cuda.graphs import Shape
from fletcher.runtime.providers.cuda.session import CudaSession
from fletcher.runtime.providers.inspection import InspectionSession
from fletcher.runtime.session.feeds import make_feeds
from tests.convert.targets.models import MODELS, Tiny
from tests.convert.targets.sessions import architecture_of, load_target, models_of
from tests.convert.verify.parity import make_card
from tests.doubles.cuda import FakeCuda, FakeOnnxRuntime

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: One family for each kind of position: learned, learned with counted padding, rotary, and relative bias.
FAMILIES = ("bert", "roberta", "nomic_bert", "mpnet")

Vectors = NDArray[np.float32]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    fake = FakeOnnxRuntime()
    monkeypatch.setattr(cuda_ort, "import_onnxruntime", lambda: fake)
    return fake


@dataclass(frozen=True)
class Case:
    """The cuda graph of a tiny model, and the cpu graph of the same model as the reference."""

    graph: Path
    variant: Variant
    tiny: Tiny
    reference: Callable[[Encodings], Vectors]

    def open(self, cuda: FakeCuda, **options: object) -> CudaSession:
        arguments: dict[str, object] = {"max_tokens": self.tiny.longest, "driver": cuda.driver(), **options}
        return CudaSession(self.graph, self.variant, cuda.gpu(), **arguments)  # type: ignore[arg-type]

    def texts(self, *lengths: int) -> Encodings:
        rng = np.random.default_rng(sum(lengths))
        return Encodings.from_lists([rng.integers(5, self.tiny.vocabulary, length, np.int32) for length in lengths])


def _case(family: str, folder: Path) -> Case:
    tiny = MODELS[family]()
    card = make_card(tiny.save(folder), tiny.hidden, tiny.longest)
    architecture = architecture_of(folder, card)
    (emission,), _ = models_of(architecture, card, folder, "cuda", "fp32")
    variant = Variant(
        name="cuda-fp32",
        target="cuda",
        precision="fp32",
        file="cuda-fp32.onnx",
        weights="cuda.fp32.safetensors",
        inputs=tuple(emission.graph.inputs),
        outputs=tuple(emission.graph.outputs),
        tolerance=Accuracy(min_cosine=0.9999),
        feeds=emission.feeds,
    )
    reference = load_target(architecture, card, folder, "cpu", "fp32")
    return Case(folder / variant.file, variant, tiny, reference.run)


@pytest.fixture(params=FAMILIES, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return _case("bert", tmp_path_factory.mktemp("bert"))


BATCHES = ((1,), (3,), (16,), (17,), (5, 9), (1, 1, 1, 1), (4, 2, 7, 1, 3), (12, 20, 12))


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_captured_and_plain_runs_return_the_vectors_of_the_cpu_graph(
    case: Case, lengths: tuple[int, ...], runtime: FakeOnnxRuntime
) -> None:
    batch = case.texts(*lengths)
    expected = case.reference(batch)
    for capture in (False, True):
        with case.open(FakeCuda(), capture=capture) as session:
            for _ in range(2):  # the second run uses what the first one prepared
                np.testing.assert_allclose(session.run(batch), expected, atol=5e-6)


def test_several_threads_get_their_own_vectors(bert: Case, runtime: FakeOnnxRuntime) -> None:
    batches = [bert.texts(*lengths) for lengths in BATCHES * 4]
    expected = [bert.reference(batch) for batch in batches]
    cuda = FakeCuda()
    with bert.open(cuda) as session, ThreadPoolExecutor(8) as pool:
        for vectors, reference in zip(pool.map(session.run, batches), expected, strict=True):
            np.testing.assert_allclose(vectors, reference, atol=5e-6)
    assert not cuda.held, "the memory was not given back"
    assert cuda.pushed == cuda.streams == cuda.events == 0


def test_every_shape_is_captured_at_load_and_none_later(bert: Case, runtime: FakeOnnxRuntime) -> None:
    with bert.open(FakeCuda()) as session:
        captured = {name: value() for name, (_, value) in session.counters().items()}
        assert captured == {
            "cuda_graphs_captured": 2,
            "cuda_graph_replays": 0,
        }  # 16 and 32 tokens: the longest text has 40
        shapes, threads = set(runtime.captured), {thread for thread, _ in runtime.captured}
        assert threads == {session.graphs._thread.ident}  # type: ignore[union-attr]
        for length in (1, 2, 16, 17, 32):
            session.run(bert.texts(length))
        assert set(runtime.captured) == shapes
        assert session.counters()["cuda_graph_replays"][1]() == 5


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> tuple[Shape, ...]:
    """Shapes with several texts, short enough for the tiny models; the last one is above `ALWAYS_TOKENS`."""
    shapes = (Shape(1, 16, 16), Shape(8, 64, 16), Shape(60, 608, 16))
    monkeypatch.setattr(cuda_session, "SHAPES", shapes)
    return shapes


def test_the_unused_tokens_of_a_shape_form_texts_that_change_no_vector(
    case: Case, shapes: tuple[Shape, ...], runtime: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "LAUNCH_BOUND", float("inf"))
    batches = [case.texts(*lengths) for lengths in ((3,), (16, 1), (16, 16, 16, 4), (1,) * 9, (12,) * 50, (2, 11, 7))]
    with case.open(FakeCuda()) as session:
        assert session.small_tokens == 608
        for batch in batches:
            np.testing.assert_allclose(session.run(batch), case.reference(batch), atol=5e-6)
        assert session.counters()["cuda_graph_replays"][1]() == len(batches)


def test_a_large_shape_that_the_gpu_computes_slowly_is_not_kept(
    bert: Case, shapes: tuple[Shape, ...], runtime: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_slowly(ids: NDArray[np.int32]) -> None:
        time.sleep(0.0001 * len(ids))

    runtime.fail = compute_slowly
    cuda = FakeCuda()
    with bert.open(cuda) as session:
        assert session.small_tokens == 64
        assert session.counters()["cuda_graphs_captured"][1]() == 2
        batch = bert.texts(*(12,) * 50)
        np.testing.assert_allclose(session.run(batch), bert.reference(batch), atol=5e-6)
        assert session.counters()["cuda_graph_replays"][1]() == 0
    assert not cuda.held


def test_a_batch_without_a_captured_shape_runs_without_a_graph(bert: Case, runtime: FakeOnnxRuntime) -> None:
    batch = bert.texts(33)
    with bert.open(FakeCuda()) as session:
        np.testing.assert_allclose(session.run(batch), bert.reference(batch), atol=5e-6)
        assert session.counters()["cuda_graph_replays"][1]() == 0


def test_a_gpu_without_memory_for_a_second_copy_captures_nothing(bert: Case, runtime: FakeOnnxRuntime) -> None:
    weights = bert.graph.with_name(bert.variant.weights).stat().st_size
    with bert.open(FakeCuda(memory=5 * weights)) as session:
        assert session.graphs is None
        assert not session.counters()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 8589934592", DeviceMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", DeviceMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLostError),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", DeviceLostError),
        ("Non-zero status code returned while running Gather node", ProviderError),
    ],
)
def test_errors_depend_on_the_state_of_the_gpu(
    bert: Case, runtime: FakeOnnxRuntime, text: str, kind: type[ProviderError]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(text)

    for capture in (False, True):
        runtime.fail = None
        with bert.open(FakeCuda(), capture=capture) as session:
            runtime.fail = fail
            with pytest.raises(kind, match=r"(9|16) tokens") as caught:
                session.run(bert.texts(9))
            assert type(caught.value) is kind
            assert text in str(caught.value)
            runtime.fail = None
            assert len(session.run(bert.texts(9))) == 1, "a failed batch leaves its buffers to the next"


def test_a_failure_after_the_launch_is_an_error(bert: Case, runtime: FakeOnnxRuntime) -> None:
    for capture in (False, True):
        cuda = FakeCuda()
        with bert.open(cuda, capture=capture) as session:
            waiting = "cuStreamSynchronize" if capture else "cuEventSynchronize"
            cuda.codes[waiting] = 700
            with pytest.raises(DeviceLostError, match="code 700"):
                session.run(bert.texts(9))
            del cuda.codes[waiting]
            np.testing.assert_allclose(session.run(bert.texts(9)), bert.reference(bert.texts(9)), atol=1e-5)
        assert not cuda.held and not cuda.streams and not cuda.events


def test_after_a_failed_capture_the_session_is_closed_before_its_stream(bert: Case, runtime: FakeOnnxRuntime) -> None:
    sessions: dict[int, weakref.ref[object]] = {}
    gone: list[bool] = []

    class Cuda(FakeCuda):
        def cuStreamDestroy_v2(self, stream: Any) -> int:
            if stream.value in sessions:
                gone.append(sessions[stream.value]() is None)
            return super().cuStreamDestroy_v2(stream)

    def fail(_: object) -> None:
        session = runtime.sessions.pop()
        sessions[int(session.options["user_compute_stream"])] = weakref.ref(session)
        raise RuntimeError("CUDA failure 2: out of memory")

    runtime.fail = fail
    with bert.open(Cuda()) as session:
        assert session.graphs is None
    assert gone == [True]


def test_an_inspected_graph_computes_like_the_served_one(bert: Case, runtime: FakeOnnxRuntime) -> None:
    batch = bert.texts(3, 9)
    model = onnx.load(bert.graph, load_external_data=False)
    with (
        InspectionSession(model.SerializeToString(), bert.graph.parent, "cuda") as probe,
        bert.open(FakeCuda()) as served,
    ):
        inside, outside = runtime.sessions[:2]
        options = {name: value for name, value in outside.options.items() if name != "user_compute_stream"}
        assert inside.options == options, "another precision of products, or another norm"
        assert inside.settings.graph_optimization_level == runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        feeds = make_feeds(bert.variant.inputs, bert.variant.feeds, batch)
        np.testing.assert_array_equal(probe.run(feeds, ["vectors"])["vectors"], served.run(batch))


def test_a_session_that_is_not_on_the_gpu_is_rejected(bert: Case, runtime: FakeOnnxRuntime) -> None:
    runtime.runs_on = ["CPUExecutionProvider"]
    with pytest.raises(ProviderError, match="runs on CPUExecutionProvider"):
        bert.open(FakeCuda())


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "libcublasLt.so.13: cannot open shared object file",
            ProviderError,
            r"built for CUDA 13.*longbow-fletcher\[nvidia\]",
        ),
        ("CUDA failure 2: out of memory", DeviceMemoryError, "not enough free memory"),
        ("This is an invalid model", ArtifactError, "cannot load"),
    ],
)
def test_the_error_of_a_graph_that_does_not_load_names_the_reason(
    bert: Case, runtime: FakeOnnxRuntime, text: str, kind: type[Exception], message: str
) -> None:
    runtime.open_error = RuntimeError(text)
    with pytest.raises(kind, match=message):
        bert.open(FakeCuda())


def test_errors_name_closed_sessions_and_existing_outputs(bert: Case, runtime: FakeOnnxRuntime) -> None:
    session = bert.open(FakeCuda())
    with pytest.raises(ProviderError, match="no output 'scores' but vectors"):
        session.run(bert.texts(3), "scores")
    session.close()
    with pytest.raises(ProviderError, match="was closed"):
        session.run(bert.texts(3))


def test_without_a_build_for_cuda_the_extra_is_named() -> None:
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[nvidia\]"):
        cuda_ort.import_onnxruntime()
