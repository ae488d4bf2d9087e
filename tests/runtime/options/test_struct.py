"""`Options`: structs check types and bounds when they are made, and their errors name the field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import numpy as np
import pytest
from msgspec import Meta

from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.options.embed import DTYPES, OVERFLOWS, EmbedFields, EmbedOptions, VectorFields
from fletcher.runtime.options.load import LoadFields, LoadOptions
from fletcher.runtime.options.struct import Options, fields_of


class Oven(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an oven."""

    degrees: Annotated[int, Meta(ge=0, lt=300, description="Temperature.")]
    mode: Annotated[Literal["fan", "grill"], Meta(description="Heat.")] = "fan"
    hours: Annotated[Annotated[float, Meta(gt=0, le=24)] | None, Meta(description="Time.")] = None
    light: Annotated[bool, Meta(description="Lamp.")] = False
    size: Annotated[int | str, Meta(description="Volume.")] = 0
    name: str = ""


class Kitchen(Oven, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an oven and one more option."""

    chairs: int = 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degrees": 300}, "degrees is 300: it must be a whole number, at least 0 and less than 300"),
        ({"degrees": -1}, "degrees is -1: it must be a whole number, at least 0 and less than 300"),
        ({"degrees": "1"}, "degrees is '1': it must be a whole number, at least 0 and less than 300"),
        ({"degrees": 1.5}, "degrees is 1.5: it must be a whole number, at least 0 and less than 300"),
        ({"degrees": True}, "degrees is True: it must be a whole number, at least 0 and less than 300"),
        ({"degrees": None}, "degrees is None: it must be a whole number, at least 0 and less than 300"),
        ({"mode": "steam"}, "mode is 'steam': use one of fan, grill"),
        ({"mode": None}, "mode is None: use one of fan, grill"),
        ({"hours": 0}, "hours is 0: it must be a number, more than 0 and at most 24"),
        ({"hours": 24.5}, "hours is 24.5: it must be a number, more than 0 and at most 24"),
        ({"hours": float("nan")}, "hours is nan: it must be a number, more than 0 and at most 24"),
        ({"hours": "1"}, "hours is '1': it must be a number, more than 0 and at most 24"),
        ({"light": 1}, "light is 1: it must be true or false"),
        ({"light": "yes"}, "light is 'yes': it must be true or false"),
        ({"size": 1.0}, "size is 1.0: it must be a whole number or text"),
        ({"size": None}, "size is None: it must be a whole number or text"),
        ({"name": 3}, "name is 3: it must be text"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Oven(**({"degrees": 100} | values))
    assert str(caught.value) == message
    assert caught.value.field == next(iter(values))
    assert isinstance(caught.value, InputError)


def test_values_at_the_bounds_are_taken() -> None:
    assert Oven(degrees=0, hours=24.0).hours == 24.0
    assert Oven(degrees=299, hours=1).degrees == 299
    assert Oven(degrees=1, mode="grill", light=True, size="big", name="a").mode == "grill"
    assert (Oven(degrees=1).hours, Oven(degrees=1).size) == (None, 0)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint32])
def test_integers_of_numpy_are_integers(kind: Any) -> None:
    oven = Oven(degrees=kind(7))
    assert oven == Oven(degrees=7)
    assert type(oven.degrees) is int  # so that `identity`, which journals contain, has Python's integers
    assert EmbedOptions(dimensions=kind(32)).identity == EmbedOptions(dimensions=32).identity
    with pytest.raises(OptionError, match="workers is 0"):
        LoadOptions(workers=np.int64(0))  # type: ignore[arg-type]


def test_options_cannot_change_and_come_by_keyword() -> None:
    oven = Oven(degrees=1)
    with pytest.raises(AttributeError):
        oven.degrees = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Oven(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="degrees"):
        Oven()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="wattage"):
        Oven(degrees=1, wattage=5)  # type: ignore[call-arg]
    assert hash(Oven(degrees=1)) == hash(oven)


def test_replace_changes_fields_and_checks_them() -> None:
    oven = Oven(degrees=100, light=True)
    assert oven.replace(degrees=200) == Oven(degrees=200, light=True)
    assert oven.replace() == oven
    with pytest.raises(OptionError, match="degrees is 300"):
        oven.replace(degrees=300)
    with pytest.raises(TypeError, match="wattage"):
        oven.replace(wattage=5)


def test_of_takes_the_fields_that_another_struct_shares() -> None:
    kitchen = Kitchen(degrees=50, mode="grill", chairs=2)
    oven = Oven.of(kitchen)
    assert type(oven) is Oven
    assert oven == Oven(degrees=50, mode="grill")
    assert Oven.of(kitchen, degrees=60) == Oven(degrees=60, mode="grill")
    assert Kitchen.of(oven, chairs=1) == Kitchen(degrees=50, mode="grill", chairs=1)
    assert EmbedOptions.of(VectorFields(dimensions=32), overflow="refuse") == EmbedOptions(
        dimensions=32, overflow="refuse"
    )
    with pytest.raises(OptionError, match="degrees is 300"):
        Oven.of(kitchen, degrees=300)


def test_fields_tell_their_type_bounds_and_default() -> None:
    fields = {field.name: field for field in fields_of(Oven)}
    assert list(fields) == ["degrees", "mode", "hours", "light", "size", "name"]
    assert (fields["degrees"].type, fields["degrees"].default) == (int, msgspec.NODEFAULT)
    assert (fields["degrees"].meta.ge, fields["degrees"].meta.lt, fields["degrees"].meta.description) == (
        0,
        300,
        "Temperature.",
    )
    assert fields["mode"].choices == ("fan", "grill")
    assert (fields["hours"].type, fields["hours"].choices) == (float | None, ())
    assert (fields["hours"].meta.gt, fields["hours"].meta.le, fields["hours"].meta.description) == (0, 24, "Time.")
    assert fields["name"].meta.description is None


@pytest.mark.parametrize(("fields", "struct"), [(LoadFields, LoadOptions), (EmbedFields, EmbedOptions)])
def test_keyword_arguments_are_the_fields_of_the_struct(fields: Any, struct: type[Options]) -> None:
    assert get_type_hints(fields) == {field.name: field.type for field in fields_of(struct)}
    assert not fields.__required_keys__


@pytest.mark.parametrize("struct", [LoadOptions, EmbedOptions])
def test_every_option_is_described_and_has_a_default(struct: type[Options]) -> None:
    assert all(field.meta.description for field in fields_of(struct))
    defaults = struct()
    assert {field.name: field.default for field in fields_of(struct)} == msgspec.structs.asdict(defaults)


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [("64MiB", 64 << 20), ("2GB", 2 * 10**9), (1 << 20, 1 << 20), ("1.5 kb", 1500), ("800000000", 800_000_000)],
)
def test_sizes_are_bytes_or_text(size: int | str, size_bytes: int) -> None:
    options = LoadOptions(cache=size, memory_limit=size)
    assert (options.cache_bytes, options.memory_limit_bytes) == (size_bytes, size_bytes)


@pytest.mark.parametrize("off", [0, "0"])
def test_zero_turns_the_cache_off_and_is_not_a_memory_limit(off: int | str) -> None:
    assert LoadOptions(cache=off).cache_bytes == LoadOptions().cache_bytes == 0
    with pytest.raises(OptionError, match=r"^memory_limit: .* is not a size") as caught:
        LoadOptions(memory_limit=off)
    assert caught.value.field == "memory_limit"
    assert LoadOptions().memory_limit_bytes is None


@pytest.mark.parametrize("field", ["cache", "memory_limit"])
@pytest.mark.parametrize("size", ["64MiX", "-1", -1, "", "MiB", "1e3"])
def test_what_is_not_a_size_is_refused(field: str, size: Any) -> None:
    with pytest.raises(OptionError, match=f"^{field}: .* is not a size: write bytes, or a number with KB") as caught:
        LoadOptions().replace(**{field: size})
    assert caught.value.field == field


def test_the_identity_that_journals_hold() -> None:
    assert EmbedOptions().identity == (
        "EmbedOptions(input_type=None, dimensions=None, dtype='float32', overflow='truncate', window_tokens=None, "
        "overlap_tokens=None, chunk_tokens=None, normalize=None)"
    )
    assert EmbedOptions(
        input_type="query",
        dimensions=32,
        dtype="int8",
        overflow="late",
        window_tokens=10,
        overlap_tokens=0,
        chunk_tokens=5,
        normalize=True,
    ).identity == (
        "EmbedOptions(input_type='query', dimensions=32, dtype='int8', overflow='late', window_tokens=10, "
        "overlap_tokens=0, chunk_tokens=5, normalize=True)"
    )


def test_the_identity_has_every_field() -> None:
    changed: dict[str, Any] = {
        "input_type": "query",
        "dimensions": 8,
        "dtype": "int8",
        "overflow": "refuse",
        "window_tokens": 9,
        "overlap_tokens": 1,
        "chunk_tokens": 3,
        "normalize": False,
    }
    assert changed.keys() == set(EmbedOptions.__struct_fields__)
    identities = {EmbedOptions(**{field: value}).identity for field, value in changed.items()}
    assert len(identities | {EmbedOptions().identity}) == len(changed) + 1


def test_the_choices() -> None:
    fields = {field.name: field for field in fields_of(EmbedOptions)}
    assert fields["overflow"].choices == OVERFLOWS == ("truncate", "truncate_left", "refuse", "windows", "late")
    assert fields["dtype"].choices == DTYPES == ("float32", "float16", "int8", "ubinary")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimensions": 0}, "dimensions is 0: it must be a whole number, at least 1"),
        ({"dimensions": 1 << 31}, "dimensions is 2147483648: it must be a whole number, at least 1"),
        ({"dtype": "float8"}, "dtype is 'float8': use one of float32, float16, int8, ubinary"),
        ({"overflow": "squeeze"}, "overflow is 'squeeze': use one of truncate, truncate_left, refuse, windows, late"),
        ({"window_tokens": 0}, "window_tokens is 0: it must be a whole number, at least 1"),
        ({"overlap_tokens": -1}, "overlap_tokens is -1: it must be a whole number, at least 0"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0: it must be a whole number, at least 1"),
        ({"normalize": "no"}, "normalize is 'no': it must be true or false"),
        ({"input_type": 3}, "input_type is 3: it must be text"),
    ],
)
def test_embed_options_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        EmbedOptions(**fields)
    assert str(caught.value).startswith(message)
    assert caught.value.field == next(iter(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workers": 0}, "workers is 0: it must be a whole number, at least 1"),
        ({"token_budget": 0}, "token_budget is 0: it must be a whole number, at least 1"),
        ({"min_cosine": 2}, "min_cosine is 2: it must be a number, at least 0 and at most 1"),
        ({"min_cosine": -0.1}, "min_cosine is -0.1: it must be a number, at least 0 and at most 1"),
        ({"allow_fallback": "yes"}, "allow_fallback is 'yes': it must be true or false"),
        ({"provider": None}, "provider is None: it must be text"),
        ({"variant": 1}, "variant is 1: it must be text"),
        ({"cache": 1.5}, "cache is 1.5: it must be a whole number or text"),
    ],
)
def test_load_options_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        LoadOptions(**fields)
    assert str(caught.value) == message
    assert caught.value.field == next(iter(fields))
