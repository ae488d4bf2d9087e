"""`FrontBackend`: a front tokenizes as the engine process does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tokenizing.tokenizer import Tokenizer as FletcherTokenizer
from fletcher.serve.fronts.channel.wire import CatalogEntry
from fletcher.serve.fronts.front.backend import FrontBackend
from fletcher.serve.models.spec import ModelSpec

from ..fake_encoder import SPACE, info


@pytest.mark.parametrize("strips", [True, False])
def test_blanks_around_a_text_are_removed_if_the_artifact_says_so(tmp_path: Path, strips: bool) -> None:
    file = tmp_path / "tokenizer.json"
    by_letters = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, " ": 3}, unk_token="[UNK]"))
    by_letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    by_letters.save(str(file))
    described = info(space=msgspec.structs.replace(SPACE, strips_texts=strips))
    front = FrontBackend(CatalogEntry(ModelSpec(path=""), described, str(file)))
    task = front.prepare(Texts((" ab ",)), EmbedOptions(), "vectors")
    engine = FletcherTokenizer(file, described.max_tokens, strip=strips)
    assert task.encodings.ids.tolist() == engine.encode([" ab "]).ids.tolist()
    assert task.encodings.ids.tolist() == ([1, 2] if strips else [3, 1, 2, 3])
