"""BGE-M3 whole: one artifact gives dense, sparse and token vectors of one pass, equal to the authors' steps in torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.heads import describe_model
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo.zoo import load_card
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact, EmbedOptions, Encoder
from fletcher.runtime.artifact.folder import CANARY
from fletcher.runtime.canary import read_canary, write_canary
from fletcher.runtime.errors import CanaryError, CheckpointError, InputError
from fletcher.runtime.providers.mlas.session import MlasSession

from ..targets.sessions import load_target
from .bge_m3 import TEXTS, WIDTH, Reference, save_bge_m3

ATOL = 2e-6


def test_each_output_is_the_authors(bge_m3_artifact: Path, bge_m3_reference: list[Reference]) -> None:
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        assert encoder.info.outputs == ("vectors", "sparse", "token_vectors")
        assert encoder.info.token_dimension == WIDTH != encoder.dimension
        dense, sparse, tokens = encoder.embed(TEXTS), encoder.embed_sparse(TEXTS), encoder.embed_tokens(TEXTS)
    weighted = 0
    for text, right in enumerate(bge_m3_reference):
        np.testing.assert_allclose(dense.vectors[text], right.dense, rtol=0, atol=ATOL)
        part = slice(*sparse.offsets[text : text + 2])
        ids = sparse.indices[part].tolist()
        assert ids == sorted(right.weights)
        np.testing.assert_allclose(sparse.values[part], [right.weights[token] for token in ids], rtol=0, atol=ATOL)
        rows = tokens.vectors[slice(*tokens.offsets[text : text + 2])]
        np.testing.assert_allclose(rows, right.tokens, rtol=0, atol=ATOL)
        weighted += len(ids)
    assert weighted > 20 and dense.dropped[-1] > 0


def test_the_largest_weight_of_a_repeated_token_counts(
    bge_m3_artifact: Path, bge_m3_reference: list[Reference]
) -> None:
    """The sum of a token's weights, which a server of other models' sparse vectors might give, is another number."""
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        task = encoder.prepare_rows(encoder.tokenize(TEXTS), "token_weights")
        each = encoder.compute(task.encodings, task.output)[:, 0]
        ids, texts = task.encodings.ids, np.repeat(np.arange(len(TEXTS)), task.encodings.lengths)
    sums = [
        {token: each[(texts == text) & (ids == token)].sum() for token in right.weights}
        for text, right in enumerate(bge_m3_reference)
    ]
    repeated = [
        (total[token], right.weights[token])
        for total, right in zip(sums, bge_m3_reference, strict=True)
        for token in right.weights
        if abs(total[token] - right.weights[token]) > 1e-3
    ]
    assert repeated


def test_several_outputs_are_one_pass(bge_m3_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str | None] = []
    run = MlasSession.run

    def count(self: MlasSession, batch: object, output: str | None = None) -> object:
        runs.append(output)
        return run(self, batch, output)  # type: ignore[arg-type]

    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        dense, sparse, tokens = encoder.embed(TEXTS), encoder.embed_sparse(TEXTS), encoder.embed_tokens(TEXTS)
        monkeypatch.setattr(MlasSession, "run", count)
        both = encoder.embed_outputs(TEXTS, ("sparse", "vectors"), dtype="int8")
        every = encoder.embed_outputs(TEXTS)
    assert runs == ["vectors+token_weights", "vectors+token_weights+token_vectors"]
    assert every.vectors is not None and every.sparse is not None and every.token_vectors is not None
    np.testing.assert_allclose(every.vectors.vectors, dense.vectors, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(every.sparse.indices, sparse.indices)
    np.testing.assert_allclose(every.sparse.values, sparse.values, rtol=0, atol=1e-6)
    np.testing.assert_allclose(every.token_vectors.vectors, tokens.vectors, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(every.token_vectors.offsets, tokens.offsets)
    np.testing.assert_array_equal(every.tokens, dense.tokens)
    assert both.token_vectors is None and both.vectors is not None and both.sparse is not None
    assert both.vectors.vectors.dtype == np.int8 and len(both.sparse) == len(TEXTS)


def test_batches_and_workers_do_not_change_an_output(bge_m3_artifact: Path) -> None:
    """With few tokens a batch, the outputs of a call are put together from several batches of other orders."""
    texts = [f"w{index} w{index + 1} {'w3 ' * (index % 7)}" for index in range(30)]
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1, token_budget=4096) as encoder:
        whole = encoder.embed_outputs(texts)
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=2, token_budget=16) as encoder:
        parts = encoder.embed_outputs(texts)
    for one, other in ((whole, parts),):
        assert one.sparse is not None and other.sparse is not None
        assert one.token_vectors is not None and other.token_vectors is not None
        assert one.vectors is not None and other.vectors is not None
        np.testing.assert_array_equal(one.sparse.indices, other.sparse.indices)
        np.testing.assert_allclose(one.sparse.values, other.sparse.values, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.token_vectors.vectors, other.token_vectors.vectors, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.vectors.vectors, other.vectors.vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
def test_the_graphs_of_devices_give_the_same_outputs(
    tmp_path: Path, bge_m3_checkpoint: Path, bge_m3_artifact: Path, target: str
) -> None:
    card = Artifact.open(bge_m3_artifact).manifest.card
    architecture = describe_model(Checkpoint.open(bge_m3_checkpoint), card)
    session = load_target(architecture, card, tmp_path, target, "fp32")
    with Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as encoder:
        batch = encoder.tokenize(TEXTS)
        for output in (None, "token_weights", "token_vectors"):
            expected = encoder.compute(batch, output)
            np.testing.assert_allclose(session.run(batch, output), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_of_the_weights_keeps_all_outputs(
    tmp_path: Path, bge_m3_checkpoint: Path, precision: str
) -> None:
    """The canary of the load compares all three."""
    export(str(bge_m3_checkpoint), tmp_path / "half", precisions=(precision,))
    with Encoder.load(tmp_path / "half", provider="mlas", workers=1) as encoder:
        assert set(encoder.reference_canary().further) == {"token_weights", "token_vectors"}
        assert encoder.info.outputs == ("vectors", "sparse", "token_vectors")


@pytest.mark.slow
def test_a_quantized_variant_keeps_all_outputs(tmp_path: Path, bge_m3_artifact: Path) -> None:
    quantize(bge_m3_artifact, tmp_path / "int8", recipe="w8")
    with (
        Encoder.load(tmp_path / "int8", provider="mlas", workers=1) as quantized,
        Encoder.load(bge_m3_artifact, provider="mlas", workers=1) as whole,
    ):
        assert quantized.info.outputs == ("vectors", "sparse", "token_vectors")
        ours, theirs = quantized.embed_tokens(TEXTS).vectors, whole.embed_tokens(TEXTS).vectors
    cosines = (ours * theirs).sum(1)
    assert 0.9 < cosines.min() < 0.9999999


def test_the_canary_covers_every_output(tmp_path: Path, bge_m3_artifact: Path) -> None:
    for name in ("token_weights", "token_vectors"):
        damaged = shutil.copytree(bge_m3_artifact, tmp_path / name)
        canary = read_canary(damaged / CANARY)
        canary.further[name][3] += 0.01
        write_canary(damaged / CANARY, canary)
        encoder = Encoder.open(Artifact.open(damaged))
        with encoder, pytest.raises(CanaryError, match=name):
            encoder.require_canary()


def test_verification_compares_every_output(bge_m3_artifact: Path) -> None:
    report = verify(bge_m3_artifact)
    assert report.verdict == "passed" and "FlagEmbedding" in report.method
    (variant,) = report.variants
    assert [one.output for one in variant.further] == ["sparse", "token_vectors"]
    assert all(one.cosine_min > 0.999999 for one in variant.further)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("sparse", "sparse"), ("colbert", "token_vectors")])
def test_verification_fails_for_another_map(
    tmp_path: Path, bge_m3_checkpoint: Path, bge_m3_artifact: Path, name: str, kind: str
) -> None:
    other = shutil.copytree(bge_m3_checkpoint, tmp_path / name)
    state = torch.load(other / f"{name}_linear.pt", weights_only=True)
    state["bias"] += 0.01
    torch.save(state, other / f"{name}_linear.pt")
    failed = verify(bge_m3_artifact, reference=str(other))
    assert failed.verdict == "failed"
    assert any(reason.startswith(f"{kind}:") for reason in failed.variants[0].reasons)


def test_one_of_the_two_files_alone_gives_dense_vectors(tmp_path: Path, bge_m3_checkpoint: Path) -> None:
    """FlagEmbedding reads both files or none."""
    folder = shutil.copytree(bge_m3_checkpoint, tmp_path / "model")
    (folder / "colbert_linear.pt").unlink()
    export(str(folder), tmp_path / "dense")
    with Encoder.load(tmp_path / "dense", provider="mlas", workers=1) as encoder:
        assert encoder.info.outputs == ("vectors",)
        for call in (encoder.embed_sparse, encoder.embed_tokens):
            with pytest.raises(InputError, match="gives vectors"):
                call(["w1"])
        with pytest.raises(InputError, match="gives vectors, not sparse"):
            encoder.embed_outputs(["w1"])


def test_dense_vectors_of_the_whole_model_are_of_the_space_of_the_dense_one(
    tmp_path: Path, bge_m3_checkpoint: Path, bge_m3_artifact: Path
) -> None:
    folder = shutil.copytree(bge_m3_checkpoint, tmp_path / "model")
    (folder / "colbert_linear.pt").unlink()
    export(str(folder), tmp_path / "dense")
    other = save_bge_m3(tmp_path / "other", seed=4)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bge_m3_checkpoint / name, other / name)
    export(str(other), tmp_path / "other.artifact")
    spaces = {}
    for name, path in (
        ("whole", bge_m3_artifact),
        ("dense", tmp_path / "dense"),
        ("other", tmp_path / "other.artifact"),
    ):
        with Encoder.load(path, provider="mlas", workers=1) as encoder:
            spaces[name] = encoder.info.spaces
    assert len({each.of(EmbedOptions()) for each in spaces.values()}) == 1
    whole, other_heads = spaces["whole"], spaces["other"]
    every = ("vectors", "sparse", "token_vectors")
    names = [whole.of(EmbedOptions(), output) for output in (*every, every)]
    assert len(set(names)) == 4 and all(name.startswith(whole.base) for name in names)
    assert not set(names[1:]) & {other_heads.of(EmbedOptions(), output) for output in (*every[1:], every)}


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path: Path, bge_m3_checkpoint: Path) -> None:
    folder = shutil.copytree(bge_m3_checkpoint, tmp_path / "model")
    torch.save({"weight": torch.zeros(1, 32), "bias": Path("/")}, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt"):
        export(str(folder), tmp_path / "artifact")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(1, 31), "bias": torch.zeros(1)}, "has shape"),
        ({"weight": torch.zeros(1, 32)}, "lacks the tensor"),
        ({"weight": torch.zeros(1, 32), "bias": torch.zeros(1), "more": torch.zeros(1)}, "more"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, bge_m3_checkpoint: Path, state: dict[str, torch.Tensor], message: str
) -> None:
    folder = shutil.copytree(bge_m3_checkpoint, tmp_path / "model")
    torch.save(state, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=message):
        export(str(folder), tmp_path / "artifact")


def test_the_card_of_the_zoo_needs_both_files(tmp_path: Path, bge_m3_checkpoint: Path, bge_m3_artifact: Path) -> None:
    assert load_card("bge-m3").token_heads != msgspec.UNSET
    folder = shutil.copytree(bge_m3_checkpoint, tmp_path / "model")
    (folder / "sparse_linear.pt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks sparse_linear\.pt"):
        describe_model(Checkpoint.open(folder), Artifact.open(bge_m3_artifact).manifest.card)


def test_the_file_of_the_canary_has_every_output(bge_m3_artifact: Path) -> None:
    tensors = load_file(bge_m3_artifact / CANARY)
    tokens = len(tensors["ids"])
    assert tensors["token_weights"].shape == (tokens, 1) and tensors["token_vectors"].shape == (tokens, WIDTH)
