"""`docs/explanation/cluster.md` has the output of the simulation, and its prose no other figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.cluster.measured import API, RENTAL
from benchmarks.cluster.simulation import calibrate, costs, lines, report

pytestmark = pytest.mark.heavy  # by the seconds that it computes

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "cluster.md"
BENCHMARKS = PAGE.parents[1] / "reference" / "benchmarks.md"

NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?!\w)")


def test_the_page_has_the_output_of_the_command_and_no_other_figures() -> None:
    found = report()
    output = "\n".join(lines(found)) + "\n"
    text = PAGE.read_text()
    before, _, rest = text.partition("```text\n")
    block, _, after = rest.partition("```")
    assert block == output, "run python -m benchmarks.cluster.simulation, and put its output into the page"
    prices = {f"{price.dollars:g}" for price in (API, RENTAL)}
    links = re.compile(r"\]\([^)]*\)")
    numbers = set(NUMBER.findall(links.sub("]", before + after)))
    # 1 to 4 number the list; the others are planned shares and dimensions of the page's own examples.
    assert numbers <= set(NUMBER.findall(output)) | prices | {"1", "2", "3", "4", "10", "70", "256", "768"}


def test_the_simulation_gives_the_measured_rates() -> None:
    for _, measured, simulated in calibrate():
        assert abs(simulated / measured - 1) < 0.1


def test_the_costs_are_those_of_the_measured_rows() -> None:
    """By hand: 1.06 / 14,700 = A / 23 + B and 1.10 / 29,600 = A / 57 + B give A = 1.3475 ms, B = 0.0135 ms."""
    found = costs(balanced=False)
    assert abs(found.batch - 1.3475e-3) < 1e-6
    assert abs(found.text - 1.352e-5) < 1e-7
    assert abs(found.front - (7.6 - 1.10) / 29_600) < 1e-9


def test_inputs_are_those_of_the_benchmarks() -> None:
    text = BENCHMARKS.read_text()
    for words in (
        "29,600 requests/s",
        "14,700 requests/s",
        "| 1 text, 64 connections | 3.78 ms",
        "2.01 million tokens/s",
    ):
        assert words in text
    for words in ("151,700 ragged texts/s", "2.06 million tokens/s", "1.01 of the engine"):
        assert words in text
