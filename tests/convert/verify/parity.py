"""Parity with HuggingFace: a tiny random model in Fletcher and in transformers, text by text.

A family's test makes a transformers model, passes it to `Parity.of`, and calls `check`. The expected vectors always come from
transformers, in float32, with eager attention, one text at a time: padding cannot affect them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.convert.graph.builder import write_weights
from fletcher.convert.heads.pooled import read_modules
from fletcher.convert.targets.cpu.emit import emit_cpu
from fletcher.model_zoo.card import ModelCard, PoolingMode
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.session.session import Session

__all__ = [
    "BERT_TOKENS",
    "ROBERTA_TOKENS",
    "Parity",
    "SpecialTokens",
    "load",
    "make_card",
    "randomize",
    "save_checkpoint",
    "save_tokenizer",
]

Rows = Sequence[tuple[int, ...]]
Vectors = NDArray[np.float32]

#: A vector has one part per mode, so that it depends on every token of a text, and on the first and the last one separately.
POOLING: tuple[PoolingMode, ...] = ("cls", "mean", "max", "lasttoken")
BATCHES = (1, 2, 3, 7)
MIXED = (3, 1, 9, 2, 17, 5, 12)  # lengths of seven texts; the harness adds the longest one possible

#: Largest difference of an element from transformers, and from its value in another batch. The vectors are not normalized:
#: the absolute values of their elements are about 1 to 10.
TOLERANCE = 1e-5
BATCH_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`SpecialTokens`: ids and names of the tokens around a text.

    Attributes:
        names: first entries of the vocabulary, in order of their ids.
        start: id of the first token.
        end: id of the last token.
        pad: id of padding.
    """

    names: tuple[str, ...]
    start: int
    end: int
    pad: int


BERT_TOKENS = SpecialTokens(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), start=2, end=3, pad=0)
ROBERTA_TOKENS = SpecialTokens(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), start=0, end=2, pad=1)


def randomize(model: Any, seed: int = 0, std: float = 0.2, norms: float = 1.0) -> Any:
    """Fill a model with weights that all change the vectors, and prepare it for inference with eager attention.

    Every bias is nonzero, every norm's weight differs from 1, all rows of every table differ, including the padding row.

    Args:
        model: model of transformers.
        seed: seed of the random numbers.
        std: standard deviation of tables, products and biases.
        norms: mean of the norms' weights; 0 for families whose factor is 1 + weight.

    Returns:
        The model.
    """
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter).normal_(0.0, std, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(norms + noise if is_norm else noise)
    return model.eval()


def save_checkpoint(model: Any, folder: Path, tokens: SpecialTokens = BERT_TOKENS, **options: Any) -> Path:
    """Write `config.json`, safetensors and a `tokenizer.json` whose words are `w0`, `w1`, ….

    Args:
        model: model to save.
        folder: folder of the checkpoint.
        tokens: the tokenizer's special tokens.
        options: options of `save_pretrained`, such as `max_shard_size`.

    Returns:
        The folder.
    """
    model.save_pretrained(folder, **options)
    save_tokenizer(folder, model.config.vocab_size, tokens)
    return folder


def save_tokenizer(folder: Path, size: int, tokens: SpecialTokens = BERT_TOKENS) -> None:
    """Write a `tokenizer.json` with `size` tokens: the special ones, then `w0`, `w1`, ….

    Args:
        folder: folder of the checkpoint.
        size: size of the vocabulary.
        tokens: special tokens.
    """
    names = [*tokens.names, *(f"w{index}" for index in range(size - len(tokens.names)))]
    unknown = next(name for name in tokens.names if "unk" in name.lower())
    tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    start, end = tokens.names[tokens.start], tokens.names[tokens.end]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, tokens.start), (end, tokens.end)]
    )
    tokenizer.add_special_tokens(list(tokens.names))
    tokenizer.save(str(folder / "tokenizer.json"))
    # A tokenizer of the family's class would read only the vocabulary.
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def make_card(folder: Path, hidden: int, longest: int, **changes: Any) -> ModelCard:
    """Return a card for a tiny checkpoint: `POOLING`, not normalized.

    Args:
        folder: the checkpoint, for its `model_type`.
        hidden: width of a token vector.
        longest: largest number of tokens of a text.
        changes: fields that differ.
    """
    fields: dict[str, Any] = {
        "name": "tiny",
        "family": str(Checkpoint.open(folder).config.get("model_type")),
        "dimension": hidden * len(changes.get("pooling", POOLING)),
        "max_tokens": longest,
        "pooling": POOLING,
        "normalize": False,
        "license": "Apache-2.0",
    }
    return ModelCard(**(fields | changes))


def load(folder: Path, card: ModelCard) -> Session:
    """Describe, emit and load a checkpoint, as `export` does between fetching and the canary.

    Args:
        folder: the checkpoint; the graph is written into its subfolder `graph`.
        card: pooling and width.

    Raises:
        CheckpointError: Fletcher refuses the checkpoint.
    """
    checkpoint = Checkpoint.open(folder)
    architecture = describe(checkpoint)
    modules = read_modules(checkpoint, card, architecture.hidden_size)
    graph = emit_cpu(dataclasses.replace(architecture, modules=modules), card.dimension)
    output = folder / "graph"
    output.mkdir(exist_ok=True)
    graph.save(output / "cpu.onnx", write_weights(output / "weights.safetensors", graph.weights.values()))
    return MlasSession(output / "cpu.onnx", threads=1)


@dataclasses.dataclass(frozen=True)
class Parity:
    """`Parity`: a model in transformers and in Fletcher.

    Attributes:
        model: encoder of transformers.
        session: session of Fletcher.
        tokens: special tokens.
        vocabulary: size of the vocabulary; all ids are smaller.
        longest: largest number of tokens of a text.
        sides: sides on which transformers may pad. With "left" and `absolute`, it gets position ids.
        absolute: whether transformers also counts positions over padding if it gets no position ids.
        tolerance: largest difference of an element from transformers.
        batch_tolerance: largest difference of an element from its value in another batch.
        extra: additional inputs of transformers' model by the shape of `input_ids`, such as token types.
        known: transformers' vectors of texts that were computed before, by their ids.
    """

    model: Any
    session: Session
    tokens: SpecialTokens
    vocabulary: int
    longest: int
    sides: tuple[Literal["left", "right"], ...] = ("right", "left")
    absolute: bool = True
    tolerance: float = TOLERANCE
    batch_tolerance: float = BATCH_TOLERANCE
    extra: Callable[[tuple[int, int]], dict[str, torch.Tensor]] = lambda shape: {}
    known: dict[tuple[int, ...], Vectors] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Any,
        folder: Path,
        longest: int,
        tokens: SpecialTokens = BERT_TOKENS,
        *,
        encoder: Any = None,
        **options: Any,
    ) -> Parity:
        """Save a model and load it in Fletcher.

        Args:
            model: model of transformers with random weights, see `randomize`; it may have a head.
            folder: folder of the checkpoint.
            longest: largest number of tokens of a text.
            tokens: special tokens.
            encoder: the model's encoder, if the model has a head.
            options: other fields of `Parity`.
        """
        save_checkpoint(model, folder, tokens)
        session = load(folder, make_card(folder, model.config.hidden_size, longest))
        return cls(encoder or model, session, tokens, model.config.vocab_size, longest, **options)

    def rows(self, lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
        """Return random texts of the given lengths, with start and end tokens if they fit; no text has a padding token."""
        generator = np.random.default_rng([seed, *lengths])
        texts = []
        for length in lengths:
            ids = generator.integers(len(self.tokens.names), self.vocabulary, length).tolist()
            if length > 1:
                ids[0], ids[-1] = self.tokens.start, self.tokens.end
            texts.append(tuple(ids))
        return texts

    def fletcher(self, rows: Rows) -> Vectors:
        """Return Fletcher's vectors of one batch, (texts, dimension)."""
        vectors = self.session.run(Encodings.from_lists(rows))
        assert np.isfinite(vectors).all(), "NaN or infinity"
        return vectors

    def huggingface(self, rows: Rows) -> Vectors:
        """Return transformers' vectors, one text at a time, (texts, dimension)."""
        return np.stack([self._alone(row) for row in rows])

    def padded(self, rows: Rows, side: Literal["left", "right"], width: int) -> Vectors:
        """Return transformers' vectors of one padded batch.

        Args:
            rows: the texts.
            side: side of the padding, "left" or "right".
            width: tokens per row of the rectangle.
        """
        ids = torch.full((len(rows), width), self.tokens.pad)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            place = slice(width - len(row), None) if side == "left" else slice(len(row))
            ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, **self.extra((len(rows), width))}
        if side == "left" and self.absolute:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            hidden = self.model(**inputs).last_hidden_state
        return np.stack([_pool(hidden[index][mask[index].bool()]) for index in range(len(rows))])

    def check(self) -> None:
        """Run every check of this class.

        Raises:
            AssertionError: a check fails.
        """
        self.check_batches()
        self.check_padding()
        self.check_company()

    def check_batches(self) -> None:
        """Check that every batch size with every length agrees with transformers."""
        mixed = tuple(min(length, self.longest) for length in MIXED)
        for lengths in ((1,) * 7, (2,) * 7, (7,) * 7, (self.longest,) * 7, mixed, (self.longest, *mixed[1:])):
            rows = self.rows(lengths)
            for batch in BATCHES:
                _assert_close(
                    self.fletcher(rows[:batch]), self.huggingface(rows[:batch]), self.tolerance, f"{batch} of {lengths}"
                )

    def check_padding(self) -> None:
        """Check that transformers' padded batches agree with Fletcher, which has no padding: both mask the same tokens."""
        rows = self.rows([min(length, self.longest) for length in MIXED])
        vectors = self.fletcher(rows)
        for side in self.sides:
            _assert_close(vectors, self.padded(rows, side, self.longest), self.tolerance, f"padding on the {side}")

    def check_sensitivity(self, *without_effect: str) -> None:
        """Check that every parameter changes the vectors, so that `check_batches` detects a parameter that Fletcher omits.

        Args:
            without_effect: ends of names of parameters without effect, such as a pooler's. A key's bias is one of them: it
                adds the same number to every score of a query, which softmax cancels.
        """
        rows = self.rows([7, 5])
        expected = np.stack([_pool(self._hidden(row)) for row in rows])
        for name, parameter in self.model.named_parameters():
            if name.endswith(without_effect):
                continue
            original = parameter.data.clone()
            parameter.data.zero_()
            moved = float(np.abs(np.stack([_pool(self._hidden(row)) for row in rows]) - expected).max())
            parameter.data.copy_(original)
            assert moved > 100 * TOLERANCE, f"without {name} the vectors move by {moved:.3g} only"

    def check_company(self) -> None:
        """Check that a text's vector does not depend on other texts of its batch, on their order, or on padding."""
        rows = self.rows([min(length, self.longest - 1) for length in MIXED])
        together = self.fletcher(rows)
        for row, vector in zip(rows, together, strict=True):
            _assert_close(self.fletcher([row])[0], vector, self.batch_tolerance, f"alone, of {len(row)} tokens")
        order = np.random.default_rng(0).permutation(len(rows))
        _assert_close(
            self.fletcher([rows[index] for index in order]), together[order], self.batch_tolerance, "permuted"
        )
        longer = [*rows, *self.rows([self.longest] * 2, seed=1)]
        _assert_close(self.fletcher(longer)[: len(rows)], together, self.batch_tolerance, "beside longer texts")

    def _alone(self, row: tuple[int, ...]) -> Vectors:
        if row not in self.known:
            self.known[row] = _pool(self._hidden(row))
        return self.known[row]

    def _hidden(self, row: tuple[int, ...]) -> torch.Tensor:
        """Return transformers' token vectors of one text, (tokens, hidden)."""
        with torch.no_grad():
            states: torch.Tensor = self.model(
                input_ids=torch.tensor([row]), **self.extra((1, len(row)))
            ).last_hidden_state
        return states[0]


def _pool(hidden: torch.Tensor) -> Vectors:
    """Concatenate the modes of `POOLING`, computed from the vectors of a text's tokens, (tokens, hidden)."""
    parts = (hidden[0], hidden.mean(0), hidden.amax(0), hidden[-1])
    return torch.cat(parts).numpy()


def _assert_close(ours: Vectors, theirs: Vectors, tolerance: float, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, not {theirs.shape}"
    assert np.isfinite(theirs).all(), f"{what}: the reference has NaN or infinity"
    difference = float(np.abs(ours - theirs).max())
    assert difference <= tolerance, f"{what}: max abs {difference:.3g} exceeds {tolerance:g}"
