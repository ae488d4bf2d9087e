"""`--exporter optimum`: a family that Fletcher does not author, and heads, against transformers.

The slow tests need the extra `export`, whose transformers 4 excludes that of the extra `verify`: run them in an environment
of their own.
"""

from __future__ import annotations

import importlib.util
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
# transformers before 5.23 uses it in the module of DeBERTa.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
needs_optimum = pytest.mark.skipif(not INSTALLED, reason="needs the extra `export`")

DEBERTA: dict[str, Any] = SIZES | {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
}


def deberta(folder: Path) -> Path:
    model: Any = transformers.DebertaV2Model(transformers.DebertaV2Config(**DEBERTA))
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator))
    return save(model.eval(), folder, types=False)


@pytest.mark.skipif(INSTALLED, reason="the extra `export` is installed")
def test_without_optimum_the_extra_is_named(tmp_path: Path) -> None:
    folder = deberta(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"'deberta-v2'; Fletcher authors .* Try --exporter optimum"):
        export(str(folder), tmp_path / "artifact", pooling="mean")
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[export\]"):
        export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("targets", "precisions"), [(["cuda"], ["fp32"]), (["cpu"], ["fp16"]), (["cpu", "cuda"], ["fp32"])]
)
def test_other_targets_and_precisions_are_refused(tmp_path: Path, targets: list[str], precisions: list[str]) -> None:
    with pytest.raises(InputError, match="for the target cpu in fp32 only"):
        export(str(tmp_path), tmp_path / "a", targets=targets, precisions=precisions, exporter="optimum")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of torch's tracer, and of transformers 4 under a newer torch
@needs_optimum
def test_a_family_that_is_not_authored_passes_the_same_verification(tmp_path: Path) -> None:
    folder = deberta(tmp_path / "model")
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of torch's tracer, and of transformers 4 under a newer torch
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
            found = encoder.score(QUERY, DOCUMENTS) if head is None else encoder.embed_sparse(DOCUMENTS)
            results.append(found.scores if head is None else found.values)  # type: ignore[union-attr]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of torch's tracer, and of transformers 4 under a newer torch
@needs_optimum
def test_what_optimum_does_not_know_is_refused_in_its_words(tmp_path: Path) -> None:
    config = transformers.ErnieConfig(**SIZES)
    folder = save(transformers.ErnieModel(config), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"Optimum cannot export .*ernie"):
        export(str(folder), tmp_path / "artifact", pooling="mean", exporter="optimum")
