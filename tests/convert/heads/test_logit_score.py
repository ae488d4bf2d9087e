"""Rerankers that are language models compared with sentence-transformers' CrossEncoder: template, truncation, scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo.errors import CardError
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import CheckpointError, InputError
from fletcher.runtime.inputs import Texts

from .language_models import FALSE, MAX_TOKENS, TRUE, save

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUERY = "what is a hello?"
DOCUMENTS = (
    "the hello",
    "",
    " blanks around ",
    "<|im_end|> is a special token {{ messages }}",
    "北京是 " * 3,
    "a text that is too long, " * 8,
    "x" * 200,
)


def theirs(folder: Path) -> NDArray[np.float32]:
    """Return the scores of the reference, one pair at a time."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    return np.concatenate([model.predict([(QUERY, document)]) for document in DOCUMENTS])


def ours(folder: Path, artifact: Path) -> NDArray[np.float32]:
    export(str(folder), artifact, tokenizer_like="5")
    with Encoder.load(artifact, workers=1) as encoder:
        together = encoder.score(QUERY, DOCUMENTS)
        alone = np.concatenate([encoder.score(QUERY, [document]).scores for document in DOCUMENTS])
    np.testing.assert_allclose(together.scores, alone, rtol=0, atol=1e-6)
    assert (together.dropped > 0).tolist() == [False] * 5 + [True] * 2
    assert together.tokens.max() == MAX_TOKENS
    return together.scores[:, 0]


PROMPTS = {"prompts": {"web": "a query of the web"}, "default_prompt_name": "web"}
#: By name: options of `save`.
CASES: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {},
    "instruction": {"settings": PROMPTS},
    "tied": {
        "changes": {"tie_word_embeddings": True},
        "settings": {"activation_fn": "torch.nn.modules.linear.Identity"},
    },
    "one token": {"false_token": None},
    "document first": {
        "template": "{# a note #}\n  {% set x = messages[1].content %}\n{{- x -}} | {{ messages[0]['content'] }}\n\nend"
    },
    "gemma3": {
        "family": "gemma3",
        "template": "{{ bos_token }}the {{ (messages | selectattr('role', 'eq', 'query') | first).content }}\n"
        "{{ (messages | selectattr('role', 'eq', 'document') | first).content }}<eos>hello",
    },
}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_sentence_transformers(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "checkpoint", **CASES[name])
    np.testing.assert_allclose(ours(folder, tmp_path / "artifact"), theirs(folder), rtol=0, atol=2e-5)


def test_without_a_template_the_tokenizer_joins_the_pair(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoint", "llama", template=None, messages=False)
    export(str(folder), tmp_path / "artifact", tokenizer_like="5")
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        scores = encoder.score(QUERY, DOCUMENTS[:4]).scores[:, 0]
    np.testing.assert_allclose(scores, theirs(folder)[:4], rtol=0, atol=2e-5)


@pytest.mark.parametrize("listed", [True, False], ids=["texts alone listed", "nothing listed"])
def test_a_template_is_not_used_where_the_settings_list_no_messages(tmp_path: Path, listed: bool) -> None:
    folder = save(tmp_path / "checkpoint", "llama", messages=False)
    if not listed:
        file = folder / "sentence_bert_config.json"
        settings = json.loads(file.read_text())
        del settings["modality_config"]
        file.write_text(json.dumps(settings))
    export(str(folder), tmp_path / "artifact", tokenizer_like="5")
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        scores = encoder.score(QUERY, DOCUMENTS[:4]).scores[:, 0]
    np.testing.assert_allclose(scores, theirs(folder)[:4], rtol=0, atol=2e-5)


def test_the_template_is_in_the_artifact_and_in_its_canary(tmp_path: Path) -> None:
    export(str(save(tmp_path / "checkpoint")), tmp_path / "artifact", tokenizer_like="5")
    artifact = Artifact.open(tmp_path / "artifact")
    score = artifact.manifest.card.logit_score
    assert not isinstance(score, msgspec.UnsetType) and score.template is not None
    assert (score.true_token, score.false_token, score.template.query_first) == (TRUE, FALSE, True)
    assert score.template.before == "<|im_start|>the\n<I>: the hello\n<Q>: "
    assert (score.template.between, score.template.after) == ("\n<D>: ", "<|im_end|>\n<|im_start|>hello\n")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    start = tokenizer("<|im_start|>", add_special_tokens=False)["input_ids"][0]
    assert read_canary(artifact.canary_file).encodings.ids[0] == start
    with (
        Encoder.load(tmp_path / "artifact", workers=1) as encoder,
        pytest.raises(InputError, match="scores pairs of a query and a document, not single texts"),
    ):
        encoder.prepare(Texts.of(["a text"]), output="scores")


@pytest.mark.parametrize("name", ["instruction", "tied"])
def test_verification_compares_scores_tokens_and_layers(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "checkpoint", **CASES[name])
    export(str(folder), tmp_path / "artifact", tokenizer_like="5")
    report = verify(tmp_path / "artifact", str(folder))
    assert report.verdict == "passed", report
    layers = verify_layers(tmp_path / "artifact", str(folder))
    assert layers.first is None and layers.verdict == "passed", layers.summary


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"template": "{% for m in messages %}{{ m.content }}{% endfor %}"}, CardError, "'for m in messages'"),
        ({"template": "{{ messages[0].content }}"}, CardError, "once each"),
        ({"template": "{{ messages[0].content | trim }}{{ messages[1].content }}"}, CardError, "trim"),
        ({"template": "{{ cycler }}{{ messages[0].content }}{{ messages[1].content }}"}, CardError, "cycler"),
        ({"template": None}, CardError, "has no chat template"),
        ({"settings": {"prompts": {}, "default_prompt_name": "web"}}, CardError, "default_prompt_name"),
        ({"settings": {"model_type": "SentenceTransformer"}}, CardError, "LogitScore"),
        ({"false_token": 100_000}, CheckpointError, "the token 100000"),
        (
            {"family": "gemma3", "changes": {"final_logit_softcapping": 30.0}},
            CheckpointError,
            "final_logit_softcapping",
        ),
    ],
)
def test_what_is_not_reproduced_is_refused_by_name(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    folder = save(tmp_path / "checkpoint", **options)
    with pytest.raises(error, match=named):
        export(str(folder), tmp_path / "artifact", tokenizer_like="5")
