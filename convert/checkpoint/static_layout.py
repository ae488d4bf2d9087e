"""Checkpoints of static embeddings: a table of word vectors, whose mean over a text's tokens is the text's vector.

sentence-transformers saves them as the module StaticEmbedding, model2vec as a folder whose config.json has the type
`model2vec`. Neither has a transformer's configuration: `static_layout` gives them the files of an encoder without layers.

Source: sentence_transformer/modules/static_embedding.py of sentence-transformers 6.2, which also reads model2vec's files.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError

from .json_files import find_json, read_json
from .sentence_transformers import read_modules
from .weights.files import read_weights

__all__ = ["FAMILY", "MAX_TOKENS", "static_layout", "truncation_limit"]

#: Model type of the configuration that is made for such a checkpoint.
FAMILY = "static_embedding"

#: Longest text in tokens. There are no positions, so that nothing but the memory limits it.
MAX_TOKENS = 1 << 20

#: Keys of model2vec's config.json: `normalize` is applied, the others say how the table was made.
MODEL2VEC_KEYS = frozenset(
    {
        *("model_type", "architectures", "tokenizer_name", "apply_pca", "apply_zipf", "hidden_dim", "seq_length"),
        *("normalize", "embedding_dtype", "vocabulary_quantization", "sif_coefficient", "pca_dims"),
    }
)

#: Files of the checkpoint that keep their meaning.
KEPT = ("config_sentence_transformers.json", "README.md")


@contextlib.contextmanager
def static_layout(folder: Path) -> Iterator[Path]:
    """Give a checkpoint of static embeddings the files of an encoder; give any other folder as it is.

    Raises:
        CheckpointError: the table or the tokenizer is missing, or a key is unknown.
    """
    modules = read_modules(folder)
    config = find_json(folder / "config.json")
    is_model2vec = not modules and config.get("model_type") == "model2vec"
    if not is_model2vec and (not modules or modules[0].kind != "StaticEmbedding"):
        yield folder
        return
    place = modules[0].folder if modules else folder
    rows, width = _table_shape(place)
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        entries: list[dict[str, Any]] = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "mean_of_tokens", "type": "sentence_transformers.models.Pooling"},
        ]
        _write(view / "mean_of_tokens" / "config.json", {"word_embedding_dimension": width, "pooling_mode": "mean"})
        if is_model2vec:
            if unknown := sorted(config.keys() - MODEL2VEC_KEYS):
                raise CheckpointError(
                    f"{folder / 'config.json'} has keys that Fletcher does not know: {', '.join(unknown)}"
                )
            if config.get("normalize"):
                entries.append(
                    {"idx": 2, "name": "2", "path": "normalize", "type": "sentence_transformers.models.Normalize"}
                )
        for module in modules[1:]:
            entries.append({**module.entry, "name": str(len(entries)), "idx": len(entries)})
            if module.path:
                (view / module.path).symlink_to(module.folder.resolve())
        for file in (*place.glob("model*.safetensors*"), *place.glob("pytorch_model*"), *map(folder.joinpath, KEPT)):
            if file.is_file():
                (view / file.name).symlink_to(file.resolve())
        _write(view / "modules.json", entries)
        _write(view / "config.json", {"model_type": FAMILY, "hidden_size": width, "vocab_size": rows})
        _write(view / "sentence_bert_config.json", {"max_seq_length": truncation_limit(place) or MAX_TOKENS})
        _write(view / "tokenizer.json", _tokenizer(place))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
        _write(view / "tokenizer_config.json", settings)
        try:
            yield view
        except CheckpointError as error:  # a message names the user's folder, not the temporary one
            raise CheckpointError(str(error).replace(str(view), str(place))) from error


def truncation_limit(place: Path) -> int | None:
    """Return the tokens after which StaticEmbedding's tokenizer cuts a text, or None if its file has no truncation.

    Raises:
        CheckpointError: it cuts the beginning of a text.
    """
    truncation = find_json(place / "tokenizer.json").get("truncation")
    if not isinstance(truncation, dict):
        return None
    if truncation.get("direction", "Right") != "Right":
        raise CheckpointError(
            f"{place / 'tokenizer.json'}: truncation cuts the beginning of a text, which is not authored here"
        )
    length = truncation.get("max_length")
    return length if isinstance(length, int) and length > 0 else None


def _table_shape(place: Path) -> tuple[int, int]:
    tensors = read_weights(place)
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None or len(table.shape) != 2:
        raise CheckpointError(f"{place} has no table of word vectors: neither embedding.weight nor embeddings")
    mapping = tensors.get("mapping")
    return (table if mapping is None else mapping).shape[0], table.shape[1]


def _tokenizer(place: Path) -> dict[str, Any]:
    """Return tokenizer.json without the special tokens around a text, which static embeddings do not have."""
    description = read_json(place / "tokenizer.json")
    return {**description, "post_processor": None, "truncation": None, "padding": None}


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
