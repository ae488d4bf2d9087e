"""`fletcher-serve`: serve an artifact, or embed a file with it. Commands only say what is asked; the work is elsewhere.

pyarrow, the HTTP stack and onnxruntime are imported by the command that needs them: `--help` and completion stay quick.
"""

from __future__ import annotations

from fletcher.runtime.commandline.console import make_app, run

from .bench import bench
from .devices import devices
from .embed import embed
from .ingest import ingest, search
from .keys import keys
from .run import serve

__all__ = ["app", "main"]

app = make_app("fletcher-serve", "Text embeddings from a Fletcher artifact: a server, and bulk jobs.")
app.command("embed")(embed)
app.command("run")(serve)
app.add_typer(keys, name="keys")
app.command("devices")(devices)
app.command("bench")(bench)
app.command("ingest")(ingest)
app.command("search")(search)


def main() -> None:
    """The console script."""
    run(app)
