"""Map of the texts on a page: a canvas with a small script, which shows a text when the pointer is on its point."""

from __future__ import annotations

from html import escape

import msgspec

from ...quality.quality import Measured
from ...verify.report import excerpt

__all__ = ["MAP_STYLE", "map_section"]

#: Most letters of a text that the map shows.
SHOWN_LETTERS = 200

#: Colors of labels, repeated if there are more labels.
COLORS = ("#2f6db5", "#b3261e", "#14724a", "#c77700", "#7b4bb3", "#0f8b8d", "#a63d7a", "#6b7a00", "#8c5a3c", "#44546a")

#: Color of texts without a label among others that have one.
UNLABELED = "#b8bec8"

MAP_STYLE = """
.map { position: relative; }
.map canvas { width: 100%; height: min(34rem, 80vw); border: 1px solid var(--line); border-radius: 8px; display: block; }
.map .tip { position: absolute; pointer-events: none; max-width: min(24rem, 45vw); background: var(--ink);
  color: var(--paper); font-size: .8rem; padding: .35rem .6rem; border-radius: 6px; display: none;
  overflow-wrap: anywhere; z-index: 1; }
.map button { font: inherit; font-size: .82rem; border: 1px solid var(--line); background: var(--paper); color: inherit;
  border-radius: 99px; padding: .1rem .8rem; margin: 0 .3rem .5rem 0; cursor: pointer; }
.map button[aria-pressed=true] { background: var(--ink); color: var(--paper); }
.map .legend { font-size: .8rem; color: var(--soft); margin-bottom: .4rem; }
.map .legend span { margin-right: .9rem; white-space: nowrap; }
.map .legend i { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .3rem; }
"""

#: The script draws the points of the chosen method, and finds the one next to the pointer. `data` is set before it.
_SCRIPT = """
(() => {
  const box = document.currentScript.parentElement;
  const data = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
  const canvas = box.querySelector('canvas'), tip = box.querySelector('.tip'), buttons = [...box.querySelectorAll('button')];
  let points = [], method = 'umap', chosen = -1;
  const place = () => {
    const raw = data[method], xs = raw.map(p => p[0]), ys = raw.map(p => p[1]);
    const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.min(...ys), y1 = Math.max(...ys);
    const w = canvas.clientWidth, h = canvas.clientHeight, m = 16;
    const sx = (w - 2 * m) / (x1 - x0 || 1), sy = (h - 2 * m) / (y1 - y0 || 1);
    points = raw.map(([x, y]) => [m + sx * (x - x0), h - m - sy * (y - y0)]);
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1, context = canvas.getContext('2d');
    canvas.width = canvas.clientWidth * scale; canvas.height = canvas.clientHeight * scale;
    context.scale(scale, scale);
    points.forEach(([x, y], index) => {
      context.globalAlpha = index === chosen ? 1 : .6;
      context.fillStyle = data.colors[data.labels[index]];
      context.beginPath(); context.arc(x, y, index === chosen ? 5 : 2.6, 0, 7); context.fill();
    });
  };
  const show = event => {
    const bounds = canvas.getBoundingClientRect(), x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    let best = 144; chosen = -1;
    points.forEach(([px, py], index) => {
      const d = (px - x) ** 2 + (py - y) ** 2;
      if (d < best) { best = d; chosen = index; }
    });
    tip.style.display = chosen < 0 ? 'none' : 'block';
    if (chosen >= 0) {
      const name = data.names[data.labels[chosen]];
      tip.textContent = (name ? name + ': ' : '') + data.texts[chosen];
      const [px, py] = points[chosen], right = px > canvas.clientWidth / 2;
      tip.style.left = right ? 'auto' : px + 12 + 'px';
      tip.style.right = right ? canvas.clientWidth - px + 12 + 'px' : 'auto';
      tip.style.top = canvas.offsetTop + py + 8 + 'px';
    }
    draw();
  };
  const choose = name => {
    method = name; chosen = -1; tip.style.display = 'none';
    buttons.forEach(button => button.setAttribute('aria-pressed', button.value === name));
    place(); draw();
  };
  buttons.forEach(button => button.addEventListener('click', () => choose(button.value)));
  canvas.addEventListener('mousemove', show);
  canvas.addEventListener('mouseleave', () => { chosen = -1; tip.style.display = 'none'; draw(); });
  window.addEventListener('resize', () => { place(); draw(); });
  choose('umap');
})();
"""


def map_section(measured: Measured) -> str:
    """Return the map as HTML; empty without one."""
    found, texts = measured.map, measured.texts
    if found is None:
        return ""
    labels = [texts.labels[row] or "" for row in found.rows] if texts.labels else [""] * len(found.rows)
    names = sorted(set(labels))
    colors = [COLORS[index % len(COLORS)] if name or len(names) == 1 else UNLABELED for index, name in enumerate(names)]
    data = {
        "umap": found.umap,
        "pca": found.pca,
        "labels": [names.index(label) for label in labels],
        "names": names,
        "colors": colors,
        "texts": [excerpt(texts.different[row], SHOWN_LETTERS) for row in found.rows],
    }
    # `<` could end the script element.
    content = msgspec.json.encode(data).decode().replace("<", "\\u003c")
    legend = "".join(
        f'<span><i style="background:{color}"></i>{escape(name) or "no label"}</span>'
        for name, color in zip(names, colors, strict=True)
        if len(names) > 1
    )
    return (
        f'<div class="map"><button value="umap">UMAP</button><button value="pca">PCA ({found.pca_variance:.0%} of the '
        f'variance)</button><div class="legend">{legend}</div><canvas></canvas><div class="tip"></div>'
        f'<script type="application/json">{content}</script><script>{_SCRIPT}</script></div>'
        f'<p class="soft">{len(found.rows):,} texts. Texts that are near each other in UMAP have similar vectors; distances '
        "between groups mean little.</p>"
    )
