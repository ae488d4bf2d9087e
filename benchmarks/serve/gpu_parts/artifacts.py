"""Process that makes one artifact of the benchmark.

python -m benchmarks.serve.gpu_parts.artifacts MODEL CHECKPOINT ARTIFACT PROVIDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gpu.models import make_artifact, make_checkpoint


def main() -> None:
    """Convert the checkpoint, or one of a published model's dimensions with random weights and the checkpoint's tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("provider", choices=["cuda", "mlas"])
    args = parser.parse_args()
    target, precision = {"cuda": ("cuda", "fp16"), "mlas": ("cpu", "fp32")}[args.provider]
    checkpoint, longest = args.checkpoint, None
    if args.model != "minilm":
        folder = args.artifact.with_name(f"{args.model}-checkpoint")
        checkpoint, longest = make_checkpoint(args.model, folder, checkpoint / "tokenizer.json"), 512
    make_artifact(checkpoint, args.artifact, max_tokens=longest, targets=(target,), precisions=(precision,))


if __name__ == "__main__":
    main()
