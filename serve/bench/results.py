"""Results of a benchmark, as structs, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError, MissingPackageError

__all__ = ["BenchResult", "Figures", "plot", "stages", "table"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One participant's.

    Attributes:
        name: whose.
        versions: what it says of itself.
        throughput_texts_per_s: of the whole corpus, median of the rounds.
        tokens_per_s: the same in tokens, as Fletcher's tokenizer counts them.
        ratio: Fletcher's throughput by its own, median of the rounds, each of which has both.
        ratio_lowest: the same, of the round that was worst for Fletcher.
        latency_p50_ms: of one text at a time, milliseconds.
        latency_p95_ms: 95th percentile.
        latency_p99_ms: 99th percentile.
        latency_ratio: its median latency by Fletcher's.
        peak_rss_mb: the most memory its process had, MB.
        min_cosine: with the reference's vectors, the worst of the sample.
        batch_size: texts of a batch that it was fastest with, where it does not choose itself.
        padding_waste: share of the attention's rectangles that is padding; the rest of the graph computes none.
        compute_share: share of the workers' time that they computed.
        busy_share: share of the time in which at least one did.
        tokenizing_share: seconds inside the tokenizer by the job's seconds; they run beside the computing.
        output_share: seconds in which computed values became vectors, by the job's; they run beside the computing, too.
        problem: why it has no figures.
    """

    name: str
    versions: str = ""
    throughput_texts_per_s: float | None = None
    tokens_per_s: float | None = None
    ratio: float | None = None
    ratio_lowest: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_ratio: float | None = None
    peak_rss_mb: float | None = None
    min_cosine: float | None = None
    batch_size: int | None = None
    padding_waste: float | None = None
    compute_share: float | None = None
    busy_share: float | None = None
    tokenizing_share: float | None = None
    output_share: float | None = None
    problem: str | None = None


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark. Fletcher's own figures stand at the top, those of everybody in `participants`.

    Attributes:
        model: the card's name.
        texts: of the corpus.
        tokens: of the corpus.
        corpus: where the texts came from.
        rounds: how often each participant had its turn.
        processors: that the processes may use.
        reference: whose vectors cosines are taken with.
        throughput_texts_per_s, tokens_per_s, latency_p50_ms, latency_p99_ms, padding_waste, peak_rss_mb: see `Figures`.
        participants: everybody's.
    """

    model: str
    texts: int
    tokens: int
    corpus: str
    rounds: int
    processors: int
    reference: str
    throughput_texts_per_s: float
    tokens_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    padding_waste: float
    peak_rss_mb: float
    participants: Sequence[Figures]


def table(result: BenchResult) -> Table:
    """A row a participant."""
    rows = [
        (
            found.name,
            _show(found.throughput_texts_per_s, ".0f"),
            _show(found.tokens_per_s, ",.0f"),
            _show(found.ratio, ".2f"),
            _show(found.latency_p50_ms, ".2f"),
            _show(found.latency_p95_ms, ".2f"),
            _show(found.latency_p99_ms, ".2f"),
            _show(found.peak_rss_mb, ".0f"),
            _show(found.min_cosine, ".6f"),
            found.problem or "",
        )
        for found in result.participants
    ]
    title = (
        f"{result.model}: {result.texts:,} texts of {result.tokens / max(result.texts, 1):.0f} tokens in the mean "
        f"({result.corpus}), {result.rounds} rounds on {result.processors} processors"
    )
    columns = ("", "texts/s", "tokens/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "MB", "cosine", "")
    return Table(columns, rows, title=title)


def stages(ours: Figures) -> str:
    """Return the share of time of each stage of Fletcher, as text."""
    return (
        f"workers computed {_show(ours.compute_share, '.0%')} of their time; beside it, tokenizing took "
        f"{_show(ours.tokenizing_share, '.1%')} of the job's and making the output {_show(ours.output_share, '.1%')}; "
        f"{_show(ours.padding_waste, '.0%')} of the attention's rectangles was padding"
    )


def _show(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def plot(result: BenchResult, path: Path) -> None:
    """Draws throughput and latency as bars.

    Args:
        result: what to draw.
        path: a .png or .svg file.

    Raises:
        InputError: another suffix, or the file cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"a plot cannot be written as {path.name!r}: name it .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "verify", "drawing a plot") from error
    found = [one for one in result.participants if one.problem is None][::-1]
    names = [one.name for one in found]
    colors = ["tab:blue" if one.name == "fletcher" else "lightgray" for one in found]
    figure = Figure(figsize=(11, 1.4 + 0.5 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = left.barh(names, [one.throughput_texts_per_s or 0 for one in found], color=colors)
    left.bar_label(bars, fmt="{:,.0f}", padding=3)
    left.set_xlabel("texts/s (more is better)")
    bars = right.barh(names, [one.latency_p50_ms or 0 for one in found], color=colors)
    right.bar_label(bars, fmt="{:.2f}", padding=3)
    right.set_xlabel("one text, median ms (less is better)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.15)
    figure.suptitle(f"{result.model}, {result.corpus}, {result.processors} processors")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"the plot {path} cannot be written: {error.strerror}") from error
