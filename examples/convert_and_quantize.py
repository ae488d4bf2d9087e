"""Convert a checkpoint, write an INT8 artifact of it, and print the loss of accuracy.

    python examples/convert_and_quantize.py SOURCE FOLDER

SOURCE is a name of the model zoo, a hub id or a local checkpoint. FOLDER gets the artifacts `fp32` and `int8`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fletcher import export, quantize


def main() -> None:
    """Make both artifacts, and print their accuracy and size."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    exported = export(source, folder / "fp32")
    print(f"{exported.model}: {exported.dimension} dimensions, canary's smallest cosine {exported.min_cosine:.7f}")
    quantized = quantize(folder / "fp32", folder / "int8", "int8-per-token")
    print(f"int8: {quantized.num_bytes / quantized.parent_bytes:.2f} of the size")
    print(f"cosine with fp32: mean {quantized.cosine_mean:.5f}, smallest {quantized.cosine_min:.5f}")
    print(f"ten nearest neighbors kept: {quantized.neighbors:.1%}")


if __name__ == "__main__":
    main()
