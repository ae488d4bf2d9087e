"""Witness: sentence-transformers on the unchanged folder, without random weights or code of the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from fletcher.convert.reference.load import load_witness
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError, InputError

from ..tiny import HIDDEN, MAX_TOKENS, save_bert, save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("witness") / "tiny")


def card(**changes: Any) -> ModelCard:
    settings: dict[str, Any] = {
        "name": "tiny",
        "family": "bert",
        "dimension": HIDDEN,
        "max_tokens": MAX_TOKENS,
        "pooling": ("mean",),
        "normalize": True,
        "license": "Apache-2.0",
    }
    return ModelCard(**(settings | changes))


def copy(folder: Path, target: Path, **files: object) -> Path:
    shutil.copytree(folder, target)
    for name, content in files.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    return target


def test_vectors_and_ids_equal_those_of_the_public_methods(embedder: Path, tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "the baker ", "web": "stone "}, "default_prompt_name": "web"}
    folder = copy(embedder, tmp_path / "prompted", config_sentence_transformers=prompts)
    witness, model = load_witness(folder, card()), SentenceTransformer(str(folder), device="cpu")
    text = "takes the bread"
    for kind, expected in (
        ("query", model.encode_query([text])),
        ("document", model.encode_document([text])),
        ("web", model.encode([text], prompt_name="web")),
        ("clustering", model.encode([text])),
        ("raw", model.encode([text], prompt="")),
    ):
        answer = witness.answer(text, kind)
        assert answer.values is not None and answer.tokens is not None
        np.testing.assert_allclose(answer.values, expected[0], atol=1e-6)
        np.testing.assert_allclose(witness.compute(answer.tokens), expected[0], atol=1e-6)
    assert witness.answer(text, "web").tokens is not None
    assert witness.tokenize(text).ids == tuple(model.tokenizer(text)["input_ids"])
    assert witness.answer(text, ids_only=True).values is None
    assert "sentence-transformers" in witness.method and witness.notes == ()


def test_a_shorter_limit_of_the_export_is_applied_and_noted_and_a_longer_one_is_not(embedder: Path) -> None:
    text = "the baker " * 40
    shorter = load_witness(embedder, card(max_tokens=MAX_TOKENS - 5))
    assert len(shorter.tokenize(text).ids) == MAX_TOKENS - 5
    assert shorter.notes == (f"max_seq_length is the artifact's, 15 tokens; the checkpoint's own is {MAX_TOKENS}",)
    longer = load_witness(embedder, card(max_tokens=MAX_TOKENS + 5))
    assert len(longer.tokenize(text).ids) == MAX_TOKENS and longer.notes == ()
    assert len(load_witness(embedder, card(max_tokens=25), zoo=True).tokenize(text).ids) == 25


def test_prompts_of_a_zoo_card_are_used_for_a_checkpoint_without_prompts(embedder: Path) -> None:
    witness = load_witness(embedder, card(prompts={"query": "the baker "}), zoo=True)
    assert witness.tokenize("bread", "query").ids == witness.tokenize("the baker bread").ids
    assert load_witness(embedder, card(prompts={"query": "the baker "})).tokenize("bread", "query").ids == (
        witness.tokenize("bread").ids
    )


def test_without_modules_the_artifact_gives_the_pooling_and_the_method_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    save_bert(folder)
    pooled = card(pooling=("cls", "mean"), dimension=2 * HIDDEN, normalize=False)
    witness = load_witness(folder, pooled)
    assert "cls+mean" in witness.method and "no modules.json" in witness.method
    tokens = witness.tokenize("the baker")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        state = model(input_ids=torch.tensor([tokens.ids])).last_hidden_state[0]
    np.testing.assert_allclose(witness.compute(tokens), torch.cat([state[0], state.mean(0)]).numpy(), atol=2e-6)


def test_a_refusal_of_a_text_is_an_answer(embedder: Path, tmp_path: Path) -> None:
    folder = copy(embedder, tmp_path / "bare")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    content = json.loads(tokenizer.to_str()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    generic = settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(generic))
    witness = load_witness(folder, card())
    answer = witness.answer("")
    assert answer.values is None and answer.refused == "it has no token"
    assert witness.answer("the").values is not None
    with pytest.raises(InputError, match="it has no token"):
        witness.tokenize("")


def test_a_checkpoint_with_missing_weights_is_refused(embedder: Path, tmp_path: Path) -> None:
    folder = copy(embedder, tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"at random: encoder\.layer\.1\.output\.dense\.weight"):
        load_witness(folder, card())


def test_the_error_names_a_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load"):
        load_witness(tmp_path, card())


def test_a_module_with_code_of_the_repository_is_not_run(embedder: Path, tmp_path: Path) -> None:
    folder = copy(embedder, tmp_path / "own")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "custom_st.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CheckpointError, match="cannot load"):
        load_witness(folder, card())


def test_the_reference_of_experts_gives_vectors_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nomic_bert", "num_experts": 8}))
    with pytest.raises(CheckpointError, match=r"num_experts.*gives vectors alone"):
        load_witness(tmp_path, msgspec.structs.replace(card(), output="sparse", pooling=()))
