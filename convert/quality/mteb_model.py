"""`MtebEncoder`, `MtebServer`: an artifact and a served model as models that `mteb.evaluate` accepts (mteb 2).

mteb is imported only by these classes (extra `mteb`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import INPUT_TYPES, RAW
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError, MissingPackageError, ServiceError
from fletcher.runtime.model_info import require_output
from fletcher.runtime.options.load import LoadFields

__all__ = ["MtebEncoder", "MtebServer", "input_type_of_task"]

Vectors = NDArray[np.float32]

#: Input types of the tasks that have neither queries nor documents, by the end of the type's name in mteb.
TASKS: Mapping[str, str] = MappingProxyType({"Clustering": "clustering", "Classification": "classification"})

#: Tasks whose type ends like another one's, and that compare two texts.
SYMMETRIC = ("PairClassification",)

#: Texts of a request to a server, and seconds to wait for its answer.
REQUEST_TEXTS, TIMEOUT = 256, 600


def input_type_of_task(task: Any, prompt_type: Any, available: Iterable[str]) -> str:
    """Return the input type of a task's texts, which selects the model's prompt.

    The order is mteb's own: a prompt under `NAME-query`, `NAME`, `TYPE-query` or `TYPE`, then queries and documents, then
    `clustering` and `classification`. Other tasks, such as STS, compare two texts without a prompt.

    Args:
        task: mteb's metadata of the task.
        prompt_type: `query` or `document` of mteb's `PromptType`, or None.
        available: input types of the model.
    """
    kind = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
    names = [f"{name}{part}" for name in (task.name, task.type) for part in (f"-{kind}" if kind else "", "")]
    known = set(available)
    for name in names:
        if name in known:
            return name
    if kind is not None:
        return kind
    if task.type in SYMMETRIC:
        return RAW
    return next((input_type for end, input_type in TASKS.items() if task.type.endswith(end)), RAW)


class _Model:
    """What both models share: the similarity, the description for mteb, and the loop over its batches."""

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        try:
            from mteb.models import ModelMeta
            from mteb.similarity_functions import cos_sim, dot_score, pairwise_cos_sim, pairwise_dot_score
        except ImportError:
            raise MissingPackageError("mteb", "mteb", "an evaluation by MTEB") from None
        dot = facts["similarity"] == "dot"
        self.similarity = dot_score if dot else cos_sim
        self.similarity_pairwise = pairwise_dot_score if dot else pairwise_cos_sim
        self._available = tuple(facts["input_types"])
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=f"fletcher/{name}",
            revision=facts["digest"],
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=facts["max_tokens"],
            embed_dim=facts["dimension"],
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["ONNX"],
            similarity_fn_name="dot" if dot else "cosine",
            use_instructions=len(set(self._available) - {*INPUT_TYPES, RAW}) > 0,
            training_datasets=None,
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **_: Any,
    ) -> Vectors:
        """Return the vectors of mteb's batches of texts, float32, (texts, dimension).

        Args:
            inputs: batches with the texts under `text`.
            task_metadata: the task, which selects the prompt.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: `query`, `document` or None.

        Raises:
            InputError: a batch has no texts.
        """
        input_type = input_type_of_task(task_metadata, prompt_type, self._available)
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(f"{task_metadata.name} has inputs without texts ({', '.join(batch)})")
            texts += batch["text"]
        return self._embed(texts, input_type)

    def _embed(self, texts: Sequence[str], input_type: str) -> Vectors:
        raise NotImplementedError


class MtebEncoder(_Model):
    """An artifact as a model of mteb. A context manager that closes it."""

    def __init__(self, folder: str | Path, **options: Unpack[LoadFields]) -> None:
        """Load an artifact.

        Args:
            folder: the artifact's folder.
            options: fields of `LoadOptions`.

        Raises:
            MissingPackageError: mteb is not installed.
            InputError: the model gives no vectors.
            ArtifactError: the artifact cannot be loaded.
        """
        self._encoder = Encoder.load(folder, **options)
        card, info = self._encoder.card, self._encoder.info
        require_output(card, "vectors")
        facts = {
            "similarity": card.similarity or None,
            "input_types": (*INPUT_TYPES, *card.prompts, RAW),
            "digest": info.digest,
            "max_tokens": info.max_tokens,
            "dimension": info.dimension,
        }
        super().__init__(card.name, facts)

    def _embed(self, texts: Sequence[str], input_type: str) -> Vectors:
        vectors: Vectors = self._encoder.embed(texts, input_type=input_type).vectors
        return vectors

    def close(self) -> None:
        """Release the memory."""
        self._encoder.close()

    def __enter__(self) -> MtebEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MtebServer(_Model):
    """A model of a running server as a model of mteb."""

    def __init__(self, url: str, name: str, *, key: str | None = None) -> None:
        """Ask the server for a description of the model.

        Args:
            url: the server's address, such as `http://localhost:8080`.
            name: name of the model.
            key: API key of the server.

        Raises:
            MissingPackageError: mteb is not installed.
            InputError: the server has no such model, or it gives no vectors.
            ServiceError: the server does not answer.
        """
        self._url, self._name, self._key = url.rstrip("/"), name, key
        models = json.loads(self._ask("/v1/models"))["data"]
        found = next((model for model in models if name in (model["id"], *model["names"])), None)
        if found is None:
            raise InputError(f"{url} has no model {name!r}: it has {', '.join(model['id'] for model in models)}")
        if found["output"] != "vectors":
            raise InputError(f"{name} gives {found['output']}: mteb's encoders give vectors")
        self._dimension: int = found["dimension"]
        super().__init__(found["id"], {"similarity": None, **found})

    def _embed(self, texts: Sequence[str], input_type: str) -> Vectors:
        parts = [np.zeros((0, self._dimension), np.float32)]
        for start in range(0, len(texts), REQUEST_TEXTS):
            chunk = list(texts[start : start + REQUEST_TEXTS])
            body = {"model": self._name, "input": chunk, "input_type": input_type, "encoding_format": "bytes"}
            parts.append(np.frombuffer(self._ask("/v1/embeddings", body), "<f4").reshape(len(chunk), -1))
        return np.concatenate(parts)

    def _ask(self, path: str, body: object = None) -> bytes:
        """Return the body of an answer.

        Raises:
            InputError: the server refuses the request.
            ServiceError: the server does not answer.
        """
        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise InputError(f"{self._url}{path} answers {error.code}: {text}") from error
        except OSError as error:
            raise ServiceError(f"{self._url} does not answer: {error}") from error
