"""Card of a model that the zoo lists without one: settings of its own files, names and license of the zoo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from fletcher.convert.export.card import settle_card
from fletcher.convert.export.export import export
from fletcher.convert.export.options import ExportOptions
from fletcher.model_zoo import CatalogModel, Checkout, Output
from fletcher.model_zoo.errors import CardError
from fletcher.runtime.artifact.folder import Artifact

from ..tiny import save_bert, save_embedder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTED = CatalogModel(
    name="listed",
    output="vectors",
    family="bert",
    dimension=32,
    max_tokens=64,
    license="MIT",
    sources=("hf:org/listed",),
    revision=COMMIT,
    parameters=1_000_000,
    languages=("en",),
    aliases=("short",),
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = save_embedder(tmp_path_factory.mktemp("listed") / "files")
    return Checkout(folder=folder, source=f"hf:org/listed@{COMMIT}", revision=COMMIT, model=None, sha256={})


def test_the_files_have_the_settings_and_the_zoo_the_license(checkout: Checkout) -> None:
    own = settle_card(checkout, ExportOptions())
    listed = replace(LISTED, dimension=own.dimension, family=own.family)
    card = settle_card(replace(checkout, model=listed), ExportOptions())
    assert (card.name, card.license, card.aliases, card.revision) == ("listed", "MIT", ("short",), COMMIT)
    assert (card.pooling, card.normalize, card.prompts, card.max_tokens) == (
        own.pooling,
        own.normalize,
        own.prompts,
        own.max_tokens,
    )


def test_a_prompt_of_the_files_has_precedence_over_the_zoos(checkout: Checkout) -> None:
    own = settle_card(checkout, ExportOptions())
    fields: dict[str, Any] = {"dimension": own.dimension, "family": own.family}
    listed = replace(LISTED, **fields, prompts={"query": "zoo: ", "clustering": "cluster: "})
    files = checkout.folder / "config_sentence_transformers.json"
    given = replace(checkout, model=listed)
    assert given.has_published_settings and not replace(checkout, model=LISTED).has_published_settings
    card = settle_card(given, ExportOptions())
    assert card.prompts == {"query": "zoo: ", "clustering": "cluster: ", **own.prompts}
    settings = json.loads(files.read_bytes()) if files.exists() else {}
    before = files.read_bytes() if files.exists() else None
    try:
        files.write_text(json.dumps(settings | {"prompts": {"query": "own: "}}))
        assert settle_card(given, ExportOptions()).prompts == {"query": "own: ", "clustering": "cluster: "}
    finally:
        files.unlink() if before is None else files.write_bytes(before)


def test_a_sparse_model_of_the_zoo_needs_no_modules_json(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    save_bert(folder)
    config = json.loads((folder / "config.json").read_bytes()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    source = f"hf:org/listed@{COMMIT}"
    checkout = Checkout(folder=folder, source=source, revision=COMMIT, model=None, sha256={})
    with pytest.raises(CardError, match="--head splade, or --head embedding"):
        settle_card(checkout, ExportOptions())
    listed = replace(LISTED, output="sparse", dimension=config["vocab_size"])
    card = settle_card(replace(checkout, model=listed), ExportOptions())
    assert (card.output, card.dimension, card.license) == ("sparse", config["vocab_size"], "MIT")


@pytest.mark.parametrize("output", ["vectors", "sparse"])
def test_an_export_with_prompts_or_the_head_of_the_zoo_agrees_with_sentence_transformers(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    if output == "sparse":
        save_bert(folder)
        config = transformers.BertConfig.from_pretrained(folder)
        transformers.BertForMaskedLM(config).save_pretrained(folder)
        listed = replace(LISTED, output=output, dimension=config.vocab_size)
    else:
        save_embedder(folder)
        listed = replace(LISTED, prompts={"query": "find: ", "document": "text: "})
    sha256 = {file.name: "0" * 64 for file in folder.iterdir() if file.is_file()}
    checkout = Checkout(folder=folder, source="hf:org/listed", revision=COMMIT, model=listed, sha256=sha256)
    monkeypatch.setattr("fletcher.convert.export.export.fetch", lambda *_args, **_options: checkout)
    exported = export("listed", tmp_path / "artifact", ExportOptions(verify=True))
    assert exported.status == "verified"
    assert Artifact.open(exported.path).manifest.card.prompts == listed.prompts


@pytest.mark.parametrize("change", [{"dimension": 7}, {"family": "mpnet"}, {"output": "scores"}])
def test_other_files_than_the_listed_ones_are_refused(checkout: Checkout, change: dict[str, Any]) -> None:
    own = settle_card(checkout, ExportOptions())
    fields: dict[str, Any] = {"dimension": own.dimension, "family": own.family} | change
    listed = replace(LISTED, **fields)
    with pytest.raises(CardError, match=f"{COMMIT} are not those that the zoo lists: {next(iter(change))}"):
        settle_card(replace(checkout, model=listed), ExportOptions())
