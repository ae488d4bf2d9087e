"""Tiny models with a Router, as sentence-transformers saves them: a shared encoder, or an encoder for each route."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from ...verify.parity import randomize
from ..tiny import SIZES, save

__all__ = ["DIMENSION", "PROMPTS", "age_router", "bert", "dense", "save_model", "save_shared", "save_two"]

DIMENSION = 12
PROMPTS = {"query": "w7 ", "document": "w8 ", "titles": "w9 "}


def bert(folder: Path, seed: int = 0) -> Transformer:
    """Return a tiny random BERT with its tokenizer."""
    save(randomize(transformers.BertModel(transformers.BertConfig(**SIZES)), seed), folder)
    transformer: Transformer = Transformer(str(folder))
    return transformer


def dense(seed: int, out: int = DIMENSION, **settings: Any) -> Dense:
    """Return a random Dense of 32 elements."""
    torch.manual_seed(seed)
    return Dense(32, out, **settings)


def save_model(folder: Path, modules: list[Any], prompts: dict[str, str] | None = None) -> Path:
    """Write a model of modules."""
    model = SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS if prompts is None else prompts)
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def save_shared(folder: Path, names: tuple[str, str] = ("query", "document"), **settings: Any) -> Path:
    """Write a model whose routes share encoder and pooling, and have different Dense modules."""
    routes = {
        names[0]: [dense(1), Normalize()],
        names[1]: [dense(2, 20, activation_function=torch.nn.GELU()), Dense(20, DIMENSION), Normalize()],
    }
    return save_model(folder, [bert(folder / "base"), Pooling(32, pooling_mode="mean"), Router(routes, **settings)])


def save_two(folder: Path, **settings: Any) -> Path:
    """Write a model with two encoders of different weights and one pooling each."""
    routes = {
        "query": [bert(folder / "first"), Pooling(32, pooling_mode="cls"), dense(1)],
        "document": [bert(folder / "second", 7), Pooling(32, pooling_mode="mean"), dense(2)],
    }
    return save_model(folder, [Router(routes, **settings), Normalize()])


def age_router(folder: Path) -> None:
    """Rewrite a model with a Router after a shared encoder as sentence-transformers before version 5 wrote an Asym."""
    listed = folder / "modules.json"
    entries = json.loads(listed.read_text())
    (place,) = (entry for entry in entries if entry["type"].endswith(".Router"))
    place["type"] = "sentence_transformers.models.Asym"
    old = folder / place["path"]
    place["path"] = place["path"].replace("Router", "Asym")
    old.rename(folder / place["path"])
    file = folder / place["path"] / "router_config.json"
    config = json.loads(file.read_text())
    config["types"] = {
        name: f"sentence_transformers.models.{kind.rpartition('.')[2]}" for name, kind in config["types"].items()
    }
    config["parameters"] = {"allow_empty_key": True}
    file.with_name("config.json").write_text(json.dumps(config))
    file.unlink()
    listed.write_text(json.dumps(entries))
