"""Verification end to end on a tiny checkpoint: an intact artifact passes, a damaged one fails, and the cause is named."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tokenizer.file import WrittenTokenizer, write_tokenizer
from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.reference.witness import Tokens
from fletcher.convert.verify.case import Case
from fletcher.convert.verify.outputs import TokenRow
from fletcher.convert.verify.report import VariantResult, VerificationReport
from fletcher.convert.verify.verdicts import VariantVectors, compare_ids, compare_vectors
from fletcher.convert.verify.verify import verify, verify_with
from fletcher.model_zoo.card import Accuracy, ModelCard
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.errors import ArtifactError, ChecksumError, VerificationError

from ..tiny import MAX_TOKENS, save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    return save_embedder(folder)


@pytest.fixture
def artifact(tmp_path: Path, checkpoint: Path) -> Path:
    export(str(checkpoint), tmp_path / "artifact")
    return tmp_path / "artifact"


def test_a_faithful_artifact_passes_and_is_stamped(artifact: Path) -> None:
    before = Artifact.open(artifact)
    assert before.manifest.status == "self-made"
    report = verify(artifact, texts=["the user's own text"])
    report.raise_if_failed()
    variant = report.variants[0]
    assert (report.verdict, variant.verdict, variant.reasons) == ("passed", "passed", ())
    assert variant.cosine_min >= 0.999999
    assert variant.max_abs <= 1e-5
    assert variant.batch_max_abs <= 1e-6
    assert variant.neighbors == 1.0
    assert {text.tokens for text in variant.texts} >= set(range(2, MAX_TOKENS + 1))
    assert variant.texts[-1].text == "the user's own text"
    assert report.tokenizer.equal == report.tokenizer.compared > len(variant.texts)
    assert report.method.startswith("sentence-transformers 6") and "SentenceTransformer" in report.method
    assert report.tokenizer.truncated > 3
    after = Artifact.open(artifact)
    assert after.manifest.status == "verified"
    assert after.digest == before.digest == report.digest
    assert after.manifest.verified == report.stamp
    assert after.variant().measured["cosine_min"] == variant.cosine_min


def test_one_variant_does_not_make_the_artifact_verified(artifact: Path) -> None:
    manifest = Artifact.open(artifact).manifest
    twice = (manifest.variants[0], msgspec.structs.replace(manifest.variants[0], name="cpu-other"))
    (artifact / "fletcher.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, variants=twice)))
    report = verify(artifact, variant="cpu-other")
    assert (report.verdict, report.complete, [variant.name for variant in report.variants]) == (
        "passed",
        False,
        ["cpu-other"],
    )
    assert Artifact.open(artifact).manifest.verified is None


def test_another_checkpoint_fails_names_the_worst_text_and_leaves_no_stamp(
    artifact: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = checkpoint.rename(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.token_type_embeddings.weight"][0, :4] += 0.05
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    report = verify(artifact, reference=str(other))
    assert report.verdict == "failed"
    assert Artifact.open(artifact).manifest.verified is None
    worst = min(report.variants[0].texts, key=lambda text: text.cosine)
    with pytest.raises(VerificationError) as failure:
        report.raise_if_failed()
    assert repr(worst.text) in str(failure.value)
    assert f"cosine {worst.cosine:.7f}" in str(failure.value)
    assert str(other) in str(failure.value)


def test_a_checkpoint_that_changed_since_the_export_is_refused(artifact: Path, checkpoint: Path) -> None:
    with (checkpoint / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ChecksumError, match=r"config\.json changed"):
        verify(artifact)


def test_another_limit_fails_and_the_settings_of_the_limit_are_named(artifact: Path, checkpoint: Path) -> None:
    card = Artifact.open(artifact).manifest.card
    shorter = msgspec.structs.replace(card, max_tokens=MAX_TOKENS - 1)
    report = verify_with(artifact, load_witness(checkpoint, shorter), name="shorter")
    assert report.tokenizer.verdict == report.verdict == "failed"
    assert (
        "texts with more tokens than the limit" in report.likely
        and "sentence_bert_config.json: max_seq_length" in report.likely
    )
    with pytest.raises(VerificationError, match="the tokenizer gives"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("file", "keys", "named"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}, "tokenizer_config.json: truncation_side"),
        ("tokenizer_config.json", {"do_lower_case": False}, "tokenizer_config.json: do_lower_case"),
        ("tokenizer_config.json", {"strip_accents": False}, "tokenizer_config.json: strip_accents"),
        ("tokenizer_config.json", {"tokenize_chinese_chars": False}, "tokenizer_config.json: tokenize_chinese_chars"),
        ("config_sentence_transformers.json", {"truncate_dim": 16}, "results of shape (32,) instead of (16,)"),
        ("config_sentence_transformers.json", {"prompts": {"query": "the baker "}}, "prompts: query"),
        ("sentence_bert_config.json", {"max_seq_length": MAX_TOKENS - 3}, "sentence_bert_config.json: max_seq_length"),
    ],
)
def test_a_setting_that_the_artifact_does_not_follow_fails_and_is_named(
    artifact: Path, checkpoint: Path, file: str, keys: dict[str, object], named: str
) -> None:
    path = checkpoint / file
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(settings | keys))
    report = verify(artifact, reference=str(checkpoint))
    assert report.verdict == "failed" and named in report.likely
    assert Artifact.open(artifact).manifest.status == "self-made"
    with pytest.raises(VerificationError) as failure:
        report.raise_if_failed()
    assert named in str(failure.value) and "onvert the checkpoint again" not in str(failure.value)


def test_another_version_of_transformers_is_named_if_token_ids_differ(artifact: Path, checkpoint: Path) -> None:
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))
    report = verify(artifact, reference=str(checkpoint))
    manifest = Artifact.open(artifact).manifest
    assert manifest.tokenizer_like == "transformers 5" and "--tokenizer-like" not in report.likely
    older = msgspec.structs.replace(manifest, tokenizer_like="transformers 4")
    (artifact / "fletcher.json").write_bytes(msgspec.json.encode(older))
    report = verify(artifact, reference=str(checkpoint))
    assert "convert the checkpoint with --tokenizer-like 5" in report.likely


def test_a_token_of_only_one_file_is_found(artifact: Path, checkpoint: Path) -> None:
    path = checkpoint / "tokenizer_config.json"
    token = {"content": "<doc>", "special": False, "normalized": False}
    token |= {"lstrip": False, "rstrip": False, "single_word": False}
    size = len(json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": {str(size - 1): token}}))
    report = verify(artifact, reference=str(checkpoint))
    assert report.verdict == "failed" and "tokenizer_config.json: added_tokens_decoder" in report.likely


def test_texts_that_the_reference_refuses_are_listed_and_not_compared(artifact: Path, checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    path = checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    export(str(checkpoint), artifact)
    report = verify(artifact)
    report.raise_if_failed()
    assert {text.reason for text in report.refused} == {"it has no token"} and "" in {
        text.text for text in report.refused
    }


def test_an_export_that_verifies_is_stamped_and_one_that_differs_is_not_written(
    artifact: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = artifact.with_name("other")
    exported = export(str(checkpoint), other, verify=True)
    manifest = Artifact.open(other).manifest
    assert exported.status == manifest.status == "verified" and manifest.verified is not None
    assert exported.proof == manifest.proof and "SentenceTransformer" in exported.proof
    assert exported.digest == Artifact.open(artifact).digest and manifest.verified.by in exported.proof

    def write_without_normalizer(checkpoint: Checkpoint, file: Path, rows: int) -> WrittenTokenizer:
        written = write_tokenizer(checkpoint, file, rows)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": None}))
        return written

    monkeypatch.setattr("fletcher.convert.export.export.write_tokenizer", write_without_normalizer)
    with pytest.raises(VerificationError, match=r"third does not reproduce .*capitals"):
        export(str(checkpoint), artifact.with_name("third"), verify=True)
    assert not artifact.with_name("third").exists()


def test_prompts_are_those_of_the_checkpoint(artifact: Path, checkpoint: Path) -> None:
    settings = checkpoint / "config_sentence_transformers.json"
    settings.write_text(json.dumps({"prompts": {"query": "the baker ", "web": "in the web "}}))
    export(str(checkpoint), artifact)
    report = verify(artifact)
    report.raise_if_failed()
    kinds = {"raw", "query", "document", "clustering", "classification", "web"}
    assert {text.input_type for text in report.variants[0].texts} == kinds
    exercised = {result.setting: result.verdict for result in report.settings}
    assert exercised["config_sentence_transformers.json: prompts: web"] == "passed"
    manifest = Artifact.open(artifact).manifest
    wrong = msgspec.structs.replace(manifest.card, prompts={"query": "the baker ", "web": "in the net "})
    (artifact / "fletcher.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, card=wrong)))
    report = verify_with(artifact, load_witness(checkpoint, wrong), name="wrong")
    assert report.verdict == "failed" and "prompts: web" in report.likely


# Verdict on vectors that the tests make -------------------------------------------------------------------------

CASES = tuple(Case(f"text {index}", "raw") for index in range(30))


def variant_of(precision: str) -> Variant:
    return Variant(
        name=f"cpu-{precision}",
        target="cpu",
        precision=precision,
        file="x.onnx",
        weights="x.safetensors",
        inputs=(),
        outputs=(),
        tolerance=Accuracy(min_cosine=0.9),
    )


def card_of(**accuracy: Accuracy) -> ModelCard:
    return ModelCard(
        name="m",
        family="bert",
        dimension=4,
        max_tokens=8,
        pooling=("mean",),
        normalize=True,
        license="MIT",
        accuracy=accuracy,
    )


@pytest.fixture
def expected() -> NDArray[np.float32]:
    vectors = np.random.default_rng(3).normal(size=(len(CASES), 4)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def verdict_of(
    batched: NDArray[np.float32],
    expected: NDArray[np.float32],
    alone: NDArray[np.float32] | None = None,
    precision: str = "fp32",
    card: ModelCard | None = None,
) -> VariantResult:
    lengths = np.full(len(CASES), 5, np.int64)
    alone = batched if alone is None else alone
    vectors = VariantVectors(variant_of(precision), "MLAS", lengths, alone, batched)
    return compare_vectors(vectors, expected, CASES, card or card_of())


def test_equal_vectors_pass(expected: NDArray[np.float32]) -> None:
    assert verdict_of(expected, expected).verdict == "passed"


def test_one_wrong_vector_among_thirty_fails_and_is_the_worst(expected: NDArray[np.float32]) -> None:
    wrong = expected.copy()
    wrong[17] = wrong[17, [1, 0, 2, 3]]
    result = verdict_of(wrong, expected)
    assert result.verdict == "failed"
    assert result.worst.text == "text 17"
    assert result.worst.cosine == result.cosine_min == pytest.approx(float(wrong[17] @ expected[17]), abs=1e-6)


def test_a_small_difference_that_the_cosine_accepts_fails_by_max_abs(expected: NDArray[np.float32]) -> None:
    result = verdict_of(expected * np.float32(1.0001), expected)
    assert result.verdict == "failed"
    assert result.cosine_min == pytest.approx(1.0, abs=1e-12)
    assert "max abs difference" in result.reasons[0]


def test_nan_fails(expected: NDArray[np.float32]) -> None:
    broken = expected.copy()
    broken[4, 1] = math.nan
    assert verdict_of(broken, expected).verdict == "failed"
    assert verdict_of(broken, expected, precision="int8").verdict == "failed"
    assert verdict_of(expected, broken).verdict == "failed"
    assert verdict_of(expected, expected, alone=broken).verdict == "failed"


def test_a_vector_that_depends_on_its_batch_fails(expected: NDArray[np.float32]) -> None:
    alone = expected.copy()
    alone[9, 0] += 2e-6
    result = verdict_of(expected, expected, alone=alone)
    assert result.verdict == "failed"
    assert "alone and in a batch" in result.reasons[0]
    assert "text 9" in result.reasons[0]
    assert result.batch_max_abs == pytest.approx(2e-6, rel=0.1)


def test_the_tolerance_is_the_cards_then_the_default_then_the_variants(expected: NDArray[np.float32]) -> None:
    changed = expected + np.float32(1e-3)
    assert verdict_of(changed, expected).verdict == "failed"
    assert verdict_of(changed, expected, precision="int8").verdict == "passed"
    loose, strict = card_of(fp32=Accuracy(min_cosine=0.99)), card_of(int8=Accuracy(min_cosine=0.9999999))
    assert verdict_of(changed, expected, card=loose).verdict == "passed"
    assert verdict_of(changed, expected, precision="int8", card=strict).verdict == "failed"


def tokens(*ids: int, types: tuple[int, ...] | None = None) -> Tokens:
    features = {"input_ids": torch.tensor([ids])}
    return Tokens(features if types is None else features | {"token_type_ids": torch.tensor([types])})


def test_the_first_different_id_is_named() -> None:
    rows = (TokenRow((2, 5, 3)), TokenRow((2, 3)))
    cases = (Case("one", "raw"), Case("two", "query"))
    assert compare_ids(rows, [tokens(2, 5, 3), tokens(2, 3)], cases).summary.verdict == "passed"
    comparison = compare_ids(rows, [tokens(2, 6, 3), tokens(2, 3)], cases)
    assert (comparison.summary.verdict, comparison.summary.equal, comparison.differ) == ("failed", 1, (True, False))
    assert comparison.summary.reason == "the tokenizer gives id 5 instead of 6 at place 1 for the text 'one' (raw)"
    longer = compare_ids(rows, [tokens(2, 5, 3), tokens(2, 3, 3)], cases).summary.reason
    assert "2 ids instead of 3 for the text 'two' (query)" in longer


def test_other_token_types_and_a_refusal_count_as_a_difference() -> None:
    rows = (TokenRow((2, 5), types=(0, 0)), TokenRow(refused="it has no token"))
    comparison = compare_ids(
        rows, [tokens(2, 5, types=(0, 1)), tokens(2)], (Case("one", "pair", "q"), Case("two", "raw"))
    )
    assert comparison.differ == (True, True) and "token type 0 instead of 1 at place 1" in comparison.summary.reason


def test_the_report_is_unchanged_by_json(artifact: Path, checkpoint: Path) -> None:
    card = Artifact.open(artifact).manifest.card
    report = verify_with(artifact, load_witness(checkpoint, card), name="tiny")
    assert msgspec.json.decode(msgspec.json.encode(report), type=VerificationReport) == report


@pytest.mark.slow
def test_the_real_minilm_reproduces_huggingface(minilm_artifact: Path, minilm_checkpoint: Path) -> None:
    card = Artifact.open(minilm_artifact).manifest.card
    report = verify_with(minilm_artifact, load_witness(minilm_checkpoint, card), name="MiniLM")
    report.raise_if_failed()
    assert report.variants[0].max_abs <= 1e-5


def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the system is replaced, because it lets root write everywhere but on a disk that is mounted read-only."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the reference is fetched")

    monkeypatch.setattr("fletcher.convert.verify.verify.fetch_reference", refuse)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tiny_artifact.parent.resolve())
    with pytest.raises(ArtifactError, match="cannot be written"):
        verify(tiny_artifact)
