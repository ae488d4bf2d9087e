"""`fletcher-serve`: serve an artefact, or embed a file with it. Commands only say what is asked; the work is elsewhere.

pyarrow, the HTTP stack and onnxruntime are imported by the command that needs them: `--help` and completion stay quick.
"""

from __future__ import annotations

from fletcher.runtime.commandline.console import make_app, run

from .cli_bench import bench
from .cli_devices import devices
from .cli_embed import embed
from .cli_keys import keys
from .cli_longbow import ingest, search
from .cli_run import serve

__all__ = ["app", "main"]

app = make_app("fletcher-serve", "Text embeddings from a Fletcher artefact: a server, and bulk jobs.")
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
