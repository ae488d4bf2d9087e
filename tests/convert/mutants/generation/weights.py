"""Mutants whose weights are removed, damaged, renamed, converted, or those of other modules and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from safetensors.numpy import load

from .edits import Edit, Files, Mutant, WriteFile, WriteKey, WriteTensors

__all__ = ["weight_mutants"]

WEIGHTS = "model.safetensors"

_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


def weight_mutants(base: str, files: Files, others: Mapping[str, Files]) -> Iterator[Mutant]:
    """Yield mutants whose weights are removed, damaged, renamed, converted, or those of other modules and checkpoints."""

    def mutant(name: str, *edits: Edit) -> Mutant:
        return Mutant(base, "weights", name, edits)

    weights = [name for name in files if name.endswith(WEIGHTS)]
    for file in weights:
        names = sorted(load(files[file]))
        for name in names:
            yield mutant(f"{file} without {name}", WriteTensors(file, drop=(name,)))
        for name in names[:: max(1, len(names) // 4)]:
            yield mutant(f"{file} with a copy of {name}", WriteTensors(file, copy=((f"{name}_copy", name),)))
            yield mutant(f"{file} with {name} transposed", WriteTensors(file, transpose=(name,)))
            yield mutant(f"{file} with {name} renamed", WriteTensors(file, rename=((name, f"x.{name}"),)))
        yield mutant(f"{file} in float16", WriteTensors(file, half=True))
        # Not those of wrappers, such as `module.`: Fletcher removes them, and transformers makes up weights.
        for prefix in ("bert.", "model.", "encoder.", "x."):
            yield mutant(f"{file} with the prefix {prefix}", WriteTensors(file, rename=(("", prefix),)))
        yield mutant(f"{file} cut in two", WriteFile(file, files[file][: len(files[file]) // 2]))
        yield mutant(f"{file} a pointer of Git LFS", WriteFile(file, _LFS))
        yield mutant(f"{file} empty", WriteFile(file, b""))
        for other in weights:
            if other != file:
                yield mutant(
                    f"{file} exchanged with {other}", WriteFile(file, files[other]), WriteFile(other, files[file])
                )
        for name, content in others.items():
            if name != base and file in content and content[file] != files[file]:
                yield mutant(f"{file} of {name}", WriteFile(file, content[file]))
    index = {"metadata": {}, "weight_map": dict.fromkeys(load(files[WEIGHTS]), "part-1.safetensors")}
    moved = (WriteFile(WEIGHTS, None), WriteFile("part-1.safetensors", files[WEIGHTS]))
    yield mutant("one shard", *moved, WriteKey("model.safetensors.index.json", (), index))
    shortened_index = {"weight_map": dict(list(index["weight_map"].items())[:3])}
    yield mutant("an index of three tensors", *moved, WriteKey("model.safetensors.index.json", (), shortened_index))
    yield mutant("an index beside one file", WriteKey("model.safetensors.index.json", (), index))
    yield mutant("weights in pytorch_model.bin alone", WriteFile(WEIGHTS, None), WriteFile("pytorch_model.bin", b"x"))
