"""Run a server inside this program and query it with OpenAI's client.

python examples/serve_in_process.py ARTIFACT
"""

from __future__ import annotations

import sys

from openai import OpenAI

from fletcher.serve import ModelSpec, Server, ServerOptions


def main() -> None:
    """Serve an artifact on a free port, send one request, and stop."""
    model = ModelSpec(path=sys.argv[1], name="my-model")
    options = ServerOptions(http="127.0.0.1:0", flight="off")
    with Server([model], options) as server:
        client = OpenAI(base_url=f"{server.addresses.http}/v1", api_key="not needed")
        answer = client.embeddings.create(model="my-model", input=["a text", "another"])
        print(
            f"{len(answer.data)} vectors of {len(answer.data[0].embedding)} dimensions; {answer.usage.total_tokens} tokens"
        )


if __name__ == "__main__":
    main()
