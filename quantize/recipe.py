"""`Recipe`: describes the quantization of a graph, as TOML. The module knows no graph."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, get_args

import msgspec

from fletcher.model_zoo.decode import decode_toml
from fletcher.runtime.errors import InputError

__all__ = [
    "DEFAULT_RECIPE",
    "FOLDER",
    "SCHEMES",
    "MatrixScheme",
    "RangeMethod",
    "Recipe",
    "Scheme",
    "builtin_recipes",
    "load_recipe",
]

#: Folder of the built-in recipes.
FOLDER = Path(__file__).parent / "recipes"

#: Built-in recipe that is used unless another one is named.
DEFAULT_RECIPE: Final = "int8-per-token"

MatrixScheme = Literal["int8-per-token", "int8-static", "int8-dynamic", "w8", "w4", "fp16", "bf16", "fp32"]
Scheme = Literal["int8-per-token", "int8-static", "int8-dynamic", "w8", "w4", "fp16", "bf16", "mixed"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

#: Schemes of the targets that do not take all of them.
TARGET_SCHEMES: Mapping[str, tuple[Scheme, ...]] = MappingProxyType(
    {"openvino": ("int8-static", "w8"), "cuda": ("int8-static",), "tensorrt": ("int8-static",), "coreml": ("w8",)}
)

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Recipe`: describes the quantization of a graph.

    Matrices have the names that `graph.matrices.matrices` lists. A pattern is a shell pattern (`layers.*.down`).

    Attributes:
        name: name of the recipe, and of the precision in the variant's name, `cpu-NAME`.
        scheme: scheme of every matrix without an override. `mixed` is `int8-per-token` with overrides or with columns in
            float32.
        description: one line of text.
        target: target of the graph. `openvino`, `cuda` and `tensorrt` take `int8-static` as typed Q/DQ nodes; `openvino`
            and `coreml` take `w8` as bytes with a scale per column, which CoreML's graphs widen when they are loaded.
        exclude: patterns of matrices, and `embeddings.word`, that stay in float32.
        overrides: other schemes by pattern; the first pattern that matches applies.
        block: elements that share a scale (`w8`, `w4`), a power of two.
        accuracy_level: accuracy level of MatMulNBits: 4 computes in int8, 1 in float32.
        asymmetric: whether weight blocks have a zero point (`w4`), and whether activations with a lower bound, as Gelu's
            have, use all 256 steps (`int8-per-token`).
        search: whether weight scales are those of the least squared error, instead of the largest element's.
        calibration: method that chooses the range of activations (`int8-static`).
        percentile: share of the activations' elements inside the range, in percent (`calibration = "percentile"`).
        smoothquant: share of the activations' spread that moves into the weights, 0 to 1; None moves nothing
            (`int8-static`, `int8-per-token`).
        bias_correction: whether the mean error of quantization on the calibration texts is subtracted.
        outliers: columns of each product's activations that are multiplied in float32, those with the largest elements on
            the calibration texts (`int8-static`, `int8-per-token`).
        embeddings: type of the word table: `int8` has a scale per row, `int4` stores two elements per byte.
        reduced_range: whether weights have 7 bits, for x86 processors without VNNI, whose U8S8 product saturates.
        min_cosine: smallest allowed cosine of the canary; None is the scheme's default.
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
    calibration: RangeMethod = "minmax"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    smoothquant: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    bias_correction: bool = False
    outliers: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    embeddings: Literal["fp32", "int8", "int4"] = "fp32"
    reduced_range: bool = False
    min_cosine: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None

    @property
    def default(self) -> MatrixScheme:
        """Scheme of a matrix that no pattern matches."""
        return "int8-per-token" if self.scheme == "mixed" else self.scheme

    def scheme_of(self, matrix: str) -> MatrixScheme:
        """Return the scheme of one matrix."""
        if any(fnmatchcase(matrix, pattern) for pattern in self.exclude):
            return "fp32"
        for pattern, scheme in self.overrides.items():
            if fnmatchcase(matrix, pattern):
                return scheme
        return self.default

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every pattern that must match a matrix."""
        return (*self.exclude, *self.overrides)


def builtin_recipes() -> dict[str, Recipe]:
    """Return the built-in recipes by name."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Load a built-in recipe, or a user's own.

    Args:
        name: name of a built-in recipe, or path of a TOML file.

    Raises:
        InputError: the recipe or the file does not exist, or its content is not a recipe.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if str(name) in names:
        return _read(FOLDER / f"{name}.toml")
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise InputError(f"there is no recipe {str(name)!r}: use {', '.join(names)}, or the path of a TOML file")
    return _read(path)


def _read(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: the file cannot be read, or its content is not a recipe.
    """
    try:
        recipe = decode_toml(path.read_bytes(), Recipe)
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        fields = ", ".join(Recipe.__struct_fields__)
        raise InputError(f"{path} is not a recipe: {error}. The fields of a recipe are {fields}") from error
    if recipe.scheme == "mixed" and not recipe.patterns and not recipe.outliers:
        raise InputError(f"{path} is a mixed recipe: set at least one of `exclude`, `overrides` and `outliers`")
    schemes = TARGET_SCHEMES.get(recipe.target, SCHEMES)
    if recipe.target != "cpu" and (recipe.scheme not in schemes or recipe.overrides):
        raise InputError(
            f"{path} asks for {recipe.scheme} on the target {recipe.target}, which takes only {' or '.join(schemes)}, "
            "without overrides: omit the target"
        )
    if recipe.target in ("tensorrt", "coreml") and recipe.embeddings != "fp32":
        raise InputError(
            f'{path} asks for {recipe.embeddings} embeddings on the target {recipe.target}: set embeddings = "fp32", which '
            "does not change them"
        )
    return recipe
