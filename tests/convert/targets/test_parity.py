"""Every family on every target compared with transformers, on the CPU provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.convert.families import FAMILIES

from .models import MODELS, cases, shared
from .sessions import parity_of

TARGETS = ("cuda", "tensorrt", "coreml")


def test_every_family_has_a_model_here() -> None:
    families = {shared(name).family for name in MODELS}
    assert families | {"gte"} == set(FAMILIES)  # `gte` and `new` are one family with two names


@pytest.mark.parametrize(("target", "name"), cases(*TARGETS))
def test_parity(tmp_path: Path, name: str, target: str) -> None:
    parity = parity_of(shared(name), tmp_path, target)
    parity.check_batches()
    parity.check_company()
