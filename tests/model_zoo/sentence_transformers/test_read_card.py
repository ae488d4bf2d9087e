"""Cards from the files of a checkpoint, compared with sentence-transformers and with MiniLM's published files."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher.model_zoo import load_card, read_card
from fletcher.model_zoo.errors import CardError

Edit = Callable[[dict[str, Any]], object]


def edit(file: Path, change: Edit) -> None:
    value = json.loads(file.read_text()) if file.exists() else {}
    change(value)
    file.write_text(json.dumps(value))


def test_the_files_of_minilm_give_its_card(minilm: Path) -> None:
    card, zoo = read_card(minilm, name="mine"), load_card("all-MiniLM-L6-v2")
    for key in ("family", "dimension", "max_tokens", "pooling", "normalize", "prompts", "matryoshka"):
        assert getattr(card, key) == getattr(zoo, key), key
    assert card.name == "mine"
    assert card.license == "NOASSERTION"


def test_without_modules_pooling_must_be_named(minilm: Path) -> None:
    (minilm / "modules.json").unlink()
    with pytest.raises(CardError, match=r"--pooling, one of cls, mean"):
        read_card(minilm, name="mine")
    card = read_card(minilm, name="mine", pooling="cls")
    assert (card.pooling, card.dimension, card.normalize) == (("cls",), 384, False)
    assert read_card(minilm, name="mine", pooling="mean, cls").dimension == 768


def test_the_error_of_pooling_that_contradicts_the_checkpoint_names_both(minilm: Path) -> None:
    assert read_card(minilm, name="mine", pooling="mean").pooling == ("mean",)
    with pytest.raises(CardError, match=r"--pooling cls contradicts .* has mean"):
        read_card(minilm, name="mine", pooling="cls")
    with pytest.raises(CardError, match=r"--pooling average: is not a pooling mode"):
        read_card(minilm, name="mine", pooling="average")


@pytest.mark.parametrize(
    ("spelling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, ("cls", "mean")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True}, ("weightedmean", "lasttoken")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_max_tokens": True}, ("max",)),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ],
)
def test_both_forms_of_pooling_are_read_as_by_sentence_transformers(
    minilm: Path, spelling: dict[str, Any], modes: tuple[str, ...]
) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    config = {"word_embedding_dimension": 384, **spelling}
    (minilm / "1_Pooling" / "config.json").write_text(json.dumps(config))
    reference = Pooling.load(str(minilm / "1_Pooling"))
    their_modes = (
        (reference.pooling_mode,) if isinstance(reference.pooling_mode, str) else tuple(reference.pooling_mode)
    )
    card = read_card(minilm, name="mine")
    assert card.pooling == modes == their_modes
    assert card.dimension == reference.pooling_output_dimension


def test_max_tokens_can_only_lower_the_limit(minilm: Path) -> None:
    assert read_card(minilm, name="mine", max_tokens=64).max_tokens == 64
    with pytest.raises(CardError, match=r"--max-tokens 257: .* at most 256"):
        read_card(minilm, name="mine", max_tokens=257)
    with pytest.raises(CardError, match=r"--max-tokens 513: .* 1 to 512"):
        read_card(minilm, name="mine", max_tokens=513)
    with pytest.raises(CardError, match=r"--max-tokens 0"):
        read_card(minilm, name="mine", max_tokens=0)


def test_positions_after_the_padding_id_are_not_counted(minilm: Path) -> None:
    # all-mpnet-base-v2 and xlm-roberta have 514 rows, two of them before the first position.
    edit(minilm / "config.json", lambda c: c.update(model_type="mpnet", max_position_embeddings=514, pad_token_id=1))
    edit(minilm / "sentence_bert_config.json", lambda c: c.update(max_seq_length=512))
    assert read_card(minilm, name="mine").max_tokens == 512
    edit(
        minilm / "sentence_bert_config.json", lambda c: c.update(max_seq_length=514)
    )  # which sentence-transformers keeps
    with pytest.raises(CardError, match=r"sentence_bert_config\.json limits texts to 514 .*--max-tokens 512"):
        read_card(minilm, name="mine")
    assert read_card(minilm, name="mine", max_tokens=512).max_tokens == 512
    edit(minilm / "config.json", lambda c: c.pop("pad_token_id"))
    with pytest.raises(CardError, match="pad_token_id"):
        read_card(minilm, name="mine")


def test_without_a_limit_in_the_files_max_tokens_is_required(minilm: Path) -> None:
    edit(minilm / "config.json", lambda c: c.pop("max_position_embeddings"))
    (minilm / "sentence_bert_config.json").unlink()
    edit(minilm / "tokenizer_config.json", lambda c: c.update(model_max_length=int(1e30)))
    with pytest.raises(CardError, match="--max-tokens"):
        read_card(minilm, name="mine")
    assert read_card(minilm, name="mine", max_tokens=77).max_tokens == 77


PROMPTS = [
    ({"prompts": {"query": "q: ", "passage": "p: "}}, {"query": "q: ", "passage": "p: "}),
    ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, {}),
    ({"prompts": {"corpus": "c: ", "document": "d: "}}, {"corpus": "c: ", "document": "d: "}),
    ({"prompts": {"query": None}}, {}),
    (
        {"prompts": {"sts": "s: ", "query": "q: "}, "default_prompt_name": "sts"},
        {"sts": "s: ", "query": "q: ", "clustering": "s: ", "classification": "s: "},
    ),
    ({"prompts": {"web": "w: "}, "default_prompt_name": "query"}, {"web": "w: "}),
    (
        {"prompts": {"query": "q: ", "clustering": ""}, "default_prompt_name": "query"},
        {"query": "q: ", "classification": "q: "},
    ),
]


@pytest.mark.parametrize(("config", "prompts"), PROMPTS)
def test_prompts_are_read_by_input_type(minilm: Path, config: dict[str, Any], prompts: dict[str, str]) -> None:
    (minilm / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert read_card(minilm, name="mine").prompts == prompts


@pytest.mark.parametrize("name", [None, "web", "query"])
def test_the_name_of_the_default_prompt_is_read(minilm: Path, name: str | None) -> None:
    settings = {"prompts": {"web": "w: "}, "default_prompt_name": name}
    (minilm / "config_sentence_transformers.json").write_text(json.dumps(settings))
    card = read_card(minilm, name="mine")
    assert (card.default_prompt or None) == name
    # An artifact without one keeps the digest that it has without this key.
    assert (b"default_prompt" in msgspec.json.encode(card)) is (name is not None)


REFUSED: dict[str, tuple[str, Edit, str]] = {
    "unknown default prompt": (
        "config_sentence_transformers.json",
        lambda c: c.update(default_prompt_name="x"),
        r"default_prompt_name",
    ),
    "prompt named raw": (
        "config_sentence_transformers.json",
        lambda c: c.update(prompts={"raw": "x"}),
        r"prompts\.raw",
    ),
    "prompt of a wrong type": (
        "config_sentence_transformers.json",
        lambda c: c.update(prompts={"query": 3}),
        r"config_sentence_transformers\.json: .*prompts",
    ),
    "other hidden size": ("1_Pooling/config.json", lambda c: c.update(word_embedding_dimension=768), r"768.*384"),
    "unknown pooling mode": ("1_Pooling/config.json", lambda c: c.update(pooling_mode="avg"), r"`pooling_mode`: .*avg"),
    "odd include_prompt": ("1_Pooling/config.json", lambda c: c.update(include_prompt="no"), r"include_prompt"),
    "no hidden size": ("config.json", lambda c: c.pop("hidden_size"), r"hidden_size"),
    "no model type": ("config.json", lambda c: c.pop("model_type"), r"config\.json: .*model_type"),
    "length of a wrong type": (
        "sentence_bert_config.json",
        lambda c: c.update(max_seq_length="256"),
        r"sentence_bert_config\.json: .*max_seq_length",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_name_settings_that_cannot_be_reproduced(minilm: Path, case: str) -> None:
    file, change, expected = REFUSED[case]
    edit(minilm / file, change)
    with pytest.raises(CardError, match=expected):
        read_card(minilm, name="mine")


def test_pooling_without_the_prompt_is_on_the_card_if_there_are_prompts(minilm: Path) -> None:
    edit(minilm / "1_Pooling" / "config.json", lambda c: c.update(include_prompt=False))
    assert read_card(minilm, name="mine").include_prompt is msgspec.UNSET
    edit(minilm / "config_sentence_transformers.json", lambda c: c.update(prompts={"query": "q: "}))
    assert read_card(minilm, name="mine").include_prompt is False


@pytest.mark.parametrize(
    "kinds",
    [
        [],
        ["Transformer"],
        ["Transformer", "LayerNorm", "Pooling"],
        ["Transformer", "Pooling", "WeightedLayerPooling"],
        ["WordEmbeddings", "Pooling"],
        ["Transformer", "Pooling", "Pooling"],
    ],
)
def test_other_modules_are_rejected(minilm: Path, kinds: list[str]) -> None:
    modules = [{"path": "1_Pooling" if kind != "Transformer" else "", "type": f"x.{kind}"} for kind in kinds]
    (minilm / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CardError, match=r"modules\.json: its modules are"):
        read_card(minilm, name="mine")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
def test_errors_name_a_damaged_file(minilm: Path, file: str) -> None:
    (minilm / file).write_text('{"truncated": ')
    with pytest.raises(CardError, match=file.replace(".", r"\.")):
        read_card(minilm, name="mine")


def test_errors_name_a_missing_file(minilm: Path) -> None:
    (minilm / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CardError, match=r"1_Pooling/config\.json is missing"):
        read_card(minilm, name="mine")
    with pytest.raises(CardError, match=r"config\.json is missing"):
        read_card(minilm / "1_Pooling", name="mine")


# Comparison with sentence-transformers: it builds and saves models, and both read them.


def build(folder: Path, *, length: int | None, modules: list[Any], **options: Any) -> Path:
    """Save a BERT of 16 dimensions and 64 positions with modules after it, with sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    config = BertConfig(
        vocab_size=7,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=length)
    model = SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
    model.save(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize("case", ["mean", "cls and max", "dense", "normalized", "all"])
@pytest.mark.parametrize("length", [None, 48])
def test_a_saved_model_is_read_as_by_sentence_transformers(tmp_path: Path, case: str, length: int | None) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    modules = {
        "mean": [Pooling(16, "mean")],
        "cls and max": [Pooling(16, ("cls", "max"))],
        "dense": [Pooling(16, "mean"), Dense(16, 8)],
        "normalized": [Pooling(16, "lasttoken"), Normalize()],
        "all": [Pooling(16, ("mean", "cls")), Dense(32, 24), Dense(24, 8), Normalize()],
    }[case]
    folder = build(tmp_path, length=length, modules=modules, prompts={"query": "q: ", "document": "d: "})
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    card = read_card(folder, name="tiny")
    their_pooling = reference[1]
    assert isinstance(their_pooling, Pooling)
    mode = their_pooling.pooling_mode
    assert card.pooling == ((mode,) if isinstance(mode, str) else tuple(mode))
    assert card.max_tokens == reference.max_seq_length == (length or 64)
    assert card.dimension == reference.get_embedding_dimension()
    assert card.prompts == reference.prompts
    vectors = reference.encode(["a b", "b"], convert_to_numpy=True)
    assert vectors.shape[1] == card.dimension
    lengths = (vectors**2).sum(axis=1) ** 0.5
    assert card.normalize == bool((abs(lengths - 1) < 1e-5).all())


TEXT = "b a b"


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"sts": "a a a "}, "sts"),
        ({"query": "a ", "web": "a a "}, "web"),
        ({"web": "a "}, "web"),
        ({"query": "a ", "passage": "a a "}, None),
        ({"query": "a ", "passage": "a a ", "document": ""}, None),
        ({"query": "a ", "corpus": "a a "}, "corpus"),
        ({"query": "a ", "document": "a a "}, "query"),
        ({"clustering": "a ", "document": "a a "}, "clustering"),
    ],
)
def test_input_types_are_sentence_transformers_calls(
    tmp_path: Path, prompts: dict[str, str], default: str | None
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = build(tmp_path, length=None, modules=[Pooling(16)])
    edit(folder / "config_sentence_transformers.json", lambda c: c.update(prompts=prompts, default_prompt_name=default))
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    card = read_card(folder, name="tiny")
    calls: dict[str, Callable[[str], Any]] = {
        "query": theirs.encode_query,
        "document": theirs.encode_document,
        "clustering": lambda text: theirs.encode(text, prompt_name="clustering" if "clustering" in prompts else None),
        "classification": theirs.encode,
        **{name: partial(theirs.encode, prompt_name=name) for name in prompts},
    }
    for name, call in calls.items():
        assert (call(TEXT) == theirs.encode(card.prompts.get(name, "") + TEXT, prompt="")).all(), name


@pytest.mark.parametrize(("length", "normalized"), [(16, True), (99, True), (5, False), (None, True)])
def test_truncate_dim_reads_as_sentence_transformers_applies_it(
    tmp_path: Path, length: int | None, normalized: bool
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    folder = build(tmp_path, length=None, modules=[Pooling(16), Normalize()], truncate_dim=length)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    card = read_card(folder, name="tiny")
    vector = theirs.encode(TEXT)
    assert len(vector) == card.dimension == min(length or 16, 16)
    assert card.normalize is normalized is bool(abs((vector**2).sum() - 1) < 1e-5)
    assert card.similarity == theirs.similarity_fn_name == "cosine"


def test_shorter_lengths_are_the_users_or_those_of_the_files(minilm: Path) -> None:
    assert read_card(minilm, name="mine").matryoshka == ()
    edit(minilm / "config.json", lambda c: c.update(matryoshka_dimensions=[64, 128, 384]))
    assert read_card(minilm, name="mine").matryoshka == (128, 64)
    assert read_card(minilm, name="mine", dimensions=(32, 256)).matryoshka == (256, 32)
    for wrong in (384, 0):
        with pytest.raises(CardError, match=rf"--dimensions {wrong}: the vectors have 384 elements"):
            read_card(minilm, name="mine", dimensions=(wrong,))


def test_similarity_is_read_if_the_model_has_it(minilm: Path) -> None:
    settings = minilm / "config_sentence_transformers.json"
    assert not read_card(minilm, name="mine").similarity
    edit(settings, lambda c: c.update(similarity_fn_name="dot"))
    assert read_card(minilm, name="mine").similarity == "dot"
    edit(settings, lambda c: c.update(similarity_fn_name="maxsim"))  # of another kind of model, so it is not used
    assert not read_card(minilm, name="mine").similarity
