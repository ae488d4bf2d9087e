"""Figures of `fletcher-convert tune`. Each subcommand writes its data and runs the command's function on them.

    python benchmarks/tune/run.py tiny-qat DIR       QAT of a random model with bert-tiny's dimensions
    python benchmarks/tune/run.py minilm-qat DIR     QAT of all-MiniLM-L6-v2 on unlabelled texts
    python benchmarks/tune/run.py layers DIR         all-MiniLM-L6-v2 to three layers, and its speed
    python benchmarks/tune/run.py contrastive DIR    documentation, split by file, with and without mined negatives
    python benchmarks/tune/run.py ties DIR           layers of a recipe beside its graph, with one code for each value

DIR is a folder for data and results; a run that was killed continues. `--texts`, `--epochs` and others make a run shorter.
The pairs of `--pairs` are measured before and after. Texts are docstrings of Python's standard library, and parts of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fletcher.convert.export.export import export
from fletcher.convert.reports.tune.page import write_tune_report
from fletcher.convert.reports.tune.table import render_tune
from fletcher.convert.tune.aware.insert import make_aware
from fletcher.convert.tune.aware.ties import settled_vectors
from fletcher.convert.tune.contrastive import tune_contrastive
from fletcher.convert.tune.data.examples import read_positive_pairs
from fletcher.convert.tune.mining.mine import mine_negatives
from fletcher.convert.tune.mining.options import MiningOptions
from fletcher.convert.tune.models.load import Trainable, fetch_trainable, load_trainable
from fletcher.convert.tune.options import (
    ContrastiveOptions,
    DistilOptions,
    OutputOptions,
    SplitOptions,
    TrainingOptions,
)
from fletcher.convert.tune.outcome.results import TuneReport
from fletcher.convert.tune.request import TuneRequest
from fletcher.convert.tune.teaching import tune_aware, tune_distil
from fletcher.model_zoo.progress import SILENT
from fletcher.quantize.measure.pairs import read_pairs
from fletcher.quantize.plan import plan_quantization
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.corpora import corpus, docstrings

MINILM = "all-MiniLM-L6-v2"

#: Shortest docstring and shortest summary of the contrastive data, in letters.
SHORTEST_BODY, SHORTEST_SUMMARY = 120, 25

#: Packages whose docstrings the contrastive data have besides those of Python's standard library.
PACKAGES = (
    "numpy",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "torch",
    "transformers",
    "sentence_transformers",
    "datasets",
    "peft",
    "accelerate",
    "onnx",
)


def built_in(count: int) -> list[str]:
    """Return docstrings and sentences of Python's standard library; of each kind half, as far as there are enough."""
    sentences = corpus("sentences", min(count // 2, 9000), seed=1)
    texts = dict.fromkeys(text for text in sentences if not text[:1].isdigit())
    for text in corpus("docstrings", 14000, seed=1):
        if len(texts) >= count:
            break
        texts[text] = None
    return list(texts)[:count]


def paragraphs(count: int) -> list[str]:
    """Return different paragraphs of the docstrings of Python's standard library, in a random order."""
    found: dict[str, None] = {}
    for _, text in docstrings():
        for part in text.split("\n\n"):
            line = " ".join(part.split())
            if 20 <= len(line) <= 400 and sum(map(str.isalpha, line)) > 0.6 * len(line):
                found[line] = None
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts[:count]


def package_docstrings() -> Iterator[tuple[str, str]]:
    """Yield file and docstring of the packages that training installs, as far as they are there."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in () if spec is None else spec.submodule_search_locations or ():
            yield from ((f"{package}/{file}", text) for file, text in docstrings(Path(root)))


def documentation(count: int) -> list[dict[str, str]]:
    """Return pairs of a docstring's summary and its body, with their file as the group."""
    seen: set[str] = set()
    pairs = []
    for file, text in (*docstrings(), *package_docstrings()):
        summary, _, body = text.partition("\n\n")
        summary, body = " ".join(summary.split()), " ".join(body.split())[:600]
        if len(summary) < SHORTEST_SUMMARY or len(body) < SHORTEST_BODY or summary in seen or body in seen:
            continue
        seen |= {summary, body}
        pairs.append({"query": summary, "positive": body, "group": file})
    random.Random(0).shuffle(pairs)
    return pairs[:count]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def show(report: TuneReport, folder: Path) -> None:
    """Print a report, and write its files."""
    for name in ("report.html", "report.json"):
        write_tune_report(report, folder / name)
    Reporter().result(report, render_tune(report))
    print(report.sentence, f"{report.training.steps} steps, {report.training.seconds / 60:.1f} min")
    for artifact in report.artifacts:
        print(artifact.graph, artifact.status, artifact.exactness)


def request(
    arguments: argparse.Namespace, source: str, name: str, data: Path, rate: float | None = None
) -> TuneRequest:
    training = TrainingOptions(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        max_tokens=arguments.max_tokens,
        learning_rate=arguments.learning_rate or rate,
        evaluations=arguments.evaluations,
        seed=arguments.seed,
    )
    pairs = None if arguments.pairs is None else read_pairs(arguments.pairs)
    # A random model gives all texts nearly the same direction, so that each would be a duplicate of the others.
    cosine = 1.0 if name == "tiny-qat" else 0.95
    split = SplitOptions(held_out=arguments.held_out, duplicate_cosine=cosine)
    return TuneRequest(
        source, arguments.folder / name, data, split, training, OutputOptions(recipe=arguments.recipe), pairs
    )


def tiny_checkpoint(folder: Path) -> Path:
    """Write a random BERT of two layers, hidden size 128 and two heads, with MiniLM's tokenizer and mean pooling."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    from fletcher.model_zoo import fetch

    if (folder / "modules.json").is_file():
        return folder
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(fetch(MINILM).folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        initializer_range=0.1,
    )
    encoder = folder.with_name(f"{folder.name}-encoder")
    transformers.BertModel(config).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    modules = [Transformer(str(encoder), max_seq_length=128), Pooling(128, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def tiny_qat(arguments: argparse.Namespace) -> None:
    """Print the INT8 cosine with float32 of a random model before and after the training."""
    data = write_lines(arguments.folder / "texts.jsonl", [{"text": text} for text in built_in(arguments.texts or 3000)])
    source = tiny_checkpoint(arguments.folder / "bert-tiny")
    started = time.monotonic()
    show(
        tune_aware(request(arguments, str(source), "tiny-qat", data), progress=Reporter()),
        arguments.folder / "tiny-qat",
    )
    print(f"all of it: {(time.monotonic() - started) / 60:.1f} min")


def minilm_qat(arguments: argparse.Namespace) -> None:
    """Print the neighbors that MiniLM's INT8 keeps before and after the training."""
    data = write_lines(arguments.folder / "texts.jsonl", [{"text": text} for text in built_in(arguments.texts or 5000)])
    report = tune_aware(request(arguments, MINILM, "minilm-qat", data), progress=Reporter())
    show(report, arguments.folder / "minilm-qat")


def layers(arguments: argparse.Namespace) -> None:
    """Print the fidelity of a student with three layers, and its speed beside the teacher's."""
    count = arguments.texts or 20000
    texts = dict.fromkeys([*paragraphs(count), *built_in(count)])  # there are 14,000 paragraphs
    rows = [{"text": text} for text in list(texts)[:count]]
    data = write_lines(arguments.folder / "paragraphs.jsonl", rows)
    made = request(arguments, MINILM, "layers", data)
    report = tune_distil(made, DistilOptions(layers=3), progress=Reporter())
    show(report, arguments.folder / "layers")
    sample = [str(row["text"]) for row in rows[:256]]
    seconds: dict[str, list[float]] = {"base": [], "float32": []}
    for name, times in seconds.items():  # loads measure providers, so that both run on the fastest
        with Encoder.load(made.output / name) as encoder:
            encoder.embed(sample[:64])
            for _ in range(5):
                started = time.perf_counter()
                encoder.embed(sample)
                times.append(time.perf_counter() - started)
    print(f"speed: {min(seconds['base']) / min(seconds['float32']):.2f} times the teacher's")


def contrastive(arguments: argparse.Namespace) -> None:
    """Print nDCG@10 on documentation before and after, with and without mined negatives."""
    plain = arguments.folder / "pairs.jsonl"
    if plain.is_file():  # of another run or machine
        pairs = [json.loads(line) for line in plain.read_text(encoding="utf-8").splitlines()]
    else:
        pairs = documentation(arguments.texts or 10000)
        write_lines(plain, pairs)
    if arguments.only != "mined":
        made = request(arguments, MINILM, "contrastive-plain", plain)
        show(tune_contrastive(made, ContrastiveOptions(lora=arguments.lora), progress=Reporter()), made.output)
    if arguments.only == "plain":
        return
    mined = arguments.folder / "mined.jsonl"
    if not mined.is_file():
        mine(arguments, pairs, mined)
    made = request(arguments, MINILM, "contrastive-mined", mined)
    options = ContrastiveOptions(num_negatives=arguments.negatives, lora=arguments.lora)
    show(tune_contrastive(made, options, progress=Reporter()), made.output)


def mine(arguments: argparse.Namespace, pairs: Sequence[dict[str, str]], mined: Path) -> None:
    """Write pairs with their groups and with negatives that MiniLM finds among all bodies."""
    base = arguments.folder / "miner"
    if not base.is_dir():
        export(MINILM, base)
    bodies = write_lines(arguments.folder / "corpus.jsonl", [{"text": pair["positive"]} for pair in pairs])
    mining = MiningOptions(
        num_negatives=arguments.negatives,
        range_min=arguments.range_min,
        range_max=arguments.range_max,
        relative_margin=arguments.relative_margin,
        sampling=arguments.sampling,
    )
    asked = read_positive_pairs(arguments.folder / "pairs.jsonl")
    print(mine_negatives(base, asked, bodies, mined, mining, progress=Reporter()))


def ties(arguments: argparse.Namespace) -> None:
    """Print the differences of vectors between MiniLM's INT8 graph and the layers that a training has."""
    base, quantized = arguments.folder / "base", arguments.folder / arguments.recipe
    if not base.is_dir():
        export(MINILM, base)
    recipe, calibrating = load_recipe(arguments.recipe), corpus("sentences", 64, seed=3)
    parent = Artifact.open(base)
    plan = plan_quantization(parent, recipe, calibrating)
    if not quantized.is_dir():
        quantize(base, quantized, recipe, texts=calibrating, calibration=calibrating, activations=plan.activations)
    model = load_trainable(Trainable(fetch_trainable(MINILM, SILENT), parent)).eval()
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    half = (arguments.texts or 24) // 2
    texts = corpus("sentences", half, seed=5) + corpus("docstrings", half, seed=6)
    settled = settled_vectors(model, Artifact.open(quantized), texts)
    own = np.stack([model.encode(text, prompt="") for text in texts])
    print(f"{settled.codes:,} codes; {settled.ties:,} of values between two codes, {settled.others:,} others differ")
    for name, vectors in (("own codes", own), ("one code", settled.layers)):
        differences = np.abs(vectors - settled.graph).max(axis=1)
        beyond = int((differences > 1e-4).sum())
        print(f"{name}: largest difference {differences.max():.1e}, beyond 1e-4 in {beyond} of {len(texts)} texts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = {
        "tiny-qat": tiny_qat,
        "minilm-qat": minilm_qat,
        "layers": layers,
        "contrastive": contrastive,
        "ties": ties,
    }
    parser.add_argument("method", choices=methods)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, help="number of texts or pairs")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lora", type=int, help="rank of LoRA matrices in the contrastive trainings")
    parser.add_argument("--recipe", default="int8-per-token")
    parser.add_argument("--negatives", type=int, default=3, help="mined negatives of each pair")
    parser.add_argument("--only", choices=("plain", "mined"), help="one of the two contrastive trainings")
    parser.add_argument("--range-min", type=int, default=0, help="nearest candidates that mining skips")
    parser.add_argument("--range-max", type=int, help="last rank of a mined negative")
    parser.add_argument("--relative-margin", type=float, default=0.1, help="margin of mining to the positive")
    parser.add_argument("--sampling", default="top", choices=("top", "random"))
    parser.add_argument("--pairs", type=Path, help="pairs with scores: score<TAB>text<TAB>text")
    arguments = parser.parse_args()
    methods[arguments.method](arguments)


if __name__ == "__main__":
    main()
