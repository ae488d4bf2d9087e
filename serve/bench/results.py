"""Results of a benchmark, as structs, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError, MissingPackageError

__all__ = ["BenchResult", "Figures", "plot", "stages", "table"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one participant.

    Attributes:
        name: name of the participant.
        versions: versions that the participant reports.
        throughput_texts_per_s: throughput on the whole corpus, median of the rounds.
        tokens_per_s: the same in tokens, as Fletcher's tokenizer counts them.
        ratio: Fletcher's throughput divided by the participant's in the same round, median of the rounds.
        ratio_lowest: the lowest ratio of a round.
        latency_p50_ms: median latency of a single text, in milliseconds.
        latency_p95_ms: 95th percentile.
        latency_p99_ms: 99th percentile.
        latency_ratio: median latency of the participant divided by Fletcher's.
        peak_rss_mb: peak memory of the process, in MB.
        min_cosine: smallest cosine with the reference's vectors in the sample.
        batch_size: batch size with which a peer was fastest, in texts; None for Fletcher.
        padding_waste: share of padding in the attention; the rest of the graph does not compute padding.
        compute_share: share of their time in which the workers computed.
        busy_share: share of the time in which at least one worker computed.
        tokenizing_share: seconds in the tokenizer divided by the seconds of the job; tokenizing runs beside the computation.
        output_share: seconds of making the output divided by the seconds of the job; it runs beside the computation, too.
        problem: reason why there are no figures, or None.
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
    """Result of a benchmark. The fields are Fletcher's figures; `participants` has the figures of all participants.

    Attributes:
        model: name of the model, from its card.
        texts: number of texts in the corpus.
        tokens: number of tokens in the corpus.
        corpus: name of the corpus.
        rounds: number of rounds.
        processors: number of processors that the processes may use.
        reference: source of the vectors that all cosines compare with.
        throughput_texts_per_s, tokens_per_s, latency_p50_ms, latency_p99_ms, padding_waste, peak_rss_mb: see `Figures`.
        participants: figures of all participants.
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
    """Return a table with one row for each participant."""
    rows = [
        (
            figures.name,
            _show(figures.throughput_texts_per_s, ".0f"),
            _show(figures.tokens_per_s, ",.0f"),
            _show(figures.ratio, ".2f"),
            _show(figures.latency_p50_ms, ".2f"),
            _show(figures.latency_p95_ms, ".2f"),
            _show(figures.latency_p99_ms, ".2f"),
            _show(figures.peak_rss_mb, ".0f"),
            _show(figures.min_cosine, ".6f"),
            figures.problem or "",
        )
        for figures in result.participants
    ]
    title = (
        f"{result.model}: {result.texts:,} texts of {result.tokens / max(result.texts, 1):.0f} tokens on average "
        f"({result.corpus}), {result.rounds} rounds on {result.processors} processors"
    )
    columns = ("", "texts/s", "tokens/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "MB", "cosine", "")
    return Table(columns, rows, title=title)


def stages(ours: Figures) -> str:
    """Return the share of time of each stage of Fletcher, as text."""
    return (
        f"workers computed during {_show(ours.compute_share, '.0%')} of their time; in parallel, tokenizing took "
        f"{_show(ours.tokenizing_share, '.1%')} of the job's time and making the output {_show(ours.output_share, '.1%')}; "
        f"{_show(ours.padding_waste, '.0%')} of the attention's rectangles was padding"
    )


def _show(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def plot(result: BenchResult, path: Path) -> None:
    """Draw throughput and latency as bars.

    Args:
        result: result to draw.
        path: a .png or .svg file.

    Raises:
        InputError: the suffix is not supported, or the file cannot be written.
        MissingPackageError: matplotlib is not installed.
    """
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"a plot cannot be written as {path.name!r}: name it .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "verify", "drawing a plot") from error
    measured = [figures for figures in result.participants if figures.problem is None][::-1]
    names = [figures.name for figures in measured]
    colors = ["tab:blue" if name == "fletcher" else "lightgray" for name in names]
    figure = Figure(figsize=(11, 1.4 + 0.5 * len(measured)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = left.barh(names, [figures.throughput_texts_per_s or 0 for figures in measured], color=colors)
    left.bar_label(bars, fmt="{:,.0f}", padding=3)
    left.set_xlabel("texts/s (more is better)")
    bars = right.barh(names, [figures.latency_p50_ms or 0 for figures in measured], color=colors)
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
