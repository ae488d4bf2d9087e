"""Parts of a quantized MiniLM's error: vectors with single roundings left out, beside float32.

    python benchmarks/tune/parts.py DIR [--texts N] [--smoothquant SHARE] [--refine] [--compensate]

DIR is a folder for the artifact. The texts are those of `run.py minilm-qat`: the last N of them are measured, and others
calibrate. `--refine` and `--compensate` choose factors and round the weights as `tune qat` does before the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from run import MINILM, built_in
from torch import Tensor

from fletcher.convert.export.export import export
from fletcher.convert.tune.aware.compensate import compensate_rounding
from fletcher.convert.tune.aware.insert import make_aware
from fletcher.convert.tune.aware.modules import QuantizedEmbedding, QuantizedLinear
from fletcher.convert.tune.aware.product import round_columns_through
from fletcher.convert.tune.aware.smooth import refine_smoothing
from fletcher.convert.tune.models.load import Trainable, fetch_trainable, load_trainable
from fletcher.convert.tune.outcome.figures import fidelity_samples
from fletcher.convert.tune.request import cut_texts, torch_embed
from fletcher.model_zoo.progress import SILENT
from fletcher.quantize.plan import plan_quantization
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Artifact

#: Names of the products of a layer, at the end of the name of their matrix.
KINDS = ("qkv", "output", "up", "down")


def forward_with(layer: QuantizedLinear, *, activations: bool, weights: bool) -> Callable[[Tensor], Tensor]:
    """Return the computation of a layer that rounds only its activations, or only its weights, or neither."""

    def forward(values: Tensor) -> Tensor:
        rows = layer.represented(values) if activations else layer.divided(values.reshape(-1, layer.in_features))
        weight = layer.smoothed()
        if weights:
            weight = round_columns_through(weight, layer.rounding.limit)
        return (rows @ weight + layer.bias).reshape(*values.shape[:-1], layer.out_features)

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--smoothquant", type=float, help="share of the spread that moves into the weights")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--compensate", action="store_true")
    arguments = parser.parse_args()
    base = arguments.folder / "base"
    if not base.is_dir():
        export(MINILM, base)
    texts = built_in(5000)
    measured, others = texts[-arguments.texts :], texts[: -arguments.texts]
    recipe = load_recipe("int8-per-token")
    if arguments.smoothquant is not None:
        recipe = msgspec.structs.replace(recipe, smoothquant=arguments.smoothquant)
    artifact = Artifact.open(base)
    trainable = Trainable(fetch_trainable(MINILM, SILENT), artifact)
    teacher = torch_embed(load_trainable(trainable).eval(), trainable.card)(measured, "raw")
    plan = plan_quantization(artifact, recipe, others[::19][:256])
    model = load_trainable(trainable).eval()
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    if arguments.refine:
        refine_smoothing(model, plan, cut_texts(model, others[::17][:256], 64))
    if arguments.compensate:
        compensate_rounding(model, others[::4][:1000])
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    tables = [module for module in model.modules() if isinstance(module, QuantizedEmbedding)]

    def measure(label: str, activations: tuple[str, ...], weights: tuple[str, ...], *, table: bool = False) -> None:
        for layer in layers:
            kind = layer.product.rpartition(".")[2]
            layer.forward = forward_with(layer, activations=kind in activations, weights=kind in weights)
        for one in tables:
            one.forward = torch.nn.Embedding.forward.__get__(one) if not table else type(one).forward.__get__(one)
        samples = fidelity_samples(torch_embed(model, trainable.card)(measured, "raw"), teacher)
        neighbors, cosine = (samples[name].figure() for name in ("teacher's ten neighbors", "cosine with the teacher"))
        print(f"{label:24} neighbors {neighbors:.4f}  1 - cosine {1 - cosine:.2e}", flush=True)

    measure("everything", KINDS, KINDS, table=True)
    measure("activations", KINDS, ())
    measure("weights", (), KINDS)
    measure("word table", (), (), table=True)
    for kind in KINDS:
        measure(f"activations of {kind}", (kind,), ())
        measure(f"weights of {kind}", (), (kind,))


if __name__ == "__main__":
    main()
