"""Comparison of every family's and head's cuda graph on a GPU with transformers in float32 on the processor.

    python benchmarks/gpu/parity.py FOLDER [--output FILE.json]

It needs only numpy and onnxruntime-gpu, so it runs on a host without a package index. `prepare_parity.py` writes the
folder. For each case it checks that ONNX Runtime placed every node on the CUDA provider (fallback to the processor is not
allowed, and the profile of a run names the provider of each node); that the vectors are within the precision's tolerance,
with residual and norm fused and not fused, where differences are those of vectors of length 1; and that the graph can be
captured as a CUDA graph and replays to the same vectors, which shows that none of its nodes waits for the device.

It prints JSON, and the exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PROVIDER = "CUDAExecutionProvider"
#: Runs of a captured graph: the first one allocates, the second one captures, and later ones replay.
REPLAYS = 4
#: Largest difference of a replay from the plain run, by precision: the library may choose other kernels.
REPLAYED = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-1}


def open_session(graph: Path, *, disabled: list[str], profile: Path | None = None, **provider: str) -> Any:
    """Open a session that uses no other provider."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    settings = {"use_tf32": "0", **provider}
    session = onnxruntime.InferenceSession(
        graph, options, providers=[(PROVIDER, settings)], disabled_optimizers=disabled or None
    )
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError(f"runs on {session.get_providers()}")
    return session


def node_providers(graph: Path, feeds: dict[str, Any]) -> dict[str, int]:
    """Return the number of nodes by provider."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(graph, disabled=[], profile=Path(folder) / "run")
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    counts: dict[str, int] = {}
    for event in events:
        provider = event.get("args", {}).get("provider")
        if event.get("cat") == "Node" and provider:
            counts[provider] = counts.get(provider, 0) + 1
    return counts


def compare(ours: Any, theirs: Any, *, normalize: bool) -> tuple[float, float]:
    """Return the smallest cosine of a row and the largest absolute difference, of rows of length 1 if they are normalized."""
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in (left, right)]
    cosines = np.sum(left * right, 1, keepdims=True) / lengths[0] / lengths[1]
    if normalize:
        left, right = left / lengths[0], right / lengths[1]
    return float(cosines.min()), float(np.abs(left - right).max())


def capture(graph: Path, feeds: dict[str, Any]) -> float:
    """Capture and replay the graph, and return the largest difference from the plain run."""
    expected = open_session(graph, disabled=[]).run(None, feeds)[0]
    session = open_session(graph, disabled=[], enable_cuda_graph="1")
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(expected), "cuda", 0)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, result)
    for _ in range(REPLAYS):
        session.run_with_iobinding(binding)
    return float(np.abs(result.numpy() - expected).max())


def check_case(folder: Path) -> dict[str, Any]:
    """Check one model in one precision."""
    case = json.loads((folder / "case.json").read_text())
    precision = folder.name.rpartition("-")[2]
    graph = folder / f"cuda-{precision}.onnx"
    batches = [dict(np.load(file)) for file in sorted(folder.glob("batch*.npz"))]
    expected = [batch.pop("expected") for batch in batches]
    result: dict[str, Any] = {"providers": node_providers(graph, batches[2]), "islands": len(case["islands"])}
    passed = set(result["providers"]) == {PROVIDER}
    for name, disabled in (("fused", []), ("unfused", ["SkipLayerNormFusion"])):
        session = open_session(graph, disabled=disabled)
        vectors = [session.run(None, batch)[0] for batch in batches]
        figures = [compare(*pair, normalize=case["normalize"]) for pair in zip(vectors, expected, strict=True)]
        cosine, difference = min(c for c, _ in figures), max(d for _, d in figures)
        within = cosine >= case["min_cosine"] and (case["max_abs"] is None or difference <= case["max_abs"])
        result[name] = {"min_cosine": cosine, "max_abs": difference, "within": within}
        passed &= within
    result["captured_max_abs"] = capture(graph, batches[3])
    passed &= result["captured_max_abs"] <= REPLAYED[precision]
    return {"passed": bool(passed), **result}


def main() -> None:
    """Check every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # loads the CUDA libraries of PyTorch
    report: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "build": onnxruntime.get_build_info(),
        "cases": {},
    }
    for folder in sorted(path for path in args.folder.iterdir() if path.is_dir()):
        try:
            report["cases"][folder.name] = check_case(folder)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no common base, and the other cases must run
            report["cases"][folder.name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
    failed = [name for name, case in report["cases"].items() if not case["passed"]]
    report["failed"] = failed
    text = json.dumps(report, indent=1)
    if args.output is not None:
        args.output.write_text(text)
    print(text)
    sys.exit(1 if failed or not report["cases"] else 0)


if __name__ == "__main__":
    main()
