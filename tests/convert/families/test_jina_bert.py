"""JinaBERT v2, which transformers does not implement, compared with a restatement of both of its implementations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.convert.families.jina_bert import alibi_slopes
from fletcher.runtime.errors import CheckpointError

from .restated import Restated

LONGEST = 24
VOCABULARY, HIDDEN, INNER, LAYERS = 60, 48, 40, 2
GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"geglu": functional.gelu, "reglu": functional.relu}


def _slopes(heads: int) -> list[float]:
    """Return the slopes for the tested numbers of heads: 1/2, 1/4, … for 8; for 6, those of 4 and two of those of 8."""
    return {
        8: [2.0**-power for power in range(1, 9)],
        6: [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3],
    }[heads]


class Jina(Restated):
    """norm(x + f(x)) with -slope · |distance| added to the scores.

    Formulas: "Jina Embeddings 2", arxiv 2310.19923, section 3: ALiBi to both sides, GEGLU or ReGLU. `normed` is the second
    implementation, jina-bert-v2-qk-post-norm: norms of query and key, the attention's input added twice, the gate in the
    second half of the packed tensor instead of the first.
    """

    def __init__(self, heads: int = 8, *, normed: bool = False, **changes: Any) -> None:
        config: dict[str, Any] = {
            "model_type": "bert",
            "architectures": ["JinaBertForMaskedLM"],
            "attn_implementation": None,
            "emb_pooler": "mean",
            "feed_forward_type": "geglu",
            "hidden_act": "gelu",
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": LONGEST,
            "num_attention_heads": heads,
            "num_hidden_layers": LAYERS,
            "position_embedding_type": "alibi",
            "type_vocab_size": 2,
            "vocab_size": VOCABULARY,
        }
        self.heads, self.normed = heads, normed
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
            "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        }
        norms = ["embeddings.LayerNorm"]
        self.packed, self.down, self.last = ("mlp.gated_layers", "mlp.wo", "mlp.layernorm")
        if normed:
            self.packed, self.down, self.last = ("mlp.up_gated_layer", "mlp.down_layer", "layer_norm_2")
        for index in range(LAYERS):
            name = f"encoder.layer.{index}"
            for part in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ):
                shapes |= {f"{name}.{part}.weight": (HIDDEN, HIDDEN), f"{name}.{part}.bias": (HIDDEN,)}
            shapes |= {f"{name}.{self.packed}.weight": (2 * INNER, HIDDEN)}
            shapes |= {f"{name}.{self.down}.weight": (HIDDEN, INNER), f"{name}.{self.down}.bias": (HIDDEN,)}
            norms += [f"{name}.attention.output.LayerNorm", f"{name}.{self.last}"]
            if normed:
                norms += [f"{name}.attention.self.layer_norm_{part}" for part in "qk"] + [f"{name}.layer_norm_1"]
        for norm in norms:
            shapes |= {f"{norm}.weight": (HIDDEN,), f"{norm}.bias": (HIDDEN,)}
        super().__init__(config | changes, shapes, LONGEST)

    def forward(self, ids: torch.Tensor, bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        epsilon = self.settings["layer_norm_eps"]
        distance = (positions[:, None, :] - positions[:, :, None]).abs()[:, None]  # (texts, 1, tokens, tokens)
        bias = bias - torch.tensor(_slopes(self.heads))[:, None, None] * distance
        tables = (self.tensors[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "token_type"))
        words, types = tables
        hidden = self.norm("embeddings.LayerNorm", words[ids] + types[0], epsilon)
        for index in range(LAYERS):
            hidden = self.layer(f"encoder.layer.{index}", hidden, bias, epsilon)
        return hidden

    def layer(self, name: str, hidden: torch.Tensor, bias: torch.Tensor, epsilon: float) -> torch.Tensor:
        query, key, value = (self.linear(f"{name}.attention.self.{part}", hidden) for part in ("query", "key", "value"))
        if self.normed:
            query = self.norm(f"{name}.attention.self.layer_norm_q", query, epsilon)
            key = self.norm(f"{name}.attention.self.layer_norm_k", key, epsilon)
        query, key, value = (part.reshape(*part.shape[:2], self.heads, -1) for part in (query, key, value))
        context = self.linear(f"{name}.attention.output.dense", self.attend(query, key, value, bias))
        attended = self.norm(f"{name}.attention.output.LayerNorm", hidden + context, epsilon)
        if self.normed:
            attended = self.norm(f"{name}.layer_norm_1", hidden + attended, epsilon)
        first, second = self.linear(f"{name}.{self.packed}", attended).chunk(2, -1)
        gate, up = (second, first) if self.normed else (first, second)
        down = self.linear(f"{name}.{self.down}", GATES[self.settings["feed_forward_type"]](gate) * up)
        return self.norm(f"{name}.{self.last}", attended + down, epsilon)


@pytest.mark.parametrize("normed", [False, True], ids=["v2", "qk_post_norm"])
@pytest.mark.parametrize(
    ("heads", "changes"),
    [(8, {}), (6, {}), (8, {"feed_forward_type": "reglu", "layer_norm_eps": 1e-3})],
    ids=["geglu", "six_heads", "reglu"],
)
def test_parity(tmp_path: Path, heads: int, normed: bool, changes: dict[str, Any]) -> None:
    parity = Jina(heads, normed=normed, **changes).parity(tmp_path, HIDDEN, VOCABULARY)
    parity.check()
    without_effect = () if normed else ("key.bias",)  # with a norm after it, a key's bias changes the scores
    parity.check_sensitivity(*without_effect, *(("layer_norm_k.bias",) if normed else ()))


def test_slopes_of_the_papers_and_of_twelve_heads() -> None:
    """12 heads have the slopes of 8 heads, and four of those of 16 heads."""
    assert alibi_slopes(8) == tuple(_slopes(8))
    assert alibi_slopes(6) == tuple(_slopes(6))
    assert alibi_slopes(12) == tuple(
        [2.0**-power for power in range(1, 9)] + [2.0**-power for power in (0.5, 1.5, 2.5, 3.5)]
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feed_forward_type": "original"}, "feed_forward_type"),
        ({"feed_forward_type": "swiglu"}, "feed_forward_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"lora_adaptations": ["retrieval.query"]}, "lora_adaptations"),
        ({"intermediate_size": 41}, "gated_layers"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = Jina().save(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(folder))
