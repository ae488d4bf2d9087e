"""Models that transformers lacks, as references: each one replaces what sentence-transformers loads from a view of a folder.

The view is a temporary folder of links with a configuration that transformers can load; everything else in it, the tokenizer,
the prompts and the modules after the encoder, is the checkpoint's own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError

from ..checkpoint.json_files import find_json
from ..checkpoint.old_layout import encoder_folder
from ..checkpoint.task_adapters import input_type_of, task_layout, task_of, tasks_of
from .flag_reranker import FlagReranker, describe_reranker, find_flag_reranker, put_steps

__all__ = ["Restatement", "find_restatement"]

#: Model types of transformers' classes, by those of NVIDIA's that let them attend in both directions.
_BOTH_DIRECTIONS: Mapping[str, str] = {"llama_bidirec": "llama", "ministral3_bidirec": "ministral3"}


@dataclass(frozen=True, slots=True)
class Restatement:
    """Part of a reference that is not transformers'.

    Attributes:
        note: the part in words, after sentence-transformers' name.
        layout: gives a folder that sentence-transformers loads.
        put: replaces the model in what it loaded; it gets the model and the checkpoint's folder.
        select: returns the function that loads the weights for an input type, for a model whose texts choose their task.
    """

    note: str
    layout: Callable[[Path], AbstractContextManager[Path]]
    put: Callable[[Any, Path], None]
    select: Callable[[Any, Path], Callable[[str], None]] | None = None


def find_restatement(folder: Path, card: ModelCard) -> Restatement | None:
    """Return the restatement that a checkpoint needs; None for one whose model transformers has.

    Args:
        folder: the checkpoint.
        card: card of the artifact.

    Raises:
        CheckpointError: the model needs one, and the artifact is not of a kind that it covers.
    """
    config = find_json(encoder_folder(folder) / "config.json")
    if is_encoder(config):
        note = "Fletcher's restatement of LFM2's encoder, which transformers has in later versions"
        return Restatement(note, _plain_lfm2, _put_lfm2)
    if config.get("model_type") in _BOTH_DIRECTIONS:
        note = f"attention in both directions, as NVIDIA's class of the model type {config['model_type']} has it"
        return Restatement(note, _both_directions, lambda model, _: None)
    reranker = find_flag_reranker(card)
    if reranker is not None:
        note = "Fletcher's restatement of FlagEmbedding's steps from a pair to token ids"
        return Restatement(note, partial(_reranker, reranker=reranker), lambda model, _: put_steps(model, reranker))
    experts = config.get("model_type") == "nomic_bert" and bool(config.get("num_experts"))
    tasks = tasks_of(config)
    if card.output != "vectors":
        if experts or tasks:
            has = "experts (num_experts)" if experts else "adapters for tasks among its tensors"
            raise CheckpointError(
                f"{folder} has {has}, which transformers' class lacks; the reference of such models gives vectors alone, "
                f"and the artifact's output is {card.output}. Its canary stays self-made"
            )
        return None
    if config.get("position_embedding_type") == "alibi":
        note = "Fletcher's restatement of JinaBERT, whose code the repository would bring itself"
        return Restatement(note, contextlib.nullcontext, _put_jina)
    if experts:
        note = "Fletcher's restatement of NomicBERT with experts, whose code the repository would bring itself"
        return Restatement(note, _plain_nomic, _put_nomic)
    if tasks:
        if card.tasks:
            note = "the authors' formula of adapters in torch, for the task of each text"
            return Restatement(note, partial(task_layout, task=None), partial(_put_task, task=None), _select_task)
        task = task_of(config, card.input_type)
        if task is None:
            raise CheckpointError(
                f"{folder} has adapters for {', '.join(tasks)}, and the artifact is of none of these tasks"
            )
        note = f"the authors' formula of adapters in torch, for the task {task}"
        return Restatement(note, partial(task_layout, task=task), partial(_put_task, task=task))
    return None


@contextlib.contextmanager
def _both_directions(folder: Path) -> Iterator[Path]:
    """Give a folder with the configuration of transformers' class, whose mask `is_causal` decides."""
    config = find_json(folder / "config.json")
    usual, keys = _BOTH_DIRECTIONS[config["model_type"]], ("architectures", "auto_map", "pooling", "temperature")
    plain = {"is_causal": False, **{key: value for key, value in config.items() if key not in keys}}
    with _view(folder, {**plain, "model_type": usual}) as view:
        yield view


@contextlib.contextmanager
def _reranker(folder: Path, *, reranker: FlagReranker) -> Iterator[Path]:
    """Give a folder in which sentence-transformers finds the modules of a reranker."""
    with _view(folder, find_json(folder / "config.json")) as view:
        describe_reranker(view, reranker)
        yield view


def _put_jina(model: Any, folder: Path) -> None:
    """Replace the BERT that transformers made of a JinaBERT checkpoint by the restated model."""
    from .jina import load_jina

    model[0].model = load_jina(folder)
    model[0].model_forward_params = {"input_ids", "attention_mask", "token_type_ids"}


@contextlib.contextmanager
def _plain_nomic(folder: Path) -> Iterator[Path]:
    """Give a folder whose configuration transformers' NomicBert loads: the sizes of the tables, and no layer."""
    config = find_json(folder / "config.json")
    multiple = int(config.get("pad_vocab_size_multiple", 1))
    plain: Mapping[str, Any] = {
        "model_type": "nomic_bert",
        "hidden_size": config["n_embd"],
        "num_attention_heads": config["n_head"],
        "num_hidden_layers": 0,
        "intermediate_size": 8,
        "vocab_size": -(-int(config["vocab_size"]) // multiple) * multiple,
        "type_vocab_size": max(1, int(config.get("type_vocab_size", 2))),
        "max_position_embeddings": config.get("n_positions", 2048),
    }
    with _view(folder, plain) as view:
        yield view


def _put_nomic(model: Any, folder: Path) -> None:
    """Replace the model without layers by the restated one."""
    from .jina_tasks import load_tensors
    from .nomic_experts import NomicExperts

    model[0].model = NomicExperts(find_json(folder / "config.json"), load_tensors(folder))
    model[0].model_forward_params = {"input_ids", "attention_mask"}


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of LFM2's encoder."""
    named = [*(config.get("architectures") or ()), *(config.get("auto_map") or {}).values()]
    kind = config.get("model_type")
    encodes = any(str(name).rpartition(".")[2].startswith("Lfm2Bidirectional") for name in named)
    return kind == "lfm2_bidirectional" or (kind == "lfm2" and encodes)


@contextlib.contextmanager
def _plain_lfm2(folder: Path) -> Iterator[Path]:
    """Give a folder with the configuration of transformers' Lfm2Model."""
    config = {**find_json(folder / "config.json"), "model_type": "lfm2", "architectures": ["Lfm2Model"]}
    config.pop("auto_map", None)
    with _view(folder, config) as view:
        yield view


def _put_lfm2(model: Any, folder: Path) -> None:
    """Change the loaded model into the encoder; by default the repositories' own code (type `lfm2`) masks no convolution."""
    from .lfm2_encoder import make_encoder

    config = find_json(folder / "config.json")
    zero_padding = bool(config.get("conv_zero_padding", config.get("model_type") == "lfm2_bidirectional"))
    make_encoder(model[0].model, zero_padding=zero_padding)


@contextlib.contextmanager
def _view(folder: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Give a temporary folder of links with another configuration."""
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        for path in folder.iterdir():
            if path.name != "config.json" and path.suffix != ".py":
                (view / path.name).symlink_to(path.resolve())
        (view / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield view


def _select_task(model: Any, folder: Path) -> Callable[[str], None]:
    """Return a function that loads the weights of the task that belongs to an input type; those without one for others."""
    by_type = {input_type_of(task): task for task in tasks_of(find_json(folder / "config.json"))}
    loaded: list[str | None] = [None]

    def select(input_type: str) -> None:
        task = by_type.get(input_type)
        if task != loaded[0]:
            _put_task(model, folder, task)
            model.eval()
            loaded[0] = task

    return select


def _put_task(model: Any, folder: Path, task: str | None) -> None:
    """Load the merged weights into transformers' JinaEmbeddingsV3, which has the base model's configuration."""
    from .jina_tasks import load_tensors, merged_state

    loaded = model[0].model
    state = merged_state(find_json(folder / "config.json"), load_tensors(folder), task)
    merged, loading = type(loaded).from_pretrained(
        None, config=loaded.config, state_dict=state, attn_implementation="eager", output_loading_info=True
    )
    random = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if random or loading["unexpected_keys"]:
        raise CheckpointError(
            f"{folder}: transformers' {type(loaded).__name__} lacks {', '.join(sorted(loading['unexpected_keys'])) or 'no'} "
            f"tensors, and would make up {', '.join(random) or 'none'}"
        )
    model[0].model = merged
