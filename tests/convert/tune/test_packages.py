"""Packages of training: their absence is an error that names the extra, before anything is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from fletcher.convert.tune import packages
from fletcher.convert.tune.contrastive import tune_contrastive
from fletcher.convert.tune.options import DistilOptions
from fletcher.convert.tune.request import TuneRequest
from fletcher.convert.tune.reranking import tune_on_reranker
from fletcher.convert.tune.teaching import tune_aware, tune_distil
from fletcher.runtime.errors import MissingPackageError


@pytest.mark.parametrize("missing", sorted(packages.PACKAGES.values()))
def test_each_package_is_required(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == missing else found("json"))
    request = TuneRequest("none", tmp_path / "out", tmp_path / "data.jsonl")
    calls: tuple[Callable[[], object], ...] = (
        lambda: tune_contrastive(request),
        lambda: tune_aware(request),
        lambda: tune_distil(request, DistilOptions(layers=1)),
        lambda: tune_on_reranker(request, DistilOptions(reranker="x")),
    )
    for call in calls:
        with pytest.raises(MissingPackageError, match=r"pip install 'longbow-fletcher\[train\]'"):
            call()
    assert not (tmp_path / "out").exists()
