"""Calls of llm's embedding models, in Python and on its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["OPENAI_BASE_URL"] = "http://localhost:8080/v1"
os.environ["OPENAI_API_KEY"] = "none"

import llm
from harness import TEXTS, call, report


@call("get_embedding_model().embed_multi")
def many() -> Any:
    return list(llm.get_embedding_model("3-small").embed_multi(TEXTS))


@call("get_embedding_model().embed", "vectors of one text")
def single() -> Any:
    return [llm.get_embedding_model("3-small").embed(TEXTS[0])]


@call("llm embed -m 3-small -c", "vectors of one text")
def command() -> Any:
    program = Path(sys.executable).with_name("llm")
    made = subprocess.run(
        [str(program), "embed", "-m", "3-small", "-c", TEXTS[0]], capture_output=True, text=True, check=True
    )
    return [json.loads(made.stdout)]


@call("Collection.embed_multi and similar", "most similar 2")
def collection() -> Any:
    collection = llm.Collection("texts", model=llm.get_embedding_model("3-small"))
    collection.embed_multi((str(index), text) for index, text in enumerate(TEXTS[1:]))
    return [(int(entry.id), entry.score) for entry in collection.similar(TEXTS[0], number=2)]


report()
