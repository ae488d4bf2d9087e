"""Tiny checkpoints with heads: random weights that all affect the result, and a tokenizer for pairs of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from fletcher.convert.export.export import Exported, export
from fletcher.model_zoo import Head

__all__ = ["DOCUMENTS", "MAX_TOKENS", "QUERY", "SIZES", "VOCABULARY", "convert", "save", "set_input_names"]

MAX_TOKENS = 24
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "[unused0]", "[unused1]", ".", ",", "!", "?")
VOCABULARY = 64
WORDS = [f"w{index}" for index in range(VOCABULARY - len(SPECIAL))]

#: Sizes under BERT's names.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}

QUERY = "w1 w2 w3?"
DOCUMENTS = (
    "w4 w5, w6 w7!",
    "",
    "w1",
    "w9 . w9 , w10",
    " ".join(WORDS[:40]),  # longer than the model allows
    "w1 w2 w3 w20 w21 w22 w23 w24 w25 w26 w27 w28",
)


def save(model: Any, folder: Path, *, types: bool = True) -> Path:
    """Write a model with its tokenizer.

    Args:
        model: transformers' model.
        folder: folder of the checkpoint.
        types: whether the second text of a pair has token type 1, as in BERT; otherwise pairs follow RoBERTa's template.

    Returns:
        The folder.
    """
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    pair = "<s>:0 $A:0 </s>:0 $B:1 </s>:1" if types else "<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0"
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer_class: Any = transformers.PreTrainedTokenizerFast
    fast = tokenizer_class(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    fast.save_pretrained(folder)
    set_input_names(folder, ["input_ids", *["token_type_ids"] * types, "attention_mask"])
    return folder


def set_input_names(folder: Path, names: list[str] | None) -> None:
    """Write the inputs that the tokenizer gives the model into tokenizer_config.json, or remove the key."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"model_input_names": names}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def convert(folder: Path, head: Head | None = None) -> Exported:
    """Export the checkpoint into `FOLDER.artifact`."""
    return export(str(folder), folder.with_name(f"{folder.name}.artifact"), head=head)
