"""All mutants of the base checkpoints, and the selections that the tests run."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ..checkpoints.bases import BASES
from .catalog import ADDED_FILES, ADDED_KEYS
from .contradictions import contradictions, exchanged_files
from .edits import ABSENT, Files, Kind, Mutant, WriteFile, WriteKey, parse
from .modules import module_mutants
from .tokens import token_mutants
from .values import other_values, places
from .weights import weight_mutants

__all__ = ["generate", "select"]

#: Other checkpoints from which mutants take files.
_DONORS = ("bert", "roberta", "xlm-roberta", "albert", "bert-saved", "bert-dense", "distilbert")

#: Ways to damage a file.
_DAMAGE: Mapping[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "an empty object": b"{}",
    "a list": b"[]",
    "a number": b"7",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


_NO_CLASS = (
    WriteKey("tokenizer_config.json", ("tokenizer_class",), ABSENT),
    WriteFile("tokenizer_config.json", None),
)


def generate(base: str, files: Mapping[str, Files]) -> list[Mutant]:
    """Return all mutants of a base without duplicates.

    Args:
        base: key of `BASES`.
        files: files of all bases by name.
    """
    base_files = files[base]
    donors = {name: files[name] for name in _DONORS if name in files}
    mutants = [
        *_of_keys(base, base_files),
        *_of_files(base, base_files),
        *token_mutants(base, base_files),
        *module_mutants(base, base_files),
        *weight_mutants(base, base_files, donors),
        *contradictions(base, base_files),
        *exchanged_files(base, base_files, donors),
    ]
    distinct = {mutant.name: mutant for mutant in mutants}
    # A restated model has a fixed configuration and fixed weights, and does not read those of a mutant.
    if BASES[base].restated is not None:
        fixed = ("config.json", "model.safetensors", "model.safetensors.index.json")
        # If the files name no class, the model type decides the tokenizer's class, and the reference has the model type BERT.
        return [
            mutant
            for mutant in distinct.values()
            if not any(edit.file in fixed or edit in _NO_CLASS for edit in mutant.edits)
        ]
    return list(distinct.values())


def _of_keys(base: str, files: Files) -> Iterator[Mutant]:
    """Yield mutants with one key removed, changed or added."""
    for file, data in files.items():
        if not file.endswith((".json", ".metadata")) or file == "vocab.json":
            continue
        content = parse(data)
        for place, value in places(content):
            path = f"{file} {'.'.join(map(str, place))}"
            yield Mutant(base, "remove key", f"{path} removed", (WriteKey(file, place, ABSENT),))
            for kind, other in other_values(str(place[-1]), value):
                yield Mutant(base, kind, f"{path} = {_short(other)}", (WriteKey(file, place, other),))
    for name, keys in ADDED_KEYS.items():
        folder, _, file_name = name.rpartition("/")
        for file in [name] if not folder else [entry for entry in files if entry.endswith(f"_{folder}/{file_name}")]:
            if not folder and file not in files and file not in ("added_tokens.json", "special_tokens_map.json"):
                continue
            if folder and file not in files:
                continue
            current = parse(files.get(file, b"{}"))
            for key, values in keys.items():
                for value in values:
                    if key not in current or current[key] != value:
                        edit = WriteKey(file, (key,), value)
                        yield Mutant(base, "add key", f"{file} + {key} = {_short(value)}", (edit,))
    for file in files:
        if file.endswith("Normalize/config.json") or not file.endswith("modules.json"):
            continue
        for module in parse(files[file]):
            if module["type"].endswith("Normalize") and f"{module['path']}/config.json" not in files:
                for key, value in (("surprising_key", True), ("p", 1), ("module_input_name", "token_embeddings")):
                    edit = WriteKey(f"{module['path']}/config.json", (key,), value)
                    yield Mutant(base, "add key", f"{edit.file} + {key} = {value}", (edit,))


def _of_files(base: str, files: Files) -> Iterator[Mutant]:
    """Yield mutants with one file removed, damaged or added."""
    for file in files:
        yield Mutant(base, "remove file", f"{file} removed", (WriteFile(file, None),))
        if file.endswith((".json", ".metadata", ".txt")):
            for name, data in _DAMAGE.items():
                yield Mutant(base, "damage file", f"{file} {name}", (WriteFile(file, data),))
    modules = [file.rpartition("/")[0] for file in files if "/" in file]
    for file, data in ADDED_FILES.items():
        if file not in files:
            yield Mutant(base, "add file", f"{file} added", (WriteFile(file, data),))
    for folder in dict.fromkeys(modules):
        for file in ("modeling.py", "unknown.json", "model.safetensors", "pytorch_model.bin"):
            if f"{folder}/{file}" not in files:
                yield Mutant(base, "add file", f"{folder}/{file} added", (WriteFile(f"{folder}/{file}", b"x"),))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:60]}…{len(text)}"


def select(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return a seeded sample of mutants: one of each kind of each base in turn, until the sample is complete."""
    groups: dict[tuple[str, Kind], list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.base, mutant.kind].append(mutant)
    generator = random.Random(seed)
    queues = list(groups.values())
    for queue in queues:
        generator.shuffle(queue)
    generator.shuffle(queues)
    chosen: list[Mutant] = []
    while queues and len(chosen) < count:
        chosen += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return chosen[:count]
