"""`run_deployments`: the work of `fletcher-serve cluster serve`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TextIO

from fletcher.runtime.commandline.reporter import Reporter, Table
from fletcher.runtime.errors import FletcherError, InputError

from ..signals import hangups, stop_signals, wait_until_stopped
from .connection import Cluster, connected
from .corpus.options import CorpusJob
from .deploy import Deployed, deploy, remove
from .environment import take_environment
from .options import LOCAL, RayFile

__all__ = ["remove_deployments", "run_corpus", "run_deployments"]

logger = logging.getLogger("fletcher.serve.cluster_ray")


def run_deployments(file: RayFile, report: Reporter, reread: Callable[[], RayFile]) -> None:
    """Deploy; on a cluster of this machine also serve until a signal, and deploy again after SIGHUP.

    Args:
        file: the deployments.
        report: prints the addresses.
        reread: reads the file again.

    Raises:
        FletcherError: as for `connected` and `deploy`.
    """
    variables = take_environment(file.ray)
    out = sys.stdout
    with connected(file.ray.address, variables) as cluster:
        if not cluster.local:
            _announce(deploy(cluster, file, report), report, out)
            return
        with stop_signals() as stopped, hangups() as hung_up:
            _announce(deploy(cluster, file, report), report, out)
            wait_until_stopped(stopped, hung_up, on_hangup=lambda: _again(cluster, file, report, reread, out))
            remove(cluster, file)


def remove_deployments(file: RayFile, report: Reporter) -> None:
    """End the deployments of a file.

    Raises:
        InputError: the cluster is one of this machine, which ends with its command; or as for `connected`.
    """
    if file.ray.address == LOCAL:
        raise InputError("a local cluster ends with the command that started it: stop that command")
    with connected(file.ray.address, take_environment(file.ray)) as cluster:
        remove(cluster, file)
    report.line(f"ended {', '.join(one.name for one in file.deployments)}")


def run_corpus(job: CorpusJob, report: Reporter) -> None:
    """Run a corpus job, and report its result.

    Raises:
        FletcherError: as for `connected` and `embed_corpus`.
    """
    from .corpus.job import embed_corpus

    with connected(job.corpus.address, {}) as cluster:
        summary = embed_corpus(cluster, job, report)
    if summary.truncated_texts:
        report.warn(
            f"{summary.truncated_texts:,} of {summary.rows:,} texts were longer than the model's limit and were truncated: "
            f"{summary.dropped_tokens:,} tokens are not part of the vectors"
        )
    report.result(summary)


def _again(cluster: Cluster, file: RayFile, report: Reporter, reread: Callable[[], RayFile], out: TextIO) -> None:
    """Deploy what the file has now. A failure changes nothing and is reported."""
    try:
        fresh = reread()
        if fresh.ray != file.ray:
            raise InputError("[ray] has changed, which needs a new start of the command")
        _announce(deploy(cluster, fresh, report), report, out)
    except FletcherError as error:
        report.warn(f"the file was read again and rejected: {error}")


def _announce(deployed: list[Deployed], report: Reporter, out: TextIO) -> None:
    """Print the deployments on standard output."""
    rows = [
        (
            one.name,
            one.url,
            one.replicas,
            f"{one.gpus:g}",
            f"{one.memory / 2**20:.0f} MiB",
            " ".join(one.flight) or "off",
        )
        for one in deployed
    ]
    with redirect_stdout(out):
        report.result(deployed, Table(("deployment", "HTTP", "replicas", "GPUs", "memory", "Flight"), rows))
    out.flush()
