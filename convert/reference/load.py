"""Loading of a checkpoint into torch in float32, as transformers' class, or as `JinaBert`, which transformers lacks.

torch and transformers are imported by a load. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError, MissingPackageError

from ..checkpoint.json_files import find_json

__all__ = ["TorchModel", "load_model", "truncated_ids"]


@dataclass(frozen=True, slots=True)
class TorchModel:
    """`load_model`'s result: tokenizer and model of a checkpoint.

    Attributes:
        tokenizer: transformers' fast tokenizer.
        model: in evaluation mode, with eager attention, the plainest of the kernels.
        tools: versions of the packages that compute.
    """

    tokenizer: Any
    model: Any
    tools: dict[str, str]


def load_model(folder: Path, automatic: str, *, unused: Sequence[str] = ()) -> TorchModel:
    """Load a checkpoint folder; never run code that comes with it.

    Args:
        folder: `config.json`, safetensors weights and the tokenizer.
        automatic: name of transformers' automatic class.
        unused: prefixes of weights that the checkpoint may lack.

    Raises:
        MissingPackageError: torch or transformers is not installed.
        CheckpointError: the checkpoint cannot be loaded, or weights would be random.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingPackageError(error.name or "torch", "verify", "comparing with the HuggingFace model") from None
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()  # the commands report progress themselves
    local = {"local_files_only": True, "trust_remote_code": False}
    tools = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
    config = find_json(folder / "config.json")
    restated = automatic == "AutoModel" and config.get("position_embedding_type") == "alibi"
    missing: Sequence[str] = ()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        if restated:
            from .jina import load_jina

            model = load_jina(folder)
        else:
            model, loading = getattr(transformers, automatic).from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                output_loading_info=True,
                **local,
            )
            missing = loading["missing_keys"]
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise CheckpointError(f"transformers {transformers.__version__} cannot load {folder}: {error}") from error
    random = sorted(name for name in missing if not name.startswith(tuple(unused)))
    if random:
        raise CheckpointError(
            f"{folder} lacks weights that transformers {transformers.__version__} would initialize at random: "
            f"{', '.join(random[:5])}. It cannot be a reference"
        )
    return TorchModel(tokenizer, model.eval(), tools)


def truncated_ids(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Return token ids of texts, special tokens included, cut to the longest input.

    The texts are encoded one by one, because tokenizer.json can ask for padding in a batch.
    """
    return [tokenizer(text, truncation=True, max_length=limit, padding=False)["input_ids"] for text in texts]
