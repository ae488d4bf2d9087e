"""Gradients of quantized products: those of the product of the represented values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fletcher.convert.tune.aware.product import IntegerProduct, Rounding, round_columns_through
from fletcher.quantize.graph.activations import uneven_steps
from fletcher.quantize.graph.rounding import round_columns

ROUNDINGS = {
    "even": Rounding(127, None, None),
    "bounded": Rounding(127, 0.17, None),
    "static": Rounding(63, None, uneven_steps(-1.0, 2.0)),
}


def represented(rows: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Return the values that codes represent, with numpy's arithmetic in float64 instead of torch's."""
    values = rows.detach().numpy().astype(np.float64)
    if rounding.steps is not None:
        return torch.from_numpy(rounding.steps.round(values.astype(np.float32)))
    if rounding.bound is not None:
        scale = (values + rounding.bound).max(axis=1, keepdims=True) / 255
        return torch.from_numpy(np.rint((values + rounding.bound) / scale) * scale - rounding.bound).float()
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    return torch.from_numpy(np.rint(values / scale) * scale).float()


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_value_and_gradients_are_those_of_the_represented_values(kind: str) -> None:
    rounding = ROUNDINGS[kind]
    torch.manual_seed(0)
    rows = (
        torch.randn(5, 16).clamp_min(-0.16).requires_grad_()
        if kind == "bounded"
        else torch.randn(5, 16).requires_grad_()
    )
    weight, upstream = torch.randn(16, 7, requires_grad=True), torch.randn(5, 7)
    found = IntegerProduct.apply(rows, weight, rounding)  # type: ignore[no-untyped-call]
    (found * upstream).sum().backward()
    columns = torch.from_numpy(round_columns(weight.detach().numpy(), limit=rounding.limit).floats)
    values = represented(rows, rounding)
    assert found.detach().numpy() == pytest.approx((values @ columns).numpy(), abs=1e-4)
    assert weight.grad is not None and rows.grad is not None
    assert weight.grad.numpy() == pytest.approx((values.T @ upstream).numpy(), abs=1e-4)
    expected = upstream @ columns.T
    if rounding.steps is not None:  # values beyond the range have no gradient
        assert ((rows.detach() > 2.01) | (rows.detach() < -1.01)).any()
        expected = expected * ((rows.detach() >= -1.006) & (rows.detach() <= 2.006))
    assert rows.grad.numpy() == pytest.approx(expected.numpy(), abs=1e-4)


def test_rounded_weights_have_the_gradient_of_the_weights() -> None:
    weight = torch.randn(16, 7, requires_grad=True)
    rounded = round_columns_through(weight, 127)
    assert rounded.detach().numpy() == pytest.approx(round_columns(weight.detach().numpy()).floats, abs=1e-6)
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.numpy() == pytest.approx(np.ones((16, 7)))
