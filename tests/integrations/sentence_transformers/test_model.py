"""`SentenceTransformer` beside the real class: every real argument gives the real values or is refused by its name."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch

from fletcher import Encoder, LoadOptions
from fletcher.integrations.sentence_transformers import SentenceTransformer
from fletcher.integrations.sentence_transformers.arguments import ArgumentError, EncodeArguments, ModelArguments
from fletcher.runtime.errors import InputError, MissingPackageError, OptionError

from ...convert.heads import test_classification
from ...convert.tiny import save_embedder

Real = sentence_transformers.SentenceTransformer

TEXTS = ["A man is eating food.", "How do I reset my password?", "", "Ein schönes Café in Köln", "hello world"]

#: A text of more tokens than the model reads.
LONG = "Ein schönes Café in Köln " * 80

#: Values of each argument of `encode` that is taken, other than its default.
TAKEN: dict[str, tuple[Any, ...]] = {
    "prompt_name": ("query", "document"),
    "prompt": ("search: ", ""),
    "batch_size": (1, 1000),
    "show_progress_bar": (True, False),
    "output_value": ("token_embeddings",),
    "precision": (None, "int8", "uint8", "binary", "ubinary"),
    "convert_to_numpy": (False,),
    "convert_to_tensor": (True,),
    "device": ("cpu", torch.device("cpu")),
    "normalize_embeddings": (True,),
    "truncate_dim": (16, 384, 1000, -8),
}

#: A value of each argument of `encode` that is refused.
REFUSED: dict[str, Any] = {"pool": {"input": None}, "chunk_size": 100}


@pytest.fixture(scope="module")
def pair(minilm_checkpoint: Path, minilm_artifact: Path) -> Iterator[tuple[SentenceTransformer, Any]]:
    """Return Fletcher's model and the real one."""
    encoder = Encoder.load(minilm_artifact, provider="mlas", workers=1)
    with SentenceTransformer.of(encoder) as model:
        yield model, Real(str(minilm_checkpoint), device="cpu")


def same(made: Any, right: Any) -> None:
    """Compare results: type, form, and values within 1e-5, or within one step of a type with few values."""
    assert type(made) is type(right)
    if isinstance(right, list):
        assert len(made) == len(right)
        for one, other in zip(made, right, strict=True):
            same(one, other)
        return
    assert made.dtype == right.dtype
    assert made.shape == right.shape
    found, expected = (np.asarray(value).astype(np.float64) for value in (made, right))
    if np.issubdtype(np.asarray(right).dtype, np.integer):
        # The largest element of a dimension lies on the border of the two largest codes, because it is the end of the range.
        top = np.iinfo(np.asarray(right).dtype).max
        on_border = (np.maximum(found, expected) == top) & (np.minimum(found, expected) == top - 1)
        # Another element that float32 rounds to the other side of a step or of 0 has another code.
        assert np.mean((found != expected) & ~on_border) < 0.01
        return
    assert float(np.abs(found - expected).max(initial=0)) <= 1e-5


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a real function, without `self`, the inputs and `**kwargs`."""
    signature = inspect.signature(inspect.unwrap(function))
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name not in ("self", "inputs", "model_name_or_path") and parameter.kind is not parameter.VAR_KEYWORD
    }


def values(arguments: type[EncodeArguments | ModelArguments]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(arguments)}


def test_the_arguments_are_those_of_the_real_class_in_their_order_with_their_defaults() -> None:
    for method in (Real.encode, Real.encode_query, Real.encode_document):
        real = parameters(method)
        assert list(values(EncodeArguments)) == list(real)
        assert values(EncodeArguments) == {name: parameter.default for name, parameter in real.items()}
        assert list(real) == [*TAKEN, *REFUSED]
    real = parameters(Real.__init__)
    assert values(ModelArguments) == {name: parameter.default for name, parameter in real.items()}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in TAKEN.items() for value in values])
@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0]], ids=["list", "single"])
def test_a_taken_argument_gives_the_real_result(
    name: str, value: Any, inputs: Any, pair: tuple[SentenceTransformer, Any]
) -> None:
    model, real = pair
    if isinstance(inputs, str) and value in ("int8", "uint8"):
        for one in (model, real):
            with pytest.raises(ValueError, match=r"range"):
                one.encode(inputs, **{name: value})
        return
    same(model.encode(inputs, **{name: value}), real.encode(inputs, **{name: value}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"convert_to_tensor": True, "precision": "int8", "truncate_dim": 32, "normalize_embeddings": True},
        {"convert_to_numpy": False, "precision": "ubinary"},
        {"convert_to_tensor": True, "convert_to_numpy": False, "truncate_dim": 7},
        {"output_value": "token_embeddings", "precision": "uint8"},
        {
            "output_value": "token_embeddings",
            "truncate_dim": 8,
            "normalize_embeddings": True,
            "convert_to_tensor": True,
        },
        {"prompt": "query: ", "prompt_name": "document"},
    ],
)
def test_arguments_together_give_the_real_result(
    arguments: dict[str, Any], pair: tuple[SentenceTransformer, Any]
) -> None:
    model, real = pair
    for method in ("encode", "encode_query", "encode_document"):
        same(getattr(model, method)(TEXTS, **arguments), getattr(real, method)(TEXTS, **arguments))


def test_arguments_by_position_and_the_former_name_of_the_inputs(pair: tuple[SentenceTransformer, Any]) -> None:
    model, real = pair
    same(model.encode([*TEXTS, LONG], None, "find: ", 8), real.encode([*TEXTS, LONG], None, "find: ", 8))
    with pytest.warns(FutureWarning, match="sentences"):
        same(model.encode(sentences=TEXTS), real.encode(TEXTS))
    with pytest.raises(TypeError, match="'prompt' by position and by name"):
        model.encode(TEXTS, None, "find: ", prompt="other: ")
    with pytest.raises(TypeError, match="inputs"):
        model.encode()
    with pytest.raises(TypeError, match="at most 14"):
        model.encode(TEXTS, *values(EncodeArguments).values(), 1)


@pytest.mark.parametrize("inputs", [[], (), tuple(TEXTS[:2]), np.array(TEXTS[:2])], ids=["[]", "()", "tuple", "array"])
@pytest.mark.parametrize("arguments", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_forms_of_the_inputs(inputs: Any, arguments: dict[str, Any], pair: tuple[SentenceTransformer, Any]) -> None:
    model, real = pair
    same(model.encode(inputs, **arguments), real.encode(inputs, **arguments))


@pytest.mark.parametrize(
    "inputs",
    [None, 7, {"text": "a"}, b"a", ["a", 7], [("a", "b")], [None], iter(["a"])],
    ids=lambda value: str(value)[:12],
)
def test_other_inputs_are_refused(inputs: Any, pair: tuple[SentenceTransformer, Any]) -> None:
    with pytest.raises(InputError, match="inputs"):
        pair[0].encode(inputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [*REFUSED.items(), ("output_value", None), ("device", "cuda"), ("device", ["cpu", "cpu"]), ("task", "retrieval"),
     ("processing_kwargs", {}), ("prompt_name", "unknown"), ("precision", "float16"), ("batch_size", 0)],
)  # fmt: skip
def test_an_argument_that_is_not_taken_is_refused_by_its_name(
    name: str, value: Any, pair: tuple[SentenceTransformer, Any]
) -> None:
    for method in ("encode", "encode_query", "encode_document"):
        with pytest.raises(ValueError, match=name) as caught:
            getattr(pair[0], method)(TEXTS, **{name: value})
        assert isinstance(caught.value, OptionError)
        assert caught.value.field == name


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_the_real_ones(name: str, pair: tuple[SentenceTransformer, Any]) -> None:
    model, real = pair
    random = np.random.default_rng(5)
    first, second = random.normal(size=(4, 24)).astype(np.float32), random.normal(size=(4, 24)).astype(np.float32)
    kinds: list[tuple[Any, Any]] = [
        (first, second),
        (torch.tensor(first), torch.tensor(second)),
        (list(first), list(torch.tensor(second))),
        (first[0], second[0]),
        (first.astype(np.float16), second.astype(np.float16)),
        (first.astype(np.float64), second.astype(np.float64)),
        (np.zeros_like(first), second),
    ]
    model.similarity_fn_name = real.similarity_fn_name = sentence_transformers.SimilarityFunction(name)
    try:
        assert model.similarity_fn_name == real.similarity_fn_name == name
        for one, other in kinds:
            same(model.similarity(one, other), real.similarity(one, other))
            same(model.similarity_pairwise(one, other), real.similarity_pairwise(one, other))
    finally:
        model.similarity_fn_name = real.similarity_fn_name = "cosine"


def test_settings_are_the_real_ones(pair: tuple[SentenceTransformer, Any]) -> None:
    model, real = pair
    assert model.prompts == real.prompts
    assert model.default_prompt_name == real.default_prompt_name
    assert model.max_seq_length == model.get_max_seq_length() == real.max_seq_length
    assert model.get_embedding_dimension() == model.get_sentence_embedding_dimension() == 384
    assert torch.device(model.device) == real.device
    with model.truncate_embeddings(12), real.truncate_embeddings(12):
        same(model.encode(TEXTS), real.encode(TEXTS))
        assert model.get_embedding_dimension() == real.get_embedding_dimension() == 12
    assert model.truncate_dim is None
    with pytest.raises(AttributeError, match="fit"):
        _ = model.fit
    with pytest.raises(ArgumentError, match="similarity_fn_name is 'maxsim'"):
        model.similarity_fn_name = "maxsim"


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint with prompts, a default prompt and a similarity."""
    folder = save_embedder(tmp_path_factory.mktemp("prompted") / "checkpoint")
    settings = {
        "prompts": {"passage": "text: ", "query": "find: ", "web": "page "},
        "default_prompt_name": "web",
        "similarity_fn_name": "dot",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def test_a_checkpoint_is_converted_at_its_first_use(
    prompted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cache = Real(str(prompted), device="cpu"), tmp_path / "cache"
    with SentenceTransformer(prompted, device="cpu", cache_folder=cache) as model:
        assert model.similarity_fn_name == real.similarity_fn_name == "dot"
        assert model.default_prompt_name == real.default_prompt_name == "web"
        assert {name: model.prompts[name] for name in real.prompts} == real.prompts
        for method in ("encode", "encode_query", "encode_document"):
            for arguments in ({}, {"prompt_name": "passage"}, {"prompt": ""}):
                same(getattr(model, method)(TEXTS, **arguments), getattr(real, method)(TEXTS, **arguments))
    (converted,) = [path for path in (cache / "converted").iterdir() if path.is_dir()]
    before = (converted / "fletcher.json").stat().st_mtime_ns
    given: dict[str, Any] = {"prompts": {"query": "", "new": "n: "}, "default_prompt_name": "new", "truncate_dim": 8}
    real = Real(str(prompted), device="cpu", **given)
    with SentenceTransformer(str(prompted), cache_folder=str(cache), backend="onnx", **given) as model:
        for method in ("encode", "encode_query", "encode_document"):
            same(getattr(model, method)(TEXTS), getattr(real, method)(TEXTS))
        assert model.get_embedding_dimension() == real.get_embedding_dimension() == 8
    assert (converted / "fletcher.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("modules", [torch.nn.Identity()]), ("trust_remote_code", True), ("local_files_only", True), ("token", "t"),
     ("use_auth_token", "t"), ("model_kwargs", {"dtype": "float16"}), ("processor_kwargs", {}), ("config_kwargs", {}),
     ("model_card_data", object()), ("backend", "jax"), ("device", "cuda:1"), ("default_prompt_name", "unknown"),
     ("similarity_fn_name", "maxsim"), ("tokenizer_kwargs", {})],
)  # fmt: skip
def test_an_argument_of_the_constructor_that_is_not_taken_is_refused_by_its_name(
    name: str, value: Any, tiny_artifact: Path
) -> None:
    arguments: Any = {name: value}
    with pytest.raises(ValueError, match=name) as caught:
        SentenceTransformer(tiny_artifact, **arguments)
    assert isinstance(caught.value, ArgumentError)
    assert caught.value.field == name


def test_the_devices_and_backends_of_the_constructor_choose_the_provider() -> None:
    assert ModelArguments.bind({}).provider == "auto"
    assert ModelArguments.bind({"device": "cpu"}).provider == "mlas"
    assert ModelArguments.bind({"device": torch.device("cuda")}).provider == "cuda"
    assert ModelArguments.bind({"device": "cpu", "backend": "openvino"}).provider == "openvino"
    with pytest.raises(ArgumentError, match="runs on processors"):
        _ = ModelArguments.bind({"device": "cuda", "backend": "openvino"}).provider


def test_without_torch_arrays_work_and_tensors_name_the_package(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, load = importlib.util.find_spec, importlib.import_module

    def import_module(name: str) -> Any:
        if name == "torch":
            raise ModuleNotFoundError(name, name=name)
        return load(name)

    with SentenceTransformer(tiny_artifact, load=LoadOptions(provider="mlas", workers=1)) as model:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
        monkeypatch.setattr(importlib, "import_module", import_module)
        vectors = model.encode(TEXTS, precision="float32")
        similarities = model.similarity(vectors, vectors)
        assert type(similarities) is np.ndarray
        assert similarities.shape == (len(TEXTS), len(TEXTS))
        cases: list[Any] = [{"convert_to_tensor": True}, {"convert_to_numpy": False}]
        for arguments in cases:
            with pytest.raises(MissingPackageError, match=r"convert_to_.* needs the package torch"):
                model.encode(TEXTS, **arguments)
        with pytest.raises(MissingPackageError, match="token_embeddings"):
            model.encode(TEXTS, output_value="token_embeddings")


def test_a_model_that_does_not_give_vectors_is_refused(tmp_path: Path) -> None:
    checkpoint = test_classification.make(tmp_path / "reranker")
    with pytest.raises(InputError, match="gives scores, not vectors"):
        SentenceTransformer(checkpoint, cache_folder=tmp_path / "cache", device="cpu")
