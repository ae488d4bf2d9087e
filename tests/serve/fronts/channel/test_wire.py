"""Frames of the channel between front and engine: what is written is read again, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fletcher.runtime import Encodings
from fletcher.serve.engine.terms import Terms
from fletcher.serve.fronts.channel.wire import (
    PREFIX,
    Cancel,
    Frame,
    ProtocolError,
    Rows,
    Values,
    decode_header,
    encode,
    read_prefix,
    rows_frame,
    rows_request,
    values_frame,
    values_of,
)


def parts(frame: Frame) -> tuple[bytes, memoryview]:
    """Return header and payload of a frame, as a reader finds them."""
    data = b"".join(frame)
    header, gap, payload = read_prefix(data)
    assert (PREFIX.size + header + gap) % 8 == 0
    assert len(data) == PREFIX.size + header + gap + payload
    begin = PREFIX.size + header + gap
    return data[PREFIX.size : PREFIX.size + header], memoryview(data)[begin:]


def message_of(encodings: Encodings) -> Rows:
    return Rows(
        id=7,
        model="m",
        version="1",
        digest="d",
        output=None,
        value_rows=None,
        rows=len(encodings),
        tokens=encodings.num_tokens,
        has_types=encodings.token_types is not None,
        requests=2,
        priority="bulk",
        client="someone",
        seconds=1.5,
    )


@given(
    rows=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=9),
    types=st.booleans(),
)
def test_rows_are_read_as_they_were_written(rows: list[list[int]], types: bool) -> None:
    encodings = Encodings.from_lists(rows)
    dropped = np.arange(len(rows), dtype=np.int32)
    kinds = (encodings.ids % 2).astype(np.int32) if types else None
    encodings = Encodings(encodings.ids, encodings.offsets, dropped, kinds)
    header, payload = parts(rows_frame(message_of(encodings), encodings))
    message = decode_header(header)
    assert message == message_of(encodings)
    request = rows_request(message, payload, Terms("bulk", "someone"))
    assert (request.output, request.rows, request.requests) == (None, None, 2)
    assert request.terms == Terms("bulk", "someone")
    for name in ("ids", "offsets", "dropped", "types"):
        np.testing.assert_array_equal(getattr(request.encodings, name), getattr(encodings, name))
    assert (request.encodings.token_types is None) == (not types)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_values_are_read_as_they_were_written(dtype: type[np.generic]) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    header, payload = parts(values_frame(3, values[:, ::1], 0.25, 0.5))
    message = decode_header(header)
    assert isinstance(message, Values)
    assert (message.id, message.wait, message.compute) == (3, 0.25, 0.5)
    read = values_of(message, payload)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


def test_values_that_are_not_contiguous_are_read_as_they_were_written() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    header, payload = parts(values_frame(1, values, 0.0, 0.0))
    message = decode_header(header)
    assert isinstance(message, Values)
    np.testing.assert_array_equal(values_of(message, payload), values)


@pytest.mark.parametrize(
    ("changes", "cut"),
    [({"rows": 3}, 0), ({"tokens": 5}, 0), ({"has_types": True}, 0), ({}, 4), ({"rows": 0}, 0), ({"tokens": 1}, 0)],
)
def test_rows_whose_sizes_contradict_their_payload_are_rejected(changes: dict[str, int], cut: int) -> None:
    encodings = Encodings.from_lists([[1, 2, 3], [4]])
    header, payload = parts(rows_frame(message_of(encodings), encodings))
    message = decode_header(header)
    assert isinstance(message, Rows)
    fields = {name: getattr(message, name) for name in Rows.__struct_fields__} | changes
    with pytest.raises(ProtocolError):
        rows_request(Rows(**fields), payload[: len(payload) - cut], Terms())


def test_lengths_that_contradict_the_tokens_are_rejected() -> None:
    encodings = Encodings.from_lists([[1, 2, 3], [4]])
    for lengths in ([2, 1], [4, 0], [5, -1]):
        wrong = np.concatenate([encodings.ids, np.array(lengths, np.int32), encodings.dropped])
        with pytest.raises(ProtocolError):
            rows_request(message_of(encodings), wrong.data.cast("B"), Terms())


def test_values_of_another_shape_are_rejected() -> None:
    with pytest.raises(ProtocolError):
        values_of(Values(1, 2, 3, False, 0.0, 0.0), memoryview(bytes(20)))


@given(data=st.binary(min_size=PREFIX.size, max_size=64))
def test_other_bytes_are_not_a_frame(data: bytes) -> None:
    frame = b"".join(encode(Cancel(1)))
    if data[4:8] == frame[4:8]:  # the mark
        return
    with pytest.raises(ProtocolError):
        read_prefix(data)


@given(data=st.binary(max_size=64))
def test_other_headers_are_rejected(data: bytes) -> None:
    try:
        message = decode_header(data)
    except ProtocolError:
        return
    assert decode_header(parts(encode(message))[0]) == message
