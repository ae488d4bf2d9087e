"""The page of the documentation that shows the results of the clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from .client import Client
from .environment import INSTALL_SECONDS
from .reference import TOLERANCE
from .results import ROOT, CallResult, ClientResult

__all__ = ["PAGE", "render"]

#: File of the page.
PAGE = ROOT / "docs" / "reference" / "compatibility.md"

#: Kind of code block by the ending of a driver's file.
FENCES = {".py": "python", ".mjs": "js", ".java": "java"}

#: Words for the kinds of right results that do not explain themselves.
WORDS = {
    "query": "vectors of queries",
    "document": "vectors of documents",
    "pooled": "vectors before their scaling to length 1",
    "names": "names of the models",
    "similarities": "cosine similarities",
}

INTRODUCTION = f"""\
# Tested clients

Each client on this page was installed in its own environment and made the calls of its own documentation, with only the
address, the key and the name of the model changed. Each call was made to two servers: one process without keys, and one
engine with two front processes (`--fronts 2`) that demands a key, which is `none` here.

A call is right if its vectors and scores are those of sentence-transformers in float32, computed in process from the same
checkpoint: no component and no score may differ by more than {TOLERANCE:g}. Rankings must have the reference's order. The
models are all-MiniLM-L6-v2 (`minilm`), and two tiny checkpoints with random weights: `prompted`, with prompts for queries
and documents and shorter lengths of vectors, and `reranker`.

`.venv/bin/pytest -m slow tests/clients` makes the calls and writes this page from their results; `-k NAME` runs one
client. A client is left out if its installation takes more than {INSTALL_SECONDS / 60:.0f} minutes.
[Clients of other servers](clients.md) explains the fields that clients send.

"""


def render(clients: Mapping[str, Client], results: Mapping[str, ClientResult]) -> str:
    """Return the page of all clients; a client without results has the result "not run"."""
    lines = ["| client | versions | right calls | Fletcher | date |", "|---|---|---|---|---|"]
    by_name = sorted(clients.items(), key=lambda item: item[1].name.lower())
    lines += [_row(client, results.get(name)) for name, client in by_name]
    sections = [_section(client, results.get(name)) for name, client in by_name]
    return INTRODUCTION + "\n".join(lines) + "\n\n" + "\n".join(sections)


def _row(client: Client, result: ClientResult | None) -> str:
    link = f"[{client.name}](#{_anchor(client.name)})"
    if result is None:
        return f"| {link} | | not run | | |"
    shown = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    right = sum(call.fault is None for call in result.calls)
    outcome = f"left out: {_cell(result.left_out)}" if result.left_out else f"{right} of {len(result.calls)}"
    return f"| {link} | {shown} | {outcome} | {result.fletcher} | {result.date} |"


def _section(client: Client, result: ClientResult | None) -> str:
    return "\n".join([f"## {client.name}", "", *_settings(client), *_calls(client, result)])


def _settings(client: Client) -> Iterator[str]:
    """Yield the lines that a user writes, and the notes about them."""
    yield f"```{FENCES[Path(client.driver).suffix]}"
    yield from client.settings
    yield "```"
    yield ""
    if client.notes:
        yield client.notes
        yield ""


def _calls(client: Client, result: ClientResult | None) -> Iterator[str]:
    if result is None or not result.calls:
        return
    yield "| call | right result | outcome |"
    yield "|---|---|---|"
    for call in result.calls:
        yield f"| `{_cell(call.name)}` | {_cell(_words(call))} | {_outcome(client, call)} |"
    yield ""


def _words(call: CallResult) -> str:
    """Return the right result of a call in words."""
    if call.expected.startswith("refused "):
        return f"refused, with `{call.expected.removeprefix('refused ')}` in the message"
    kind, separator, rest = call.expected.partition(" ")
    return WORDS.get(kind, kind) + separator + rest


def _outcome(client: Client, call: CallResult) -> str:
    if call.fault is None:
        return "right"
    reason = client.expected_failures.get(call.name, "")
    return f"**fails**: {_cell(' '.join([reason, call.fault]).strip())}"


def _cell(text: str) -> str:
    """Return a text that does not end a cell of a table or begin an element of HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    kept = "".join(char for char in heading.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")
