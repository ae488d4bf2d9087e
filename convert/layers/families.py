"""Places of the points in transformers' models: one table for each family, from points to module paths.

Source: the `modeling_*.py` of transformers 5, `reference/jina.py` and `reference/nomic_experts.py`. A module that a
checkpoint does not use is absent or the identity, and gives no point (ELECTRA's projection, ModernBERT's first norm).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fletcher.runtime.errors import InputError

__all__ = ["CLASSIFIERS", "FAMILIES", "MASKED_LM", "Family", "Tap", "taps_of"]

#: The two kinds of residual blocks, by their bodies.
Part = Literal["attention", "feed_forward"]


@dataclass(frozen=True, slots=True)
class Tap:
    """Input or output tensor of a module.

    Attributes:
        path: path of the module; empty for the layer itself.
        side: input, output, or for a table the rows that its input names.
        argument: index of the positional argument, for inputs.
        part: index of one of `parts` equal parts of the last axis.
        parts: number of equal parts of the last axis.
        heads: axis of the heads of one text's value, which are put side by side; None for a value without this axis.
        needs: path of a module without which the point does not exist, relative to the layer for points of layers; empty if
            there is none.
        other: path of the module where there is none at `path`; empty if there is no other place.
        texts: axis of the texts; the next one is that of the tokens, or the one before.
        first: whether the first call in a layer alone counts; else the values of all calls are summed.
    """

    path: str
    side: Literal["in", "out", "rows"]
    argument: int = 0
    part: int = 0
    parts: int = 1
    heads: int | None = None
    needs: str = ""
    other: str = ""
    first: bool = False
    texts: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """Points of a family.

    Attributes:
        embeddings: taps by point; the values of several taps are summed.
        layer: regular expression of the layers' paths; a layer that runs several times counts as several layers.
        points: tap by point, with paths relative to the layer.
        rotary: whether query and key are rotated between their projection and the attention function.
        bias: bias of the scores besides the mask, for a family that does not call transformers' attention function.
        softmax: attention weights, for a family that does not call transformers' attention function.
        bias_method: path of a module and name of its method that returns such a bias, (heads, tokens, tokens), and whose last
            argument is the number of products in the scores (DeBERTa).
        window: key of the configuration with the sizes of the layers' windows, for a family that computes its scores in
            another form (Longformer): the reference's are then computed from query and key.
        unshown: points of a layer's graph that neither enter nor leave a module.
        final_norm: path of the norm after the last layer.
    """

    embeddings: Mapping[str, tuple[Tap, ...]]
    layer: str
    points: Mapping[str, Tap]
    rotary: bool = False
    bias: Tap | None = None
    softmax: Tap | None = None
    bias_method: tuple[str, str] | None = None
    window: str | None = None
    unshown: frozenset[str] = frozenset()
    final_norm: str | None = None


def _into(path: str, argument: int = 0) -> Tap:
    return Tap(path, "in", argument)


def _out(path: str, part: int = 0, parts: int = 1) -> Tap:
    return Tap(path, "out", part=part, parts=parts)


def _norm_before(part: Part, norm: str, residual: Tap) -> dict[str, Tap]:
    """Return the points of a block with the norm before its body: x + body(norm(x))."""
    return {f"{part}/norm": _out(norm), f"{part}/residual": residual}


def _norm_sum(part: Part, norm: str, again: str = "") -> dict[str, Tap]:
    """Return the points of a block with the norm after its sum: norm(x + body(x)).

    Args:
        part: name of the body.
        norm: path of the norm.
        again: `_again` for a block around another one.
    """
    return {f"{part}/residual{again}": _into(norm), f"{part}/norm{again}": _out(norm)}


def _attention(query: Tap, key: Tap, value: Tap, output: str) -> dict[str, Tap]:
    """Return the points of an attention: three projections, and the output projection of the context."""
    return {
        "attention/query": query,
        "attention/key": key,
        "attention/value": value,
        "attention/context": _into(output),
        "attention/output": _out(output),
    }


def _feed_forward(up: str, down: str) -> dict[str, Tap]:
    """Return the points of a plain feed-forward part: down(activation(up(x)))."""
    return {"feed_forward/up": _out(up), "feed_forward/activation": _into(down), "feed_forward/down": _out(down)}


def _gated(up: Tap, gate: Tap, activation: str, down: str) -> dict[str, Tap]:
    """Return the points of a gated feed-forward part: down(activation(gate(x)) · up(x))."""
    return {
        "feed_forward/up": up,
        "feed_forward/gate": gate,
        "feed_forward/activation": _out(activation),
        "feed_forward/gated": _into(down),
        "feed_forward/down": _out(down),
    }


def _post_norm(query: str, key: str, value: str, output: str, norm: str) -> dict[str, Tap]:
    """Return the points of a block of an attention whose norm is after its sum."""
    return {**_attention(_out(query), _out(key), _out(value), output), **_norm_sum("attention", norm)}


def _embeddings(
    *tables: Literal["token_type", "position"], projection: str | None = None
) -> dict[str, tuple[Tap, ...]]:
    """Return the points of tables that are summed in the order of Fletcher's graphs, and of the LayerNorm after them."""
    word = _out("embeddings.word_embeddings")
    points: dict[str, tuple[Tap, ...]] = {"word": (word,)}
    if "token_type" in tables:
        points["with_token_type"] = (word, _out("embeddings.token_type_embeddings"))
    if "position" in tables:
        points["position"] = (_out("embeddings.position_embeddings"),)
        points["sum"] = (_into("embeddings.LayerNorm"),)
    points["norm"] = (_out("embeddings.LayerNorm"),)
    if projection is not None:
        points["projection"] = (_out(projection),)
    return points


_BERT_ATTENTION = _post_norm(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
)
_BERT_FEED_FORWARD = {
    **_feed_forward("intermediate.dense", "output.dense"),
    **_norm_sum("feed_forward", "output.LayerNorm"),
}

_BERT = Family(
    embeddings=_embeddings("token_type", "position", projection="embeddings_project"),  # ELECTRA's, if it has one
    layer=r"encoder\.layer\.\d+",
    points={**_BERT_ATTENTION, **_BERT_FEED_FORWARD},
)
_DISTILBERT = Family(
    embeddings=_embeddings("position"),
    layer=r"transformer\.layer\.\d+",
    points={
        **_post_norm("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"),
        **_feed_forward("ffn.lin1", "ffn.lin2"),
        **_norm_sum("feed_forward", "output_layer_norm"),
    },
)
_BIG_BIRD = dataclasses.replace(
    _BERT, softmax=_out("attention.self.dropout")
)  # the identity when a model does not train
_LONGFORMER = Family(
    embeddings=_embeddings("token_type", "position"),
    layer=r"encoder\.layer\.\d+",
    points={
        **_attention(  # its rows are (tokens, texts, hidden)
            Tap("attention.self.query", "out", texts=1),
            Tap("attention.self.key", "out", texts=1),
            Tap("attention.self.value", "out", texts=1),
            "attention.output.dense",
        ),
        **_norm_sum("attention", "attention.output.LayerNorm"),
        **_BERT_FEED_FORWARD,
    },
    window="attention_window",
)
_MPNET = Family(
    embeddings=_embeddings("position"),
    layer=r"encoder\.layer\.\d+",
    points={
        **_post_norm(
            "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", "attention.LayerNorm"
        ),
        **_BERT_FEED_FORWARD,
    },
    bias=_into("attention.attn", 2),  # position_bias
    softmax=_out("attention.attn.dropout"),  # the identity when a model does not train
)
_CONVBERT = Family(
    embeddings=_embeddings("token_type", "position", projection="embeddings_project"),
    layer=r"encoder\.layer\.\d+",
    points={**_BERT_ATTENTION, **_BERT_FEED_FORWARD},
    softmax=_out("attention.self.dropout"),  # the identity when a model does not train
)
_DEBERTA_V2 = Family(
    embeddings={
        **_embeddings("token_type", "position"),
        "sum": (Tap("embeddings.LayerNorm", "in", needs="embeddings.position_embeddings"),),
    },
    layer=r"encoder\.layer\.\d+",
    points={
        # Projections that distances share are called a second time.
        **_attention(
            Tap("attention.self.query_proj", "out", first=True),
            Tap("attention.self.key_proj", "out", first=True),
            _out("attention.self.value_proj"),
            "attention.output.dense",
        ),
        **_norm_sum("attention", "attention.output.LayerNorm"),
        **_BERT_FEED_FORWARD,
    },
    softmax=_out("attention.self.dropout"),  # the identity when a model does not train
    bias_method=("attention.self", "disentangled_attention_bias"),
)
_ALBERT = Family(
    embeddings=_embeddings("token_type", "position", projection="encoder.embedding_hidden_mapping_in"),
    layer=r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+",
    points={
        **_post_norm("attention.query", "attention.key", "attention.value", "attention.dense", "attention.LayerNorm"),
        **_feed_forward("ffn", "ffn_output"),
        **_norm_sum("feed_forward", "full_layer_layer_norm"),
    },
)
_NOMIC_BERT = Family(
    embeddings=_embeddings("token_type"),
    layer=r"layers\.\d+",
    points={
        **_post_norm(
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm"
        ),
        **_gated(_out("mlp.up_proj"), _out("mlp.gate_proj"), "mlp.act_fn", "mlp.down_proj"),
        **_norm_sum("feed_forward", "post_mlp_layernorm"),
    },
    rotary=True,
)
_NOMIC_EXPERTS = Family(
    embeddings={**_embeddings("token_type"), "norm": (_out("emb_ln"),)},
    layer=r"encoder\.layers\.\d+",
    points={
        **_attention(_out("attn.Wqkv", 0, 3), _out("attn.Wqkv", 1, 3), _out("attn.Wqkv", 2, 3), "attn.out_proj"),
        **_norm_sum("attention", "norm1"),
        **_feed_forward("mlp.fc1", "mlp.fc2"),  # of layers without experts
        "feed_forward/router/scores": _out("mlp.router.layer"),
        "feed_forward/router/shares": _out("mlp.router.shares"),
        "feed_forward/with_bias": _out("mlp.experts"),
        **_norm_sum("feed_forward", "norm2"),
    },
    rotary=True,
)
_JINA_EMBEDDINGS_V3 = Family(
    embeddings=_embeddings("token_type"),
    layer=r"layers\.\d+",
    points={
        **_post_norm(
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm"
        ),
        **_feed_forward("mlp.fc1", "mlp.fc2"),
        **_norm_sum("feed_forward", "post_mlp_layernorm"),
    },
    rotary=True,
)
_MODERNBERT = Family(
    embeddings={"word": (_out("embeddings.tok_embeddings"),), "norm": (_out("embeddings.norm"),)},
    layer=r"layers\.\d+",
    points={
        **_norm_before("attention", "attn_norm", residual=_into("mlp_norm")),
        **_attention(_out("attn.Wqkv", 0, 3), _out("attn.Wqkv", 1, 3), _out("attn.Wqkv", 2, 3), "attn.Wo"),
        **_norm_before("feed_forward", "mlp_norm", residual=_out("")),
        **_gated(_out("mlp.Wi", 1, 2), _out("mlp.Wi", 0, 2), "mlp.act", "mlp.Wo"),
    },
    rotary=True,
    final_norm="final_norm",
)
_XLM_ROBERTA_XL = Family(
    embeddings={
        "word": (_out("embeddings.word_embeddings"),),
        "with_token_type": (_out("embeddings.word_embeddings"), _out("embeddings.token_type_embeddings")),
        "position": (_out("embeddings.position_embeddings"),),
        "sum": (_out("embeddings"),),
    },
    layer=r"encoder\.layer\.\d+",
    points={
        **_norm_before("attention", "attention.self_attn_layer_norm", residual=_into("LayerNorm")),
        **_attention(
            _out("attention.self.query"),
            _out("attention.self.key"),
            _out("attention.self.value"),
            "attention.output.dense",
        ),
        **_norm_before("feed_forward", "LayerNorm", residual=_out("")),
        **_feed_forward("intermediate.dense", "output.dense"),
    },
    final_norm="encoder.LayerNorm",
)


_T5 = Family(
    embeddings={"word": (_out("encoder.embed_tokens"),)},
    layer=r"encoder\.block\.\d+",
    points={
        **_norm_before("attention", "layer.0.layer_norm", residual=_out("layer.0")),
        **_attention(
            _out("layer.0.SelfAttention.q"),
            _out("layer.0.SelfAttention.k"),
            _out("layer.0.SelfAttention.v"),
            "layer.0.SelfAttention.o",
        ),
        **_norm_before("feed_forward", "layer.1.layer_norm", residual=_out("layer.1")),
        "feed_forward/up": Tap("layer.1.DenseReluDense.wi_1", "out", other="layer.1.DenseReluDense.wi"),
        "feed_forward/gate": _out("layer.1.DenseReluDense.wi_0"),
        "feed_forward/activation": _out("layer.1.DenseReluDense.act"),
        "feed_forward/gated": Tap("layer.1.DenseReluDense.wo", "in", needs="layer.1.DenseReluDense.wi_1"),
        "feed_forward/down": _out("layer.1.DenseReluDense.wo"),
    },
    final_norm="encoder.final_layer_norm",
)


def _decoder(
    *,
    scaled: bool = False,
    head_norms: Mapping[str, Tap] = MappingProxyType({}),
    sandwich: bool = False,
    after: Mapping[str, Tap] = MappingProxyType({}),
) -> Family:
    """Return the points of a family with RMS norms, rotary positions and gated units.

    Args:
        scaled: whether the word table's module scales the rows.
        head_norms: norms of the heads of query, key and value.
        sandwich: whether norms follow the attention and the feed-forward part.
        after: points of a third block.
    """
    residual = _out("")
    if after:
        residual = _into("ple_block")
    before_unit = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    norms_after = {
        "attention/norm_after": _out("post_attention_layernorm"),
        "feed_forward/norm_after": _out("post_feedforward_layernorm"),
    }
    return Family(
        embeddings={
            "word": (Tap("embed_tokens", "rows"),),
            **({"scaled": (_out("embed_tokens"),)} if scaled else {}),
        },
        layer=r"layers\.\d+",
        points={
            **_norm_before("attention", "input_layernorm", residual=_into(before_unit)),
            **_attention(
                _out("self_attn.q_proj"), _out("self_attn.k_proj"), _out("self_attn.v_proj"), "self_attn.o_proj"
            ),
            **head_norms,
            **_norm_before("feed_forward", before_unit, residual=residual),
            **_gated(_out("mlp.up_proj"), _out("mlp.gate_proj"), "mlp.act_fn", "mlp.down_proj"),
            **(norms_after if sandwich else {}),
            **after,
        },
        rotary=True,
        final_norm="norm",
    )


def _head_norms(*parts: str, axis: int) -> dict[str, Tap]:
    """Return the points of the norms of the heads of query, key and value.

    Args:
        parts: those that are normed.
        axis: axis of the heads in one text's value.
    """
    return {f"attention/{part}/norm": Tap(f"self_attn.{part[0]}_norm", "out", heads=axis) for part in parts}


#: The gate by the embeddings in each layer of EmbeddingGemma 2.
_EMBEDDING_GATE = {
    "embedding_gate/gate": _out("ple_block.per_layer_input_gate"),
    "embedding_gate/activation": _out("ple_block.act_fn"),
    "embedding_gate/gated": _into("ple_block.per_layer_projection"),
    "embedding_gate/down": _out("ple_block.per_layer_projection"),
    "embedding_gate/norm_after": _out("ple_block.post_per_layer_input_norm"),
    "embedding_gate/residual": _out("ple_block"),
}

_LFM2 = Family(
    embeddings={"word": (Tap("embed_tokens", "rows"),)},
    layer=r"layers\.\d+",
    points={
        "attention/norm": Tap("operator_norm", "out", needs="self_attn"),
        **_attention(
            _out("self_attn.q_proj"), _out("self_attn.k_proj"), _out("self_attn.v_proj"), "self_attn.out_proj"
        ),
        "attention/query/norm": Tap("self_attn.q_layernorm", "out", heads=1),
        "attention/key/norm": Tap("self_attn.k_layernorm", "out", heads=1),
        "attention/residual": Tap("ffn_norm", "in", needs="self_attn"),
        "convolution/norm": Tap("operator_norm", "out", needs="conv"),
        "convolution/input": _out("conv.in_proj"),
        "convolution/result": _into("conv.out_proj"),
        "convolution/output": _out("conv.out_proj"),
        "convolution/residual": Tap("ffn_norm", "in", needs="conv"),
        **_norm_before("feed_forward", "ffn_norm", residual=_out("")),
        "feed_forward/up": _out("feed_forward.w3"),
        "feed_forward/gate": _out("feed_forward.w1"),
        "feed_forward/gated": _into("feed_forward.w2"),
        "feed_forward/down": _out("feed_forward.w2"),
    },
    rotary=True,
    unshown=frozenset({"feed_forward/activation"}),
    final_norm="embedding_norm",
)

_DECODER = _decoder()


def _jina(packed: str, gate: int, down: str, norm: str) -> Family:
    """Return the points of JinaBERT.

    Args:
        packed: path of the packed product of gate and up projection.
        gate: half of the packed product that is the gate.
        down: path of the down projection.
        norm: path of the norm after the feed-forward part.
    """
    return Family(
        embeddings=_embeddings("token_type"),
        layer=r"encoder\.layer\.\d+",
        points={
            **_BERT_ATTENTION,
            "attention/query/norm": _out("attention.self.layer_norm_q"),
            "attention/key/norm": _out("attention.self.layer_norm_k"),
            **_norm_sum("attention", "layer_norm_1", "_again"),
            **_gated(_out(packed, 1 - gate, 2), _out(packed, gate, 2), "mlp.act", down),
            **_norm_sum("feed_forward", norm),
        },
    )


#: By transformers' `model_type`, or that of `reference/jina.py` and `reference/nomic_experts.py`.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "albert": _ALBERT,
        "bert": _BERT,
        "big_bird": _BIG_BIRD,
        "camembert": _BERT,
        "convbert": _CONVBERT,
        "deberta-v2": _DEBERTA_V2,
        "distilbert": _DISTILBERT,
        "electra": _BERT,
        "embedding_gemma2_text": _decoder(
            scaled=True,
            head_norms=_head_norms("query", "key", "value", axis=0),
            sandwich=True,
            after=_EMBEDDING_GATE,
        ),
        "eurobert": _DECODER,
        "gemma": _decoder(scaled=True),
        "gemma3_text": _decoder(scaled=True, head_norms=_head_norms("query", "key", axis=0), sandwich=True),
        "gte": _NOMIC_BERT,  # the same modules under the same names
        "jina_bert": _jina("mlp.gated_layers", 0, "mlp.wo", "mlp.layernorm"),
        "jina_bert_qk_post_norm": _jina("mlp.up_gated_layer", 1, "mlp.down_layer", "layer_norm_2"),
        "jina_embeddings_v3": _JINA_EMBEDDINGS_V3,
        "lfm2": _LFM2,
        "llama": _DECODER,
        "longformer": _LONGFORMER,
        "ministral3": _DECODER,
        "mistral": _DECODER,
        "modernbert": _MODERNBERT,
        "mpnet": _MPNET,
        "mt5": _T5,
        "nomic_bert": _NOMIC_BERT,
        "nomic_bert_experts": _NOMIC_EXPERTS,
        "qwen2": _DECODER,
        "qwen3": _decoder(head_norms=_head_norms("query", "key", axis=1)),
        "roberta": _BERT,
        "t5": _T5,
        "xlm-roberta": _BERT,
        "xlm-roberta-xl": _XLM_ROBERTA_XL,
    }
)


_POOLER = ("*pooler.dense", "classifier")
_TWO_LAYERS = ("classifier.dense", "classifier.out_proj")

#: Modules of `…ForSequenceClassification` whose inputs are the results of the steps after the encoder; `*` is the encoder.
CLASSIFIERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "albert": ("*pooler", "classifier"),
        "bert": _POOLER,
        "big_bird": _TWO_LAYERS,
        "camembert": _TWO_LAYERS,
        "convbert": _TWO_LAYERS,
        "deberta-v2": ("pooler.dense", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
        "electra": _TWO_LAYERS,
        "jina_embeddings_v3": _TWO_LAYERS,
        "longformer": _TWO_LAYERS,
        "modernbert": ("head.dense", "head.norm", "classifier"),
        "mpnet": _TWO_LAYERS,
        "nomic_bert": _POOLER,
        "roberta": _TWO_LAYERS,
        "xlm-roberta": _TWO_LAYERS,
    }
)

_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")

#: Modules of `…ForMaskedLM`: the transform's product, its norm, and the decoder.
MASKED_LM: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
        "bert": (
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
        ),
        "camembert": _LM_HEAD,
        "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
        "modernbert": ("head.dense", "head.norm", "decoder"),
        "mpnet": _LM_HEAD,
        "roberta": _LM_HEAD,
        "xlm-roberta": _LM_HEAD,
    }
)


def taps_of(model_type: str) -> Family:
    """Return the table of a family.

    Raises:
        InputError: Fletcher has no table for the model type.
    """
    if model_type not in FAMILIES:
        raise InputError(
            f"layers of the model type {model_type!r} cannot be compared with transformers, only those of "
            f"{', '.join(FAMILIES)}. Verify without --layers, or compare two variants with --against and --on"
        )
    return FAMILIES[model_type]
