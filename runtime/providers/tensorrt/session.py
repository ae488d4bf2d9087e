"""`TensorRtSession`: TensorRT through ONNX Runtime, its engines built before the session is returned and none afterwards.

One ONNX Runtime session for each profile: its TensorRT provider builds an engine of several profiles and then runs every
batch on the first one (pull request 31624, open when 1.31 was released). A session is opened on the engine's context model,
which has no network in it, so that nothing can be built from it while it serves.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...batch import Batch
from ...errors import DeviceLostError, DeviceMemoryError, MissingPackageError, ProviderError
from ...machine.gpus import Gpu, this_gpus
from ...session.counters import Counters
from ...session.feeds import make_feeds, pack
from ...session.session import Session
from ..cuda import TITLE as CUDA_TITLE
from ..cuda.ort import import_onnxruntime, open_inference_session, provider_options, translate
from . import TITLE
from .engine_cache import EngineCache, EngineKey, engines_folder
from .engines import EngineWatch, Make, build_engines, profile_folder
from .libraries import load_tensorrt, require_provider
from .options import CONTEXT, SESSION_ENTRIES, TENSORRT_EP, tensorrt_build_options, tensorrt_options
from .profiles import LONGEST, TEXTS, limits_of, sides_of, split

__all__ = ["TensorRtSession", "open_checked", "open_engines", "open_tensorrt", "session_options"]

logger = logging.getLogger("fletcher.runtime.providers.tensorrt.session")

#: Opens a session on the engine in a folder; the other folder is for what was measured or compiled on this GPU.
Load = Callable[[Path, Path], Any]


class TensorRtSession(Session):
    """Rectangle graph on engines of one GPU. Safe to run from several threads at once; a context manager.

    Attributes:
        provider: where it really runs.
        fallback: why that is not TensorRT, where it was allowed; None where it is.
    """

    def __init__(
        self,
        variant: Variant,
        sessions: Sequence[Any],
        *,
        provider: str,
        watch: EngineWatch | None,
        fallback: str | None = None,
    ) -> None:
        """Wrap sessions that are open.

        Args:
            variant: whose graph it is.
            sessions: ONNX Runtime's, one for each profile, or one for all.
            provider: name of what they run on.
            watch: over the engines' folder.
            fallback: why that is not TensorRT.

        Raises:
            ArtifactError: the profiles do not say what they take.
        """
        self.provider = provider
        self.fallback = fallback
        self._limits = limits_of(variant)
        self._sessions: Sequence[Any] | None = sessions
        self._variant = variant
        self._outputs = {info.name: info for info in variant.outputs}
        self._watch = watch

    @property
    def engines_built_in_service(self) -> int:
        """Number of engine files that were written since the session was opened; anything but 0 is a defect."""
        return 0 if self._watch is None else self._watch.written

    def counters(self) -> Counters:
        """Return what the session counts by itself."""
        text = "Engine files written after the session was opened; none should be"
        return {"engines_built_in_service": (text, lambda: float(self.engines_built_in_service))}

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch, cut into rectangles that fit the profiles; see `Session.run`.

        Raises:
            InputError: a text is longer than every profile.
            DeviceMemoryError: the GPU has not enough free memory for this batch.
            DeviceLostError: the GPU failed.
            ProviderError: the session was closed, has no such output, or ONNX Runtime cannot compute the batch.
        """
        sessions = self._sessions  # `close` may come from another thread
        if sessions is None:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        info = self._variant.outputs[0] if output is None else self._outputs.get(output)
        if info is None:
            raise ProviderError(f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert it again")
        is_by_token = info.shape[:2] == (TEXTS, LONGEST)
        parts = split(batch, self._limits, self._variant.feeds.multiple)
        if len(parts) == 1:
            return self._compute(sessions, parts[0].profile, batch, info.name, is_by_token)
        rows = None
        for part in parts:
            values = self._compute(sessions, part.profile, batch.select(part.rows), info.name, is_by_token)
            if rows is None:
                rows = np.empty((batch.num_tokens if is_by_token else len(batch), *values.shape[1:]), values.dtype)
            rows[batch.token_index(part.rows) if is_by_token else part.rows] = values
        assert rows is not None  # a batch has a text
        return rows

    def close(self) -> None:
        """Release the memory once the runs under way have ended."""
        self._sessions = None

    def _compute(
        self, sessions: Sequence[Any], profile: int, batch: Batch, name: str, is_by_token: bool
    ) -> NDArray[np.float32]:
        session = sessions[profile % len(sessions)]
        feeds = make_feeds(self._variant.inputs, self._variant.feeds, batch)
        try:
            values: NDArray[np.float32] = session.run([name], feeds)[0]
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            texts = f"{len(batch)} texts and {batch.num_tokens} tokens"
            raise translate(error, f"{self.provider} cannot compute a batch of {texts}") from error
        return pack(values, batch) if is_by_token else values


def open_tensorrt(artifact: Artifact, variant: Variant, gpu: Gpu, *, allow_cuda: bool = False) -> TensorRtSession:
    """Open a `tensorrt` variant on TensorRT; its engines are built first if the cache has none.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        gpu: where it runs.
        allow_cuda: whether ONNX Runtime's CUDA provider may run the whole graph where TensorRT cannot. It is logged, and
            `fallback` says why.

    Raises:
        MissingPackageError: no ONNX Runtime with a TensorRT provider is installed.
        ProviderError: TensorRT's libraries are missing, it does not take the graph as a whole, or the engines can be neither
            built nor kept.
        DeviceMemoryError: the GPU has no room for it.
        DeviceLostError: the GPU failed.
        ArtifactError: the variant has no usable profiles.
    """
    limits_of(variant)
    try:
        return _open_on_tensorrt(artifact, variant, gpu)
    except (DeviceLostError, DeviceMemoryError):
        raise  # CUDA would fail as well
    except (MissingPackageError, ProviderError) as error:
        if not allow_cuda:
            raise
        reason = f"tensorrt was wanted, cuda runs: {error}"
        logger.warning("fallback", extra={"fields": {"variant": variant.name, "reason": reason}})
    session = open_inference_session(artifact.path / variant.file, provider_options(gpu.index))
    return TensorRtSession(variant, [session], provider=CUDA_TITLE, watch=None, fallback=reason)


def _open_on_tensorrt(artifact: Artifact, variant: Variant, gpu: Gpu) -> TensorRtSession:
    require_provider()
    onnxruntime = import_onnxruntime()
    version = load_tensorrt()

    graph = (artifact.path / variant.file).absolute()  # providers write paths relative to it into context models

    def load(folder: Path, timing: Path) -> Any:
        settings = tensorrt_options(gpu.index)
        options = session_options(onnxruntime)
        return open_checked(onnxruntime, folder / CONTEXT, options, TENSORRT_EP, [(TENSORRT_EP, settings)])

    def make(profile: int, folder: Path, timing: Path) -> None:
        settings = tensorrt_build_options(gpu.index, sides_of(variant, variant.profiles[profile]), folder, timing)
        options = session_options(onnxruntime)
        open_checked(onnxruntime, graph, options, TENSORRT_EP, [(TENSORRT_EP, settings)])

    key = engine_key(onnxruntime, artifact, variant, gpu, provider=TENSORRT_EP, version=version)
    return open_engines(artifact, variant, key, make, load, provider=TITLE)


def open_engines(
    artifact: Artifact,
    variant: Variant,
    key: EngineKey,
    make: Make,
    load: Load,
    *,
    provider: str,
) -> TensorRtSession:
    """Open the engines of a key: from the cache, or built first.

    Args:
        artifact, variant: whose.
        key: what they are valid for.
        make: builds a profile's engine.
        load: opens a session on it.
        provider: the session's name for where it runs.

    Raises:
        DeviceMemoryError: the GPU has no room for them.
        DeviceLostError: the GPU failed.
        ProviderError: they can be neither loaded nor built, or not be kept.
    """
    cache = EngineCache(engines_folder(), key)
    weights = artifact.manifest.files[variant.weights].size
    profiles = range(len(variant.profiles))

    def build() -> Path:
        return build_engines(cache, profiles, make, variant=variant.name, weights=weights)

    def load_all(folder: Path) -> list[Any]:
        return [load(profile_folder(folder, profile), cache.timing) for profile in profiles]

    with cache.alone():
        cached = cache.find()
        folder = cached or build()
        try:
            sessions = load_all(folder)
        except ProviderError as error:
            if cached is None or isinstance(error, DeviceMemoryError | DeviceLostError):
                raise
            cache.discard(f"they cannot be loaded: {error}")
            folder = build()
            sessions = load_all(folder)
    return TensorRtSession(variant, sessions, provider=provider, watch=EngineWatch(folder))


def engine_key(
    onnxruntime: Any, artifact: Artifact, variant: Variant, gpu: Gpu, *, provider: str, version: str
) -> EngineKey:
    """Return the key of the engines of a variant on a GPU.

    Args:
        onnxruntime: the module.
        artifact, variant: whose.
        gpu: where they run.
        provider: who builds them.
        version: of TensorRT.
    """
    # TensorRT honors this variable while it builds; profiles are not a part of the artifact's digest.
    system = this_gpus()
    settings = [
        msgspec.json.encode(variant.profiles, order="deterministic"),
        os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
    ]
    return EngineKey(
        provider=provider,
        gpu=gpu.name,
        memory=gpu.memory,
        capability=gpu.capability,
        driver=f"{system.driver or 'unknown'}, CUDA {'.'.join(map(str, system.cuda))}",
        onnxruntime=str(onnxruntime.__version__),
        tensorrt=version,
        artifact=artifact.digest,
        variant=variant.name,
        options=hashlib.sha256(repr(settings).encode()).hexdigest()[:16],
    )


def session_options(onnxruntime: Any, entries: Mapping[str, str] | None = None) -> Any:
    """Return the options of every session here: the graph as it was written, and no node on the processor."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Fusions would put contrib operators into the graph, which TensorRT does not know; TensorRT fuses by itself.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in {**SESSION_ENTRIES, **(entries or {})}.items():
        options.add_session_config_entry(name, value)
    return options


def open_checked(onnxruntime: Any, graph: Path, options: Any, provider: str, providers: Any = None) -> Any:
    """Open a session that runs wholly on one provider.

    ONNX Runtime has three ways of going on without it: it opens the session anew on other providers, leaves out a
    provider whose library does not load, and gives single nodes to the processor. None of them is left open.

    Args:
        onnxruntime: the module.
        graph: the model.
        options: of `session_options`.
        provider: where every node has to be.
        providers: for `InferenceSession`; None if the options name devices.

    Raises:
        DeviceMemoryError: the GPU has no room for it.
        DeviceLostError: the GPU failed.
        ProviderError: it would not.
    """
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no base of their own
        raise translate(error, f"{provider} does not take {graph}") from error
    if not session.get_providers() or session.get_providers()[0] != provider:
        raise ProviderError(f"{graph} was to run on {provider}, and runs on {session.get_providers()}")
    strangers = [
        f"{node.name} ({node.op_type}) on {group.ep_name}"
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != provider
        for node in group.get_nodes()
    ]
    if strangers:
        raise ProviderError(f"{len(strangers)} nodes of {graph} are not on {provider}, first {strangers[0]}")
    return session
