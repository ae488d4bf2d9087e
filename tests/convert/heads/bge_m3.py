"""Tiny BGE-M3: XLM-RoBERTa with `sparse_linear.pt` and `colbert_linear.pt`, and the authors' computation in torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from . import tiny

__all__ = ["TEXTS", "WIDTH", "Reference", "compute_reference", "save_bge_m3"]

#: Width of the vectors of tokens, another one than the hidden size (`colbert_dim` of FlagEmbedding).
WIDTH = 24

#: Repeated tokens, an unknown word, special tokens inside a text, an empty text, and a text that is cut.
TEXTS = (
    "w1 w2 w3?",
    "w4 w4 w4 w5, w4 w6!",
    "unheard w7 w7 of",
    "w8 <s> w9 <pad> w8",
    "",
    "w1",
    " ".join(f"w{index}" for index in range(40)),
)


def save_bge_m3(folder: Path, *, width: int = WIDTH, seed: int = 3) -> Path:
    """Write a checkpoint as `BAAI/bge-m3` has it: encoder, modules, and the two files of torch.

    Args:
        folder: folder of the checkpoint.
        width: width of the vectors of tokens.
        seed: seed of the weights.
    """
    torch.manual_seed(seed)
    sizes = {**tiny.SIZES, "max_position_embeddings": 42}
    config = transformers.XLMRobertaConfig(**sizes, type_vocab_size=1, initializer_range=0.3)
    model = transformers.XLMRobertaModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    tiny.save(model, folder, types=False)
    hidden = sizes["hidden_size"]
    for name, size in (("sparse_linear", 1), ("colbert_linear", width)):
        linear = torch.nn.Linear(hidden, size)
        torch.nn.init.normal_(linear.bias, 0.3, 0.1)  # so that most tokens have a weight
        torch.save(linear.state_dict(), folder / f"{name}.pt")
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(
            (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
        )
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("1_Pooling", "2_Normalize"):
        (folder / name).mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": tiny.MAX_TOKENS}))
    return folder


@dataclass(frozen=True, slots=True)
class Reference:
    """Outputs of one text.

    Attributes:
        dense: vector of the text, (dimension,).
        weights: weight by token id.
        tokens: vectors of the tokens after the first, (tokens - 1, width).
    """

    dense: NDArray[np.float32]
    weights: dict[int, float]
    tokens: NDArray[np.float32]


def compute_reference(folder: Path, texts: tuple[str, ...] = TEXTS) -> list[Reference]:
    """Return the outputs of texts, computed one at a time in float32 by the steps of FlagEmbedding's `M3Embedder`."""
    kind: Any = transformers.XLMRobertaModel
    model = kind.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    maps = {}
    for name in ("sparse_linear", "colbert_linear"):
        state = torch.load(folder / f"{name}.pt", weights_only=True)
        maps[name] = torch.nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
        maps[name].load_state_dict(state)
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    references = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=tiny.MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[0]
            dense = torch.nn.functional.normalize(states[0], dim=-1)
            weights = torch.relu(maps["sparse_linear"](states))[:, 0]
            tokens = torch.nn.functional.normalize(maps["colbert_linear"](states[1:]), dim=-1)
        found: dict[int, float] = {}
        for token, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in unused and weight > 0:
                found[token] = max(found.get(token, 0.0), weight)
        references.append(Reference(dense.numpy(), found, tokens.numpy()))
    return references
