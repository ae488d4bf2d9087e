"""Recipes: how an artifact's graph is to be quantized, as TOML. They know nothing of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import msgspec

from fletcher.runtime.errors import InputError

__all__ = ["FOLDER", "SCHEMES", "Calibration", "MatrixScheme", "Recipe", "Scheme", "builtin_recipes", "load_recipe"]

#: Where the built-in recipes lie.
FOLDER = Path(__file__).parent / "recipes"

MatrixScheme = Literal["int8-per-token", "int8-static", "int8-dynamic", "w8", "w4", "fp16", "bf16", "fp32"]
Scheme = Literal["int8-per-token", "int8-static", "int8-dynamic", "w8", "w4", "fp16", "bf16", "mixed"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

#: By target, the one scheme that it takes.
ALONE: Mapping[str, Scheme] = MappingProxyType(
    {"openvino": "int8-static", "cuda": "int8-static", "tensorrt": "int8-static", "coreml": "w8"}
)

Calibration = Literal["minmax", "percentile", "entropy", "mse"]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to quantize. Matrices are named as `matrices.matrices` names them; patterns are a shell's (`layers.*.down`).

    Attributes:
        name: also the precision's name in the variant, `cpu-NAME`.
        scheme: of every matrix that nothing else is said of. `mixed` is `int8-per-token`, with overrides or
            columns in float32.
        description: a line for people.
        target: what the graph is for; `openvino`, `cuda` and `tensorrt` take `int8-static` as typed Q/DQ nodes,
            `coreml` takes `w8` as bytes that are widened at load.
        exclude: patterns of matrices, and `embeddings.word`, that stay float32.
        overrides: by pattern, another scheme; the first that fits counts.
        block: elements that share a scale (`w8`, `w4`), a power of two.
        accuracy_level: of MatMulNBits: 4 computes in int8, 1 in float32.
        asymmetric: whether weight blocks have a zero point (`w4`), and whether activations that are bounded below, as Gelu's
            are, use all 256 steps (`int8-per-token`).
        search: whether weight scales are searched for the least squared error instead of taken from the largest element.
        calibration: how an activation's range is taken from what was seen (`int8-static`).
        percentile: share of an activation's elements inside its range, in percent.
        smoothquant: how much of the activations' spread moves into the weights, 0 to 1; None moves none (`int8-static`,
            `int8-per-token`).
        bias_correction: whether the mean error that quantization causes on the calibration texts is taken off.
        outliers: columns of each product's activations, those with the largest elements on the calibration texts, that are
            multiplied in float32 (`int8-static`, `int8-per-token`).
        embeddings: of the word table: `int8` has a scale a row, `int4` two elements a byte.
        reduced_range: whether weights keep to 7 bits, for x86 processors without VNNI, whose U8S8 product saturates.
        min_cosine: the canary's smallest cosine; None is what the scheme allows.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    scheme: Scheme
    description: str = ""
    target: Literal["cpu", "openvino", "cuda", "tensorrt", "coreml"] = "cpu"
    exclude: tuple[str, ...] = ()
    overrides: Mapping[str, MatrixScheme] = {}
    block: Literal[16, 32, 64, 128, 256] = 32
    accuracy_level: Literal[1, 4] = 4
    asymmetric: bool = False
    search: bool = False
    calibration: Calibration = "minmax"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    smoothquant: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    bias_correction: bool = False
    outliers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    embeddings: Literal["fp32", "int8", "int4"] = "fp32"
    reduced_range: bool = False
    min_cosine: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None

    @property
    def default(self) -> MatrixScheme:
        """The scheme of a matrix of which nothing else is said."""
        return "int8-per-token" if self.scheme == "mixed" else self.scheme

    def scheme_of(self, matrix: str) -> MatrixScheme:
        """The scheme of one matrix."""
        if any(fnmatchcase(matrix, pattern) for pattern in self.exclude):
            return "fp32"
        for pattern, scheme in self.overrides.items():
            if fnmatchcase(matrix, pattern):
                return scheme
        return self.default

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every pattern that must fit a matrix."""
        return (*self.exclude, *self.overrides)


def builtin_recipes() -> dict[str, Recipe]:
    """The recipes that come with Fletcher, by name."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}


def load_recipe(name: str | Path) -> Recipe:
    """A built-in recipe, or one that a user wrote.

    Args:
        name: of a built-in recipe, or a TOML file's path.

    Raises:
        InputError: there is no such recipe or file, or it says something that no recipe has.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if str(name) in known:
        return _read(FOLDER / f"{name}.toml")
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise InputError(f"there is no recipe {str(name)!r}: use {', '.join(known)}, or a TOML file of your own")
    return _read(path)


def _read(path: Path) -> Recipe:
    """
    Raises:
        InputError: the file cannot be read or is no recipe.
    """
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        fields = ", ".join(Recipe.__struct_fields__)
        raise InputError(f"{path} is no recipe: {error}. A recipe has {fields}") from error
    if recipe.scheme == "mixed" and not recipe.patterns and not recipe.outliers:
        raise InputError(
            f"{path} is a mixed recipe without `exclude`, `overrides` and `outliers`: say what differs, and how"
        )
    wanted = ALONE.get(recipe.target, recipe.scheme)
    if recipe.target != "cpu" and (recipe.scheme != wanted or recipe.overrides):
        raise InputError(
            f"{path} asks for {recipe.scheme} on the target {recipe.target}, which takes {wanted} alone, without overrides: "
            "leave the target out"
        )
    if recipe.target in ("tensorrt", "coreml") and recipe.embeddings != "fp32":
        raise InputError(
            f'{path} asks for {recipe.embeddings} embeddings on the target {recipe.target}: say embeddings = "fp32", which '
            "leaves them as they are"
        )
    return recipe
