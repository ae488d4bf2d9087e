"""Base checkpoints of the mutants: every authored family, every head, and every stack of modules.

Hidden size 32, two layers, a vocabulary of at most 400 tokens, weights of standard deviation 0.25: a difference of one token
or of one setting changes a vector by far more than the tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from fletcher.model_zoo import Head

from ...families.rotary.test_gte import New
from ...families.rotary.test_nomic_bert import Nomic
from ...families.test_jina_bert import Jina
from ...heads.language_models import save_logit_score
from ...verify.parity import randomize
from .stacks import save_colbert, save_modules, save_pylate, save_settings, save_splade, save_with_library
from .tokenizers import TOKENIZERS, save_tokenizer

__all__ = ["BASES", "HIDDEN", "MAX_TOKENS", "Base", "read_folder"]

HIDDEN = 32
POSITIONS = 40
MAX_TOKENS = 24
STD = 0.25
#: Rows of a language model's embedding table that no token has.
SPARE = 4

SIZES: Mapping[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "initializer_range": STD,
}
_DISTILBERT: Mapping[str, Any] = {"dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
_COUNTED: Mapping[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
_MODERN: Mapping[str, Any] = {
    **SIZES,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
}

_DECODER: Mapping[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
_GEMMA3: Mapping[str, Any] = {
    **_DECODER,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 24,
    "sliding_window": 5,
    "use_bidirectional_attention": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_GEMMA4: Mapping[str, Any] = {
    **_DECODER,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 5,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "embedding_dim": 28,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 12,
    "num_global_key_value_heads": 1,
}

#: Name in transformers, sizes of its configuration, and tokenizer, by family.
_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "bert": ("Bert", SIZES, "BertTokenizer"),
    "roberta": ("Roberta", {**SIZES, **_COUNTED}, "RobertaTokenizer"),
    "xlm-roberta": ("XLMRoberta", {**SIZES, **_COUNTED}, "XLMRobertaTokenizer"),
    "camembert": ("Camembert", {**SIZES, **_COUNTED, "bos_token_id": 5, "eos_token_id": 6}, "CamembertTokenizer"),
    "distilbert": (
        "DistilBert",
        {**_DISTILBERT, "max_position_embeddings": POSITIONS, "initializer_range": STD},
        "DistilBertTokenizer",
    ),
    "mpnet": ("MPNet", SIZES, "MPNetTokenizer"),
    "albert": ("Albert", {**SIZES, "embedding_size": 16}, "AlbertTokenizer"),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}, "ElectraTokenizer"),
    "gte": ("Gte", {**SIZES, "type_vocab_size": 2, "pad_token_id": 0}, "BertTokenizerFast"),
    "nomic_bert": ("NomicBert", SIZES, "BertTokenizer"),
    "modernbert": ("ModernBert", _MODERN, "PreTrainedTokenizerFast"),
    "qwen3": ("Qwen3", _DECODER, "Qwen2Tokenizer"),
    "gemma3_text": ("Gemma3Text", _GEMMA3, "GemmaTokenizer"),
    "embedding_gemma2_text": ("EmbeddingGemma2Text", _GEMMA4, "GemmaTokenizer"),
}

#: Families whose original classes transformers lacks, restated in torch.
_RESTATED: Mapping[str, Callable[..., Any]] = {"jina_bert": Jina, "new": New, "nomic_original": Nomic}


@dataclass(frozen=True, slots=True)
class Base:
    """`Base`: a checkpoint from which mutants are made.

    Attributes:
        family: key of the family.
        head: kind of the model.
        finish: function that adds the files of the head to the encoder's folder.
        options: options of the export that the files do not determine.
        variant: part after `For` of transformers' class, such as `MaskedLM`; empty for the encoder.
        sizes: changes of the configuration.
        drop: files that are removed at the end.
    """

    family: str
    head: Head = "embedding"
    finish: Callable[[Path], None] = save_settings
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    @property
    def restated(self) -> Callable[[], Any] | None:
        """Return the function that makes the model, if transformers has no class for it."""
        return (lambda: _restate(self.family)) if self.family in _RESTATED else None

    def save(self, folder: Path) -> Path:
        """Write the checkpoint and return its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.family in _RESTATED:
            tokenizer = TOKENIZERS["short"]()
            _restate(self.family).save(folder)
        else:
            name, sizes, kind = _FAMILIES[self.family]
            tokenizer = TOKENIZERS[kind]()
            spare = SPARE if kind in ("Qwen2Tokenizer", "GemmaTokenizer") else 0
            vocabulary = {"vocab_size": len(tokenizer.tokenizer) + spare}
            config = getattr(transformers, f"{name}Config")(**{**sizes, **vocabulary, **self.sizes})
            suffix = f"For{self.variant}" if self.variant else "Model"
            randomize(getattr(transformers, f"{name}{suffix}")(config), std=STD).save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        (folder / "README.md").write_text("# A model\n")
        self.finish(folder)
        for name in self.drop:
            (folder / name).unlink()
        return folder


def _restate(family: str) -> Any:
    return _RESTATED[family]()


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder and of the folders in it, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _save_stanford(folder: Path) -> None:
    """Write a checkpoint of Stanford's ColBERT, which stores the projection with the encoder's tensors."""
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["linear.weight"] = torch.empty(12, HIDDEN).normal_(0, STD, generator=torch.Generator().manual_seed(5))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["HF_ColBERT"]}))
    settings = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 10, "doc_maxlen": 20}
    (folder / "artifact.metadata").write_text(json.dumps({**settings, "dim": 12}))


def _stack(*modules: str, **settings: Any) -> Callable[[Path], None]:
    def finish(folder: Path) -> None:
        save_modules(folder, modules)
        save_settings(folder, **settings)

    return finish


_MEAN = ("Transformer", "Pooling", "Normalize")
_PROMPTS = {"prompts": {"query": "query: ", "document": "doc "}}
_INSTRUCTION = {"prompts": {"query": "Instruct: the cat\nQuery:", "document": ""}}

BASES: Mapping[str, Base] = {
    "bert": Base("bert", finish=_stack(*_MEAN, **_PROMPTS)),
    "bert-dense": Base(
        "bert", finish=_stack("Transformer", "Pooling:cls,max", "Dense", "LayerNorm", "Dropout", "Normalize")
    ),
    "bert-dense-twice": Base("bert", finish=_stack("Transformer", "Pooling:weightedmean", "Dense", "Dense:last")),
    "bert-saved": Base("bert", finish=save_with_library),
    "bert-vocabulary": Base("bert", finish=_stack(*_MEAN), drop=("tokenizer.json",)),
    "bert-encoder": Base("bert", finish=lambda folder: None, options={"pooling": "mean"}),
    "roberta": Base("roberta", finish=_stack(*_MEAN)),
    "xlm-roberta": Base("xlm-roberta", finish=_stack("Transformer", "Pooling:cls", "Normalize", **_PROMPTS)),
    "camembert": Base("camembert", finish=_stack("Transformer", "Pooling:mean")),
    "distilbert": Base("distilbert", finish=_stack("Transformer", "Pooling:mean", "Dense")),
    "mpnet": Base("mpnet", finish=_stack(*_MEAN)),
    "albert": Base("albert", finish=_stack("Transformer", "Pooling:mean_sqrt_len_tokens")),
    "electra": Base("electra", finish=_stack("Transformer", "Pooling:cls")),
    "gte": Base("gte", finish=_stack("Transformer", "Pooling:cls", "Normalize")),
    "nomic_bert": Base("nomic_bert", finish=_stack(*_MEAN, prompts={"search_query": "search: ", "query": "query: "})),
    "modernbert": Base("modernbert", finish=_stack("Transformer", "Pooling:lasttoken", "Normalize")),
    "jina_bert": Base("jina_bert", finish=_stack("Transformer", "Pooling:mean")),
    "new": Base("new", finish=_stack("Transformer", "Pooling:cls", "Normalize")),
    "nomic_original": Base("nomic_original", finish=_stack(*_MEAN)),
    "qwen3": Base("qwen3", finish=_stack("Transformer", "Pooling:lasttoken", "Normalize", **_INSTRUCTION)),
    "gemma3_text": Base(
        "gemma3_text", finish=_stack("Transformer", "Pooling:mean", "Dense:last", "Dense:last", "Normalize", **_PROMPTS)
    ),
    "embedding_gemma2_text": Base("embedding_gemma2_text", finish=_stack(*_MEAN)),
    "reranker": Base(
        "bert", "classification", lambda folder: None, variant="SequenceClassification", sizes={"num_labels": 1}
    ),
    "reranker-roberta": Base(
        "roberta", "classification", lambda folder: None, variant="SequenceClassification", sizes={"num_labels": 3}
    ),
    "reranker-qwen3": Base(
        "qwen3", "classification", lambda folder: save_logit_score(folder, MAX_TOKENS), variant="CausalLM"
    ),
    "splade": Base("bert", "splade", save_splade, variant="MaskedLM"),
    "splade-distilbert": Base(
        "distilbert", "splade", lambda folder: None, options={"head": "splade"}, variant="MaskedLM"
    ),
    "colbert": Base("bert", "colbert", save_colbert),
    "pylate": Base("bert", "colbert", save_pylate),
    "stanford": Base("bert", "colbert", _save_stanford),
}
