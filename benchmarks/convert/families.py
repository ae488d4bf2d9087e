"""Conversion of every family: a random checkpoint with the dimensions of its smallest published model.

    python benchmarks/convert/families.py FOLDER [--families bert qwen3 …] [--largest 700] [--json]

A checkpoint is written with the published element type and deleted after its row. Each row has the seconds of
`fletcher-convert model export` in a process of its own, imports included, by the clock and of its CPUs, and the seconds of
reading the checkpoint's weights and writing as many bytes as the artifact has, with fsync, which the conversion does, too.
The last column is the limit: 2 s more than 1.2 times reading and writing. Families with more than `--largest` MB are left out
unless they are named: their weights alone take minutes to write.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from fletcher.convert.texts import SENTENCES

COMMAND = "from fletcher.convert.commands.cli import main; main()"
BLOCK = 4 << 20
BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
ROBERTA = {**BERT, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
JINA = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
Shapes = Mapping[str, tuple[int, ...]]

#: By family: published model, class of transformers, settings, element type. Dimensions are those of the model's config.json.
FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any], str]] = {
    "albert": ("albert-base-v2", "Albert", {**BERT, "embedding_size": 128, "vocab_size": 30_000}, "F32"),
    "bert": (
        "bert-tiny",
        "Bert",
        {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
        "F32",
    ),
    "big_bird": (
        "bigbird-roberta-base",
        "BigBird",
        {**BERT, "vocab_size": 50_358, "max_position_embeddings": 4096, "attention_type": "original_full"},
        "F32",
    ),
    "camembert": ("camembert-base", "Camembert", {**ROBERTA, "vocab_size": 32_005}, "F32"),
    "convbert": (
        "conv-bert-small",
        "ConvBert",
        {
            "hidden_size": 256,
            "embedding_size": 128,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        "F32",
    ),
    "deberta-v2": (
        "deberta-v3-xsmall",
        "DebertaV2",
        {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "vocab_size": 128_100,
            "relative_attention": True,
            "position_buckets": 256,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "F32",
    ),
    "distilbert": ("distilbert-base-uncased", "DistilBert", {}, "F32"),
    "electra": (
        "electra-small",
        "Electra",
        {
            "hidden_size": 256,
            "embedding_size": 128,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        "F32",
    ),
    "embedding_gemma2_text": ("embeddinggemma-2", "EmbeddingGemma2Text", {}, "BF16"),
    "eurobert": (
        "EuroBERT-210m",
        "EuroBert",
        {**BERT, "num_key_value_heads": 12, "vocab_size": 128_256, "max_position_embeddings": 8192},
        "F32",
    ),
    "gemma": ("bge-reranker-v2-gemma (its encoder)", "Gemma", {}, "BF16"),
    "gemma3_text": (
        "embeddinggemma-300m",
        "Gemma3Text",
        {
            "hidden_size": 768,
            "num_hidden_layers": 24,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "intermediate_size": 1152,
            "vocab_size": 262_144,
            "max_position_embeddings": 2048,
            "use_bidirectional_attention": True,
        },
        "F32",
    ),
    "gte": ("gte-base-en-v1.5", "Gte", {**BERT, "vocab_size": 30_528, "max_position_embeddings": 8192}, "F32"),
    "jina_bert": ("jina-embeddings-v2-small-en", "", {**JINA, "vocab_size": 30_528}, "F32"),
    "jina_embeddings_v3": ("jina-embeddings-v3", "JinaEmbeddingsV3", {}, "BF16"),
    "llama": (
        "llama-nemotron-embed-1b-v2",
        "Llama",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "vocab_size": 128_256,
            "max_position_embeddings": 8192,
            "is_causal": False,
        },
        "BF16",
    ),
    "longformer": (
        "longformer-base-4096",
        "Longformer",
        {**ROBERTA, "vocab_size": 50_265, "max_position_embeddings": 4098, "attention_window": 512},
        "F32",
    ),
    "mistral": ("e5-mistral-7b-instruct", "Mistral", {"vocab_size": 32_000}, "F16"),
    "modernbert": (
        "granite-embedding-small-english-r2",
        "ModernBert",
        {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "vocab_size": 50_368,
        },
        "BF16",
    ),
    "mpnet": ("all-mpnet-base-v2", "MPNet", {**BERT, "vocab_size": 30_527, "max_position_embeddings": 514}, "F32"),
    "mt5": ("mt5-small", "MT5", {"feed_forward_proj": "gated-gelu"}, "F32"),
    "nomic_bert": ("nomic-embed-text-v1.5", "NomicBert", {**BERT, "vocab_size": 30_528}, "F32"),
    "qwen2": (
        "mxbai-rerank-base-v2 (its encoder)",
        "Qwen2",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
        "BF16",
    ),
    "qwen3": (
        "Qwen3-Embedding-0.6B",
        "Qwen3",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "vocab_size": 151_669,
        },
        "BF16",
    ),
    "roberta": (
        "all-distilroberta-v1",
        "Roberta",
        {**ROBERTA, "num_hidden_layers": 6, "vocab_size": 50_265},
        "F32",
    ),
    "static_embedding": ("potion-base-2M", "", {"hidden_size": 64, "vocab_size": 29_528}, "F32"),
    "t5": (
        "sentence-t5-base (its encoder)",
        "T5",
        {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_kv": 64, "d_ff": 3072, "vocab_size": 32_128},
        "F32",
    ),
    "xlm-roberta": ("xlm-roberta-base", "XLMRoberta", {**ROBERTA, "vocab_size": 250_002}, "F32"),
    "xlm-roberta-xl": ("xlm-roberta-xl", "XLMRobertaXL", {}, "F32"),
}

#: Columns of the table after the names.
NUMBERS = ("MB in", "MB out", "seconds", "CPU seconds", "read and write", "limit")
TYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def describe(family: str) -> tuple[dict[str, Any], Shapes]:
    """Return config.json and the shapes of the tensors."""
    _, name, settings, _ = FAMILIES[family]
    if family == "jina_bert":
        return _describe_jina(settings)
    if family == "static_embedding":
        shape = (settings["vocab_size"], settings["hidden_size"])
        return {"model_type": family, **settings}, {"embedding.weight": shape}
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = "EncoderModel" if family in ("t5", "mt5") else "Model"
    with torch.device("meta"):
        model = getattr(transformers, f"{name}{kind}")(config)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    tensors = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if key not in tied}
    return {**config.to_dict(), "architectures": [f"{name}{kind}"]}, shapes


def _describe_jina(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Shapes]:
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    config = {
        "model_type": "bert",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "max_position_embeddings": 8192,
        **settings,
    }
    shapes = {
        "embeddings.word_embeddings.weight": (settings["vocab_size"], hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
    }
    linears: dict[str, tuple[int, int]] = {}
    norms = ["embeddings.LayerNorm"]
    for index in range(settings["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        parts = (*(f"self.{part}" for part in ("query", "key", "value")), "output.dense")
        linears |= {f"{name}.attention.{part}": (hidden, hidden) for part in parts}
        linears[f"{name}.mlp.wo"] = (hidden, inner)
        shapes[f"{name}.mlp.gated_layers.weight"] = (2 * inner, hidden)
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.mlp.layernorm"]
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return config, {**shapes, **{f"{name}.{part}": (hidden,) for name in norms for part in ("weight", "bias")}}


def save(folder: Path, config: Mapping[str, Any], shapes: Shapes, kind: str) -> int:
    """Write a checkpoint, and return the bytes of its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + TYPES[kind].itemsize * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    noise = np.random.default_rng(0).normal(0, 0.02, 1 << 20)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            is_norm = len(shape) == 1 and name.endswith("weight")
            values = (noise + float(is_norm)).astype(TYPES[kind]).tobytes()
            for size in _blocks(header[name]["data_offsets"], len(values)):
                stream.write(values[:size])
    words = ["[UNK]", "w1"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if config["model_type"] == "qwen2":  # transformers' class of this family has BPE alone
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=4000, special_tokens=words, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)  # a word is a token or two, as for a published tokenizer
    else:
        vocabulary = {word: index for index, word in enumerate([*words, *alphabet])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A w1", pair="$A $B w1", special_tokens=[("w1", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    if config["model_type"] == "static_embedding":
        _save_static(folder)
    return 8 + len(text) + end


def _blocks(span: tuple[int, int], size: int) -> Iterator[int]:
    left = span[1] - span[0]
    while left > 0:
        yield min(size, left)
        left -= size


def _save_static(folder: Path) -> None:
    (folder / "config.json").unlink()
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([module]))


def read_and_write(source: Path, target: Path, size: int) -> float:
    """Return the seconds of reading a file and of writing `size` bytes with fsync."""
    started = time.perf_counter()
    with target.open("wb") as written:
        with source.open("rb") as stream:
            while block := stream.read(BLOCK):
                if size > 0:
                    size -= written.write(block[:size])
        while size > 0:
            size -= written.write(bytes(min(size, BLOCK)))
        written.flush()
        os.fsync(written.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def convert(checkpoint: Path, output: Path) -> tuple[float, float]:
    """Return the seconds of one conversion by the clock, and those of its CPUs."""
    command = [sys.executable, "-c", COMMAND, "model", "export", "--no-verify", str(checkpoint), "-o", str(output)]
    command += [] if (checkpoint / "modules.json").exists() else ["--pooling=mean", "--max-tokens=256"]
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{checkpoint.name}: {errors}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def measure(folder: Path, family: str) -> dict[str, Any]:
    """Return a row of the table."""
    published, _, _, kind = FAMILIES[family]
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        checkpoint, output = scratch / family, scratch / "artifact"
        config, shapes = describe(family)
        size = save(checkpoint, config, shapes, kind)
        seconds, cpu = convert(checkpoint, output)
        written = sum(file.stat().st_size for file in output.iterdir())
        plain = read_and_write(checkpoint / "model.safetensors", scratch / "copy", written)
    finally:
        shutil.rmtree(scratch)
    return {
        "family": family,
        "dimensions of": published,
        "MB in": round(size / 1e6),
        "MB out": round(written / 1e6),
        "seconds": round(seconds, 2),
        "CPU seconds": round(cpu, 2),
        "read and write": round(plain, 2),
        "limit": round(2 + 1.2 * plain, 2),
    }


def size_of(family: str) -> float:
    """Return the MB of a family's checkpoint."""
    shapes = describe(family)[1].values()
    return TYPES[FAMILIES[family][3]].itemsize * sum(int(np.prod(shape)) for shape in shapes) / 1e6


def main() -> None:
    """Print a row for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, help="default: all up to --largest")
    parser.add_argument("--largest", type=float, default=700, help="MB of the largest checkpoint")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each family")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    chosen = args.families or [family for family in FAMILIES if size_of(family) <= args.largest]
    over = []
    if not args.json:
        print(f"{'family':22}{'dimensions of':36}" + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in NUMBERS))
    for family in chosen:
        row = measure(args.folder, family)
        if row["seconds"] > row["limit"]:
            over.append(family)
        if args.json:
            print(json.dumps(row), flush=True)
        else:
            texts = f"{row['family']:22}{row['dimensions of']:36}"
            print(texts + "".join(f"{row[name]:>{max(8, len(name) + 2)}}" for name in NUMBERS), flush=True)
    left = [family for family in FAMILIES if family not in chosen]
    print(f"over the limit: {', '.join(over) or 'none'}; left out: {', '.join(left) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
