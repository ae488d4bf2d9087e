"""Text of tables: columns of a narrow line, and several tables."""

from __future__ import annotations

from fletcher.runtime.commandline.tables import Table, format_tables

MODELS = Table(
    ("model", "weights", "license"),
    [("a-long-name", "22 M", "MIT"), ("b", "1 G", "Apache-2.0")],
    title="dense",
    optional=("weights", "license"),
)


def test_columns_are_left_out_in_their_order_until_a_line_fits() -> None:
    assert list(format_tables([MODELS], 32)) == [
        "dense",
        "model        weights  license",
        "-----------  -------  ----------",
        "a-long-name  22 M     MIT",
        "b            1 G      Apache-2.0",
    ]
    assert list(format_tables([MODELS], 31)) == [
        "dense",
        "model        license",
        "-----------  ----------",
        "a-long-name  MIT",
        "b            Apache-2.0",
        *("Left out, because 31 characters", "are too few: weights."),
    ]
    assert list(format_tables([MODELS], 5))[1:5] == ["model", "-----------", "a-long-name", "b"]


def test_a_line_of_any_length_has_all_columns() -> None:
    assert list(format_tables([MODELS], None)) == list(format_tables([MODELS], 1000))


def test_tables_are_apart_and_name_what_any_of_them_left_out_once() -> None:
    wide = Table(("model", "license"), [("x" * 40, "MIT")], optional=("license",))
    lines = list(format_tables([MODELS, wide], 40))
    assert lines[5:7] == ["", "model"]
    assert lines[9:] == ["Left out, because 40 characters are too", "few: license."]
