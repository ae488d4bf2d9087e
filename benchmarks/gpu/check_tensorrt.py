"""Check of ONNX Runtime's answers to Fletcher's TensorRT options and to missing TensorRT libraries.

    python benchmarks/gpu/check_tensorrt.py [--artifact DIR]

It runs on a host with onnxruntime-gpu, which lists the TensorRT provider even if its libraries are missing. A GPU is
needed only with `--artifact`. It checks that

- the provider's parser accepts every option of Fletcher, rejects an unknown name, and accepts only the booleans True and
  False, all before it loads the provider's library;
- without the libraries, ONNX Runtime continues without TensorRT and raises no error, but raises one if a session is opened
  with Fletcher's settings;
- with `--artifact`, an artifact with a `tensorrt` variant: Fletcher rejects the provider with the reason, and, if CUDA
  is allowed, runs the variant there and reproduces the canary's vectors.

The first two checks need only onnxruntime-gpu; the third also needs Fletcher (PYTHONPATH=src). The script prints JSON,
and its exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
from onnxruntime.capi import _pybind_state

ROOT = Path(__file__).resolve().parents[2]

#: y = x + x over floats (n,), opset 20: `onnx.helper.make_model`, serialized.
TWICE = base64.b64decode(
    "CAo6PgoVCgF4CgF4EgF5GgV0d2ljZSIDQWRkEgFnWhAKAXgSCwoJCAESBQoDEgFuYhAKAXkSCwoJCAESBQoDEgFuQgQKABAU"
)

#: Shapes of an engine's smallest, best and largest rectangle, in the form of a manifest.
SIDES = ({"x": (1,)}, {"x": (4,)}, {"x": (8,)})


def read_options() -> ModuleType:
    """Load runtime/providers/tensorrt/options.py, which imports nothing, without the rest of Fletcher."""
    spec = importlib.util.spec_from_file_location("tensorrt_options", ROOT / "runtime/providers/tensorrt/options.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OPTIONS = read_options()


def parse(options: dict[str, str]) -> str | None:
    """Return the error message of the provider's parser for options, or None; a missing library fails only later."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = _pybind_state.InferenceSession(settings, TWICE, False, False)
    message = attempt(lambda: session.initialize_session([OPTIONS.TENSORRT_EP], [options], set()))
    parsing = message is not None and ("Invalid TensorRT EP option" in message or "[ERROR] [TensorRT]" in message)
    return message if parsing else None


def attempt(action: Callable[[], Any]) -> str | None:
    """Return the error of an action as text."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  any error is a result
        return str(error).strip() or type(error).__name__
    return None


def open_plainly(**options: Any) -> list[str] | str:
    """Return the providers of a session that asks for TensorRT, or the error."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    for name, value in options.pop("entries", {}).items():
        settings.add_session_config_entry(name, value)
    try:
        session = onnxruntime.InferenceSession(TWICE, settings, providers=[OPTIONS.TENSORRT_EP], **options)
    except Exception as error:  # noqa: BLE001  any error is a result
        return str(error).strip()
    return list(session.get_providers())


def check_options() -> dict[str, Any]:
    """Check that Fletcher's options are accepted, and that others are rejected."""
    with tempfile.TemporaryDirectory() as folder:
        ours = OPTIONS.tensorrt_build_options(0, SIDES, Path(folder), Path(folder))
        return {
            "names": sorted(ours),
            "ours_refused": {name: message for name, value in ours.items() if (message := parse({name: value}))},
            "all_refused": parse(ours),
            "unknown_names_taken": [name for name in ours if parse({f"{name}s": ours[name]}) is None],
            "boolean_as_number_refused": parse({"trt_engine_cache_enable": "1"}) is not None,
        }


def check_missing() -> dict[str, Any]:
    """Check the behavior without the libraries; the result says if they are present."""
    print("the messages before the JSON are ONNX Runtime's:", file=sys.stderr)
    return {
        "plain_session_runs_on": open_plainly(),
        "our_session": open_plainly(entries=OPTIONS.SESSION_ENTRIES, enable_fallback=0),
    }


def check_artifact(path: Path) -> dict[str, Any]:
    """Check the `tensorrt` variant of an artifact through Fletcher."""
    import numpy as np

    from fletcher.runtime.artifact.folder import Artifact
    from fletcher.runtime.canary import read_canary
    from fletcher.runtime.machine.gpus import this_gpus
    from fletcher.runtime.providers.tensorrt.libraries import tensorrt_problem
    from fletcher.runtime.providers.tensorrt.rtx import open_tensorrt_rtx
    from fletcher.runtime.providers.tensorrt.session import open_tensorrt

    artifact = Artifact.open(path)
    variant = next(variant for variant in artifact.manifest.variants if variant.target == "tensorrt")
    gpu = this_gpus().gpus[0]
    canary = read_canary(artifact.canary_file)
    report: dict[str, Any] = {
        "gpu": gpu.name,
        "problem": tensorrt_problem(),
        "refused": attempt(lambda: open_tensorrt(artifact, variant, gpu).close()),
        "rtx_refused": attempt(lambda: open_tensorrt_rtx(artifact, variant, gpu).close()),
    }
    with open_tensorrt(artifact, variant, gpu, allow_cuda=True) as session:
        vectors = session.run(canary.encodings)
        report |= {
            "provider": session.provider,
            "fallback": session.fallback,
            "max_abs_difference": float(np.abs(vectors - canary.vectors).max()),
            "engines_built_in_service": session.engines_built_in_service,
        }
    return report


def judge(report: dict[str, Any]) -> list[str]:
    """Return the failed checks."""
    options, missing = report["options"], report["missing"]
    is_installed = missing["plain_session_runs_on"][:1] == [OPTIONS.TENSORRT_EP]
    expected = {
        "TensorRT's provider is listed": OPTIONS.TENSORRT_EP in report["available"],
        "Fletcher's options are accepted": not options["ours_refused"] and options["all_refused"] is None,
        "unknown options are rejected": not options["unknown_names_taken"],
        "only True and False are booleans": options["boolean_as_number_refused"],
        "a session with Fletcher's settings raises, or runs on TensorRT": isinstance(missing["our_session"], str)
        is not is_installed,
    }
    if (artifact := report.get("artifact")) is not None:
        refused = artifact["problem"] is not None
        expected |= {
            "the provider is rejected with the reason": refused is (artifact["refused"] is not None)
            and (not refused or artifact["problem"] in artifact["refused"]),
            "CUDA runs the variant instead": (artifact["provider"] == "CUDA") is refused,
            "the vectors are the canary's": artifact["max_abs_difference"] < 5e-3,
            "no engine was built while serving": artifact["engines_built_in_service"] == 0,
        }
    return [check for check, passed in expected.items() if not passed]


def main() -> int:
    """Run the checks, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="folder of an artifact with a tensorrt variant")
    arguments = parser.parse_args()
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    report: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "available": onnxruntime.get_available_providers(),
        "options": check_options(),
        "missing": check_missing(),
    }
    if arguments.artifact is not None:
        report["artifact"] = check_artifact(arguments.artifact)
    report["not_as_expected"] = judge(report)
    print(json.dumps(report, indent=2))
    return 1 if report["not_as_expected"] else 0


if __name__ == "__main__":
    sys.exit(main())
