"""Other values for the keys of a checkpoint's JSON files: by the value's type, and by the key's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from .edits import Json, Place

__all__ = ["DOMAINS", "other_values", "places"]

Change = Literal["change value", "wrong type"]

#: Values that have a meaning for the key.
DOMAINS: Mapping[str, Sequence[Any]] = {
    "hidden_act": ("relu", "gelu_new", "silu"),
    "activation": ("relu",),
    "activation_function": (
        "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.activation.GELU",
        "torch.nn.modules.linear.Identity",
        "torch.nn.modules.activation.LeakyReLU",
        "my_code.Tanh",
    ),
    "activation_fn": ("torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid", "torch.nn.Tanh"),
    "hidden_activation": ("relu", "silu"),
    "layer_norm_eps": (1e-5, 0.1),
    "norm_eps": (0.1,),
    "pooling_mode": ("cls", "max", ["mean", "cls"], "lasttoken", "unknown"),
    "tokenizer_class": (
        "BertTokenizer",
        "BertTokenizerFast",
        "RobertaTokenizer",
        "XLMRobertaTokenizer",
        "AlbertTokenizer",
        "PreTrainedTokenizerFast",
        "BertJapaneseTokenizer",
        "NoSuchTokenizer",
    ),
    "model_max_length": (16, 10**30, 64, 0),
    "max_seq_length": (16, 40, 64, 0, None),
    "type": ("sentence_transformers.models.Normalize", "my_code.Layer"),
    "model_type": ("bert", "roberta", "SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder"),
    "default_prompt_name": ("query", "document", "nothing"),
    "similarity_fn_name": ("dot", "euclidean"),
    "prompts": (
        {"query": "q: ", "passage": "p: "},
        {"web": "web: "},
        {"document": "", "passage": "p: "},
        {"query": "[NEW] ", "document": " d  "},
        {"raw": "x "},
        {"clustering": "c: "},
    ),
    "direction": ("Left",),
    "lowercase": (True, False),
    "strip_accents": (True, False),
    "position_embedding_type": ("relative_key", "absolute", "alibi"),
    "pad_token_id": (0, 3, 5),
    "architectures": (["BertForMaskedLM"], ["MyModel"]),
    "dtype": ("float16", "bfloat16"),
    "torch_dtype": ("float16",),
    "query_expansion": ({"strategy": "min", "length": 7}, {"strategy": "fixed", "length": 9, "attend": True}),
    "skiplist_words": ([], ["cat"], ["the cat"]),
    "scheme": ("always", "never", "first"),
    "prepend_scheme": ("never", "first"),
    "module_input_name": ("token_embeddings", "sentence_embedding", "other"),
    "module_output_name": ("token_embeddings", "sentence_embedding", "other"),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "pooler_output"}},),
    "transformer_task": ("feature-extraction", "fill-mask", "sequence-classification"),
    "pooling_strategy": ("sum", "max"),
    "model_input_names": (["input_ids", "attention_mask"], ["input_ids"]),
}


def other_values(key: str, value: Json) -> Iterator[tuple[Change, Json]]:
    """Yield other values of a key, each with the kind of the change: of the same type first, then of others."""
    same: list[Any] = [other for other in DOMAINS.get(key, ()) if type(other) is type(value) or value is None]
    wrong: list[Any] = [other for other in DOMAINS.get(key, ()) if other not in same]
    match value:
        case bool():
            same.append(not value)
            wrong += [None, str(value).lower(), 2]
        case int():
            same += [value + 1, value - 1, 0, 2 * value]
            wrong += [None, str(value), value + 0.5, [value]]
        case float():
            same += [2 * value + 0.125, 0.0]
            wrong += [None, str(value)]
        case str():
            same += [f"{value}x", ""]
            wrong += [None, 7, [value]]
        case list():
            same += [[], value[::-1], value[:-1], [*value, *value[-1:]]]
            wrong += [None, {}, "x"]
        case dict():
            same += [{}]
            wrong += [None, [], "x"]
        case _:
            same += [True, 1, "x"]
    distinct: list[Json] = [value]
    for change, others in (("change value", same), ("wrong type", wrong)):
        for other in others:
            if not any(other == earlier and type(other) is type(earlier) for earlier in distinct):
                distinct.append(other)
                yield change, other  # type: ignore[misc]


#: Lists and objects of tokenizer.json with an entry for each token.
_LONG = ("vocab", "merges")
#: Elements of such a list, and of other lists of objects, that are changed one by one.
_FIRST = 2


def places(content: Json, at: Place = ()) -> Iterator[tuple[Place, Json]]:
    """Yield every value of a JSON file with its place; of vocabularies and lists of tokens only some entries."""
    entries: list[tuple[Any, Any]]
    if isinstance(content, dict):
        entries = list(content.items())
    elif isinstance(content, list) and any(isinstance(entry, dict | list) for entry in content):
        entries = list(enumerate(content))[: None if at in ((), ("normalizers",)) else 2 * _FIRST]
    else:
        return
    if at and at[-1] in _LONG:
        entries = entries[7 : 7 + _FIRST] + entries[-1:]
    if at and at[-1] == "added_tokens_decoder":
        entries = entries[:_FIRST]
    for key, value in entries:
        place = (*at, key)
        yield place, value
        if not (at and at[-1] in _LONG):
            yield from places(value, place)
