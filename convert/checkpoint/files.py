"""The list of the files that a checkpoint folder may have: read, harmless, or refused by name.

sentence-transformers and transformers open files of the folder itself and of the folders that `modules.json` names; other
folders are not looked into. The first rule that fits a name decides. A file without a rule is refused, because a newer
version of a library may read it: `--ignore-key NAME` is the user's word that it is harmless. Keys inside the files:
`config.json` in `families/settings/`, sentence-transformers' files in `module_settings.py`, the tokenizer's in
`tokenizer_settings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from fletcher.model_zoo.sentence_transformers.files import TRANSFORMER_FILES
from fletcher.model_zoo.sources.harmless_files import is_harmless
from fletcher.model_zoo.sources.lfs import is_pointer, pointer_message
from fletcher.runtime.errors import CheckpointError

from .adapters import CONFIG
from .ignored_keys import IgnoredKeys
from .json_files import find_json
from .sentence_transformers import read_modules

__all__ = ["MODULE_RULES", "RULES", "FileRule", "check_files", "rule_of"]

Verdict = Literal["read", "harmless", "refused"]


@dataclass(frozen=True, slots=True)
class FileRule:
    """Rule for the files of a name.

    Attributes:
        pattern: name, or pattern of names.
        verdict: `read` by Fletcher as the reference reads it, `harmless`, or `refused`.
        reason: reader of the file, source of the claim that it is harmless, or, where it is refused, its meaning and the
            next step.
    """

    pattern: str
    verdict: Verdict
    reason: str


_MERGE = (
    "the weights of an adapter change the model's. Merge them and convert the result: python -c \"from peft import "
    "AutoPeftModelForFeatureExtraction as M; M.from_pretrained('FOLDER').merge_and_unload().save_pretrained('MERGED')\", "
    "then copy the tokenizer and the modules to MERGED"
)
_CODE = "it is code of the repository, which may replace the model or a module, and Fletcher runs no such code"
_PROCESSOR = "transformers' AutoProcessor takes another processor than the tokenizer where this file exists"
_TEMPLATE = "a chat template: sentence-transformers applies it where sentence_bert_config.json asks for messages"
_VOCABULARY = "convert/checkpoint/tokenizer_settings.py"

#: Rules for the checkpoint's own folder.
RULES: tuple[FileRule, ...] = (
    FileRule("config.json", "read", "families/settings/reader.py"),
    FileRule("model.safetensors", "read", "convert/checkpoint/checkpoint.py"),
    FileRule("model.safetensors.index.json", "read", "convert/checkpoint/checkpoint.py"),
    FileRule("adapter_model.safetensors", "read", "convert/checkpoint/adapters.py"),
    FileRule("adapter_config.json", "read", "convert/checkpoint/adapters.py"),
    FileRule("adapter_*.safetensors", "refused", _MERGE),
    # transformers reads model.safetensors, or the shards that the index names.
    FileRule("*.safetensors", "read", "convert/checkpoint/checkpoint.py, as a shard"),
    FileRule("sparse_linear.pt", "read", "convert/heads/token_heads.py, together with colbert_linear.pt"),
    FileRule("colbert_linear.pt", "read", "convert/heads/token_heads.py, together with sparse_linear.pt"),
    FileRule("modules.json", "read", "model_zoo/sentence_transformers/modules.py"),
    FileRule("config_sentence_transformers.json", "read", "model_zoo/sentence_transformers/read_card.py"),
    FileRule("sentence_*_config.json", "read", "model_zoo/sentence_transformers/files.py"),
    FileRule(
        "router_config.json", "refused", "it belongs to sentence-transformers' Router, which modules.json does not name"
    ),
    FileRule("artifact.metadata", "read", "model_zoo/sentence_transformers/heads.py, for Stanford's ColBERT"),
    FileRule("tokenizer.json", "read", _VOCABULARY),
    FileRule("tokenizer_config.json", "read", _VOCABULARY),
    FileRule("special_tokens_map.json", "read", _VOCABULARY),
    FileRule("added_tokens.json", "read", _VOCABULARY),
    FileRule("vocab.txt", "read", _VOCABULARY),
    FileRule("vocab.json", "read", _VOCABULARY),
    FileRule("merges.txt", "read", _VOCABULARY),
    # SentencePiece: transformers reads it only where there is no tokenizer.json (convert_slow_tokenizer.py).
    FileRule("*.model", "read", _VOCABULARY),
    FileRule("*.spm", "read", _VOCABULARY),
    FileRule("*.tiktoken", "read", _VOCABULARY),
    FileRule("tekken.json", "read", _VOCABULARY),
    FileRule("chat_template.jinja", "read", _TEMPLATE),
    FileRule("chat_template.json", "read", _TEMPLATE),
    FileRule("processor_config.json", "refused", _PROCESSOR),
    FileRule("preprocessor_config.json", "refused", _PROCESSOR),
    FileRule("video_preprocessor_config.json", "refused", _PROCESSOR),
    FileRule("train_script.py", "harmless", "model_zoo/sources/harmless_files.py"),
    FileRule("handler.py", "harmless", "model_zoo/sources/harmless_files.py"),
    FileRule("__init__.py", "harmless", "model_zoo/sources/harmless_files.py"),
    FileRule("*.py", "refused", _CODE),
)

#: Rules for the folders of sentence-transformers' modules: `Module.load_config` and `Module.load_torch_weights`.
MODULE_RULES: tuple[FileRule, ...] = (
    FileRule("config.json", "read", "convert/checkpoint/module_settings.py"),
    FileRule("model.safetensors", "read", "convert/heads/pooled.py"),
    FileRule("__init__.py", "harmless", "model_zoo/sources/harmless_files.py"),
    FileRule("*.py", "refused", _CODE),
)

#: Beginnings of the names of repositories' classes that families reproduce, by `model_type`.
_REPRODUCED: Mapping[str, tuple[str, ...]] = {
    "gte": ("Gte", "New"),
    "lfm2": ("Lfm2Bidirectional",),
    "llama_bidirec": ("LlamaBidirectional",),
    "ministral3_bidirec": ("Ministral3Bidirectional",),
    "new": ("New",),
    "nomic_bert": ("NomicBert",),
}
#: The same for JinaBERT v2, whose model type is `bert`.
_JINA = ("JinaBert",)


def rule_of(name: str, rules: Sequence[FileRule] = RULES) -> FileRule | None:
    """Return the rule for a file's name, or None for a file that Fletcher does not know."""
    for rule in rules:
        if fnmatchcase(name, rule.pattern):
            return rule
    return FileRule(name, "harmless", "model_zoo/sources/harmless_files.py") if is_harmless(name) else None


def check_files(folder: Path, ignored: IgnoredKeys, *, templated: bool = False) -> None:
    """Refuse a checkpoint folder with a file that may decide a vector and that Fletcher does not read.

    Args:
        folder: the checkpoint.
        ignored: files and keys that the user declares harmless.
        templated: whether the zoo's card has the model's chat template, so that one in the folder is expected.

    Raises:
        CheckpointError: a file is refused or unknown, or it is a pointer of Git LFS; the message names it and the next step.
    """
    if not (folder / CONFIG).is_file() and any(folder.glob("adapter_model.*")) and ignored.refused({CONFIG}):
        raise CheckpointError(
            f"{folder} has the weights of an adapter without {CONFIG}, so that transformers does not read them: fetch that "
            f"file, or leave the adapter out with --ignore-key {CONFIG}"
        )
    find_json(
        folder / "generation_config.json"
    )  # decides no vector, but transformers loads no model if it is malformed
    reproduced = _check_code(folder, find_json(folder / "config.json"), ignored)
    _check_folder(folder, "", RULES, ignored, reproduced)
    for module in read_modules(folder):
        if module.path:
            _check_folder(module.folder, f"{module.path}/", MODULE_RULES, ignored, reproduced)
    if not (folder / "modules.json").is_file():
        _check_pairs(folder, ignored, templated=templated)


def _check_folder(folder: Path, prefix: str, rules: Sequence[FileRule], ignored: IgnoredKeys, reproduced: bool) -> None:
    """Check the files of one folder; the code of a reproduced class is harmless."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_dir():
            continue
        rule = rule_of(file.name, rules)
        if rule is not None and rule.verdict == "read":
            if is_pointer(file):
                raise CheckpointError(pointer_message(file))
            continue
        if (rule is not None and rule.verdict == "harmless") or (reproduced and file.suffix == ".py"):
            continue
        if not ignored.refused({f"{prefix}{file.name}"}) or not ignored.refused({file.name}):
            continue
        reason = (
            rule.reason
            if rule is not None
            else (
                "Fletcher does not know such a file, and it may change the vectors. Take it out of a copy of the folder"
            )
        )
        raise CheckpointError(
            f"{folder} is refused for its file {file.name}: {reason}. If it changes no vector, declare that with "
            f"--ignore-key {file.name}"
        )


def _check_code(folder: Path, config: Mapping[str, Any], ignored: IgnoredKeys) -> bool:
    """Refuse `auto_map` of `config.json` unless a family reproduces its classes; return whether one does."""
    places = config.get("auto_map")
    if not places:
        return False
    model_type = str(config.get("model_type"))
    classes = {name.rpartition(".")[2] for name in _strings(places)}
    alibi = model_type == "bert" and config.get("position_embedding_type") == "alibi"
    allowed = _JINA if alibi else _REPRODUCED.get(model_type, ())
    if allowed and all(name.startswith(allowed) for name in classes):
        return True
    if ignored.refused({"auto_map"}):
        raise CheckpointError(
            f"{folder / 'config.json'}: auto_map names the repository's own classes ({', '.join(sorted(classes))}), which "
            f"may compute other vectors than the model type {model_type}, and Fletcher runs no code of a checkpoint. If "
            "transformers' own class gives the same vectors, declare that with --ignore-key auto_map"
        )
    return False


def _strings(value: object) -> list[str]:
    """Return the text in a JSON value, of nested objects and lists too."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for part in inner for text in _strings(part)]
    return [] if value is None else [str(value)]


def _check_pairs(folder: Path, ignored: IgnoredKeys, *, templated: bool) -> None:
    """Refuse files that sentence-transformers does not read, or reads otherwise, because there is no modules.json.

    Source: `SentenceTransformer._load_default_modules`, and `Transformer.infer_modalities` for chat templates.
    """
    for name in ("config_sentence_transformers.json", *TRANSFORMER_FILES):
        if _decides(find_json(folder / name)) and ignored.refused({name}):
            raise CheckpointError(
                f"{folder} has {name} without modules.json, so that sentence-transformers does not read it: fetch "
                f"modules.json and the folders of its modules too, or leave the file out with --ignore-key {name}"
            )
    templates = [name for name in ("chat_template.jinja", "chat_template.json") if (folder / name).is_file()]
    if find_json(folder / "tokenizer_config.json").get("chat_template") is not None:
        templates.append("chat_template")
    for name in [] if templated else templates:
        if ignored.refused({name}):
            raise CheckpointError(
                f"{folder} has {name} without modules.json: sentence-transformers would put each text into that template, "
                f"which Fletcher does not do. If texts are embedded without it, use --ignore-key {name}"
            )


def _decides(settings: Mapping[str, Any]) -> bool:
    """Return whether sentence-transformers' settings have a key that would change a vector if they were read."""
    empty: tuple[object, ...] = (None, False, {}, [], "")
    prompts = settings.get("prompts")
    has_prompts = isinstance(prompts, dict) and any(prompts.values())
    others = set(settings) - {"prompts", "__version__", "model_type", "similarity_fn_name"}
    return has_prompts or any(settings[key] not in empty for key in others)
