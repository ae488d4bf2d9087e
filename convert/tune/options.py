"""Options of training: those of every method, and those of one. The module imports no large package: `--help` needs it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from fletcher.quantize.recipe import DEFAULT_RECIPE
from fletcher.runtime.errors import OptionError
from fletcher.runtime.options.struct import Options

__all__ = ["ContrastiveOptions", "DistilOptions", "OutputOptions", "SplitOptions", "TrainingOptions"]


class SplitOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the split into training, validation and test."""

    PANEL: ClassVar[str | None] = "Held-out data"

    held_out: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Share of the data that is not trained on: one half validates, the other half is the test.",
        ),
    ] = 0.1
    most_held_out: Annotated[int, Meta(ge=20, description="Largest number of examples that are not trained on.")] = 2000
    duplicate_cosine: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Smallest cosine of near-duplicates, by the model before training. They are kept on one side of the "
            "split.",
        ),
    ] = 0.95


class TrainingOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the training itself."""

    PANEL: ClassVar[str | None] = "Training"

    epochs: Annotated[float, Meta(gt=0, description="Number of passes over the training data.")] = 1.0
    steps: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Number of steps, which replaces --epochs. Default: as many as the epochs have."),
    ] = None
    batch_size: Annotated[int, Meta(ge=2, description="Examples of a step.")] = 64
    mini_batch_size: Annotated[
        int,
        Meta(
            ge=1,
            description="Examples that are in memory at the same time. A contrastive batch that is larger is computed in "
            "parts with the same gradients (GradCache), of texts of similar length.",
        ),
    ] = 16
    learning_rate: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Largest learning rate. Default: 1e-4 for contrastive with a hidden size up to 384, 2e-5 with a "
            "larger one or a reranker, 2e-4 with --lora or a student, 2e-5 for qat."
        ),
    ] = None
    warmup: Annotated[float, Meta(ge=0, lt=1, description="Share of the steps in which the learning rate rises.")] = 0.1
    weight_decay: Annotated[float, Meta(ge=0, description="Decay of weights at each step (AdamW).")] = 0.01
    max_tokens: Annotated[
        Annotated[int, Meta(ge=3)] | None,
        Meta(
            description="Tokens of the longest text in training; longer texts are cut. Default: the model's longest input, "
            "at most 256.",
        ),
    ] = None
    evaluations: Annotated[
        int, Meta(ge=1, description="Number of validations, each of which writes a checkpoint of the training.")
    ] = 10
    patience: Annotated[
        int, Meta(ge=0, description="Validations without a better result after which the training stops. 0: never.")
    ] = 3
    seed: Annotated[int, Meta(ge=0, description="Seed of the split, of the order and of dropout.")] = 0


class OutputOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the artifacts that are written after the training."""

    PANEL: ClassVar[str | None] = "Artifacts"

    recipe: Annotated[
        str,
        Meta(
            description="Recipe that quantizes the tuned model: built-in, a TOML file, or none.",
            extra={"metavar": "NAME"},
        ),
    ] = DEFAULT_RECIPE
    verify: Annotated[
        bool, Meta(description="Compare the tuned artifact with its checkpoint in sentence-transformers.")
    ] = True


class ContrastiveOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of contrastive training."""

    PANEL: ClassVar[str | None] = "Loss"

    scored_loss: Annotated[
        Literal["cosent", "angle"], Meta(description="Loss of pairs with scores: cosent or angle.")
    ] = "cosent"
    scale: Annotated[float, Meta(gt=0, description="Factor of the cosines in the loss, the inverse temperature.")] = (
        20.0
    )
    num_negatives: Annotated[
        int,
        Meta(ge=0, description="Hard negatives of each example that are used; 0 uses none. The data may have fewer."),
    ] = 3
    dimensions: Annotated[
        str | None,
        Meta(
            description="Shorter lengths to train for at the same time (Matryoshka), separated by commas. Default: none.",
            extra={"metavar": "N,N"},
        ),
    ] = None
    lora: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Rank of LoRA matrices, which are trained instead of all weights, and then added to them. "
            "Default: all weights are trained."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            lengths = self.lengths
        except ValueError:
            raise OptionError("dimensions", f"{self.dimensions!r}: write whole numbers separated by commas") from None
        if any(length < 1 for length in lengths):
            raise OptionError("dimensions", f"{self.dimensions!r}: a length must be at least 1")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Shorter lengths, the longest first."""
        parts = (self.dimensions or "").split(",")
        return tuple(sorted({int(part) for part in parts if part.strip()}, reverse=True))


class DistilOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of distillation. One of `layers`, `student` and `reranker` is needed."""

    PANEL: ClassVar[str | None] = "Student"

    layers: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Number of the student's layers, which begin as layers of the checkpoint. Default: all."),
    ] = None
    student: Annotated[
        str | None,
        Meta(
            description="Checkpoint of the student, with any number of dimensions. Default: the checkpoint itself.",
            extra={"metavar": "SOURCE"},
        ),
    ] = None
    reranker: Annotated[
        str | None,
        Meta(
            description="Artifact or checkpoint of a reranker whose scores are learned, from queries with texts. Default: "
            "the checkpoint's vectors are learned.",
            extra={"metavar": "DIR|SOURCE"},
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is None and self.student is None and self.reranker is None:
            raise OptionError(
                "layers", "choose a student: fewer --layers, another --student, or the scores of a --reranker"
            )
        if self.student is not None and self.layers is not None:
            raise OptionError("layers", "--layers and --student are two kinds of students: choose one")
