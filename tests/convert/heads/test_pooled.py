"""Modules after the encoder, compared with sentence-transformers models that the tests build and save."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fletcher import Encoder
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.heads.pooled import read_modules
from fletcher.convert.texts import SENTENCES
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CheckpointError, InputError, OptionError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ..tiny import HIDDEN, save_bert, save_modules

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users
TEXTS = ["", "a", "bread", *SENTENCES[:6]]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "plain"
    save_bert(folder)
    return folder


@pytest.fixture
def both(bert: Path, tmp_path: Path) -> Callable[[Sequence[Any]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return a function that gives sentence-transformers' and Fletcher's vectors of the tiny BERT with modules after it."""

    def run(modules: Sequence[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        from sentence_transformers import SentenceTransformer

        encoder = models().Transformer(str(bert), max_seq_length=20)
        model = SentenceTransformer(modules=[encoder, *modules], device="cpu")
        model.save(str(tmp_path / "model"))
        expected = np.stack([model.encode(text, convert_to_numpy=True) for text in TEXTS])
        export(str(tmp_path / "model"), tmp_path / "artifact")
        with Encoder.load(tmp_path / "artifact", workers=1) as loaded:
            return expected, loaded.embed(TEXTS).vectors

    return run


def models() -> Any:
    """Return sentence-transformers' modules, under their usual name in `modules.json`."""
    return importlib.import_module("sentence_transformers.models")


def pooling(*modes: str) -> Any:
    return models().Pooling(HIDDEN, pooling_mode=modes)


def dense(num_in: int, num_out: int, **settings: Any) -> Any:
    torch.manual_seed(4)
    return models().Dense(num_in, num_out, **settings)


@pytest.mark.parametrize(
    "modes",
    [*((mode,) for mode in MODES), ("mean", "cls"), ("cls", "mean"), ("lasttoken", "max", "weightedmean"), MODES],
)
def test_pooling_modes_and_their_order_agree_with_sentence_transformers(both: Any, modes: tuple[str, ...]) -> None:
    expected, vectors = both([pooling(*modes)])
    assert vectors.shape == (len(TEXTS), HIDDEN * len(modes))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 24),  # Tanh
        ({"bias": False, "activation_function": torch.nn.Identity()}, 48),
        ({"activation_function": torch.nn.GELU()}, 8),
        ({"activation_function": torch.nn.ReLU()}, HIDDEN),
        ({"activation_function": torch.nn.SiLU()}, HIDDEN),
        ({"activation_function": torch.nn.Sigmoid()}, HIDDEN),
        ({"use_residual": True}, HIDDEN),
        ({"use_residual": True, "activation_function": torch.nn.ReLU()}, 24),
    ],
)
def test_dense_modules_agree_with_sentence_transformers(both: Any, settings: dict[str, Any], width: int) -> None:
    expected, vectors = both([pooling("mean"), dense(HIDDEN, width, **settings)])
    assert vectors.shape[1] == width
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_chain_of_modules_agrees_with_sentence_transformers(both: Any) -> None:
    chain = [pooling("cls", "mean"), dense(2 * HIDDEN, 40), dense(40, 10, bias=False), models().Normalize()]
    expected, vectors = both(chain)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


# The older configuration, and settings that are refused ------------------------------------------------------------


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


CARD = ModelCard(
    name="tiny", family="bert", dimension=HIDDEN, max_tokens=20, pooling=("mean",), normalize=False, license="MIT"
)


def add_module(
    folder: Path, kind: str, path: str, config: dict[str, Any] | None = None, **tensors: torch.Tensor
) -> None:
    file = folder / "modules.json"
    modules = json.loads(file.read_text()) if file.is_file() else []
    modules.append({"idx": len(modules), "name": path, "path": path, "type": f"sentence_transformers.models.{kind}"})
    file.write_text(json.dumps(modules))
    if config is not None:
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / path / "model.safetensors")


def test_the_booleans_of_old_pooling_configs_concatenate_in_sentence_transformers_order(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    save_modules(folder, normalize=False)
    flags = {"lasttoken": True, "mean_tokens": True, "cls_token": True, "max_tokens": True, "weightedmean_tokens": True}
    config = {"word_embedding_dimension": HIDDEN, **{f"pooling_mode_{key}": value for key, value in flags.items()}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    expected = np.stack([SentenceTransformer(str(folder), device="cpu").encode(text) for text in TEXTS])
    export(str(folder), folder.parent / "artifact")
    with Encoder.load(folder.parent / "artifact", workers=1) as loaded:
        np.testing.assert_allclose(loaded.embed(TEXTS).vectors, expected, atol=1e-5)


def test_layer_norm_modules_agree_with_sentence_transformers(both: Any) -> None:
    norm = models().LayerNorm(HIDDEN)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    expected, vectors = both([pooling("mean"), norm, dense(HIDDEN, 8)])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


DENSE = {
    "in_features": HIDDEN,
    "out_features": 8,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}


def start(folder: Path) -> None:
    """Write modules.json with a Transformer and a Pooling by the mean."""
    add_module(folder, "Transformer", "")
    add_module(folder, "Pooling", "1_Pooling")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.GLU"}, "GLU.*authors torch.nn's CELU, ELU, GELU"),
        ({"activation_function": "my_layers.GELU"}, "my_layers.GELU"),
        ({"activation_function": None}, "activation_function is None"),
        ({"in_features": 31}, "takes 31 elements, but gets 32"),
        ({"out_features": None}, "`out_features`: must be a positive integer, not None"),
        ({"out_features": "8"}, "`out_features`: must be a positive integer, not '8'"),
        ({"out_features": 0}, "`out_features`: must be a positive integer, not 0"),
        ({"out_features": 9}, r"linear\.weight has shape \(8, 32\)"),
        ({"bias": True}, r"lacks the tensor linear\.bias"),
        ({"use_residual": True}, r"lacks the tensor residual\.weight"),
        ({"use_residual": "yes"}, "use_residual is 'yes'"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
    ],
)
def test_unsupported_dense_modules_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    start(folder)
    add_module(folder, "Dense", "2_Dense", {**DENSE, **changes}, **{"linear.weight": torch.ones(8, HIDDEN)})
    with pytest.raises(CheckpointError, match=message):
        read_modules(Checkpoint.open(folder), msgspec.structs.replace(CARD, dimension=8), HIDDEN)


def test_modules_that_contradict_the_card_are_refused(folder: Path) -> None:
    start(folder)
    add_module(folder, "Dense", "2_Dense", DENSE, **{"linear.weight": torch.ones(8, HIDDEN)})
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="gives vectors of 8 dimensions, the card tiny says 32"):
        read_modules(checkpoint, CARD, HIDDEN)
    with pytest.raises(CheckpointError, match="pools by mean, the card tiny says cls"):
        read_modules(checkpoint, msgspec.structs.replace(CARD, pooling=("cls",)), HIDDEN)
    add_module(folder, "Normalize", "3_Normalize")
    with pytest.raises(CheckpointError, match="normalizes, the card tiny says it does not"):
        read_modules(checkpoint, msgspec.structs.replace(CARD, dimension=8), HIDDEN)


def test_unknown_modules_and_a_malformed_list_are_refused(folder: Path) -> None:
    start(folder)
    add_module(folder, "CNN", "2_CNN")
    with pytest.raises(CheckpointError, match="its modules are Transformer, Pooling, CNN; Fletcher reproduces"):
        read_modules(Checkpoint.open(folder), CARD, HIDDEN)
    (folder / "modules.json").write_text('[{"path": 5}]')
    with pytest.raises(CheckpointError, match=r"modules\.json must be a list of sentence-transformers' modules"):
        read_modules(Checkpoint.open(folder), CARD, HIDDEN)


def activations() -> list[str]:
    """Return the names of torch's activations that work on each element and need no argument."""
    names = [name for name in dir(torch.nn.modules.activation) if isinstance(getattr(torch.nn, name, None), type)]
    others = {"GLU", "MultiheadAttention", "PReLU", "Threshold", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}
    return [name for name in names if name not in others and issubclass(getattr(torch.nn, name), torch.nn.Module)] + [
        "Identity"
    ]


@pytest.mark.parametrize("name", [name for name in activations() if name not in ("Module", "Parameter")])
def test_every_activation_of_torch_agrees_with_sentence_transformers(both: Any, name: str) -> None:
    layer = dense(HIDDEN, 12, activation_function=getattr(torch.nn, name)())
    with torch.no_grad():
        layer.linear.weight.mul_(8)  # values on both sides of each bend
    expected, vectors = both([pooling("mean"), layer])
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def token_dense(num_in: int, num_out: int, **settings: Any) -> Any:
    return dense(num_in, num_out, module_input_name="token_embeddings", **settings)


@pytest.mark.parametrize(
    "case", ["normalize twice", "normalize between", "normalize tokens", "dense before", "dense before two modes"]
)
def test_modules_in_any_order_agree_with_sentence_transformers(both: Any, case: str) -> None:
    normalize = models().Normalize
    chain = {
        "normalize twice": [pooling("mean"), normalize(), normalize()],
        "normalize between": [pooling("mean"), normalize(), dense(HIDDEN, 10)],
        "normalize tokens": [normalize(module_input_name="token_embeddings"), pooling("max"), dense(HIDDEN, 10)],
        "dense before": [token_dense(HIDDEN, 10), models().Pooling(10, pooling_mode="mean"), normalize()],
        "dense before two modes": [
            token_dense(HIDDEN, 10, use_residual=True),
            models().Pooling(10, pooling_mode=("cls", "mean")),
            dense(20, 6),
        ],
    }[case]
    expected, vectors = both(chain)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("normalized", [True, False])
def test_truncate_dim_agrees_with_sentence_transformers(bert: Path, tmp_path: Path, normalized: bool) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = models().Transformer(str(bert), max_seq_length=20)
    modules = [encoder, pooling("mean"), *[models().Normalize()] * normalized]
    SentenceTransformer(modules=modules, device="cpu", truncate_dim=9).save(str(tmp_path / "model"))
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = np.stack([model.encode(text) for text in TEXTS])
    export(str(tmp_path / "model"), tmp_path / "artifact", dimensions=(4,))
    with Encoder.load(tmp_path / "artifact", workers=1) as loaded:
        assert (loaded.dimension, loaded.card.normalize, loaded.card.matryoshka) == (9, False, (4,))
        np.testing.assert_allclose(loaded.embed(TEXTS).vectors, expected, atol=1e-5)
        shorter = np.stack([model.encode(text, truncate_dim=4) for text in TEXTS])
        np.testing.assert_allclose(loaded.embed(TEXTS, dimensions=4).vectors, shorter, atol=1e-5)


def test_lowercasing_agrees_with_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    save_modules(folder, normalize=False, do_lower_case=True)
    file = folder / "tokenizer.json"
    file.write_text(
        file.read_text()
        .replace('"lowercase":true', '"lowercase":false')
        .replace('"lowercase": true', '"lowercase": false')
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    texts = ["Bread AND Öl", "bread and öl", "İSTANBUL"]
    model = SentenceTransformer(str(folder), device="cpu")
    expected = np.stack([model.encode(text) for text in texts])
    assert np.abs(expected[0] - expected[1]).max() < 1e-5
    export(str(folder), folder.parent / "artifact")
    with Encoder.load(folder.parent / "artifact", workers=1) as loaded:
        np.testing.assert_allclose(loaded.embed(texts).vectors, expected, atol=1e-5)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("hidden_states", [True, False])
def test_a_weighted_average_of_layers(bert: Path, tmp_path: Path, start: int, hidden_states: bool) -> None:
    """sentence-transformers gives the module the layers' states if config.json asks for them, and else leaves it out."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    source = Path(shutil.copytree(bert, tmp_path / "bert"))
    config = json.loads((source / "config.json").read_text()) | {"output_hidden_states": hidden_states}
    (source / "config.json").write_text(json.dumps(config))
    average = WeightedLayerPooling(HIDDEN, num_hidden_layers=2, layer_start=start)
    average.layer_weights = torch.nn.Parameter(torch.tensor([2.0, -0.5, 1.25][start:]))
    modules = [
        models().Transformer(str(source), max_seq_length=20),
        average,
        pooling("mean", "cls"),
        models().Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = np.stack([loaded.encode(text, convert_to_numpy=True) for text in TEXTS])
    export(str(tmp_path / "model"), tmp_path / "artifact")
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        np.testing.assert_allclose(encoder.embed(TEXTS).vectors, expected, rtol=0, atol=1e-5)
    file = tmp_path / "model" / "1_WeightedLayerPooling" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3, "layer_start": start + 1}))
    if hidden_states:
        with pytest.raises(CheckpointError, match="num_hidden_layers is 3, and the encoder has 2 layers"):
            export(str(tmp_path / "model"), tmp_path / "artifact")


# Prompts that are left out of the pooling ------------------------------------------------------------------------------


def save_without_prompt(bert: Path, folder: Path, *modes: str) -> Any:
    """Write a model that leaves prompts out of its pooling, and return it."""
    from sentence_transformers import SentenceTransformer

    pool = models().Pooling(HIDDEN, pooling_mode=modes, include_prompt=False)
    encoder = models().Transformer(str(bert), max_seq_length=20)
    prompts = {"query": "bread and ", "document": "", "clustering": "a "}
    model = SentenceTransformer(modules=[encoder, pool], device="cpu", prompts=prompts)
    model.save(str(folder))
    return model


@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES), ("cls", "mean", "lasttoken")])
def test_pooling_without_the_prompt_agrees_with_sentence_transformers(
    bert: Path, tmp_path: Path, modes: tuple[str, ...]
) -> None:
    model = save_without_prompt(bert, tmp_path / "model", *modes)
    export(str(tmp_path / "model"), tmp_path / "artifact")
    with Encoder.load(tmp_path / "artifact", provider="mlas", workers=1) as encoder:
        for kind, call in (
            ("query", model.encode_query),
            ("document", model.encode_document),
            ("clustering", lambda texts, **options: model.encode(texts, prompt_name="clustering", **options)),
        ):
            expected = np.stack([call(text, convert_to_numpy=True) for text in TEXTS])
            np.testing.assert_allclose(encoder.embed(TEXTS, input_type=kind).vectors, expected, rtol=0, atol=1e-5)
            assert np.abs(expected - encoder.embed(TEXTS, input_type="raw").vectors).max() > 1e-3 or kind == "document"
        # Texts with and without a prompt share a batch.
        tasks = [encoder.prepare(Texts(tuple(TEXTS)), EmbedOptions(input_type=kind)) for kind in ("query", "document")]
        together = encoder.compute(Encodings.concatenate([task.encodings for task in tasks]))
        alone = np.concatenate([encoder.compute(task.encodings) for task in tasks])
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
        for overflow in ("windows", "truncate_left"):
            with pytest.raises(OptionError, match="leaves the prompt out"):
                encoder.embed(TEXTS, overflow=overflow)


def test_a_model_that_leaves_prompts_out_is_verified(bert: Path, tmp_path: Path) -> None:
    save_without_prompt(bert, tmp_path / "model", "mean")
    export(str(tmp_path / "model"), tmp_path / "artifact")
    report = verify(tmp_path / "artifact")
    report.raise_if_failed()
    verdicts = {result.setting: result.verdict for result in report.settings}
    assert verdicts["config_sentence_transformers.json: prompts: query"] == "passed"


def test_devices_cannot_leave_prompts_out(bert: Path, tmp_path: Path) -> None:
    save_without_prompt(bert, tmp_path / "model", "mean")
    with pytest.raises(InputError, match="include_prompt is false"):
        export(str(tmp_path / "model"), tmp_path / "artifact", targets=("cpu", "cuda"))
