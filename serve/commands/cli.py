"""Commands of `fletcher-serve`: serve artifacts, embed files, measure. Each reads options and calls one function.

pyarrow, the HTTP stack and onnxruntime are imported by the command that needs them, so that `--help` and completion are fast.
"""

from __future__ import annotations

from fletcher.runtime.commandline.console import make_app, run

from .audit import audit
from .bench import bench
from .cluster import cluster
from .devices import devices, kernels
from .doctor import doctor
from .embed import embed
from .ingest import ingest, search
from .keys import keys
from .retention import retention
from .run import serve
from .top import top

__all__ = ["SHARED", "app", "main"]

#: Commands that take the options of another command from the environment and from its table in a TOML file.
SHARED = {"doctor": "run"}

app = make_app("fletcher-serve", "Serve text embeddings from Fletcher artifacts, and embed files.")
app.command("embed")(embed)
app.command("run")(serve)
app.add_typer(keys, name="keys")
app.add_typer(audit, name="audit")
app.add_typer(cluster, name="cluster")
app.add_typer(kernels, name="kernels")
app.command("devices")(devices)
app.command("doctor")(doctor)
app.command("bench")(bench)
app.command("ingest")(ingest)
app.command("search")(search)
app.command("top")(top)
app.command("retention")(retention)


def main() -> None:
    """Run `fletcher-serve`."""
    run(app, shared=SHARED)
