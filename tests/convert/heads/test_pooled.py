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
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError

from ..tiny import HIDDEN, save_bert, save_modules

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch and its users
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
    """sentence-transformers' vectors and Fletcher's, of the tiny BERT followed by modules."""

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
    """sentence-transformers' modules, under the name that their files have in `modules.json` for years."""
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
def test_pooling_modes_and_their_order_are_sentence_transformers(both: Any, modes: tuple[str, ...]) -> None:
    expected, found = both([pooling(*modes)])
    assert found.shape == (len(TEXTS), HIDDEN * len(modes))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 24),  # Tanh
        ({"bias": False, "activation_function": torch.nn.Identity()}, 48),
        ({"activation_function": torch.nn.GELU()}, 8),
        ({"activation_function": torch.nn.ReLU()}, HIDDEN),
        ({"activation_function": torch.nn.SiLU()}, HIDDEN),
        ({"activation_function": torch.nn.Sigmoid()}, HIDDEN),
    ],
)
def test_dense_modules_are_sentence_transformers(both: Any, settings: dict[str, Any], width: int) -> None:
    expected, found = both([pooling("mean"), dense(HIDDEN, width, **settings)])
    assert found.shape[1] == width
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_chain_of_modules_is_sentence_transformers(both: Any) -> None:
    chain = [pooling("cls", "mean"), dense(2 * HIDDEN, 40), dense(40, 10, bias=False), models().Normalize()]
    expected, found = both(chain)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


# The older spelling, and what is refused ------------------------------------------------------------


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


def test_layer_norm_modules_are_sentence_transformers(both: Any) -> None:
    norm = models().LayerNorm(HIDDEN)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    expected, found = both([pooling("mean"), norm, dense(HIDDEN, 8)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


DENSE = {
    "in_features": HIDDEN,
    "out_features": 8,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.Mish"}, "Mish.*authors GELU, Identity, ReLU"),
        ({"in_features": 31}, "in_features is 31, 32 arrive"),
        ({"out_features": None}, "out_features is None"),
        ({"out_features": "8"}, "out_features is '8'"),
        ({"out_features": 9}, r"linear\.weight has shape \(8, 32\)"),
        ({"bias": True}, r"lacks the tensor linear\.bias"),
        ({"mystery": 1}, "keys that Fletcher does not know: mystery"),
        ({"module_input_name": "token_embeddings"}, "only sentence_embedding is authored"),
    ],
)
def test_dense_modules_that_are_not_understood_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    add_module(folder, "Dense", "2_Dense", {**DENSE, **changes}, **{"linear.weight": torch.ones(8, HIDDEN)})
    with pytest.raises(CheckpointError, match=message):
        read_modules(Checkpoint.open(folder), msgspec.structs.replace(CARD, dimension=8), HIDDEN)


def test_modules_that_contradict_the_card_are_refused(folder: Path) -> None:
    add_module(folder, "Dense", "2_Dense", DENSE, **{"linear.weight": torch.ones(8, HIDDEN)})
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="gives vectors of 8 dimensions, the card tiny says 32"):
        read_modules(checkpoint, CARD, HIDDEN)
    add_module(folder, "Normalize", "3_Normalize")
    with pytest.raises(CheckpointError, match="normalizes, the card tiny says it does not"):
        read_modules(checkpoint, msgspec.structs.replace(CARD, dimension=8), HIDDEN)
    add_module(folder, "CNN", "4_CNN")
    with pytest.raises(CheckpointError, match="CNN after Normalize"):
        read_modules(checkpoint, msgspec.structs.replace(CARD, dimension=8, normalize=True), HIDDEN)


def test_unknown_modules_and_a_malformed_list_are_refused(folder: Path) -> None:
    add_module(folder, "WeightedLayerPooling", "1_W")
    with pytest.raises(CheckpointError, match=r"module sentence_transformers\.models\.WeightedLayerPooling"):
        read_modules(Checkpoint.open(folder), CARD, HIDDEN)
    (folder / "modules.json").write_text('[{"path": 5}]')
    with pytest.raises(CheckpointError, match=r"modules\.json must be a list of sentence-transformers' modules"):
        read_modules(Checkpoint.open(folder), CARD, HIDDEN)
