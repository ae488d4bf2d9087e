"""Files of modules and heads after an encoder, as versions of sentence-transformers and PyLate write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

__all__ = ["save_colbert", "save_modules", "save_pylate", "save_settings", "save_splade", "save_with_library"]

MAX_TOKENS = 24
DIMENSION = 12  # dimension of a token vector of ColBERT
WIDTH = 20  # width of a Dense module's output

_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def save_settings(folder: Path, **settings: Any) -> None:
    """Write `sentence_bert_config.json` and `config_sentence_transformers.json`, as sentence-transformers 3 does."""
    limits = {"max_seq_length": MAX_TOKENS, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits, indent=2))
    versions = {"sentence_transformers": "3.3.1", "transformers": "4.47.0", "pytorch": "2.5.1"}
    config = {"__version__": versions, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config | settings, indent=2))


def save_modules(folder: Path, modules: Sequence[str]) -> None:
    """Write `modules.json` and the modules' folders.

    Args:
        folder: the checkpoint.
        modules: class names, with an argument after a colon: pooling modes, or `last` for a Dense without activation.
    """
    config = json.loads((folder / "config.json").read_text())
    width = hidden = config.get("embedding_dim") or config.get("hidden_size") or config.get("dim") or config["n_embd"]
    entries = []
    for index, module in enumerate(modules):
        name, _, argument = module.partition(":")
        path = "" if name == "Transformer" else f"{index}_{name}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"})
        if not path:
            continue
        (folder / path).mkdir()
        generator = torch.Generator().manual_seed(index)
        settings: dict[str, Any] | None = None
        if name == "Pooling":
            modes = (argument or "mean").split(",")
            flags = {f"pooling_mode_{key}": mode in modes for mode, key in _MODES.items()}
            settings = {"word_embedding_dimension": hidden, **flags, "include_prompt": True}
            width = hidden * len(modes)
        elif name == "Dense":
            activation = "torch.nn.modules.linear.Identity" if argument else "torch.nn.modules.activation.Tanh"
            settings = {"in_features": width, "out_features": WIDTH, "bias": True, "activation_function": activation}
            tensors = {
                "linear.weight": torch.empty(WIDTH, width).normal_(0, 0.25, generator=generator),
                "linear.bias": torch.empty(WIDTH).normal_(0, 0.25, generator=generator),
            }
            save_file(tensors, folder / path / "model.safetensors")
            width = WIDTH
        elif name == "LayerNorm":
            settings = {"dimension": width}
            tensors = {
                "norm.weight": 1 + torch.empty(width).normal_(0, 0.25, generator=generator),
                "norm.bias": torch.empty(width).normal_(0, 0.25, generator=generator),
            }
            save_file(tensors, folder / path / "model.safetensors")
        elif name == "Dropout":
            settings = {"dropout": 0.1}
        if settings is not None:
            (folder / path / "config.json").write_text(json.dumps(settings, indent=2))
    (folder / "modules.json").write_text(json.dumps(entries, indent=2))


def _replace_by(model: Any, folder: Path) -> None:
    """Write a model of sentence-transformers into the folder from which its encoder was loaded."""
    saved = folder.with_name(f"{folder.name}.saved")
    model.save_pretrained(str(saved), create_model_card=False)
    shutil.rmtree(folder)
    saved.rename(folder)


def save_with_library(folder: Path) -> None:
    """Write an embedding model as the installed sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(3)
    encoder = Transformer(str(folder), max_seq_length=MAX_TOKENS)
    modules = [encoder, Pooling(32, "mean"), Dense(32, WIDTH), Normalize()]
    _replace_by(SentenceTransformer(modules=modules, device="cpu", prompts={"query": "query: "}), folder)


def save_splade(folder: Path) -> None:
    """Write a SPLADE model as the installed sentence-transformers saves it."""
    from sentence_transformers import SparseEncoder

    _replace_by(SparseEncoder(str(folder), device="cpu", prompts={"query": "query: ", "document": ""}), folder)


def save_colbert(folder: Path) -> None:
    """Write a ColBERT model as the installed sentence-transformers saves it."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(5)
    expansion: Any = {"strategy": "fixed", "length": 9}
    place = "token_embeddings"
    modules: list[torch.nn.Module] = [
        Transformer(str(folder), query_expansion=expansion, document_length=20),
        Dense(32, DIMENSION, bias=False, activation_function=torch.nn.Identity(), module_input_name=place),
        MultiVectorMask(skiplist_words=list(".,!?")),
        Normalize(module_input_name=place),
    ]
    prompts = {"query": "query: ", "document": "doc "}
    _replace_by(MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts), folder)


def save_pylate(folder: Path) -> None:
    """Write the files of a ColBERT model as PyLate up to version 3 saves them."""
    dense = folder / "1_Dense"
    dense.mkdir()
    config: dict[str, Any] = {"in_features": 32, "out_features": DIMENSION, "bias": False, "use_residual": False}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    (dense / "config.json").write_text(json.dumps(config, indent=2))
    weight = torch.empty(DIMENSION, 32).normal_(0, 0.25, generator=torch.Generator().manual_seed(5))
    save_file({"linear.weight": weight}, dense / "model.safetensors")
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    listing = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listing, indent=2))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 23, "do_lower_case": False}))
    settings = {
        "model_type": "ColBERT",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 10,
        "document_length": 20,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [".", ","],
        "similarity_fn_name": "MaxSim",
        "prompts": {},
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings, indent=2))
