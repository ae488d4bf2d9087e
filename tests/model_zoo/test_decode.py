"""Decoding of JSON and TOML: invalid input raises the same exception with every supported release of msgspec."""

from __future__ import annotations

import msgspec
import pytest

from fletcher.model_zoo.decode import decode_json, decode_toml


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize("data", [b'{"x": 1}', '{"x": 1}'])
def test_json_becomes_the_type(data: bytes | str) -> None:
    assert decode_json(data, Point) == Point(1)
    assert decode_json(data, object) == {"x": 1}


@pytest.mark.parametrize("data", [b"x = 1", "x = 1"])
def test_toml_becomes_the_type(data: bytes | str) -> None:
    assert decode_toml(data, Point) == Point(1)
    assert decode_toml(data, object) == {"x": 1}


@pytest.mark.parametrize("data", [b"\xff", b'{"x": "\xff"}', b'{"\xff": 1, "x": 1}', b"x = 1 # \xff"])
@pytest.mark.parametrize("decode", [decode_json, decode_toml])
@pytest.mark.parametrize("kind", [Point, dict, object])
def test_bytes_that_are_not_utf8_are_a_decode_error(decode: type, data: bytes, kind: type) -> None:
    with pytest.raises(msgspec.DecodeError, match=r"is not UTF-8: .*0xff"):
        decode(data, kind)


def test_deep_nesting_is_a_decode_error() -> None:
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode_json(b"[" * 100_000, object)
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode_toml(b"x = " + b"[" * 100_000, object)


def test_a_value_of_another_type_is_a_validation_error_that_names_it() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.x"):
        decode_json(b'{"x": "one"}', Point)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.x"):
        decode_toml(b'x = "one"', Point)
