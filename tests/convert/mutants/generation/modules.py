"""Mutants with modules exchanged, removed, repeated, moved, or of another package."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from .edits import Edit, Files, Mutant, WriteKey, parse

__all__ = ["module_mutants"]


def module_mutants(base: str, files: Files) -> Iterator[Mutant]:
    """Yield mutants with modules exchanged, removed, repeated, moved, or of another package."""
    if "modules.json" not in files:
        return
    modules = parse(files["modules.json"])

    def mutant(name: str, entries: list[Any], *edits: Edit) -> Mutant:
        return Mutant(base, "modules", f"modules.json: {name}", (WriteKey("modules.json", (), entries), *edits))

    for index, module in enumerate(modules):
        name = module["type"].rpartition(".")[2]
        others = [entry for place, entry in enumerate(modules) if place != index]
        yield mutant(f"without {name} {index}", others)
        copy = {**module, "idx": len(modules), "name": str(len(modules))}
        yield mutant(f"{name} {index} twice", [*modules[: index + 1], copy, *modules[index + 1 :]])
        yield mutant(f"{name} {index} again at the end", [*modules, copy])
        for kind in (
            f"my_code.{name}",
            f"custom_st.{name}",
            name,
            f"pylate.models.{name}.{name}",
            f"sentence_transformers.models.{name}",
            f"sentence_transformers.models.{name}.{name}",
            f"sentence_transformers.sentence_transformer.modules.{name}",
            f"sentence_transformers.base.modules.{name.lower()}.{name}",
            f"sentence_transformers.base.modules.{name}",
            "sentence_transformers.models.Router",
            "sentence_transformers.models.WeightedLayerPooling",
            "sentence_transformers.models.Normalize",
            "sentence_transformers.models.Dropout",
            "torch.nn.Identity",
        ):
            if kind != module["type"]:
                yield mutant(
                    f"{name} {index} of type {kind}",
                    [*modules[:index], {**module, "type": kind}, *modules[index + 1 :]],
                )
        for path in ("other", "", "../x", f"./{module['path']}", f"{module['path']}/"):
            if path != module["path"]:
                yield mutant(
                    f"{name} {index} at {path!r}", [*modules[:index], {**module, "path": path}, *modules[index + 1 :]]
                )
        yield mutant(
            f"{name} {index} with kwargs", [*modules[:index], {**module, "kwargs": ["task"]}, *modules[index + 1 :]]
        )
        yield mutant(f"{name} {index} with idx 9", [*modules[:index], {**module, "idx": 9}, *modules[index + 1 :]])
        yield mutant(
            f"{name} {index} without name",
            [*modules[:index], {k: v for k, v in module.items() if k != "name"}, *modules[index + 1 :]],
        )
        yield mutant(f"{name} {index} named 0", [*modules[:index], {**module, "name": "0"}, *modules[index + 1 :]])
    for first, second in itertools.combinations(range(len(modules)), 2):
        order = list(modules)
        order[first], order[second] = order[second], order[first]
        yield mutant(f"{first} and {second} exchanged", order)
    yield mutant("empty", [])
    yield mutant("an object", {"0": modules})  # type: ignore[arg-type]
    extra = {"idx": 9, "name": "9", "path": "9_New"}
    for kind, config in (
        ("sentence_transformers.models.Normalize", {}),
        ("sentence_transformers.models.Dense", {"in_features": 32, "out_features": 8}),
        ("sentence_transformers.models.LayerNorm", {"dimension": 32}),
        ("sentence_transformers.models.CNN", {}),
        ("sentence_transformers.base.modules.Normalize", {"module_input_name": "token_embeddings"}),
        ("my_code.Scale", {}),
    ):
        yield mutant(f"a new {kind}", [*modules, {**extra, "type": kind}], WriteKey("9_New/config.json", (), config))
