"""Classes of transformers' tokenizers that Fletcher reproduces, and the class that a checkpoint has.

Sources: `AutoTokenizer.from_pretrained` and the classes' `__init__` of transformers 4.57 and 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from ..tokenizer_version import TokenizerLike

__all__ = ["TokenizerClass", "class_name", "find_class"]

#: `generic` takes tokenizer.json as it is.
Kind = Literal["bert", "mpnet", "roberta", "xlm_roberta", "camembert", "albert", "qwen2", "llama", "gemma", "generic"]

_BERT_TOKENS: Mapping[str, str] = MappingProxyType(
    {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
)
_ROBERTA_TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
)
_ALBERT_TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
)


_QWEN2_TOKENS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
)
_LLAMA_TOKENS: Mapping[str, str] = MappingProxyType({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
_GEMMA_TOKENS: Mapping[str, str] = MappingProxyType(
    {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
)


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """A class of tokenizers.

    Attributes:
        name: transformers' name, without `Fast`.
        kind: the pipeline that it builds.
        model: type of the model in tokenizer.json that it builds; None takes any.
        tokens: special tokens that it has where the checkpoint names none.
        types: versions of transformers in which it gives the model token types.
        additional: special tokens without a name that it has where the checkpoint lists none.
        tokens_of_5: special tokens that it has besides `tokens` in transformers 5.
    """

    name: str
    kind: Kind
    model: str | None
    tokens: Mapping[str, str]
    types: frozenset[TokenizerLike]
    additional: tuple[str, ...] = ()
    tokens_of_5: Mapping[str, str] = field(default_factory=dict)


_BOTH: frozenset[TokenizerLike] = frozenset({"4", "5"})
_NEITHER: frozenset[TokenizerLike] = frozenset()
_FOUR: frozenset[TokenizerLike] = frozenset({"4"})
_GENERIC = TokenizerClass("PreTrainedTokenizerFast", "generic", None, MappingProxyType({}), _FOUR)

CLASSES: Mapping[str, TokenizerClass] = MappingProxyType(
    {
        known.name: known
        for known in (
            TokenizerClass("BertTokenizer", "bert", "WordPiece", _BERT_TOKENS, _BOTH),
            TokenizerClass("DistilBertTokenizer", "bert", "WordPiece", _BERT_TOKENS, _NEITHER),
            TokenizerClass("ElectraTokenizer", "bert", "WordPiece", _BERT_TOKENS, _BOTH),
            TokenizerClass(
                "MPNetTokenizer",
                "mpnet",
                "WordPiece",
                MappingProxyType({**_ROBERTA_TOKENS, "unk_token": "[UNK]"}),
                _NEITHER,
            ),
            TokenizerClass("RobertaTokenizer", "roberta", "BPE", _ROBERTA_TOKENS, _NEITHER),
            TokenizerClass("XLMRobertaTokenizer", "xlm_roberta", "Unigram", _ROBERTA_TOKENS, _NEITHER),
            TokenizerClass(
                "CamembertTokenizer",
                "camembert",
                "Unigram",
                _ROBERTA_TOKENS,
                _NEITHER,
                ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
            ),
            TokenizerClass("AlbertTokenizer", "albert", "Unigram", _ALBERT_TOKENS, _FOUR),
            TokenizerClass("Qwen2Tokenizer", "qwen2", "BPE", _QWEN2_TOKENS, _NEITHER),
            TokenizerClass("LlamaTokenizer", "llama", "BPE", _LLAMA_TOKENS, _NEITHER),
            TokenizerClass(
                "GemmaTokenizer",
                "gemma",
                "BPE",
                _GEMMA_TOKENS,
                _NEITHER,
                tokens_of_5=MappingProxyType({"mask_token": "<mask>"}),
            ),
        )
    }
)

#: Names of the class that takes tokenizer.json as it is; the second is the name in transformers 5.
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")

#: Class of a checkpoint that names none, by `model_type` (`TOKENIZER_MAPPING_NAMES`). transformers 4 has no nomic_bert.
BY_MODEL_4: Mapping[str, str] = MappingProxyType(
    {
        "albert": "AlbertTokenizer",
        "bert": "BertTokenizer",
        "camembert": "CamembertTokenizer",
        "distilbert": "DistilBertTokenizer",
        "electra": "ElectraTokenizer",
        "gemma": "GemmaTokenizer",
        "gemma3_text": "GemmaTokenizer",
        "llama": "LlamaTokenizer",
        "mistral": "LlamaTokenizer",
        "modernbert": "PreTrainedTokenizerFast",
        "mpnet": "MPNetTokenizer",
        "nomic_bert": "BertTokenizer",
        "qwen2": "Qwen2Tokenizer",
        "qwen3": "Qwen2Tokenizer",
        "roberta": "RobertaTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
    }
)
BY_MODEL_5: Mapping[str, str] = MappingProxyType(
    {
        **{model: name for model, name in BY_MODEL_4.items() if model != "llama"},
        "distilbert": "BertTokenizer",
        "gte": "XLMRobertaTokenizer",
        "jina_embeddings_v3": "XLMRobertaTokenizer",
        "ministral3": "TokenizersBackend",
        "mistral": "TokenizersBackend",
        "modernbert": "TokenizersBackend",
    }
)

#: Model types for which transformers 5 takes tokenizer.json as it is, whatever class the checkpoint names: those of
#: `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`, and the Mistrals', whose own class is not the one that checkpoints name.
ALWAYS_GENERIC_5 = frozenset({"ministral3", "mistral", "modernbert", "modernbert-decoder"})

#: Model types for which transformers 5 takes another class than the checkpoint names (the same list).
ALWAYS_5: Mapping[str, str] = MappingProxyType({"qwen2": "Qwen2Tokenizer"})


def class_name(config: Mapping[str, Any], settings: Mapping[str, Any], like: TokenizerLike) -> str | None:
    """Return the name of the class that `AutoTokenizer` takes, without `Fast`; None if the checkpoint has no known class.

    Args:
        config: the checkpoint's config.json.
        settings: its tokenizer_config.json.
        like: version of transformers to follow.
    """
    model_type = config.get("model_type")
    if like == "5" and model_type in ALWAYS_GENERIC_5:
        return GENERIC[0]
    if like == "5" and model_type in ALWAYS_5:
        return ALWAYS_5[str(model_type)]
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if isinstance(name, str):
        return GENERIC[0] if name in GENERIC else name.removesuffix("Fast")
    by_model = BY_MODEL_5 if like == "5" else BY_MODEL_4
    name = by_model.get(str(model_type))
    return GENERIC[0] if name in GENERIC else name


def find_class(name: str | None) -> TokenizerClass | None:
    """Return the class of that name, or None if Fletcher does not reproduce it."""
    return _GENERIC if name == GENERIC[0] else CLASSES.get(name or "")
