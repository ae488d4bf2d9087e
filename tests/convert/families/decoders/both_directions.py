"""NVIDIA's classes that attend in both directions, as tiny models: transformers' class changed as the authors change it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...targets.tiny import Tiny
from ...verify.parity import save_checkpoint
from .models import make_tiny

__all__ = ["CODE", "USUAL", "tiny_both"]

#: File of NVIDIA's class, by model type.
CODE: Mapping[str, str] = {
    "llama_bidirec": "llama_bidirectional_model.py",
    "ministral3_bidirec": "ministral3_bidirectional_model.py",
}


def _keys(family: str, name: str) -> dict[str, Any]:
    module = CODE[family].removesuffix(".py")
    places = {"AutoConfig": f"{module}.{name}Config", "AutoModel": f"{module}.{name}Model"}
    return {"architectures": [f"{name}Model"], "auto_map": places, "pooling": "avg", "temperature": 0.02}


#: By model type of NVIDIA's class: the case of transformers' class, and the keys of a file of NVIDIA's.
USUAL: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama_bidirec": ("llama", _keys("llama_bidirec", "LlamaBidirectional")),
    "ministral3_bidirec": (
        "ministral3",
        {**_keys("ministral3_bidirec", "Ministral3Bidirectional"), "is_causal": False},
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Both(Tiny):
    """`Both`: a tiny model, saved with the keys of NVIDIA's class."""

    def save(self, folder: Path) -> Path:
        save_checkpoint(self.model, folder, self.tokens)
        config = json.loads((folder / "config.json").read_text())
        config.pop("is_causal")
        config |= {**USUAL[self.family][1], "model_type": self.family}
        (folder / "config.json").write_text(json.dumps(config))
        return folder


def tiny_both(family: str, **changes: Any) -> Both:
    """Return a tiny model of one of NVIDIA's classes.

    Args:
        family: key of `USUAL`.
        changes: settings that differ.
    """
    tiny = make_tiny(USUAL[family][0], **changes)
    # As `LlamaBidirectionalModel.__init__` of NVIDIA's NeMo AutoModel, components/models/llama_bidirectional/model.py.
    tiny.model.config.is_causal = False
    for layer in tiny.model.layers:
        layer.self_attn.is_causal = False
    values = {field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    return Both(**values | {"family": family})
