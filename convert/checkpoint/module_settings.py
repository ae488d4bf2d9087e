"""Strict reading of sentence-transformers' own files: the keys that they may have, and the values that Fletcher reproduces.

Each table says of a key that it is applied, or that it is harmless and by which source. Paths are those of
sentence-transformers 6.2. A key without an entry is refused, because another version may read it: `--ignore-key NAME` is the
user's word that it is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fletcher.model_zoo.sentence_transformers.files import TRANSFORMER_FILES, Module
from fletcher.model_zoo.sentence_transformers.modules import MODULE_TYPES
from fletcher.model_zoo.sentence_transformers.unsupported import explain_module
from fletcher.runtime.errors import CheckpointError

from .ignored_keys import IgnoredKeys
from .json_files import find_json
from .sentence_transformers import find_config, read_modules

__all__ = ["MODEL_KEYS", "MODULE_KEYS", "TRANSFORMER_KEYS", "check_settings"]

_APPLIED = "applied"

#: PyLate's Dense, which sentence-transformers' MultiVectorEncoder loads as its own (multi_vector_encoder/model.py).
_PYLATE_DENSE = "pylate.models.Dense.Dense"

#: Versions that packaging.version accepts.
_VERSION = re.compile(
    r"v?\d+(\.\d+)*([.\-_]?(alpha|beta|preview|pre|post|dev|rev|rc|a|b|c|r)[.\-_]?\d*)*(\+[\w.\-]+)?", re.IGNORECASE
)
_MODEL_TYPES = frozenset({"ColBERT", "CrossEncoder", "MultiVectorEncoder", "SentenceTransformer", "SparseEncoder"})

#: Keys of an entry of modules.json.
ENTRY_KEYS: Mapping[str, str] = {
    "idx": "harmless: the order is that of the list (base/model.py, _load_config_modules)",
    "name": "harmless: the module's name in the list; two equal ones are refused",
    "path": _APPLIED,
    "type": _APPLIED,
    "kwargs": "refused unless it is empty: arguments of `encode` that reach the module",
}

#: Keys of config_sentence_transformers.json.
MODEL_KEYS: Mapping[str, str] = {
    "__version__": "harmless: versions that saved the model; a warning alone (base/model.py, _load_config_modules)",
    "requirements": "harmless: versions that loading asks for (util/environment.py, check_version_requirements)",
    "model_type": _APPLIED,
    "prompts": _APPLIED,
    "default_prompt_name": _APPLIED,
    "similarity_fn_name": _APPLIED,
    "truncate_dim": _APPLIED,
    "matryoshka_dimensions": "applied: Matryoshka lengths that a request may name; sentence-transformers does not read it",
    "activation_fn": _APPLIED,
    "keep_in_fp32_modules": "harmless: for models in half precision (cross_encoder/model.py); the reference is float32",
    "max_active_dims": "refused unless it is null: it keeps the largest weights alone (sparse_encoder/model.py)",
    # PyLate up to version 3 (multi_vector_encoder/model.py, _parse_model_config).
    "query_prefix": _APPLIED,
    "document_prefix": _APPLIED,
    "query_length": _APPLIED,
    "document_length": _APPLIED,
    "do_query_expansion": _APPLIED,
    "attend_to_expansion_tokens": _APPLIED,
    "skiplist_words": _APPLIED,
}

#: Keys of sentence_bert_config.json (base/modules/transformer.py).
TRANSFORMER_KEYS: Mapping[str, str] = {
    "max_seq_length": _APPLIED,
    "do_lower_case": _APPLIED,
    "query_length": _APPLIED,
    "document_length": _APPLIED,
    "query_expansion": _APPLIED,
    "transformer_task": "applied: it must be the task of the model's head",
    "modality_config": "applied: text alone, by the model's usual output",
    "module_output_name": "applied: the usual name of that output",
    "unpad_inputs": "harmless: a faster layout of the same computation",
    "processing_kwargs": "refused unless it is empty",
    "tokenizer_name_or_path": "refused unless it is null",
    **dict.fromkeys(
        ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"),
        "refused unless its entries are harmless",
    ),
}

#: Entries of `model_args` and `model_kwargs` that choose how fast the model computes, not what.
_HARMLESS_ARGUMENTS = frozenset({"attn_implementation", "dtype", "low_cpu_mem_usage", "torch_dtype", "use_safetensors"})

#: Output of the transformer by its task (TRANSFORMER_TASK_DEFAULTS).
_TASKS: Mapping[str, tuple[str, str]] = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "fill-mask": ("logits", "token_embeddings"),
    "text-generation": ("logits", "causal_logits"),
}

_BOTH_NAMES = {"module_input_name": _APPLIED, "module_output_name": _APPLIED}
_WIDTHS = {"embedding_dimension": _APPLIED, "word_embedding_dimension": _APPLIED}

#: Keys of a module's own config.json, by the module's kind.
MODULE_KEYS: Mapping[str, Mapping[str, str]] = {
    "Pooling": {
        **_WIDTHS,
        "pooling_mode": _APPLIED,
        "include_prompt": _APPLIED,
        **dict.fromkeys(
            (
                "pooling_mode_cls_token",
                "pooling_mode_max_tokens",
                "pooling_mode_mean_tokens",
                "pooling_mode_mean_sqrt_len_tokens",
                "pooling_mode_weightedmean_tokens",
                "pooling_mode_lasttoken",
            ),
            _APPLIED,
        ),
    },
    "Dense": {
        **_BOTH_NAMES,
        "in_features": _APPLIED,
        "out_features": _APPLIED,
        "bias": _APPLIED,
        "activation_function": _APPLIED,
        "use_residual": _APPLIED,
    },
    "LayerNorm": {"dimension": _APPLIED},
    "Normalize": _BOTH_NAMES,
    "WeightedLayerPooling": {**_WIDTHS, "layer_start": _APPLIED, "num_hidden_layers": _APPLIED},
    "Dropout": {"dropout": "harmless: nothing is dropped at inference (torch.nn.Dropout)"},
    "SpladePooling": {
        **_WIDTHS,
        "pooling_strategy": _APPLIED,
        "activation_function": _APPLIED,
        "chunk_size": "harmless: tokens that are computed at once (sparse_encoder/modules/splade_pooling.py)",
    },
    "LogitScore": dict.fromkeys(("true_token_id", "false_token_id", "module_input_name"), _APPLIED),
    "MultiVectorMask": {"skiplist_words": _APPLIED, "skiplist_tasks": _APPLIED, "keep_only_token_ids": _APPLIED},
}


def check_settings(folder: Path, ignored: IgnoredKeys) -> None:
    """Refuse sentence-transformers' files with a key or a value that Fletcher does not reproduce.

    Args:
        folder: the checkpoint.
        ignored: keys that the user declares harmless.

    Raises:
        CheckpointError: a key is unknown, a module comes from another package, or a value asks for something else.
    """
    if not (folder / "modules.json").is_file():
        return  # `check_files` refuses the other files then
    modules, file = read_modules(folder), folder / "config_sentence_transformers.json"
    settings = find_json(file)
    multi_vector = settings.get("model_type") in ("ColBERT", "MultiVectorEncoder")
    multi_vector |= any(module.kind == "MultiVectorMask" for module in modules)
    _check_entries(folder, modules, ignored, multi_vector=multi_vector)
    _check_keys(file, settings, MODEL_KEYS, ignored)
    if str(settings.get("model_type", "SentenceTransformer")) not in _MODEL_TYPES:
        raise CheckpointError(
            f"{file}: model_type is {settings['model_type']!r}; Fletcher converts {', '.join(sorted(_MODEL_TYPES))}"
        )
    versions = settings.get("__version__", {})
    if not isinstance(versions, dict) or not all(
        isinstance(version, str) and _VERSION.fullmatch(version) for version in versions.values()
    ):
        raise CheckpointError(f"{file}: __version__ is {versions!r}, where versions by package were expected")
    if "prompts" in settings and not isinstance(settings["prompts"], dict):
        raise CheckpointError(
            f"{file}: prompts is {settings['prompts']!r}, where an object of prompts by name was expected"
        )
    if settings.get("max_active_dims") is not None:
        raise CheckpointError(
            f"{file}: max_active_dims is {settings['max_active_dims']!r}: only the largest weights would be kept, which "
            "Fletcher does not do"
        )
    for module in modules:
        if module.kind in ("Transformer", "MLMTransformer"):
            config = _check_transformer(module, ignored, _expected_task(modules, settings))
            if not multi_vector:
                _check_lengths(module, config)
        elif (keys := MODULE_KEYS.get(module.kind)) is not None:
            config = find_config(module)
            _check_keys(module.folder / "config.json", config, keys, ignored)
            rate = config.get("dropout", 0)
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise CheckpointError(f"{module.folder / 'config.json'}: dropout is {rate!r}; 0 to 1 was expected")


def _check_entries(folder: Path, modules: tuple[Module, ...], ignored: IgnoredKeys, *, multi_vector: bool) -> None:
    file, names = folder / "modules.json", [module.entry.get("name") for module in modules]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name or "." in name:
            raise CheckpointError(
                f"{file}: `name` of module {index} is {name!r}, and sentence-transformers needs a text without a dot"
            )
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise CheckpointError(f"{file} names two modules {twice[0]!r}: sentence-transformers would drop one of them")
    for module in modules:
        _check_keys(file, module.entry, ENTRY_KEYS, ignored)
        if module.entry.get("kwargs", []) != []:
            raise CheckpointError(
                f"{file}: `kwargs` of the module {module.kind} is {module.entry['kwargs']}; Fletcher gives a module no "
                "arguments"
            )
        path = PurePosixPath(module.path)
        if path.is_absolute() or ".." in path.parts or "\\" in module.path:
            raise CheckpointError(f"{file}: `path` is {module.path!r}, which is not a folder inside the checkpoint")
        if module.type not in MODULE_TYPES and not (multi_vector and module.type == _PYLATE_DENSE):
            raise CheckpointError(f"{file}: {_foreign(module)}")


def _foreign(module: Module) -> str:
    """Return the reason why a module's type is refused, and the next step."""
    if not module.type.startswith("sentence_transformers."):
        return (
            f"the module {module.type} is code of the repository or of another package, which Fletcher does not run: it may "
            f"compute something else than sentence-transformers' {module.kind}. If it does not, write "
            f"sentence_transformers.models.{module.kind} into a copy of the file"
        )
    if (reason := explain_module(module.kind)) is not None:
        return f"the module {module.kind} {reason}"
    return (
        f"Fletcher does not convert sentence-transformers' module {module.kind} ({module.type}); it converts "
        f"{', '.join(sorted({name.rpartition('.')[2] for name in MODULE_TYPES}))}"
    )


def _check_keys(file: Path, config: Mapping[str, Any], keys: Mapping[str, str], ignored: IgnoredKeys) -> None:
    """Refuse keys that a table does not have."""
    if unknown := ignored.refused(set(config) - set(keys)):
        raise CheckpointError(
            f"{file} has keys that Fletcher does not know: {', '.join(unknown)}. They may change the vectors, so the "
            f"checkpoint is not converted. If they do not, declare that with --ignore-key {unknown[0]}"
        )


def _expected_task(modules: tuple[Module, ...], settings: Mapping[str, Any]) -> str:
    """Return the task whose output the modules after the transformer take."""
    if any(module.kind == "SpladePooling" for module in modules):
        return "fill-mask"
    if any(module.kind == "LogitScore" for module in modules):
        return "text-generation"
    return "sequence-classification" if settings.get("model_type") == "CrossEncoder" else "feature-extraction"


def _check_lengths(module: Module, config: Mapping[str, Any]) -> None:
    """Refuse lengths for queries or documents alone, which a request to an embedding model or a reranker cannot have."""
    for key in ("query_length", "document_length", "query_expansion"):
        if config.get(key) is not None:
            raise CheckpointError(
                f"{module.folder}: {key} of the transformer's settings is {config[key]!r}; Fletcher applies it to ColBERT "
                "models alone"
            )


def _check_transformer(module: Module, ignored: IgnoredKeys, expected: str) -> dict[str, Any]:
    """Check the settings of the transformer: the first of its files that has a key, as `Transformer.load_config`."""
    files = [(module.folder / name, find_json(module.folder / name)) for name in TRANSFORMER_FILES]
    file, config = next(((file, config) for file, config in files if config), files[0])
    _check_keys(file, config, TRANSFORMER_KEYS, ignored)
    task = config.get("transformer_task", "fill-mask" if module.kind == "MLMTransformer" else "feature-extraction")
    if task != expected:
        raise CheckpointError(f"{file}: transformer_task is {task!r}, and the model's modules need {expected!r}")
    output, name = _TASKS[task]
    if config.get("modality_config") is not None:
        _check_modalities(file, config["modality_config"], output, messages=task == "text-generation")
        if config.get("module_output_name") != name:
            raise CheckpointError(
                f"{file}: module_output_name is {config.get('module_output_name')!r}; {name} was expected"
            )
    for key in ("processing_kwargs", "tokenizer_name_or_path"):
        if config.get(key):
            raise CheckpointError(
                f"{file}: {key} is {config[key]!r}, which Fletcher does not apply: it reproduces {key} if empty"
            )
    for key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"):
        harmless = _HARMLESS_ARGUMENTS if key.startswith("model") else frozenset()
        arguments = config.get(key, {})
        if not isinstance(arguments, dict):
            raise CheckpointError(f"{file}: {key} is {arguments!r}, where an object was expected")
        if others := sorted(set(arguments) - harmless - {"trust_remote_code"}):
            raise CheckpointError(
                f"{file}: {key} has {others[0]} ({arguments[others[0]]!r}), which Fletcher does not apply: take it out of "
                "a copy if it changes no vector"
            )
    return config


def _check_modalities(file: Path, modalities: Any, output: str, *, messages: bool) -> None:
    """Check that texts are given to the model as they are, and that its usual output is taken.

    A chat template is used where messages are listed (`Transformer.preprocess`); the card of a language model reads it.

    Args:
        file: the file, for messages.
        modalities: value of `modality_config`.
        output: usual output of the model.
        messages: whether the texts may be put into a chat template.
    """
    usual = {"method": "forward", "method_output_name": output}
    text = modalities.get("text") if isinstance(modalities, dict) else None
    if not isinstance(text, dict) or {**text, "method_output_name": _only(text.get("method_output_name"))} != usual:
        raise CheckpointError(f"{file}: modality_config has {text!r} for texts; Fletcher reproduces {usual}")
    if "message" in modalities and messages:
        listed = modalities["message"]
        if not isinstance(listed, dict) or {key: value for key, value in listed.items() if key != "format"} != usual:
            raise CheckpointError(f"{file}: modality_config has {listed!r} for messages; Fletcher reproduces {usual}")
    elif "message" in modalities:
        raise CheckpointError(
            f"{file}: modality_config lists messages, so that sentence-transformers puts each text into the chat template, "
            "which Fletcher does not do"
        )


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
