"""Options of ONNX Runtime's CoreML provider, and the folder of the models that CoreML compiled.

Source of the names and values: `coreml_provider_factory.h` and `coreml_options.cc` of ONNX Runtime, and its page "CoreML
Execution Provider".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fletcher.model_zoo.sources.cache import cache_folder

from ...artifact.folder import Artifact
from ...errors import ProviderError

__all__ = ["COREML_EP", "SESSION_ENTRIES", "ComputeUnits", "coreml_options", "model_cache"]

COREML_EP = "CoreMLExecutionProvider"

#: Devices that CoreML may choose from.
ComputeUnits = Literal["ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"]

#: Entries of every session: it reports the provider of each node.
SESSION_ENTRIES: Mapping[str, str] = {"session.record_ep_graph_assignment_info": "1"}


def coreml_options(units: ComputeUnits, cache: Path) -> dict[str, str]:
    """Return the provider's options.

    Args:
        units: devices that CoreML may choose from.
        cache: folder of compiled models; ONNX Runtime names a model in it by the graph's path.
    """
    return {
        # The older format, NeuralNetwork, computes everything in float16 and knows fewer operators.
        "ModelFormat": "MLProgram",
        "MLComputeUnits": units,
        # All shapes of the graphs are fixed: a node without a fixed shape would be compiled again for each batch.
        "RequireStaticInputShapes": "1",
        "EnableOnSubgraphs": "0",
        "ModelCacheDirectory": str(cache),
    }


def model_cache(artifact: Artifact, onnxruntime_version: str, units: ComputeUnits) -> Path:
    """Return the folder of an artifact's compiled models. Create it if it does not exist.

    The path contains the digest of the artifact and the version of ONNX Runtime, because ONNX Runtime does not compare a
    compiled model with its graph, and cannot load models that another version compiled.

    Raises:
        ProviderError: the folder cannot be created.
    """
    folder = cache_folder(None) / "coreml" / artifact.digest[:16] / f"onnxruntime-{onnxruntime_version}-{units}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderError(
            f"the folder of compiled models {folder} cannot be created ({error.strerror or error}): free some space, or set "
            "FLETCHER_CACHE to another folder"
        ) from error
    return folder
