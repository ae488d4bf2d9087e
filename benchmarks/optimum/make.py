"""Preparation of `run.py`: a BERT-base checkpoint with random weights, and Optimum's O2 graph of it.

    python benchmarks/optimum/make.py FOLDER

Run it in an environment with `longbow-fletcher[export]` (optimum-onnx needs transformers 4.57). It writes
FOLDER/checkpoint and FOLDER/o2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer
from optimum.onnxruntime.configuration import AutoOptimizationConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel


def write_tokenizer(path: Path) -> None:
    """Write a word-level tokenizer with BERT's special tokens: the benchmark does not measure tokenizing."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(path))


def main() -> None:
    """Write the checkpoint and the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    BertModel(BertConfig()).eval().save_pretrained(folder / "checkpoint")
    write_tokenizer(folder / "checkpoint" / "tokenizer.json")
    model = ORTModelForFeatureExtraction.from_pretrained(folder / "checkpoint", export=True)
    ORTOptimizer.from_pretrained(model).optimize(
        save_dir=folder / "o2", optimization_config=AutoOptimizationConfig.O2()
    )
    print(f"wrote {folder / 'checkpoint'} and {folder / 'o2'}")


if __name__ == "__main__":
    main()
