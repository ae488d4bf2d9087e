"""Rounded weights differ from the original ones by half a step at most."""

from __future__ import annotations

import numpy as np
import pytest

from fletcher.quantize.graph.rounding import pack_nibbles, round_blocks, round_columns, round_rows

WEIGHT = np.random.default_rng(0).normal(size=(96, 10)).astype(np.float32)


@pytest.mark.parametrize("limit", [127, 63])
def test_a_column_is_within_half_a_step(limit: int) -> None:
    rounded = round_columns(WEIGHT, limit=limit)
    assert np.abs(rounded.values).max() == limit
    assert (np.abs(rounded.floats - WEIGHT) <= rounded.scales * 0.5001).all()


def test_a_row_is_within_half_a_step() -> None:
    codes, scales = round_rows(WEIGHT)
    assert (np.abs(codes * scales - WEIGHT) <= scales * 0.5001).all()


@pytest.mark.parametrize(("bits", "asymmetric"), [(4, False), (4, True), (8, False)])
def test_a_search_never_increases_the_error_of_a_block(bits: int, asymmetric: bool) -> None:
    plain = round_blocks(WEIGHT, bits=bits, block=32, asymmetric=asymmetric)
    searched = round_blocks(WEIGHT, bits=bits, block=32, asymmetric=asymmetric, search=True)
    before, after = (np.square(blocks.floats - WEIGHT).sum() for blocks in (plain, searched))
    assert after <= before
    # A symmetric 4-bit range of a normal block has steps of about 1/8 of its largest element, which is about 2 sigma.
    assert before < WEIGHT.size * (0.02 if bits == 4 else 0.0001)


def test_a_short_last_block_keeps_its_length() -> None:
    assert round_blocks(WEIGHT[:40], bits=8, block=32).floats.shape == (40, 10)


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((32, 2), np.float32)
    assert not round_columns(zeros).floats.any()
    assert not round_blocks(zeros, bits=4, block=32, asymmetric=True, search=True).floats.any()


def test_the_first_of_two_nibbles_is_the_lower_one() -> None:
    assert pack_nibbles(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]
