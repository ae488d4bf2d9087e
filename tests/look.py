"""Checks that a report has the one look of Fletcher's pages, as text and in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

from fletcher.runtime.commandline.pages import STYLE

__all__ = ["CHROMIUM", "check_look", "check_rendered", "render"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

#: Page that shows another one in a frame of a width, and writes into its title how wide the content is. A window of Chromium
#: is at least 500 pixels wide, and a frame is not.
FRAME = """<!doctype html><title>waits</title><style>body {{ margin: 0; }} iframe {{ border: 0; }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  const plots = [...inner.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  const seen = plots.filter(box => box.width > 50 && box.height > 20).length;
  document.title = `width ${{root.scrollWidth}} plots ${{seen}} of ${{plots.length}}`;
}});
</script>"""


def check_look(page: str) -> str:
    """Check the page as text, and return the sentence with which it begins."""
    assert page.startswith("<!doctype html>") and STYLE in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    body = page.partition("<header>")[2]
    found = re.match(r'<h1>.*?</h1>\s*<p class="result[^"]*">([^<]+)</p>', body, re.DOTALL)
    assert found is not None, body[:300]
    sentence = unescape(found[1])
    assert sentence[0].isupper() or not sentence[0].isalpha()
    assert sentence.endswith("."), sentence
    assert not re.search(r"@import|url\((?!#)|<link|<img|<iframe", page)
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href|action)="([^"]*)"', page))
    for plot in re.findall(r"<svg.*?</svg>", page, re.DOTALL):  # a fixed color would not be seen on a dark screen
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", plot)
    return sentence


def render(page: str, folder: Path, width: int, *, height: int = 900) -> tuple[int, int, int]:
    """Show a page in Chromium, without a network.

    Returns:
        The width of its content in pixels, the number of plots that are visible, and the number of all plots.
    """
    assert CHROMIUM is not None
    file = folder / "frame.html"
    file.write_text(FRAME.format(width=width, height=height, page=escape(page)), encoding="utf-8")
    shown = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            str(file),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    found = re.search(r"<title>width (\d+) plots (\d+) of (\d+)</title>", shown)
    assert found is not None, shown[:500]
    return int(found[1]), int(found[2]), int(found[3])


def check_rendered(page: str, folder: Path) -> None:
    """Check that a page fits on a phone without a scroll bar below, and that all its plots are seen there and on a desk.

    Without Chromium nothing is checked; `.ci/run` has it.
    """
    if CHROMIUM is None:
        return
    for width in (380, 1280):
        content, seen, plots = render(page, folder, width)
        assert content <= width, f"the page is {content} pixels wide on a screen of {width}"
        assert seen == plots
