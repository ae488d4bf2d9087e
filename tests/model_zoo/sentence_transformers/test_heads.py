"""Head of a checkpoint: its files declare it, an option requests it, or the architecture implies it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fletcher.model_zoo import read_card
from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.sentence_transformers.files import read_files
from fletcher.model_zoo.sentence_transformers.heads import find_head, read_late_interaction, read_scoring


def write(folder: Path, **files: Any) -> Path:
    names = {"config": "config.json", "modules": "modules.json", "said": "config_sentence_transformers.json"}
    names |= {
        "tokens": "tokenizer_config.json",
        "stanford": "artifact.metadata",
        "transformer": "sentence_bert_config.json",
    }
    for key, value in files.items():
        (folder / names[key]).write_text(json.dumps(value))
    return folder


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"path": "" if kind == "Transformer" else f"1_{kind}", "type": f"x.{kind}"} for kind in kinds]


CLASSIFIER = {"architectures": ["XLMRobertaForSequenceClassification"]}
MASKED = {"architectures": ["BertForMaskedLM"]}
PLAIN = {"architectures": ["BertModel"]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": CLASSIFIER}, "classification"),
        ({"config": PLAIN}, "embedding"),
        ({"config": {}}, "embedding"),
        ({"config": MASKED, "modules": modules("Transformer", "Pooling")}, "embedding"),  # like all-mpnet-base-v2
        ({"config": CLASSIFIER, "modules": modules("Transformer", "Pooling")}, "embedding"),
        (
            {
                "config": MASKED,
                "modules": modules("MLMTransformer", "SpladePooling"),
                "said": {"model_type": "SparseEncoder"},
            },
            "splade",
        ),
        ({"config": PLAIN, "modules": modules("Transformer", "Dense", "MultiVectorMask", "Normalize")}, "colbert"),
        ({"config": PLAIN, "modules": modules("Transformer", "Dense"), "said": {"model_type": "ColBERT"}}, "colbert"),
        (
            {"config": CLASSIFIER, "modules": modules("Transformer"), "said": {"model_type": "CrossEncoder"}},
            "classification",
        ),
        ({"config": {"architectures": ["HF_ColBERT"]}}, "colbert"),
    ],
)
def test_the_files_declare_the_head(tmp_path: Path, files: dict[str, Any], expected: Any) -> None:
    folder = write(tmp_path, **files)
    assert find_head(read_files(folder), None) == expected
    assert find_head(read_files(folder), expected) == expected


def test_an_ambiguous_head_must_be_requested(tmp_path: Path) -> None:
    folder = write(tmp_path, config=MASKED)
    with pytest.raises(CardError, match=r"BertForMaskedLM without modules\.json.* --head splade, or --head embedding"):
        find_head(read_files(folder), None)
    assert find_head(read_files(folder), "splade") == "splade"
    assert find_head(read_files(folder), "embedding") == "embedding"
    assert find_head(read_files(folder), None, pooled=True) == "embedding"
    unknown: Any = "ranking"
    with pytest.raises(CardError, match="--head ranking: is unknown"):
        find_head(read_files(folder), unknown)


@pytest.mark.parametrize(
    ("kinds", "model_type", "head"),
    [
        (["Transformer", "Pooling"], "SentenceTransformer", "splade"),
        (["Transformer", "SpladePooling"], "SparseEncoder", "embedding"),
    ],
)
def test_a_request_cannot_contradict_the_files(tmp_path: Path, kinds: list[str], model_type: str, head: Any) -> None:
    folder = write(tmp_path, config=PLAIN, modules=modules(*kinds), said={"model_type": model_type})
    with pytest.raises(CardError, match=f"--head {head} contradicts"):
        find_head(read_files(folder), head)


@pytest.mark.parametrize(
    ("kinds", "model_type", "expected"),
    [
        (["Transformer", "SpladePooling"], None, "SparseEncoder"),
        (["Transformer", "SpladePooling"], "CrossEncoder", "SparseEncoder"),
        (["Transformer", "MultiVectorMask"], "SparseEncoder", "MultiVectorEncoder"),
    ],
)
def test_modules_of_another_kind_of_model_are_refused(
    tmp_path: Path, kinds: list[str], model_type: str | None, expected: str
) -> None:
    folder = write(tmp_path, config=MASKED, modules=modules(*kinds), said={"model_type": model_type})
    with pytest.raises(CardError, match=f"`model_type` is {model_type!r}.* needs '{expected}'"):
        find_head(read_files(folder), None)


def test_a_sparse_model_needs_a_masked_lm_head(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"--head splade: .*architecture 'BertModel'"):
        find_head(read_files(write(tmp_path, config=PLAIN)), "splade")


def test_the_number_of_labels_must_be_that_of_their_names(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="`num_labels` is 5, and `id2label` has 2 labels"):
        read_scoring(read_files(write(tmp_path, config={"num_labels": 5, "id2label": {"0": "a", "1": "b"}})))


def test_scores_of_a_reranker(tmp_path: Path) -> None:
    folder = write(tmp_path, config={"id2label": {"1": "b", "0": "a", "10": "c"}})
    assert (
        read_scoring(read_files(folder)).labels == ("a", "b", "c")
        and read_scoring(read_files(folder)).activation == "identity"
    )
    assert read_scoring(read_files(write(tmp_path, config={}))).labels == (
        "LABEL_0",
        "LABEL_1",
    )  # transformers' default
    assert read_scoring(read_files(write(tmp_path, config={"id2label": {"0": "x"}}))).activation == "sigmoid"
    write(tmp_path, said={"activation_fn": "torch.nn.modules.linear.Identity"})
    assert read_scoring(read_files(folder)).activation == "sigmoid"  # the file is not read without modules.json
    write(tmp_path, modules=modules("Transformer"))
    assert read_scoring(read_files(folder)).activation == "identity"
    write(tmp_path, said={"prompts": {"query": "q: "}})
    with pytest.raises(CardError, match="prompts"):
        read_scoring(read_files(folder))
    write(tmp_path, said={}, modules=modules("Transformer", "LogitScore"))
    with pytest.raises(CardError, match="LogitScore"):
        read_scoring(read_files(folder))


def test_settings_of_stanfords_colbert(tmp_path: Path) -> None:
    folder = write(tmp_path, stanford={"doc_maxlen": 180, "attend_to_mask_tokens": False, "mask_punctuation": True})
    late, prompts = read_late_interaction(read_files(folder), 512)
    assert (late.query_tokens, late.document_tokens) == (32, 180)  # the defaults of ColBERT
    assert late.expansion is not None and (late.expansion.token, late.expansion.attended) == ("[MASK]", False)
    assert "." in late.skipped and late.skipped_in == ("document",)
    assert prompts == {"query": "[unused0] ", "document": "[unused1] "}


def test_an_unknown_expansion_is_rejected(tmp_path: Path) -> None:
    entries = modules("Transformer", "MultiVectorMask")
    for expansion in ({"strategy": "odd", "length": 5}, {"strategy": "min"}, {"strategy": "min", "length": 5, "x": 1}):
        folder = write(tmp_path, modules=entries, transformer={"query_expansion": expansion})
        with pytest.raises(CardError, match="query_expansion"):
            read_late_interaction(read_files(folder), 40)


def test_pooling_is_for_vectors(tmp_path: Path) -> None:
    config = CLASSIFIER | {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 40}
    folder = write(tmp_path, config=config, tokens={"model_max_length": 20}, said={"model_type": "CrossEncoder"})
    write(folder, modules=modules("Transformer"))
    assert read_card(folder, name="m").output == "scores"
    with pytest.raises(CardError, match="--pooling is for vectors"):
        read_card(folder, name="m", pooling="mean")
