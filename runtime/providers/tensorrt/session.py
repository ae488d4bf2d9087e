"""`TensorRtSession`: TensorRT through ONNX Runtime. All engines are built before the session is returned.

There is one ONNX Runtime session for each profile, because its TensorRT provider runs every batch on the first profile of an
engine with several profiles (ONNX Runtime 1.31, pull request 31624). A session is opened on the context model of an engine.
This model has no network, so no engine can be built from it during serving.
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
from ...artifact.outputs import join_values, names_of, value_rows
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

#: Function that opens a session on the engine in a folder. The second folder is for timings or kernels of this GPU.
Load = Callable[[Path, Path], Any]


class TensorRtSession(Session):
    """`TensorRtSession`: rectangle graph on engines of one GPU. Safe to run from several threads at once; a context manager.

    Attributes:
        provider: title of the provider that runs the graph.
        fallback: reason why TensorRT does not run the graph, or None.
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
        """Wrap open sessions.

        Args:
            variant: variant of the graph.
            sessions: sessions of ONNX Runtime, one for each profile, or one for all profiles.
            provider: title of the provider that runs them.
            watch: watch of the folder of engines, or None.
            fallback: reason why TensorRT does not run the graph, or None.

        Raises:
            ArtifactError: the profiles do not define their numbers of texts and tokens.
        """
        self.provider = provider
        self.fallback = fallback
        self._limits = limits_of(variant)
        self._sessions: Sequence[Any] | None = sessions
        self._variant = variant
        self._outputs = {info.name: info for info in variant.outputs}
        self._widths = {info.name: int(info.shape[-1]) for info in variant.outputs}
        self._watch = watch

    @property
    def engines_built_in_service(self) -> int:
        """Number of engine files that were written since the session was opened. A number above 0 is a defect."""
        return 0 if self._watch is None else self._watch.written

    def counters(self) -> Counters:
        """Return the counters of the session."""
        text = "Engine files written after the session was opened; a number above 0 is a defect"
        return {"engines_built_in_service": (text, lambda: float(self.engines_built_in_service))}

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch, split into rectangles that fit the profiles; see `Session.run`.

        Raises:
            InputError: a text is longer than every profile.
            DeviceMemoryError: the GPU does not have enough free memory for this batch.
            DeviceLostError: the GPU failed.
            ProviderError: the session was closed, has no such output, or ONNX Runtime cannot compute the batch.
        """
        sessions = self._sessions  # `close` may come from another thread
        if sessions is None:
            raise ProviderError("the session was closed and cannot compute: load the artifact again")
        first = self._variant.outputs[0].name
        names = [first] if output is None else names_of(output)
        if not set(names) <= set(self._outputs):
            raise ProviderError(f"the graph has no output {output!r} but {', '.join(self._outputs)}: convert it again")
        shape = value_rows(output or first, self._widths)
        parts = split(batch, self._limits, self._variant.feeds.multiple)
        if len(parts) == 1:
            return self._compute(sessions, parts[0].profile, batch, names)
        rows = None
        for part in parts:
            values = self._compute(sessions, part.profile, batch.select(part.rows), names)
            if rows is None:
                count = len(batch) if shape is None else shape.count(batch)
                rows = np.empty((count, *values.shape[1:]), values.dtype)
            rows[part.rows if shape is None else shape.places(batch, part.rows)] = values
        assert rows is not None  # a batch has at least one text
        return rows

    def close(self) -> None:
        """Release the memory as soon as the runs in progress have ended."""
        self._sessions = None
        if self._watch is not None:
            self._watch.close()

    def _compute(self, sessions: Sequence[Any], profile: int, batch: Batch, names: list[str]) -> NDArray[np.float32]:
        session = sessions[profile % len(sessions)]
        feeds = make_feeds(self._variant.inputs, self._variant.feeds, batch)
        try:
            outputs: list[NDArray[np.float32]] = session.run(names, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base class
            texts = f"{len(batch)} texts and {batch.num_tokens} tokens"
            raise translate(error, f"{self.provider} cannot compute a batch of {texts}") from error
        values = [
            pack(value, batch) if self._outputs[name].shape[:2] == (TEXTS, LONGEST) else value
            for name, value in zip(names, outputs, strict=True)
        ]
        return values[0] if len(values) == 1 else join_values(names, values, batch)


def open_tensorrt(artifact: Artifact, variant: Variant, gpu: Gpu, *, allow_cuda: bool = False) -> TensorRtSession:
    """Open a `tensorrt` variant on TensorRT. Its engines are built first if they are not in the cache.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        gpu: GPU that runs the graph.
        allow_cuda: whether ONNX Runtime's CUDA provider may run the whole graph if TensorRT cannot. This is logged, and
            `fallback` has the reason.

    Raises:
        MissingPackageError: no ONNX Runtime with a TensorRT provider is installed.
        ProviderError: TensorRT's libraries are missing, TensorRT does not run the whole graph, or the engines cannot be built
            or stored.
        DeviceMemoryError: the GPU does not have enough memory.
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
        reason = f"tensorrt was requested, cuda runs: {error}"
        logger.warning("fallback", extra={"fields": {"variant": variant.name, "reason": reason}})
    session = open_inference_session(artifact.path / variant.file, provider_options(gpu.index))
    return TensorRtSession(variant, [session], provider=CUDA_TITLE, watch=None, fallback=reason)


def _open_on_tensorrt(artifact: Artifact, variant: Variant, gpu: Gpu) -> TensorRtSession:
    require_provider()
    onnxruntime = import_onnxruntime()
    version = load_tensorrt()

    graph = (artifact.path / variant.file).absolute()  # context models contain paths relative to it

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
    """Open the engines of a key. They are built first if they are not in the cache.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        key: key of the engines.
        make: function that builds the engine of a profile.
        load: function that opens a session on an engine.
        provider: title of the provider.

    Raises:
        DeviceMemoryError: the GPU does not have enough memory.
        DeviceLostError: the GPU failed.
        ProviderError: the engines cannot be loaded, built or stored.
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
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        gpu: GPU that runs the engines.
        provider: ONNX Runtime's name of the provider.
        version: version of TensorRT.
    """
    system = this_gpus()
    # Profiles are not a part of the artifact's digest, and TensorRT honors this variable during a build.
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
    """Return the options of a session: no changes of the graph, and no node on the processor."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # ONNX Runtime's fusions insert contrib operators, which TensorRT does not know. TensorRT makes its own fusions.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in {**SESSION_ENTRIES, **(entries or {})}.items():
        options.add_session_config_entry(name, value)
    return options


def open_checked(onnxruntime: Any, graph: Path, options: Any, provider: str, providers: Any = None) -> Any:
    """Open a session that runs completely on one provider.

    ONNX Runtime has three fallbacks: it opens the session again on other providers, it leaves out a provider whose library
        does
    not load, and it runs single nodes on the processor. This function rejects all of them.

    Args:
        onnxruntime: the module.
        graph: file of the model.
        options: options of `session_options`.
        provider: provider that must run every node.
        providers: argument of `InferenceSession`; None if the options name devices.

    Raises:
        DeviceMemoryError: the GPU does not have enough memory.
        DeviceLostError: the GPU failed.
        ProviderError: the provider does not run the whole graph.
    """
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise translate(error, f"{provider} does not take {graph}") from error
    if not session.get_providers() or session.get_providers()[0] != provider:
        raise ProviderError(f"{graph} should run on {provider}, and runs on {session.get_providers()}")
    elsewhere = [
        f"{node.name} ({node.op_type}) on {group.ep_name}"
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name != provider
        for node in group.get_nodes()
    ]
    if elsewhere:
        raise ProviderError(f"{len(elsewhere)} nodes of {graph} are not on {provider}; the first is {elsewhere[0]}")
    return session
