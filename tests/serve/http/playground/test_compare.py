"""View "Compare" in a real browser: the vectors are those of the API."""

from __future__ import annotations

from .browser import Tab


def test_first(tab: Tab) -> None:
    tab.click("#compare-form button.main")
    tab.wait("!document.getElementById('compare-result').hidden")
    print(tab.text("#view-compare"))
    assert 0
