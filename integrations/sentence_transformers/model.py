"""`SentenceTransformer`: the methods of sentence-transformers' class that embed texts, over `Encoder`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from fletcher.runtime import EmbedOptions, Encoder, LoadOptions
from fletcher.runtime.closing import Closing
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.model_info import require_output
from fletcher.runtime.tasks.postprocess import normalize

from ..artifacts import find_artifact
from .arguments import ArgumentError, EncodeArguments, EncodeFields, ModelArguments, ModelFields, renamed_inputs
from .quantization import quantize, quantize_each
from .similarity import FUNCTIONS, pairwise_similarity, similarity
from .tensors import tensor_or_array, to_tensor

__all__ = ["SentenceTransformer"]

logger = logging.getLogger("fletcher.integrations")

#: The prompts are added here, because `encode` takes any text as a prompt.
RAW = EmbedOptions(input_type="raw")

#: Texts that are computed between two changes of a progress bar.
STEP = 1024

#: Names of the prompt of `encode_document`, in the order of trial.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")

MISSING = object()


class SentenceTransformer(Closing):
    """An embedding model with the interface of sentence-transformers 6.2, computed by an `Encoder`.

    Scripts change one import:

        from fletcher.integrations.sentence_transformers import SentenceTransformer

        model = SentenceTransformer("all-MiniLM-L6-v2")
        vectors = model.encode(["a text", "another"])

    Vectors are those of sentence-transformers within the artifact's tolerance. An argument that Fletcher does not have is an
    error with its name, unless it has its default.

    Attributes:
        encoder: the loaded model.
        prompts: prompts by name.
        default_prompt_name: name of the prompt that `encode` adds if the caller names none, or None.
        truncate_dim: elements of a vector that are kept, or None for all.
    """

    def __init__(
        self, model_name_or_path: str | Path, *, load: LoadOptions | None = None, **arguments: Unpack[ModelFields]
    ) -> None:
        """Load a model. A checkpoint is converted at its first use; see `find_artifact`.

        Args:
            model_name_or_path: the folder of an artifact or a checkpoint, a name of the zoo, or a hub id.
            load: options of loading. Default: those that `device` and `backend` mean.
            arguments: sentence-transformers' own; see `ModelArguments`.

        Raises:
            ArgumentError: an argument is not taken.
            InputError: the model does not give one vector per text.
            FletcherError: the model cannot be converted or loaded.
        """
        options = ModelArguments.bind(arguments)
        provider = options.provider
        cache = None if options.cache_folder is None else Path(options.cache_folder)
        artifact = find_artifact(model_name_or_path, cache_dir=cache, revision=options.revision)
        encoder = Encoder.load(artifact, LoadOptions(provider=provider) if load is None else load)
        try:
            self._start(encoder, options)
        except BaseException:
            encoder.close()
            raise

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Unpack[ModelFields]) -> Self:
        """Return a model that computes with a loaded encoder.

        Args:
            encoder: the model; `close` closes it.
            arguments: as for the constructor; `device`, `backend`, `cache_folder` and `revision` do nothing.

        Raises:
            ArgumentError: an argument is not taken.
            InputError: the model does not give one vector per text.
        """
        model = cls.__new__(cls)
        model._start(encoder, ModelArguments.bind(arguments))
        return model

    def _start(self, encoder: Encoder, options: ModelArguments) -> None:
        card = encoder.card
        require_output(card, "vectors")
        self.encoder = encoder
        given = {"query": None, "document": None} | dict(options.prompts or {})
        known = {name: card.prompts.get(name, "") if text is None else text for name, text in given.items()}
        self.prompts: dict[str, str] = dict(card.prompts) | known
        self.default_prompt_name = options.default_prompt_name or card.default_prompt or None
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            names = ", ".join(self.prompts)
            raise ArgumentError(
                "default_prompt_name", f"default_prompt_name is {self.default_prompt_name!r}; the prompts are {names}"
            )
        self.truncate_dim = options.truncate_dim
        self.similarity_fn_name = options.similarity_fn_name or card.similarity or "cosine"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"Fletcher's SentenceTransformer has no {name!r}: it embeds texts, and `encoder` has the rest of the model"
        )

    @property
    def similarity_fn_name(self) -> str:
        """Name of the function of `similarity`: `cosine`, `dot`, `euclidean` or `manhattan`."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        name = getattr(value, "value", value)  # an enum or its value
        if name not in FUNCTIONS:
            raise ArgumentError("similarity_fn_name", f"similarity_fn_name is {name!r}: use {', '.join(FUNCTIONS)}")
        self._similarity: str = name

    @property
    def device(self) -> str:
        """Kind of device that computes: `cpu`, `cuda` or `mps`."""
        name = self.encoder.info.provider_name
        if name == "coreml":
            return "mps"
        return "cuda" if name.startswith(("cuda", "tensorrt")) else "cpu"

    @property
    def max_seq_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self.encoder.info.max_tokens

    def get_max_seq_length(self) -> int:
        """Return the longest input in tokens, special tokens included."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Return the number of elements of a vector."""
        size = self.encoder.dimension
        return size if self.truncate_dim is None else min(size, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int:
        """Return the number of elements of a vector."""
        return self.get_embedding_dimension()

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Set `truncate_dim` within a block."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    def encode(self, inputs: Any = MISSING, *positional: Any, **named: Unpack[EncodeFields]) -> Any:
        """Return the vectors of texts.

        Args:
            inputs: a text, or a list, tuple, array or column of texts.
            positional, named: as in sentence-transformers; see `EncodeArguments`.

        Returns:
            For a list, an array of float32, or of the type of `precision`, (n, dimension); with `convert_to_tensor` a tensor;
            without `convert_to_numpy` a list of tensors. With `output_value="token_embeddings"` a list of tensors,
            (tokens, dimension). For a single text, the only item.

        Raises:
            ArgumentError: an argument is not taken, or has a value that is not allowed.
            InputError: the inputs are not texts, or the graph does not give token states.
            MissingPackageError: the result is a tensor, and torch is not installed.
        """
        others = dict(named)
        inputs = renamed_inputs(inputs, others, MISSING)
        return self._encode(inputs, EncodeArguments.bind(positional, others))

    def encode_query(self, inputs: Any = MISSING, *positional: Any, **named: Unpack[EncodeFields]) -> Any:
        """Return the vectors of queries: as `encode`, with the prompt `query` if none is named."""
        return self._encode_as(("query",), inputs, positional, dict(named))

    def encode_document(self, inputs: Any = MISSING, *positional: Any, **named: Unpack[EncodeFields]) -> Any:
        """Return the vectors of documents: as `encode`, with the first prompt of `DOCUMENT_PROMPTS` if none is named."""
        return self._encode_as(DOCUMENT_PROMPTS, inputs, positional, dict(named))

    def _encode_as(self, names: Sequence[str], inputs: Any, positional: Sequence[Any], named: dict[str, Any]) -> Any:
        inputs = renamed_inputs(inputs, named, MISSING)
        arguments = EncodeArguments.bind(positional, named)
        return self._encode(inputs, arguments, next((name for name in names if name in self.prompts), None))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each of the first vectors to each of the second.

        Args:
            embeddings1: arrays, tensors or lists of them, (n, dimension) or (dimension,).
            embeddings2: the same, (m, dimension) or (dimension,).

        Returns:
            A tensor, or an array if torch is not installed, (n, m).
        """
        return tensor_or_array(similarity(self.similarity_fn_name, embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of vectors in the same place.

        Args:
            embeddings1, embeddings2: arrays, tensors or lists of them, (n, dimension).

        Returns:
            A tensor, or an array if torch is not installed, (n,).
        """
        return tensor_or_array(pairwise_similarity(self.similarity_fn_name, embeddings1, embeddings2))

    def close(self) -> None:
        """Close the encoder."""
        self.encoder.close()

    def _encode(self, inputs: Any, arguments: EncodeArguments, default: str | None = None) -> Any:
        if arguments.device is not None and str(arguments.device) != self.device:
            raise ArgumentError("device", f"device is {str(arguments.device)!r}, and the model runs on {self.device!r}")
        single = isinstance(inputs, str)
        texts = [inputs] if single else _texts(inputs)
        prompt = self._prompt(arguments, default)
        if prompt:
            texts = [prompt + text for text in texts]
        if arguments.output_value == "token_embeddings":
            result: Any = self._token_vectors(texts, arguments)
        else:
            result = _convert(self._vectors(texts, arguments), arguments)
        return result[0] if single else result

    def _prompt(self, arguments: EncodeArguments, default: str | None) -> str:
        """Return the text that goes before each text.

        Args:
            arguments: arguments of the call.
            default: name of the prompt of the method; None is the model's default.
        """
        if arguments.prompt is not None:
            return arguments.prompt
        given = arguments.prompt_name
        name = (default or self.default_prompt_name) if given is None else given
        if name is None:
            return ""
        if name not in self.prompts:
            raise ArgumentError("prompt_name", f"prompt_name is {name!r}; the prompts are {', '.join(self.prompts)}")
        return self.prompts[name]

    def _vectors(self, texts: Sequence[str], arguments: EncodeArguments) -> NDArray[Any]:
        """Return the vectors of texts, cut, normalized and quantized in sentence-transformers' order."""
        vectors = self._embed(texts, arguments)
        size = self.truncate_dim if arguments.truncate_dim is None else arguments.truncate_dim
        vectors = vectors[:, :size]
        if arguments.normalize_embeddings:
            vectors = normalize(vectors)
        return quantize(np.ascontiguousarray(vectors), arguments.precision) if len(texts) else vectors

    def _embed(self, texts: Sequence[str], arguments: EncodeArguments) -> NDArray[np.float32]:
        shown = arguments.show_progress_bar
        if not (logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG) if shown is None else shown):
            return self.encoder.embed(texts, RAW).vectors
        parts = (texts[start : start + STEP] for start in range(0, len(texts), STEP))
        made = self.encoder.stream(parts, RAW)
        total = -(-len(texts) // STEP)
        done = [part.vectors for part in track(made, "Embedding", total, console=Console(stderr=True))]
        return np.concatenate(done) if done else np.zeros((0, self.encoder.dimension), np.float32)

    def _token_vectors(self, texts: Sequence[str], arguments: EncodeArguments) -> list[Any]:
        """Return the last hidden state of each text's tokens: tensors, or arrays of another type than float32."""
        task = self.encoder.prepare(Texts.of(texts), RAW, "token_vectors")
        states = task.finish(self.encoder.compute(task.encodings, task.output))
        matrices = np.split(states.vectors, states.offsets[1:-1]) if texts else []
        quantized = quantize_each(matrices, arguments.precision)
        if arguments.precision in (None, "float32"):
            return [to_tensor(matrix, "output_value='token_embeddings'") for matrix in quantized]
        return quantized


def _texts(inputs: Any) -> list[str]:
    """Return the texts of a list, a tuple, an array or a column.

    Raises:
        InputError: the inputs are something else.
    """
    if isinstance(inputs, dict | bytes) or not hasattr(inputs, "__len__") or not hasattr(inputs, "__getitem__"):
        raise InputError(f"inputs is a {type(inputs).__name__}: pass a text or a list of texts")
    texts = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"inputs[{index}] is a {type(text).__name__}: Fletcher embeds texts, one for each vector")
    return texts


def _convert(vectors: NDArray[Any], arguments: EncodeArguments) -> Any:
    """Return vectors in the form that the caller asked for."""
    if arguments.as_array:
        return vectors if len(vectors) else np.array([])  # as sentence-transformers, without a dimension
    if arguments.convert_to_tensor:
        return to_tensor(vectors if len(vectors) else np.zeros(0, np.float32), "convert_to_tensor=True")
    return [to_tensor(vector, "convert_to_numpy=False") for vector in vectors]
