"""Graphs for devices of models whose texts choose a route or an adapter, or have a template: parity, and operators."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fletcher.convert.export.export import export
from fletcher.convert.precision import Float
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.runtime import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.origin.tolerances import TOLERANCES

from ...checkpoint import test_task_adapters as adapters
from ...heads.routes.routers import save_shared
from ..sessions import load_rounded, load_target, models_of
from ..support.device_operators import check_operators
from .models import COMPOSED, Composed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

DEVICES = ("cuda", "tensorrt", "coreml")
CASES = [(name, target) for name in COMPOSED for target in DEVICES]

Load = Callable[[str], Composed]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Make each model once."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(COMPOSED[name](tmp_path_factory.mktemp(name))))


@pytest.mark.parametrize(("name", "target"), CASES)
def test_results_are_those_of_the_reference(load: Load, tmp_path: Path, name: str, target: str) -> None:
    model = load(name)
    found = load_target(model.architecture, model.card, tmp_path, target, "fp32").run(model.encodings)
    np.testing.assert_allclose(found, model.expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("name", "target"), CASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_operators_are_those_of_the_targets_list(
    load: Load, tmp_path: Path, name: str, target: Any, precision: Any
) -> None:
    if precision not in PRECISIONS[target]:
        pytest.skip("CoreML has no bfloat16")
    model = load(name)
    for graph in models_of(model.architecture, model.card, tmp_path, target, precision)[1]:
        check_operators(graph, target)


@pytest.mark.parametrize("name", ["router", "jina_tasks"])
@pytest.mark.parametrize(("target", "precision"), [("cuda", "fp16"), ("cuda", "bf16"), ("tensorrt", "fp16")])
def test_half_precision_chooses_the_same_task(
    load: Load, tmp_path: Path, name: str, target: str, precision: Float
) -> None:
    model = load(name)
    found = load_rounded(model.architecture, model.card, tmp_path, target, precision).run(model.encodings)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(model.expected, axis=1)
    assert (np.sum(found * model.expected, axis=1) / norms).min() >= TOLERANCES[precision].min_cosine


@pytest.mark.parametrize("target", DEVICES)
def test_the_number_of_the_task_changes_the_vectors(load: Load, tmp_path: Path, target: str) -> None:
    """Without numbers every text has the first task, so that the comparison above detects missing numbers."""
    model = load("jina_tasks")
    session = load_target(model.architecture, model.card, tmp_path, target, "fp32")
    given = model.encodings
    plain = Encodings(given.ids, given.offsets, given.dropped)
    same = np.isclose(session.run(plain), model.expected, rtol=0, atol=1e-3).all(axis=1)
    assert same.tolist() == (given.text_types == 0).tolist()


def test_an_artifact_has_all_targets(tmp_path: Path) -> None:
    router = save_shared(tmp_path / "router", default_route="document")
    jina = adapters.write(tmp_path / "jina")[0]
    for name, folder, inputs in (("a", router, {"text_tasks"}), ("b", jina, {"text_tasks", "task_ids"})):
        export(str(folder), tmp_path / name, targets=("cpu", *DEVICES))
        variants = Artifact.open(tmp_path / name).manifest.variants
        assert {variant.target for variant in variants} == {"cpu", *DEVICES}
        assert all({info.name for info in variant.inputs} & inputs for variant in variants)
