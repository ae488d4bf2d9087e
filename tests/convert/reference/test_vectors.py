"""The reference against sentence-transformers itself, on tiny checkpoints with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.convert.reference.vectors import Reference
from fletcher.convert.texts import EDGES, SENTENCES
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError, InputError

from ..tiny import MAX_TOKENS, save_bert, save_modules

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch and its users

POOLINGS = (
    ("cls",),
    ("mean",),
    ("max",),
    ("mean_sqrt_len_tokens",),
    ("weightedmean",),
    ("lasttoken",),
    ("cls", "max", "mean"),
    ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, hidden size 32, over the letters of the built-in sentences."""
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder)
    return folder


def card(pooling: Sequence[str] = ("mean",), **changes: Any) -> ModelCard:
    settings: dict[str, Any] = {
        "name": "tiny",
        "family": "bert",
        "dimension": 32,
        "max_tokens": MAX_TOKENS,
        "pooling": tuple(pooling),
        "normalize": False,
        "license": "Apache-2.0",
    }
    return ModelCard(**(settings | changes))


Build = Callable[..., tuple[Path, NDArray[np.float32]]]


@pytest.fixture
def build(bert: Path, tmp_path: Path) -> Build:
    """Saves a sentence-transformers model made of the tiny BERT and modules; gives its folder and its vectors."""
    library = pytest.importorskip("sentence_transformers")

    def save(*modules: Any, prompt: str = "") -> tuple[Path, NDArray[np.float32]]:
        from sentence_transformers.sentence_transformer.modules import Transformer

        transformer = Transformer(str(bert), max_seq_length=MAX_TOKENS)
        model = library.SentenceTransformer(modules=[transformer, *modules], device="cpu")
        model.eval()
        model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
        texts = [prompt + text for text in (*SENTENCES, *EDGES)]
        return tmp_path / "saved", np.stack([model.encode([text], show_progress_bar=False)[0] for text in texts])

    return save


def vectors_of(reference: Reference, input_type: str | None = None) -> NDArray[np.float32]:
    return reference.embed(reference.tokenize((*SENTENCES, *EDGES), input_type))


@pytest.mark.parametrize("modes", POOLINGS, ids="+".join)
def test_pooling_is_that_of_sentence_transformers(build: Build, modes: tuple[str, ...]) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder, expected = build(Pooling(32, pooling_mode=modes))
    assert expected.shape == (len(SENTENCES) + len(EDGES), 32 * len(modes))
    np.testing.assert_allclose(vectors_of(Reference.load(folder, card())), expected, rtol=2e-6, atol=2e-6)


def test_pooling_of_an_older_config_is_read_in_sentence_transformers_order(build: Build) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder, expected = build(Pooling(32, pooling_mode=("cls", "max", "mean")))
    keys = ("mean_tokens", "max_tokens", "cls_token", "mean_sqrt_len_tokens")
    old = {f"pooling_mode_{key}": key != "mean_sqrt_len_tokens" for key in keys}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **old}))
    np.testing.assert_allclose(vectors_of(Reference.load(folder, card())), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid"])
def test_dense_and_normalize_are_those_of_sentence_transformers(build: Build, activation: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    dense = Dense(32, 12, activation_function=getattr(torch.nn, activation)())
    folder, expected = build(Pooling(32), dense, Normalize())
    found = vectors_of(Reference.load(folder, card()))
    assert found.shape == (len(SENTENCES) + len(EDGES), 12)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("size", "bias", "residual"), [(32, False, False), (32, True, True), (12, True, True)])
def test_dense_without_bias_and_with_residual(build: Build, size: int, bias: bool, residual: bool) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    folder, expected = build(Pooling(32), Dense(32, size, bias=bias, use_residual=residual))
    np.testing.assert_allclose(vectors_of(Reference.load(folder, card())), expected, rtol=2e-6, atol=2e-6)


def test_layer_norm_is_that_of_sentence_transformers(build: Build) -> None:
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling

    norm = LayerNorm(32)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    folder, expected = build(Pooling(32), norm, Normalize())
    np.testing.assert_allclose(vectors_of(Reference.load(folder, card())), expected, rtol=2e-6, atol=2e-6)


def test_a_prompt_goes_before_the_text(build: Build) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder, expected = build(Pooling(32), prompt="query: ")
    reference = Reference.load(folder, card(prompts={"query": "query: "}))
    np.testing.assert_allclose(vectors_of(reference, "query"), expected, rtol=2e-6, atol=2e-6)
    assert np.abs(vectors_of(reference) - expected).max() > 1e-2  # a document has no prompt
    np.testing.assert_array_equal(vectors_of(reference, "raw"), vectors_of(reference, "document"))
    with pytest.raises(InputError, match="'sideways' is unknown"):
        reference.tokenize(["a"], "sideways")


def test_lowercasing_that_sentence_transformers_was_told_to_do(bert: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    transformers.AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    ids = transformers.AutoTokenizer.from_pretrained(bert).get_vocab()
    transformers.BertTokenizer(vocab=ids, do_lower_case=False).save_pretrained(tmp_path)
    cased = vectors_of(Reference.load(tmp_path, card()))
    save_modules(tmp_path, normalize=False, do_lower_case=True)
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    expected = np.stack([model.encode([text], show_progress_bar=False)[0] for text in (*SENTENCES, *EDGES)])
    np.testing.assert_allclose(vectors_of(Reference.load(tmp_path, card())), expected, rtol=2e-6, atol=2e-6)
    assert np.abs(cased - expected).max() > 1e-2  # it mattered


def test_without_modules_the_card_says_pooling_and_normalization(bert: Path) -> None:
    plain = Reference.load(bert, card(("cls", "mean"), dimension=64))
    rows = plain.tokenize(SENTENCES)
    model = transformers.AutoModel.from_pretrained(bert, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows]
    expected = np.stack([torch.cat([state[0], state.mean(0)]).numpy() for state in states])
    np.testing.assert_allclose(plain.embed(rows), expected, rtol=2e-6, atol=2e-6)
    unit = Reference.load(bert, card(("cls", "mean"), dimension=64, normalize=True)).embed(rows)
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_truncation_keeps_the_special_tokens_and_counting_ignores_it(bert: Path) -> None:
    reference = Reference.load(bert, card())
    row = reference.tokenize(["the baker " * 40])[0]
    assert (len(row), row[0], row[-1]) == (MAX_TOKENS, 2, 3)
    # Eight letters a repetition, each a token, and two special ones.
    assert reference.count_tokens("the baker " * 40) == 40 * 8 + 2
    assert reference.tokenize([""]) == [[2, 3]]


def test_embed_reports_each_text_and_takes_none(bert: Path) -> None:
    reference = Reference.load(bert, card())
    seen: list[int] = []
    reference.embed([[2, 3], [2, 9, 3]], each=seen.append)
    assert seen == [2, 3]
    assert reference.embed([]).shape == (0, 32)
    with pytest.raises(InputError, match="text 1 has no token"):
        reference.embed([[2, 3], []])


def test_a_checkpoint_without_all_weights_is_no_reference(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        Reference.load(tmp_path, card())


def test_a_folder_that_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load"):
        Reference.load(tmp_path, card())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"type": "custom_st.Pooling", "path": "x"}, "custom_st.Pooling"),
        ({"type": "sentence_transformers.models.CNN", "path": "x"}, "CNN"),
        ({"type": "sentence_transformers.models.Dense", "path": "pickled"}, "safetensors"),
        ({"type": "sentence_transformers.models.Dense", "path": "foreign"}, "only classes of torch.nn"),
        ({"type": "sentence_transformers.models.Normalize", "path": "tokens"}, "module_input_name"),
        ({"type": "sentence_transformers.models.Pooling", "path": "prompted"}, "include_prompt"),
        ({"type": "sentence_transformers.models.Pooling", "path": "new"}, "attention"),
    ],
)
def test_modules_that_the_reference_does_not_know_are_refused(
    bert: Path, tmp_path: Path, module: dict[str, str], message: str
) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    configs: dict[str, dict[str, Any]] = {
        "pickled": {},
        "foreign": {"activation_function": "os.system"},
        "tokens": {"module_input_name": "token_embeddings"},
        "prompted": {"pooling_mode_mean_tokens": True, "include_prompt": False},
        "new": {"pooling_mode": "attention"},
    }
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", **module}]))
    with pytest.raises(CheckpointError, match=message):
        Reference.load(tmp_path, card(prompts={"query": "q: "}))
