"""Report of mutants: verdicts and refusals grouped by reason, with examples.

    python -m tests.convert.mutants.report --count 3000 --jobs 2

Each group shows the result for a user with such a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .checkpoints.bases import BASES
from .generation.edits import Mutant, WriteKey
from .generation.generate import select
from .population import all_mutants, judge_all
from .verdicts import DEFECTS, Outcome

__all__ = ["describe"]

#: Mutants that a process judges at a time.
CHUNK = 50


def place(mutant: Mutant) -> str:
    """Return the file and key that a mutant changes, without numbers of modules and elements, so that bases share them."""
    edit = mutant.edits[-1]
    file = re.sub(r"^\d+_", "", edit.file)
    keys = [str(key) for key in edit.place if not isinstance(key, int)] if isinstance(edit, WriteKey) else []
    return " ".join([file, ".".join(re.sub(r"^\d+$", "N", key) for key in keys)]).strip()


def reason(message: str) -> str:
    """Return a message without numbers and values, which differ between mutants."""
    short = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", message)
    short = re.sub(r"\{.*\}|\[.*\]", "…", short)
    return re.sub(r"[-+]?\d[\d.e+-]*", "N", short)[:110]


def describe(outcomes: Sequence[Outcome], *, examples: int = 1) -> str:
    """Return the report."""
    lines = ["verdicts"]
    counts = Counter(outcome.verdict for outcome in outcomes)
    lines += [f"  {verdict:12} {count:6}" for verdict, count in counts.most_common()]
    kinds = sorted({outcome.mutant.kind for outcome in outcomes})
    lines += ["", f"{'kind':14}" + "".join(f"{verdict:>13}" for verdict in counts)]
    for kind in kinds:
        row = Counter(outcome.verdict for outcome in outcomes if outcome.mutant.kind == kind)
        lines.append(f"{kind:14}" + "".join(f"{row[verdict]:13}" for verdict in counts))
    for verdict in (*DEFECTS, "refused", "both refuse"):
        groups: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.verdict == verdict:
                key = place(outcome.mutant) if verdict in ("WRONG", "SILENT") else reason(outcome.reason)
                groups[key].append(outcome)
        if groups:
            lines += ["", f"{verdict}: {sum(map(len, groups.values()))} in {len(groups)} groups"]
        for key, group in sorted(groups.items(), key=lambda item: -len(item[1])):
            lines.append(f"{len(group):6}  {key}")
            lines += [f"          {outcome.mutant}: {outcome.reason[:200]}" for outcome in group[:examples]]
    return "\n".join(lines)


def main() -> None:
    """Judge mutants and print the report; the exit status is 1 if there is a defect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="Number of mutants, chosen evenly. Default: all of them.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice. Default: 0.")
    parser.add_argument("--base", action="append", help="Base checkpoint; may be repeated. Default: all of them.")
    parser.add_argument("--kind", action="append", help="Kind of mutation; may be repeated. Default: all of them.")
    parser.add_argument("--match", default="", help="Regular expression in the mutant's name. Default: every name.")
    parser.add_argument("--jobs", type=int, default=1, help="Number of processes. Default: 1.")
    parser.add_argument("--examples", type=int, default=1, help="Examples of each group. Default: 1.")
    parser.add_argument("--json", type=Path, help="File for all outcomes, one JSON object a line.")
    options = parser.parse_args()
    mutants = [
        mutant
        for mutant in all_mutants()
        if mutant.base in (options.base or BASES)
        and mutant.kind in (options.kind or [mutant.kind])
        and re.search(options.match, str(mutant))
    ]
    if options.count:
        mutants = select(mutants, options.count, options.seed)
    chunks = [mutants[start : start + CHUNK] for start in range(0, len(mutants), CHUNK)]
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(options.json.open("w")) if options.json else None
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(options.jobs, context))
        for part in pool.map(judge_all, chunks):
            outcomes += part
            sys.stderr.write(f"\r{len(outcomes)} of {len(mutants)}")
            for outcome in part:
                entry = {"base": outcome.mutant.base, "kind": outcome.mutant.kind, "name": outcome.mutant.name}
                entry |= {"place": place(outcome.mutant), "verdict": outcome.verdict, "reason": outcome.reason}
                if stream is not None:
                    stream.write(f"{json.dumps(entry)}\n")
    sys.stdout.write(f"{describe(outcomes, examples=options.examples)}\n")
    sys.exit(any(outcome.verdict in DEFECTS for outcome in outcomes))


if __name__ == "__main__":
    main()
