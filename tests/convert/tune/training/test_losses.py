"""Losses of trainings, with the library's own as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as library

from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.options import ContrastiveOptions, TrainingOptions
from fletcher.convert.tune.training.losses import ranking_loss, with_lengths


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    """Return a model without dropout, whose random values would be those of other texts in another order."""
    loaded = SentenceTransformer(str(tiny_checkpoint), device="cpu").train()
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded


def gradients(model: Any, loss: Any) -> tuple[float, torch.Tensor]:
    """Return the loss of a batch of texts of all lengths, and the gradients of all weights."""
    columns = [
        [text[: 5 + 3 * (row % 7)] for row, text in enumerate(SENTENCES[start : start + 11])] for start in (0, 11)
    ]
    model.zero_grad()
    value = loss([model.preprocess(column) for column in columns], None)
    value.backward()
    return float(value.detach()), torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


@pytest.mark.parametrize("lengths", [(), (16, 8)])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(model: Any, lengths: tuple[int, ...]) -> None:
    options = ContrastiveOptions()
    training = TrainingOptions(batch_size=11, mini_batch_size=3)
    found = gradients(model, with_lengths(model, ranking_loss(model, options, training), lengths, 32))
    whole = library.MultipleNegativesRankingLoss(model, scale=options.scale)
    expected = gradients(model, with_lengths(model, whole, lengths, 32))
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert torch.allclose(found[1], expected[1], atol=1e-5)
    assert float(expected[1].abs().max()) > 1e-2


def test_parts_have_texts_of_similar_length(model: Any) -> None:
    loss = ranking_loss(model, ContrastiveOptions(), TrainingOptions(batch_size=6, mini_batch_size=2))
    texts = ["one two three four five", "a", "one two three", "b", "one two three four six", "one two four"]
    widths: list[int] = []
    hook = model[0].register_forward_pre_hook(lambda _, given: widths.append(given[0]["input_ids"].shape[1]))
    with torch.no_grad():
        loss([model.preprocess(texts), model.preprocess(texts)], None)
    hook.remove()
    assert widths[:3] == widths[3:] == sorted(widths[:3])
    assert len(set(widths[:3])) == 3
