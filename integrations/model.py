"""`open_model`: a model in this process or behind the address of a server, with the few calls that frameworks make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encoder, LoadOptions
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions

from .artifacts import find_artifact
from .remote import RemoteModel

__all__ = ["LocalModel", "Model", "Source", "open_model"]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model in this process. Safe to use from several threads.

    Attributes:
        encoder: the loaded model.
        owned: whether `close` closes the encoder.
    """

    encoder: Encoder
    owned: bool

    @property
    def name(self) -> str:
        """Name of the model's card."""
        return self.encoder.card.name

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.encoder.dimension

    def embed(self, texts: Sequence[str], input_type: str) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, (n, dimension).

        Raises:
            InputError: the model does not give vectors, or a text is not a valid Unicode string.
        """
        vectors: NDArray[np.float32] = self.encoder.embed(texts, EmbedOptions(input_type=input_type)).vectors
        return vectors

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each document for a query, float32, (n,).

        Raises:
            InputError: the model is not a reranker with one score, or a text is not a valid Unicode string.
        """
        if len(self.encoder.card.labels) > 1:
            labels = ", ".join(self.encoder.card.labels)
            raise InputError(f"{self.name} gives several scores for a pair of texts ({labels}): a ranking needs one")
        return self.encoder.score(query, documents).scores[:, 0]

    def close(self) -> None:
        """Close the encoder, if it is owned."""
        if self.owned:
            self.encoder.close()


#: A model for frameworks.
Model = LocalModel | RemoteModel

#: An artifact's folder, a name or a checkpoint; the address of a server; or a loaded model.
Source = str | Path | Encoder | Model


def open_model(
    source: Source,
    *,
    name: str | None = None,
    api_key: str | None = None,
    load: LoadOptions | None = None,
) -> Model:
    """Return a model.

    Args:
        source: a folder of an artifact or a checkpoint, a name of the zoo or a hub id, which is loaded here and converted
            first if it is not an artifact (`find_artifact`); an `http://` or `https://` address of a Fletcher server; an open
            `Encoder`, which the caller closes; or a model that this function returned.
        name: name of a served model. Default: the server's first one that fits.
        api_key: key of the server.
        load: options of loading.

    Raises:
        InputError: an option does not fit the source.
        FletcherError: the model cannot be converted or loaded.
    """
    if isinstance(source, LocalModel | RemoteModel):
        return source
    if isinstance(source, Encoder):
        return LocalModel(source, owned=False)
    if str(source).startswith(("http://", "https://")):
        if load is not None:
            raise InputError(f"load has options of loading, and {source} is a server, which has loaded its model")
        return RemoteModel(str(source), name, api_key)
    if name is not None or api_key is not None:
        raise InputError(f"name and api_key are for a server, and {source} is not an http:// or https:// address")
    return LocalModel(Encoder.load(find_artifact(source), load), owned=True)
