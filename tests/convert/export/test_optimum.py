"""`--exporter optimum`: a family that Fletcher does not author, and heads, compared with transformers.

The slow tests need the extra `export`, whose transformers 4 conflicts with the extra `verify`: run them in a separate
environment.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify_with
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import CheckpointError, InputError, MissingPackageError

from ..heads.tiny import DOCUMENTS, QUERY, SIZES, save
from ..verify.parity import randomize

INSTALLED = importlib.util.find_spec("optimum") is not None
# Modules of transformers before 5.23 use it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
needs_optimum = pytest.mark.skipif(not INSTALLED, reason="needs the extra `export`")


def rembert(folder: Path) -> Path:
    config = transformers.RemBertConfig(**SIZES, input_embedding_size=16, output_embedding_size=16)
    model: Any = transformers.RemBertModel(config)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator))
    return save(model.eval(), folder, types=False)


@pytest.mark.skipif(INSTALLED, reason="the extra `export` is installed")
def test_without_optimum_the_extra_is_named(tmp_path: Path) -> None:
    folder = rembert(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"'rembert'; Fletcher authors .* Use --exporter optimum"):
        export(str(folder), tmp_path / "artifact", pooling="mean")
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[export\]"):
        export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("model_type", "advice"),
    [
        ("gpt2", "Use --exporter optimum"),
        ("phi3", "Use --exporter optimum"),
        ("bart", "--exporter optimum does not help: it is an encoder with a decoder"),
        ("xlnet", "--exporter optimum does not help: Optimum has no export for it"),
        ("surprise", "--exporter optimum was not tried with it"),
    ],
)
def test_the_advice_for_another_family_is_correct(tmp_path: Path, model_type: str, advice: str) -> None:
    folder = rembert(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": model_type}
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "hidden_size"}))
    with pytest.raises(CheckpointError, match=rf"the model type '{model_type}'; Fletcher authors .*{advice}"):
        export(str(folder), tmp_path / "artifact", pooling="mean")


@pytest.mark.parametrize(
    ("targets", "precisions"), [(["cuda"], ["fp32"]), (["cpu"], ["fp16"]), (["cpu", "cuda"], ["fp32"])]
)
def test_other_targets_and_precisions_are_refused(tmp_path: Path, targets: list[str], precisions: list[str]) -> None:
    with pytest.raises(InputError, match="for the target cpu in fp32 only"):
        export(str(tmp_path), tmp_path / "a", targets=targets, precisions=precisions, exporter="optimum")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch's tracer, and from transformers 4 with a newer torch
@needs_optimum
def test_a_family_that_is_not_authored_passes_the_same_verification(tmp_path: Path) -> None:
    folder = rembert(tmp_path / "model")
    export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
    manifest = Artifact.open(tmp_path / "artifact").manifest
    assert [variant.exporter for variant in manifest.variants] == ["optimum"]
    assert {"optimum", "torch", "transformers"} <= set(manifest.tools)
    reference = load_witness(folder, manifest.card)
    report = verify_with(tmp_path / "artifact", reference, name="tiny")
    assert report.verdict == "passed" and report.complete
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        together = encoder.embed(DOCUMENTS).vectors
        alone = np.concatenate([encoder.embed([text]).vectors for text in DOCUMENTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


#: Sizes of decoders, and of GPT-2 under its names.
DECODER: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "initializer_range": 0.25}
GPT2: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "pad_token_id": 1}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch's tracer, and from transformers 4 with a newer torch
@needs_optimum
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("Qwen3", DECODER | {"head_dim": 8}),
        ("Qwen2", DECODER),
        ("Mistral", DECODER | {"sliding_window": None}),
        ("Gemma3Text", DECODER | {"head_dim": 8, "use_bidirectional_attention": True, "sliding_window": 16}),
        ("GPT2", GPT2),
        ("Bert", SIZES | {"position_embedding_type": "relative_key_query"}),
    ],
)
def test_traced_families_give_transformers_vectors(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    config = getattr(transformers, f"{family}Config")(**sizes)
    folder = save(randomize(getattr(transformers, f"{family}Model")(config)), tmp_path / "model", types=False)
    export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [text for text in DOCUMENTS if text]
    expected = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            expected.append(model(**inputs)[0][0].mean(dim=0).numpy())
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        np.testing.assert_allclose(encoder.embed(texts).vectors, np.stack(expected), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch's tracer, and from transformers 4 with a newer torch
@needs_optimum
@pytest.mark.parametrize("family", ["Nystromformer", "T5"])
def test_graphs_that_would_give_wrong_vectors_are_refused(tmp_path: Path, family: str) -> None:
    t5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "pad_token_id": 1}
    config = getattr(transformers, f"{family}Config")(**(t5 if family == "T5" else SIZES))
    folder = save(randomize(getattr(transformers, f"{family}Model")(config)), tmp_path / "model", types=False)
    with pytest.raises(CheckpointError, match=r"another computation than the model's|an encoder with a decoder"):
        export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch's tracer, and from transformers 4 with a newer torch
@needs_optimum
@pytest.mark.parametrize(("family", "head"), [("SequenceClassification", None), ("MaskedLM", "splade")])
def test_heads_agree_with_those_that_fletcher_authors(tmp_path: Path, family: str, head: Any) -> None:
    config = transformers.BertConfig(**SIZES | {"num_labels": 2})
    folder = save(randomize(getattr(transformers, f"BertFor{family}")(config)), tmp_path / "model")
    results = []
    for exporter in ("fletcher", "optimum"):
        output = tmp_path / exporter
        export(str(folder), output, head=head, exporter=exporter)
        with Encoder.load(output, workers=1) as encoder:
            assert encoder.variant.exporter == exporter
            encoded = encoder.score(QUERY, DOCUMENTS) if head is None else encoder.embed_sparse(DOCUMENTS)
            results.append(encoded.scores if head is None else encoded.values)  # type: ignore[union-attr]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch's tracer, and from transformers 4 with a newer torch
@needs_optimum
def test_models_that_optimum_does_not_support_are_refused_with_its_message(tmp_path: Path) -> None:
    config = transformers.ErnieConfig(**SIZES)
    folder = save(transformers.ErnieModel(config), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"Optimum cannot export .*ernie"):
        export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
