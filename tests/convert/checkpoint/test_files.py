"""Files of a checkpoint folder: read, harmless, or refused by name; and the option that ignores keys."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher import Encoder
from fletcher.convert.checkpoint.files import RULES, check_files, rule_of
from fletcher.convert.checkpoint.ignored_keys import IgnoredKeys
from fletcher.convert.checkpoint.module_settings import check_settings
from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.model_zoo.errors import CardError, SourceError
from fletcher.runtime import Artifact
from fletcher.runtime.errors import CheckpointError, InputError

from ..tiny import MAX_TOKENS, save_embedder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder") / "model"
    folder.mkdir()
    return save_embedder(folder)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(file: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text()) if file.exists() else {}
    change(value)
    file.write_text(json.dumps(value))


def check(folder: Path, *ignored: str) -> tuple[str, ...]:
    """Check files and settings as an export does, and return the ignored names that made a difference."""
    names = IgnoredKeys(ignored)
    check_files(folder, names)
    check_settings(folder, names)
    return names.met


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"

#: File, content, and expected message.
REFUSED_FILES: dict[str, tuple[str, bytes, str]] = {
    "other weights of an adapter": ("adapter_extra.safetensors", b"", "merge_and_unload"),
    "code": ("modeling_bert.py", b"", r"modeling_bert\.py: it is code of the repository"),
    "code in a module": ("1_Pooling/pooling.py", b"", r"pooling\.py: it is code"),
    "processor": ("preprocessor_config.json", b"{}", "AutoProcessor"),
    "router": ("router_config.json", b"{}", "Router"),
    "unknown": ("whitening.json", b"{}", r"whitening\.json: Fletcher does not know such a file"),
    "unknown in a module": ("1_Pooling/centroid.dat", b"", r"centroid\.dat: Fletcher does not know"),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_files_that_may_change_a_vector_are_refused_by_name(folder: Path, case: str) -> None:
    name, content, message = REFUSED_FILES[case]
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        check(folder)
    base = name.rpartition("/")[2]
    assert f"--ignore-key {base}" in str(caught.value)
    assert check(folder, base) == (base,)
    assert check(folder, name) == (name,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "modules.json", "vocab.txt"])
def test_pointers_of_git_lfs_are_named(folder: Path, name: str, tmp_path: Path) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises((CheckpointError, SourceError), match=rf"{name} is a pointer of Git LFS.*git lfs pull"):
        export(str(folder), tmp_path / "artifact")


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", ".gitattributes", "logo.png", "pytorch_model.bin", "tf_model.h5", "model.onnx"),
        *("flax_model.msgpack", "eval_results.json", "train_script.py", "data_config.json", "handler.py"),
        *("rust_model.ot", "training_args.bin", "generation_config.json", "1_Pooling/README.md"),
        *("onnx/whatever.json", "checkpoint-500/adapter_config.json"),  # folders that modules.json does not name
    ],
)
def test_harmless_files_are_accepted(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"{}")
    assert check(folder) == ()


def test_the_weights_of_an_adapter_need_its_settings(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights of an adapter without adapter_config\.json"):
        check(folder)


def test_every_rule_gives_a_reason() -> None:
    assert all(rule.reason for rule in RULES)
    assert rule_of("surprise") is None


def test_classes_of_the_repository_are_refused_unless_a_family_reproduces_them(folder: Path) -> None:
    config = folder / "config.json"
    edit(config, lambda c: c.update(auto_map={"AutoModel": "modeling.MyBert"}))
    with pytest.raises(CheckpointError, match=r"auto_map names the repository's own classes \(MyBert\)"):
        check(folder)
    assert check(folder, "auto_map") == ("auto_map",)
    edit(config, lambda c: c.update(model_type="nomic_bert", auto_map={"AutoModel": "x--modeling.NomicBertModel"}))
    (folder / "modeling.py").write_text("raise SystemExit")
    assert check(folder) == ()


#: File, change, and expected message.
REFUSED_SETTINGS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "foreign transformer": (
        "modules.json",
        lambda m: m[0].update(type="custom_st.Transformer"),
        r"custom_st\.Transformer is code of the repository .*sentence_transformers\.models\.Transformer",
    ),
    "foreign normalize": ("modules.json", lambda m: m[2].update(type="my_layers.Normalize"), r"my_layers\.Normalize"),
    "foreign package that begins alike": (
        "modules.json",
        lambda m: m[1].update(type="sentence_transformersx.models.Pooling"),
        "is code of the repository",
    ),
    "no such class": (
        "modules.json",
        lambda m: m[1].update(type="sentence_transformers.other.Pooling"),
        r"does not convert sentence-transformers' module Pooling",
    ),
    "two names": ("modules.json", lambda m: m[2].update(name="1"), "names two modules '1'"),
    "no name": ("modules.json", lambda m: m[2].pop("name"), "`name` of module 2 is None"),
    "a number as a name": ("modules.json", lambda m: m[2].update(name=7), "`name` of module 2 is 7"),
    "version": (
        "config_sentence_transformers.json",
        lambda c: c.update(__version__={"sentence_transformers": "3.3.1x"}),
        "where versions by package were expected",
    ),
    "arguments": ("modules.json", lambda m: m[0].update(kwargs=["task"]), r"`kwargs` of the module Transformer"),
    "path outside": ("modules.json", lambda m: m[2].update(path="../x"), "not a folder inside the checkpoint"),
    "active dimensions": (
        "config_sentence_transformers.json",
        lambda c: c.update(max_active_dims=4),
        "max_active_dims is 4",
    ),
    "length of queries": (
        "sentence_bert_config.json",
        lambda c: c.update(query_length=5),
        "query_length of the transformer's settings is 5",
    ),
    "kind of model": ("config_sentence_transformers.json", lambda c: c.update(model_type=None), "model_type is None"),
    "task of another head": (
        "sentence_bert_config.json",
        lambda c: c.update(transformer_task="fill-mask"),
        "transformer_task is 'fill-mask', and the model's modules need 'feature-extraction'",
    ),
    "prompts": ("config_sentence_transformers.json", lambda c: c.update(prompts=None), "prompts is None"),
    "task": ("sentence_bert_config.json", lambda c: c.update(transformer_task="text-generation"), "transformer_task"),
    "messages": (
        "sentence_bert_config.json",
        lambda c: c.update(
            module_output_name="token_embeddings",
            modality_config={
                name: {"method": "forward", "method_output_name": "last_hidden_state"} for name in ("text", "message")
            },
        ),
        "lists messages",
    ),
    "other output": (
        "sentence_bert_config.json",
        lambda c: c.update(modality_config={"text": {"method": "forward", "method_output_name": "pooler_output"}}),
        "modality_config has",
    ),
    "arguments of the tokenizer": (
        "sentence_bert_config.json",
        lambda c: c.update(tokenizer_args={"padding_side": "left"}),
        r"tokenizer_args has padding_side \('left'\)",
    ),
    "arguments of a call": (
        "sentence_bert_config.json",
        lambda c: c.update(processing_kwargs={"text": {"max_length": 5}}),
        "processing_kwargs is",
    ),
}


def test_malformed_settings_of_a_generation_are_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"do_sample": true}')
    assert check(folder) == ()
    (folder / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        check(folder)


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_settings_that_are_not_reproduced_are_refused_by_name(folder: Path, case: str) -> None:
    file, change, message = REFUSED_SETTINGS[case]
    edit(folder / file, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        check(folder)
    assert file in str(caught.value) or case == "length of queries"


@pytest.mark.parametrize(
    "file",
    [
        *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
        *("1_Pooling/config.json", "2_Normalize/config.json"),
    ],
)
def test_unknown_keys_are_refused_unless_the_user_ignores_them(folder: Path, file: str) -> None:
    def add(value: Any) -> None:
        (value[0] if isinstance(value, list) else value).update(mystery=1)

    edit(folder / file, add)
    with pytest.raises(CheckpointError, match=r"keys that Fletcher does not know: mystery.*--ignore-key mystery"):
        check(folder)
    assert check(folder, "mystery") == ("mystery",)


def test_settings_of_the_installed_sentence_transformers_are_accepted(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=8, prompts={"query": "q: "})
    model.save(str(tmp_path / "again"))
    assert check(tmp_path / "again") == ()


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
        ("config_sentence_transformers.json", {"truncate_dim": 4}),
        ("sentence_bert_config.json", {"max_seq_length": 5}),
        ("chat_template.jinja", {}),
    ],
)
def test_files_that_need_modules_json_are_refused_without_it(folder: Path, file: str, settings: dict[str, Any]) -> None:
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    assert check(folder) == ()
    (folder / "config_sentence_transformers.json").write_text('{"__version__": {}, "prompts": {"query": ""}}')
    assert check(folder) == ()
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=rf"has {file} without modules\.json"):
        check(folder)
    assert check(folder, file) == (file,)


def test_a_chat_template_among_the_settings_needs_modules_json_or_a_card_that_has_it(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert check(folder) == ()
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"has chat_template without modules\.json"):
        check(folder)
    assert check(folder, "chat_template") == ("chat_template",)
    check_files(folder, IgnoredKeys(()), templated=True)


def test_ignored_keys_are_recorded_and_must_have_an_effect(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(mystery=1))
    (folder / "notes.dat").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"--ignore-key notes\.dat"):
        export(str(folder), tmp_path / "artifact")
    with pytest.raises(CheckpointError, match=r"mystery.*--ignore-key mystery"):
        export(str(folder), tmp_path / "artifact", ignored_keys=("notes.dat",))
    exported = export(str(folder), tmp_path / "artifact", ignored_keys=("mystery", "notes.dat"))
    assert exported.ignored_keys == ("mystery", "notes.dat")
    assert Artifact.open(tmp_path / "artifact").manifest.ignored_keys == ("mystery", "notes.dat")
    for key in ("hidden_size", "language", "absent"):
        with pytest.raises(InputError, match=rf"--ignore-key {key}: .*is not refused for a key or a file"):
            export(str(folder), tmp_path / "other", ignored_keys=("mystery", "notes.dat", key))
        assert not (tmp_path / "other").exists()


def test_the_manifest_has_no_ignored_keys_without_the_option(folder: Path, tmp_path: Path) -> None:
    export(str(folder), tmp_path / "artifact")
    assert "ignored_keys" not in json.loads((tmp_path / "artifact" / "fletcher.json").read_text())


# Folders that are not checkpoints, and the layout of versions before 2.0 -----------------------------------------------


def other(folder: Path, **files: Any) -> str:
    """Write files into an empty folder, and return the error message of its export."""
    folder.mkdir()
    names = {"adapter": "adapter_config.json", "modules": "modules.json", "config": "config.json"}
    for key, value in files.items():
        (folder / names[key]).write_text(json.dumps(value))
    with pytest.raises(SourceError) as caught:
        export(str(folder), folder.with_name("artifact"))
    return str(caught.value)


def listed(kind: str) -> list[dict[str, Any]]:
    return [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.models.{kind}"}]


def test_folders_that_are_not_checkpoints_are_named(tmp_path: Path) -> None:
    assert "neither adapter_model.safetensors nor" in other(tmp_path / "a", adapter={"peft_type": "LORA"})
    assert "which static embeddings need" in other(tmp_path / "b", modules=listed("StaticEmbedding"))
    assert "WordEmbeddings, is for models without" in other(tmp_path / "c", modules=listed("WordEmbeddings"))
    assert "has no config.json" in other(tmp_path / "d")
    (tmp_path / "e" / "onnx").mkdir(parents=True)
    (tmp_path / "e" / "onnx" / "model.onnx").write_bytes(b"x")
    (tmp_path / "e" / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"graphs alone \(onnx/model\.onnx\).*\*\.safetensors"):
        export(str(tmp_path / "e"), tmp_path / "artifact")


@pytest.mark.parametrize("kind", ["Router", "Asym"])
def test_a_router_without_its_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "modules.json").write_text(json.dumps(listed(kind)))
    with pytest.raises(CheckpointError, match=r"has no router_config\.json"):
        export(str(tmp_path), tmp_path.with_name("artifact"))


def test_the_layout_before_2_0_is_read_as_sentence_transformers_reads_it(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name != "modules.json":
            file.rename(inner / file.name)
    edit(folder / "modules.json", lambda m: m[0].update(path="0_Transformer"))
    edit(folder / "config_sentence_transformers.json", lambda c: c.update(prompts={"query": "bread "}))
    edit(inner / "sentence_bert_config.json", lambda c: c.update(max_seq_length=9))
    model = SentenceTransformer(str(folder), device="cpu")
    texts = ["bread and water", "a longer text with more letters than the limit allows"]
    exported = export(str(folder), tmp_path / "artifact")
    assert (exported.model, exported.max_tokens) == ("model", 9)
    assert {"0_Transformer/config.json", "0_Transformer/tokenizer.json", "modules.json"} <= set(
        Artifact.open(tmp_path / "artifact").manifest.origin.sha256
    )
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        np.testing.assert_allclose(encoder.embed(texts).vectors, model.encode_document(texts), atol=1e-5)
        vectors = encoder.embed(texts, input_type="query").vectors
        np.testing.assert_allclose(vectors, model.encode_query(texts), atol=1e-5)
    report = verify(tmp_path / "artifact")
    report.raise_if_failed()
    verdicts = {result.setting: result.verdict for result in report.settings}
    assert verdicts["sentence_bert_config.json: max_seq_length"] == verdicts["config.json"] == "passed"
    verify_layers(tmp_path / "artifact").raise_if_failed()
    edit(inner / "config.json", lambda c: c.update(mystery=1))
    with pytest.raises(CheckpointError, match=rf"{inner}/config\.json has keys"):
        export(str(folder), tmp_path / "artifact")


def test_harmless_extra_keys_of_config_json_are_accepted(folder: Path, tmp_path: Path) -> None:
    left: dict[str, Any] = {
        "language": "german",
        "name": "Bert",
        "_commit_hash": "0" * 40,
        "matryoshka_dimensions": [16, 8],
    }
    left |= {"adapters": {"adapters": {}, "config_map": {}}, "max_seq_length": 4}
    edit(folder / "config.json", lambda c: c.update(left))
    export(str(folder), tmp_path / "artifact")
    card = Artifact.open(tmp_path / "artifact").manifest.card
    assert (card.matryoshka, card.max_tokens) == ((16, 8), MAX_TOKENS)
    edit(folder / "config.json", lambda c: c.update(adapters={"adapters": {"sts": "pfeiffer"}}))
    with pytest.raises(CheckpointError, match="adapters are added to its layers"):
        export(str(folder), tmp_path / "artifact")


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("hidden_dropout_prob", "0.1", "a number"),
        ("attention_probs_dropout_prob", None, "a number"),
        ("classifier_dropout", True, "a number or null"),
        ("eos_token_id", 6.5, "a token id, a list of them or null"),
        ("bos_token_id", [2], "a token id or null"),
        ("use_cache", 2, "true or false"),
        ("dtype", "", "a floating-point type of torch"),
    ],
)
def test_harmless_keys_of_a_type_that_transformers_refuses_are_refused(
    folder: Path, tmp_path: Path, key: str, value: object, needed: str
) -> None:
    edit(folder / "config.json", lambda c: c.update({key: value}))
    with pytest.raises(
        CheckpointError, match=rf"config\.json: {key} is {re.escape(repr(value))}, and transformers needs {needed}"
    ):
        export(str(folder), tmp_path / "artifact")


@pytest.mark.parametrize("value", ["false", 2])
def test_a_pooling_mode_that_is_neither_true_nor_false_is_refused(folder: Path, tmp_path: Path, value: object) -> None:
    edit(folder / "1_Pooling" / "config.json", lambda c: c.update(pooling_mode_cls_token=value))
    with pytest.raises(CardError, match=f"`pooling_mode_cls_token`: must be true or false, not {value!r}"):
        export(str(folder), tmp_path / "artifact")
