"""Loading of a checkpoint folder by sentence-transformers, untouched; `restated.py` has the models that transformers lacks.

A checkpoint without `modules.json` gets the pooling of the artifact's card. torch, transformers and sentence-transformers
are imported by a load. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from fletcher.model_zoo.card import RAW, ModelCard, Output, TokenHeads
from fletcher.runtime.errors import CheckpointError, MissingPackageError

from ..checkpoint.old_layout import encoder_folder
from ..checkpoint.routes.layout import route_encoder
from ..checkpoint.routes.router import read_router
from ..checkpoint.weights.files import has_pickles, read_weights
from .restated import find_restatement
from .token_heads import load_token_maps
from .witness import STATIC, Witness, input_modules, name_routes, quiet

__all__ = ["load_witness"]

#: Classes of sentence-transformers, by the model's output.
CLASSES: Mapping[Output, str] = MappingProxyType(
    {
        "vectors": "SentenceTransformer",
        "scores": "CrossEncoder",
        "sparse": "SparseEncoder",
        "token_vectors": "MultiVectorEncoder",
    }
)

#: Prefixes of weights that a checkpoint may lack: BERT's pooler, which no vector uses.
UNUSED: Mapping[Output, tuple[str, ...]] = MappingProxyType(
    {"vectors": ("pooler.",), "token_vectors": ("pooler.",), "scores": (), "sparse": ()}
)

#: Longest text, in tokens, that is made for static embeddings, which have no limit.
LONGEST_STATIC = 1024

#: A limit above this one means that a tokenizer has none.
NO_LIMIT = 1 << 30


def load_witness(folder: str | Path, card: ModelCard, *, zoo: bool = False) -> Witness:
    """Load a checkpoint folder with sentence-transformers.

    Args:
        folder: the checkpoint.
        card: card of the artifact. Its pooling is used if the checkpoint has no `modules.json`, and its longest input if that
            is the shorter one.
        zoo: whether the card has a limit or prompts of the zoo, which the authors published beside the checkpoint.

    Raises:
        MissingPackageError: torch, transformers or sentence-transformers is not installed.
        CheckpointError: sentence-transformers cannot load it, or would make up weights.
    """
    try:
        import sentence_transformers
        import torch
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            error.name or "sentence_transformers", "verify", "comparing with sentence-transformers"
        ) from None
    hub_logging: Any = transformers.utils.logging
    hub_logging.disable_progress_bar()  # the commands report progress themselves
    folder = Path(folder)
    kind = CLASSES[card.output]
    version = str(sentence_transformers.__version__)
    tools = {
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "sentence-transformers": version,
    }
    restated = find_restatement(folder, card)
    routes = name_routes(read_router(folder), card)
    route = routes.get(RAW)
    try:
        with quiet():
            if restated is not None:
                with restated.layout(folder) as view:
                    model = _load(getattr(sentence_transformers, kind), view)
                restated.put(model, folder)
            else:
                model = _load(getattr(sentence_transformers, kind), folder)
                place = route_encoder(folder, card.input_type) or encoder_folder(folder)
                _require_weights(input_modules(model, route)[0], place, UNUSED[card.output])
    except Exception as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"sentence-transformers {version} cannot load {folder}: {error}") from error
    method = f"sentence-transformers {version} ({kind})"
    if card.output == "vectors" and not (folder / "modules.json").is_file():
        model = _with_pooling(model, card)
        method = f"transformers {transformers.__version__} ({type(model[0].model).__name__})"
        method += f" with the pooling {'+'.join(card.pooling)} of the export (the checkpoint has no modules.json)"
    if restated is not None:
        method += f", and {restated.note}"
    first = input_modules(model, route)[0]
    if type(first).__name__ == STATIC:
        card = msgspec.structs.replace(card, max_tokens=min(card.max_tokens, LONGEST_STATIC))
    maps = None
    if isinstance(card.token_heads, TokenHeads):
        maps = load_token_maps(folder, first.tokenizer)
        method += ", and FlagEmbedding's steps in torch for the sparse and token vectors"
    return Witness(
        folder,
        card,
        model.eval(),
        method,
        tools,
        _set_limit(first, card, zoo=zoo),
        prompts=dict(card.prompts) if zoo else None,
        maps=maps,
        select=restated.select(model, folder) if restated is not None and restated.select is not None else None,
        routes=routes,
    )


def _load(kind: Any, folder: Path) -> Any:
    """Load a model with its class."""
    import torch

    return kind(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        # The plainest of the kernels, into which the comparison layer by layer can look.
        model_kwargs={
            "dtype": torch.float32,
            "attn_implementation": "eager",
            "use_safetensors": _takes_safetensors(folder),
        },
    )


def _takes_safetensors(folder: Path) -> bool:
    """Return whether the weights are safetensors; pickles are read here first, so that torch gets those of tensors alone.

    Raises:
        CheckpointError: a pickle holds anything else.
    """
    place = encoder_folder(folder)
    if not has_pickles(place):
        return True
    read_weights(place)
    return False


def _require_weights(first: Any, folder: Path, unused: tuple[str, ...]) -> None:
    """Refuse a checkpoint whose missing weights transformers filled with random numbers.

    Args:
        first: module that gets token ids.
        folder: folder of its files.
        unused: prefixes of weights that may be missing.

    Raises:
        CheckpointError: weights are missing, or the first module is not a model of transformers.
    """
    import torch

    if type(first).__name__ == STATIC:
        return  # its class reads its one tensor itself
    if not hasattr(first, "model") or not hasattr(first, "tokenizer"):
        raise CheckpointError(f"{folder} has no model of transformers in sentence-transformers: it cannot be compared")
    _, loading = type(first.model).from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=_takes_safetensors(folder),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    random = sorted(name for name in loading["missing_keys"] if not name.startswith(unused))
    if random:
        raise CheckpointError(
            f"{folder} lacks weights that transformers would initialize at random: {', '.join(random[:5])}. It cannot be a "
            "reference"
        )


def _with_pooling(model: Any, card: ModelCard) -> Any:
    """Return a model with the card's pooling and normalization after the transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    width = card.dimension // len(card.pooling)
    modules: list[Any] = [model[0], Pooling(width, pooling_mode=card.pooling)]
    if card.normalize:
        modules.append(Normalize())
    return SentenceTransformer(modules=modules, device="cpu", prompts=dict(model.prompts))


def _set_limit(first: Any, card: ModelCard, *, zoo: bool) -> tuple[str, ...]:
    """Apply the artifact's longest inputs to the module that gets token ids; return notes on it."""
    late = card.late_interaction
    if type(first).__name__ == STATIC:
        return (
            f"texts of at most {card.max_tokens} tokens are compared; static embeddings have no limit of their own",
        )
    if late is None:
        limits = {"max_seq_length": card.max_tokens}
    else:
        limits = {"document_length": late.document_tokens}
        limits |= {} if first.query_expansion else {"query_length": late.query_tokens}
    notes = []
    if first.tokenizer.pad_token is None:
        notes.append("the tokenizer has no padding token, so padding is turned off; a text alone needs none")
    for name, chosen in limits.items():
        own = getattr(first, name) or first.max_seq_length
        limited = isinstance(own, int | float) and own < NO_LIMIT
        if limited and not (chosen < own or (zoo and chosen != own)):
            continue
        setattr(first, name, chosen)
        known = f"the checkpoint's own is {own}" if limited else "the checkpoint states none"
        notes.append(f"{name} is the artifact's, {chosen} tokens; {known}")
    return tuple(notes)
