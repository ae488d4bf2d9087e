"""Vectors of the reference: the installed sentence-transformers on the untouched folder, float32, one text at a time.

Folders without `modules.json` go to transformers, or to the classes of sentence-transformers that load them. No code of a
folder runs. A weight that the library would initialize at random is filled with NaN, so that the model counts as refused.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel

from .checkpoints.bases import Base
from .texts import PAIRS, PROMPTED, TEXTS

__all__ = ["Vectors", "compute_reference", "quiet"]

#: By kind of call and text. A text's array is (dimension,), or (tokens, dimension) for ColBERT; None if the text was refused,
#: by the reference if the text has no token.
Vectors = dict[str, list[NDArray[np.float32] | None]]

_FLOAT32: dict[str, Any] = {"model_kwargs": {"dtype": torch.float32}, "device": "cpu", "local_files_only": True}


class ReferenceRefusesError(Exception):
    """Error of the reference: it cannot load the folder, or its vectors are not finite."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries, whose warnings about mutants are expected, and compute on one thread."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def compute_reference(folder: Path, base: Base) -> Vectors:
    """Return the reference's vectors of all texts.

    Raises:
        ReferenceRefusesError: the library raises an error, or a vector is not finite.
    """
    try:
        with _no_random_weights():
            vectors = _HEADS[base.head](folder, base)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # every failure is a refusal; a panic in tokenizers is not an Exception
        raise ReferenceRefusesError(f"{type(error).__name__}: {str(error)[:300]}") from error
    for kind, rows in vectors.items():
        for index, row in enumerate(rows):
            if row is not None and not np.isfinite(row).all():
                raise ReferenceRefusesError(f"text {index} of {kind} has a vector that is not finite")
    return vectors


def _embed(folder: Path, base: Base) -> Vectors:
    from sentence_transformers import SentenceTransformer

    if not (folder / "modules.json").is_file():
        return {"encode": _embed_plain(folder)}
    if base.restated is None:
        model: Any = SentenceTransformer(str(folder), **_FLOAT32)
    else:
        model = _load_restated(SentenceTransformer, folder, base)
    return _all_prompts(model, batch_size=1, show_progress_bar=False)


def _all_prompts(model: Any, **options: Any) -> Vectors:
    if model.tokenizer.pad_token is None:  # a single text needs no padding
        options["processing_kwargs"] = {"text": {"padding": False}}

    def rows(method: Callable[..., Any], texts: Sequence[str], **name: str) -> list[NDArray[np.float32] | None]:
        """Return the vectors of texts, and None for a text without a token with which the library fails."""
        try:
            return [np.asarray(row, np.float32) for row in method(list(texts), **name, **options)]
        except Exception:
            if len(texts) > 1:
                return [row for text in texts for row in rows(method, [text], **name)]
            if model.tokenizer(texts[0])["input_ids"]:
                raise
            return [None]

    vectors = {"encode": rows(model.encode, TEXTS)}
    for kind, method in (("query", model.encode_query), ("document", model.encode_document)):
        vectors[kind] = rows(method, PROMPTED)
    for name in sorted(set(model.prompts) - {"query", "document", "raw"}):
        if model.prompts[name]:
            vectors[name] = rows(model.encode, PROMPTED, prompt_name=name)
    return vectors


def _embed_plain(folder: Path) -> list[NDArray[np.float32] | None]:
    """Return mean-pooled vectors of transformers' own classes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    rows: list[NDArray[np.float32] | None] = []
    with torch.inference_mode():
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            rows.append(model(**inputs)[0][0].mean(0).numpy())
    return rows


def _score(folder: Path, base: Base) -> Vectors:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), **_FLOAT32)
    scores = model.predict([list(pair) for pair in PAIRS], batch_size=1, show_progress_bar=False)
    return {"score": [np.atleast_1d(row) for row in scores]}


def _embed_sparse(folder: Path, base: Base) -> Vectors:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), **_FLOAT32)
    return _all_prompts(model, batch_size=1, show_progress_bar=False, convert_to_sparse_tensor=False)


def _embed_tokens(folder: Path, base: Base) -> Vectors:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(folder), **_FLOAT32)
    return {
        kind: [np.asarray(encode([text])[0], np.float32) for text in TEXTS]
        for kind, encode in (("query", model.encode_query), ("document", model.encode_document))
    }


_HEADS: dict[str, Callable[[Path, Base], Vectors]] = {
    "embedding": _embed,
    "classification": _score,
    "splade": _embed_sparse,
    "colbert": _embed_tokens,
}


class _Restated(torch.nn.Module):
    """Restated model that replaces transformers' model inside sentence-transformers' Transformer."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.restated, self.config, self.dtype = model, config, torch.float32

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        hidden: SimpleNamespace = self.restated(input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=hidden.last_hidden_state)


def _load_restated(kind: type[Any], folder: Path, base: Base) -> Any:
    """Load a family for which transformers has no class: all files unchanged, and the restated model as the encoder.

    A copy of the folder has `config.json` and weights of a BERT, so that the library can load the other files.
    """
    assert base.restated is not None
    model = base.restated()
    sizes = json.loads((folder / "config.json").read_text())
    hidden, longest = sizes.get("hidden_size") or sizes["n_embd"], model.longest
    twin = folder.with_name(f"{folder.name}.twin")
    try:
        shutil.copytree(folder, twin)
        config = transformers.BertConfig(
            vocab_size=64,
            hidden_size=hidden,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=longest,
        )
        transformers.BertModel(config).save_pretrained(twin)
        loaded = kind(str(twin), **_FLOAT32)
    finally:
        shutil.rmtree(twin, ignore_errors=True)
    loaded[0].model = _Restated(model, loaded[0].model.config)
    return loaded


@contextmanager
def _no_random_weights() -> Iterator[None]:
    """Fill weights that a checkpoint lacks with NaN instead of random numbers."""
    original = PreTrainedModel.__dict__["_finalize_model_loading"].__func__

    def finalize(model: Any, load_config: Any, loading_info: Any) -> Any:
        missing: Sequence[str] = [*loading_info.missing_and_mismatched()]
        result = original(model, load_config, loading_info)
        stored = {*loading_info.missing_and_mismatched()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in stored and name in missing:
                    parameter.fill_(float("nan"))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "_finalize_model_loading", staticmethod(finalize))
        yield
