"""Further outputs of BGE-M3: a weight for each token, and a vector for each token, from the last hidden states.

A token's weight is relu(state · weight + bias), `token_weights` (tokens, 1). A token's vector is a linear map of its state,
scaled to L2 norm 1, `token_vectors` (tokens, width). The runtime takes the largest weight of each token id, and leaves out
the vector of the first token, as the authors' code does.

Source: FlagEmbedding, `EncoderOnlyEmbedderM3ModelForInference.forward` and `EncoderOnlyEmbedderM3Runner.get_model`.
"""

from __future__ import annotations

import dataclasses

from fletcher.model_zoo.card import ModelCard, TokenHeads
from fletcher.model_zoo.sentence_transformers.token_heads import TOKEN_HEAD_FILES
from fletcher.model_zoo.sources.lfs import is_pointer, pointer_message
from fletcher.runtime.artifact.manifest import TOKEN_WEIGHTS
from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture, Dense, Normalize, TokenOutput
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Linear, TensorReader
from ..checkpoint.weights.stored import StoredTensor
from ..checkpoint.weights.torch_file import read_torch_file

__all__ = ["add_token_outputs", "read_token_head_tensors"]


def add_token_outputs(checkpoint: Checkpoint, card: ModelCard, architecture: Architecture) -> Architecture:
    """Return the architecture with the further outputs that the card names.

    Raises:
        CheckpointError: a file is missing or damaged, holds something else than tensors, or does not fit the encoder.
    """
    if not isinstance(card.token_heads, TokenHeads):
        return architecture
    tensors = read_token_head_tensors(checkpoint)
    hidden = architecture.hidden_size
    stored = tensors.get("colbert_linear.weight")
    width = stored.shape[0] if stored is not None and len(stored.shape) == 2 else hidden
    reader = TensorReader(dataclasses.replace(checkpoint, tensors=tensors), prefixes=())
    weights = Dense(reader.linear("sparse_linear", hidden, 1), "relu")
    vectors: Linear = reader.linear("colbert_linear", hidden, width)
    reader.finish()
    outputs = (
        TokenOutput(TOKEN_WEIGHTS, 1, (weights,)),
        TokenOutput("token_vectors", width, (Dense(vectors, "identity"), Normalize())),
    )
    return dataclasses.replace(architecture, token_outputs=outputs)


def read_token_head_tensors(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Return the tensors of both files as `FILE.NAME`, such as `sparse_linear.weight`.

    Raises:
        CheckpointError: a file is missing or damaged, or holds something else than tensors; no code of it is run.
    """
    tensors: dict[str, StoredTensor] = {}
    for name in TOKEN_HEAD_FILES:
        file = checkpoint.folder / name
        if not file.is_file():
            raise CheckpointError(
                f"{checkpoint.folder} lacks {name}, the weights of an output that its card names: fetch it again, or convert "
                "the folder itself for the dense vectors alone"
            )
        if is_pointer(file):
            raise CheckpointError(pointer_message(file))
        for tensor in read_torch_file(file):
            named = dataclasses.replace(tensor, name=f"{file.stem}.{tensor.name}")
            tensors[named.name] = named
    return tensors
