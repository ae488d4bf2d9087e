"""Reading of recipes, and errors of invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.quantize.recipe import SCHEMES, Recipe, builtin_recipes, load_recipe
from fletcher.runtime.errors import InputError


def test_every_scheme_has_a_builtin_recipe() -> None:
    recipes = builtin_recipes()
    assert {recipe.scheme for recipe in recipes.values()} == set(SCHEMES)
    assert all(name == recipe.name and recipe.description for name, recipe in recipes.items())


def test_mixed_and_the_default_do_not_use_a_scale_of_the_batch() -> None:
    for name in ("int8-per-token", "mixed"):
        assert load_recipe(name).scheme_of("layers.5.feed_forward.up") == "int8-per-token"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nscheme = "w4"\nblok = 32', "blok"),
        ('name = "x"\nscheme = "w5"', "w5"),
        ('name = "x"\nscheme = "w4"\nblock = 33', "block"),
        ('name = "../x"\nscheme = "w4"', "name"),
        ('name = "x"', "scheme"),
        ("name = ", "not a recipe"),
        ('name = "x"\nscheme = "mixed"', "exclude"),
        ('name = "x"\nscheme = "w4"\ntarget = "cuda"', "int8-static"),
    ],
)
def test_invalid_recipes_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(file)


def test_the_error_of_an_unknown_name_lists_the_recipes() -> None:
    with pytest.raises(InputError, match="int8-per-token"):
        load_recipe("int9")


def test_exclusion_precedes_overrides_and_the_first_override_counts() -> None:
    recipe = Recipe(name="x", scheme="mixed", exclude=("layers.0.*",), overrides={"*.down": "w8", "layers.*": "fp16"})
    assert recipe.scheme_of("layers.0.feed_forward.down") == "fp32"
    assert recipe.scheme_of("layers.1.feed_forward.down") == "w8"
    assert recipe.scheme_of("layers.1.feed_forward.up") == "fp16"
    assert recipe.scheme_of("embeddings.projection") == "int8-per-token"
