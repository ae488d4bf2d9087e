"""A checkpoint like jina-embeddings-v3 compared with sentence-transformers on the same weights, merged by the formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import write_manifest
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CanaryError, CheckpointError, InputError, OptionError
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.models.spec import ModelSpec

from ...serve.fronts.channel.pair import open_engine, open_front
from ..heads.tiny import SIZES, WORDS, save
from ..layers.sabotage import Patient
from ..tiny import save_modules
from ..verify.parity import randomize

TASKS = ["retrieval.query", "retrieval.passage", "text-matching"]
RANK, ALPHA, THETA = 2, 1.0, 5000.0
#: As published; sizes and rank are smaller.
CONFIG: dict[str, Any] = SIZES | {
    "architectures": ["XLMRobertaLoRA"],
    "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
    "model_type": "xlm-roberta",
    "position_embedding_type": "rotary",
    "rotary_emb_base": THETA,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 1,
    "load_trained_adapters": True,
    "lora_adaptations": TASKS,
    "lora_alpha": ALPHA,
    "lora_rank": RANK,
    "lora_dropout_p": 0.0,
    "lora_main_params_trainable": False,
    "task_instructions": {"retrieval.query": "w9 w8", "retrieval.passage": "w7", "text-matching": ""},
    "truncate_dim": None,
    "use_flash_attn": True,
    "emb_pooler": None,
    "transformers_version": "5.24.0",  # of the tokenizer that this test saves
}
TEXTS = ("w1 w2 w3", "w20", " ".join(WORDS[:15]))


def write(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write the original checkpoint, and a checkpoint of transformers' class for each task."""
    rope = {"rope_type": "default", "rope_theta": THETA}
    config = JinaEmbeddingsV3Config(**SIZES, type_vocab_size=1, rope_parameters=rope)
    original = save(randomize(JinaEmbeddingsV3Model(config)), folder / "original", types=False)
    base = load_file(original / "model.safetensors")
    assert "encoder.layers.0.mixer.Wqkv.weight" in base
    generator = torch.Generator().manual_seed(3)
    stored: dict[str, torch.Tensor] = {}
    merged = {task: dict(base) for task in TASKS}
    for name, tensor in base.items():
        if tensor.dim() != 2 or name.startswith("pooler."):
            stored[f"roberta.{name}"] = tensor
            continue
        rows, columns = tensor.shape
        is_table = "_embeddings" in name
        shapes = ((rows, RANK), (RANK, columns)) if is_table else ((RANK, columns), (rows, RANK))
        down, up = (torch.randn((len(TASKS), *shape), generator=generator) * 0.3 for shape in shapes)
        stem = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight"
        stored |= {f"{stem}.original": tensor, f"{stem}.0.lora_A": down, f"{stem}.0.lora_B": up}
        for index, task in enumerate(TASKS):
            product = down[index] @ up[index] if is_table else up[index] @ down[index]
            merged[task][name] = tensor + product * (ALPHA / RANK)
    settings = json.loads((original / "config.json").read_text())
    references = {}
    for task in TASKS:
        reference = folder / task
        reference.mkdir()
        for file in original.iterdir():
            (reference / file.name).write_bytes(file.read_bytes())
        save_file(merged[task], reference / "model.safetensors", {"format": "pt"})
        (reference / "config.json").write_text(json.dumps(settings))
        save_modules(reference)
        references[task] = reference
    plain = folder / "base"  # the model without adapters
    plain.mkdir()
    for file in original.iterdir():
        (plain / file.name).write_bytes(file.read_bytes())
    save_modules(plain)
    save_file(stored, original / "model.safetensors", {"format": "pt"})
    (original / "config.json").write_text(json.dumps(CONFIG))
    (original / "custom_st.py").write_text("raise RuntimeError('code of a checkpoint was run')")
    save_modules(original)
    entries = json.loads((original / "modules.json").read_text())
    entries[0] |= {"type": "custom_st.Transformer", "kwargs": ["task"]}
    (original / "modules.json").write_text(json.dumps(entries))
    prompts = {"prompts": CONFIG["task_instructions"], "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (original / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return original, references


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize(("task", "input_type"), list(zip(TASKS, ("query", "document", "text-matching"), strict=True)))
def test_vectors_of_a_task(
    checkpoints: tuple[Path, dict[str, Path]], tmp_path: Path, task: str, input_type: str
) -> None:
    original, references = checkpoints
    model = SentenceTransformer(str(references[task]), device="cpu")
    expected = model.encode([CONFIG["task_instructions"][task] + text for text in TEXTS])
    exported = export(str(original), tmp_path / "artifact", task=task)
    assert exported.model == f"original-{task}"
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        for asked in (None, task, input_type):
            np.testing.assert_allclose(encoder.embed(TEXTS, input_type=asked).vectors, expected, rtol=0, atol=1e-5)
        plain = model.encode(list(TEXTS))
        np.testing.assert_allclose(encoder.embed(TEXTS, input_type="raw").vectors, plain, rtol=0, atol=1e-5)
        with pytest.raises(OptionError, match=f"weights of .* are those of {input_type} alone"):
            encoder.embed(TEXTS, input_type="classification")


def test_tasks_have_vectors_and_spaces_of_their_own(checkpoints: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    spaces, vectors = set(), []
    for task in TASKS[:2]:
        export(str(checkpoints[0]), tmp_path / task, task=task)
        with Encoder.load(tmp_path / task, workers=1) as encoder:
            spaces.add(encoder.info.space.id)
            vectors.append(encoder.embed(TEXTS, input_type="raw").vectors)
    assert len(spaces) == 2
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01


def test_a_task_must_exist(checkpoints: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    original, references = checkpoints
    with pytest.raises(InputError, match=r"--task clustering: .* has adapters for retrieval\.query"):
        export(str(original), tmp_path / "a", task="clustering")
    with pytest.raises(InputError, match="has no adapters for tasks"):
        export(str(references[TASKS[0]]), tmp_path / "a", task=TASKS[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"load_trained_adapters": False}, "load_trained_adapters"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_rank": 3}, "has the shapes"),
        ({"truncate_dim": 16}, "truncate_dim"),
        ({"window": 3}, "window"),
    ],
)
def test_what_is_not_understood_is_refused(
    checkpoints: tuple[Path, dict[str, Path]], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    for path in checkpoints[0].iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(CheckpointError, match=named):
        export(str(folder), tmp_path / "artifact", task=TASKS[0])


@pytest.fixture(scope="module")
def artifact(checkpoints: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query") / "artifact"
    export(str(checkpoints[0]), folder, task=TASKS[0])
    return folder


def test_the_reference_is_the_merged_model(checkpoints: tuple[Path, dict[str, Path]], artifact: Path) -> None:
    """The witness gives the vectors of sentence-transformers on weights that this test merged."""
    original, references = checkpoints
    witness = load_witness(original, Artifact.open(artifact).manifest.card)
    model = SentenceTransformer(str(references[TASKS[0]]), device="cpu")
    assert "for the task retrieval.query" in witness.method
    for text in TEXTS:
        expected = model.encode(CONFIG["task_instructions"][TASKS[0]] + text)
        found = witness.answer(text, "query").values
        assert found is not None
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        plain = witness.answer(text).values
        assert plain is not None
        np.testing.assert_allclose(plain, model.encode(text), rtol=0, atol=1e-6)


def test_vectors_are_verified_and_stamped(artifact: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact, tmp_path / "copy")
    assert verify(patient.path).verdict == "passed"
    assert Artifact.open(patient.path).manifest.verified is not None


def test_every_point_agrees_and_a_damaged_one_is_named(artifact: Path, tmp_path: Path) -> None:
    report = verify_layers(artifact)
    assert report.first is None and report.verdict == "passed", report.summary
    patient = Patient.copy_of(artifact, tmp_path / "broken")
    patient.edit_weight("encoder.layers.1.mlp.fc1.weight", np.negative)
    value = verify_layers(patient.path).first_in("values")
    assert value is not None and value.key == "layers.1/feed_forward/up"


def test_the_weights_of_another_task_are_noticed(checkpoints: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    export(str(checkpoints[0]), tmp_path / "other", task=TASKS[2])
    manifest = Artifact.open(tmp_path / "other").manifest
    card = msgspec.structs.replace(manifest.card, input_type="query", name="other")
    write_manifest(tmp_path / "other", msgspec.structs.replace(manifest, card=card))
    assert verify(tmp_path / "other", variant="cpu-fp32").verdict == "failed"


# All tasks in one artifact --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every(checkpoints: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every") / "artifact"
    assert export(str(checkpoints[0]), folder).model == "original"
    return folder


def expected_of(checkpoints: tuple[Path, dict[str, Path]], task: str | None) -> Any:
    """Return sentence-transformers' vectors of the texts on weights that this test merged, or on the base weights."""
    folder = checkpoints[0].parent / "base" if task is None else checkpoints[1][task]
    prompt = "" if task is None else CONFIG["task_instructions"][task]
    return SentenceTransformer(str(folder), device="cpu").encode([prompt + text for text in TEXTS])


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        (TASKS[0], "query"),
        (TASKS[0], TASKS[0]),
        (TASKS[1], "document"),
        (TASKS[1], None),
        (TASKS[2], TASKS[2]),
        (None, "raw"),
    ],
)
def test_each_text_has_the_adapter_of_its_input_type(
    checkpoints: tuple[Path, dict[str, Path]], every: Path, task: str | None, asked: str | None
) -> None:
    with Encoder.load(every, workers=1) as encoder:
        found = encoder.embed(TEXTS, input_type=asked).vectors
        np.testing.assert_allclose(found, expected_of(checkpoints, task), rtol=0, atol=1e-5)
        if asked == "query":
            windows = encoder.embed(TEXTS, input_type=asked, overflow="windows").vectors
            np.testing.assert_allclose(windows, found, rtol=0, atol=1e-5)
            with pytest.raises(OptionError, match="has query, document, text-matching, raw"):
                encoder.embed(TEXTS, input_type="clustering")


def test_texts_of_several_tasks_share_a_batch(checkpoints: tuple[Path, dict[str, Path]], every: Path) -> None:
    with Encoder.load(every, workers=1) as encoder:
        kinds = ("query", "document", "raw")
        parts = [encoder.prepare(Texts(TEXTS), EmbedOptions(input_type=kind)).encodings for kind in kinds]
        together = encoder.compute(Encodings.concatenate(parts))
    expected = [expected_of(checkpoints, task) for task in (TASKS[0], TASKS[1], None)]
    np.testing.assert_allclose(together, np.concatenate(expected), rtol=0, atol=1e-5)


def test_token_ids_take_the_task_too(every: Path) -> None:
    with Encoder.load(every, workers=1) as encoder:
        (ids,) = np.split(encoder.tokenize(["w1 w2"], "raw").ids, [])
        vectors = []
        for kind in ("query", "raw"):
            task = encoder.prepare(TokenIds((ids.tolist(),)), EmbedOptions(input_type=kind))
            vectors.append(task.finish(encoder.compute(task.encodings)).vectors)
        assert np.abs(vectors[0] - vectors[1]).max() > 0.01
        np.testing.assert_allclose(vectors[1], encoder.embed(["w1 w2"], input_type="raw").vectors, rtol=0, atol=1e-6)


def test_the_canary_has_every_adapter(every: Path, tmp_path: Path) -> None:
    """A load notices damage to the adapter of any task."""
    damaged = Patient.copy_of(every, tmp_path / "damaged")
    damaged.edit_weight("encoder.layers.1.mlp.fc1.lora_B", lambda up: np.concatenate([up[:4], -up[4:]]))
    with pytest.raises(CanaryError):
        Encoder.load(damaged.path, workers=1)


def test_all_tasks_are_verified(every: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(every, tmp_path / "copy")
    report = verify(patient.path)
    report.raise_if_failed()
    assert {text.input_type for text in report.variants[0].texts} >= {"raw", "query", "document", "text-matching"}


def test_a_front_passes_the_task(tmp_path_factory: pytest.TempPathFactory, every: Path) -> None:
    path = tmp_path_factory.mktemp("c") / "rows"
    with Encoder.load(every, provider="mlas", workers=1) as encoder:
        expected = {kind: encoder.embed(TEXTS, input_type=kind).vectors for kind in ("query", "document", "raw")}
    spec = ModelSpec(path=str(every), name="tasks", provider="mlas")
    with open_engine([spec], path), open_front(path) as front:
        front.wait_for_catalog()
        for kind, rows in expected.items():
            request = EmbedRequest(Texts(TEXTS), EmbedOptions(input_type=kind))
            found = front.models.submit_blocking("tasks", request)[1].result(30)
            np.testing.assert_allclose(found.vectors, rows, rtol=0, atol=1e-5)
