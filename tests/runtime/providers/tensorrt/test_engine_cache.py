"""Cache of engines: it returns only complete engines of exactly the requested key."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import msgspec
import pytest

from fletcher.runtime.errors import DeviceMemoryError, ProviderError
from fletcher.runtime.providers.tensorrt.engine_cache import EngineCache, EngineKey, Estimate
from fletcher.runtime.providers.tensorrt.engines import EngineWatch, build_engines, profile_folder, reporting
from fletcher.runtime.providers.tensorrt.options import CONTEXT

KEY = EngineKey(
    provider="TensorrtExecutionProvider",
    gpu="NVIDIA H200",
    memory=150_000_000_000,
    capability=(9, 0),
    driver="580.159.04",
    onnxruntime="1.31.1",
    tensorrt="10.13.3",
    artifact="0" * 64,
    variant="tensorrt-fp16",
    options="1" * 16,
)
OTHERS = {
    "provider": "NvTensorRTRTXExecutionProvider",
    "gpu": "NVIDIA H100",
    "memory": 80_000_000_000,
    "capability": (8, 9),
    "driver": "590.1",
    "onnxruntime": "1.32.0",
    "tensorrt": "10.16.1",
    "artifact": "2" * 64,
    "variant": "tensorrt-fp32",
    "options": "3" * 16,
}


def build(cache: EngineCache, weights: int = 1000) -> Path:
    with cache.alone():
        return build_engines(cache, [0, 1], write, variant="tensorrt-fp16", weights=weights)


def write(profile: int, folder: Path, timing: Path) -> None:
    (folder / CONTEXT).write_text(f"context {profile}")
    (folder / "node.engine").write_bytes(bytes(100))
    (timing / "kernels.timing").write_text("timings")


def test_built_engines_are_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    assert cache.find() is None
    folder = build(cache)
    assert cache.find() == folder == cache.folder
    assert (profile_folder(folder, 1) / CONTEXT).read_text() == "context 1"
    assert EngineCache(tmp_path, msgspec.structs.replace(KEY)).find() == folder


@pytest.mark.parametrize("field", sorted(OTHERS))
def test_every_part_of_the_key_must_match(tmp_path: Path, field: str) -> None:
    assert set(OTHERS) == set(KEY.__struct_fields__)
    build(EngineCache(tmp_path, KEY))
    other = EngineCache(tmp_path, msgspec.structs.replace(KEY, **{field: OTHERS[field]}))
    assert other.find() is None
    assert EngineCache(tmp_path, KEY).find() is not None  # the engines of the first key are not removed


def test_engines_under_the_name_of_another_key_are_not_used(tmp_path: Path) -> None:
    folder = build(EngineCache(tmp_path, KEY))
    other = EngineCache(tmp_path, msgspec.structs.replace(KEY, driver="590.1"))
    folder.rename(other.folder)
    assert other.find() is None
    assert not other.folder.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no record", "record", "not UTF-8"])
def test_a_damaged_cache_is_logged_once_and_removed(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path, KEY)
    engine, record = profile_folder(build(cache), 0) / "node.engine", cache.folder / "record.json"
    if damage == "cut":
        engine.write_bytes(bytes(99))
    elif damage == "changed":
        engine.write_bytes(bytes(99) + b"\1")
    elif damage == "gone":
        engine.unlink()
    elif damage == "no record":
        record.unlink()
    elif damage == "not UTF-8":
        record.write_bytes(record.read_bytes().replace(b"engine", b"\xff"))
    else:
        record.write_text("{")
    with caplog.at_level(logging.WARNING, "fletcher.runtime.providers.tensorrt.engine_cache"):
        assert cache.find() is None
        assert cache.find() is None
    assert [entry.message for entry in caplog.records] == ["engines discarded"]
    build(cache)
    assert cache.find() == cache.folder


@pytest.mark.parametrize("content", [b"{", b"\xff", b'[{"key": "\xff"}]'])
def test_with_a_damaged_history_the_estimate_is_the_default(tmp_path: Path, content: bytes) -> None:
    cache = EngineCache(tmp_path, KEY)
    guess = cache.estimate(1000)
    build(cache)
    assert cache.estimate(1000) != guess
    (tmp_path / "history.json").write_bytes(content)
    assert cache.estimate(1000) == guess


def test_a_build_that_fails_leaves_no_files(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)

    def fail(profile: int, folder: Path, timing: Path) -> None:
        write(profile, folder, timing)
        if profile == 1:
            raise ProviderError("no kernel")

    with cache.alone(), pytest.raises(ProviderError, match="no kernel"):
        build_engines(cache, [0, 1], fail, variant="v", weights=1)
    assert cache.find() is None
    assert not [folder for folder in tmp_path.iterdir() if ".new." in folder.name]


def test_files_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    partial = tmp_path / f".{KEY.name}.new.abcd1234"
    partial.mkdir(parents=True)
    (partial / "half.engine").write_text("half")
    build(cache)
    assert not partial.exists()


def test_a_build_without_a_context_for_the_graph_is_rejected(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    with (
        cache.alone(),
        pytest.raises(ProviderError, match="TensorRT did not take the whole graph: use the variant of the target cuda"),
    ):
        build_engines(cache, [0], lambda profile, folder, timing: None, variant="v", weights=1)
    assert cache.find() is None


def test_timings_are_shared_and_dropped_if_a_build_fails(tmp_path: Path) -> None:
    build(EngineCache(tmp_path, KEY))
    cache = EngineCache(tmp_path, msgspec.structs.replace(KEY, artifact="4" * 64, onnxruntime="1.32.0"))
    assert (cache.timing / "kernels.timing").exists()
    assert EngineCache(tmp_path, msgspec.structs.replace(KEY, driver="590.1")).timing != cache.timing
    tries = []

    def choosy(profile: int, folder: Path, timing: Path) -> None:
        tries.append(sorted(file.name for file in timing.iterdir()))
        (folder / "half.engine").write_text("half")
        if tries[-1]:
            raise ProviderError("TensorRT EP could not create timing cache")
        (folder / CONTEXT).write_text("context")

    with cache.alone():
        folder = build_engines(cache, [0], choosy, variant="v", weights=1)
    assert tries == [["kernels.timing"], []]
    assert (profile_folder(folder, 0) / CONTEXT).exists()


def test_a_lack_of_memory_does_not_drop_timings(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    build(cache)
    tries = []

    def fail(profile: int, folder: Path, timing: Path) -> None:
        tries.append(profile)
        raise DeviceMemoryError("out of memory")

    with cache.alone(), pytest.raises(DeviceMemoryError):
        build_engines(cache, [0], fail, variant="v", weights=1)
    assert tries == [0]
    assert (cache.timing / "kernels.timing").exists()


def test_estimates_come_from_earlier_builds_if_there_are_any(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    assert cache.estimate(0).basis.startswith("a guess")
    assert cache.estimate(10**9).seconds > cache.estimate(0).seconds
    with cache.alone(), cache.building() as folder:
        cache.publish(folder, weights=1000, seconds=8.0)
    newer = EngineCache(tmp_path, msgspec.structs.replace(KEY, driver="590.1"))
    assert newer.estimate(1000) == Estimate(8.0, "the last build of this variant, on NVIDIA H200")
    other = EngineCache(tmp_path, msgspec.structs.replace(KEY, artifact="5" * 64))
    assert other.estimate(500) == Estimate(4.0, "another build on this GPU, by size of weights")
    (tmp_path / "history.json").write_text("[")
    assert cache.estimate(0).basis.startswith("a guess")


def test_the_log_shows_the_progress_of_a_build(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "fletcher.runtime.providers.tensorrt.engines"),
        reporting("tensorrt-fp16", "1 of 2", time.monotonic() - 3, Estimate(8.0, "the last build"), interval=0.01),
    ):
        time.sleep(0.2)
    entries = [entry.fields for entry in caplog.records]  # type: ignore[attr-defined]
    assert len(entries) >= 3
    assert entries[0]["elapsed_s"] >= 3
    assert entries[-1]["elapsed_s"] >= entries[0]["elapsed_s"]
    assert {key: entries[0][key] for key in ("variant", "engine", "estimate_s", "estimate_from")} == {
        "variant": "tensorrt-fp16",
        "engine": "1 of 2",
        "estimate_s": 8.0,
        "estimate_from": "the last build",
    }
    time.sleep(0.05)
    assert len(caplog.records) == len(entries)  # the thread that logs has ended


def test_simultaneous_builders_build_once(tmp_path: Path) -> None:
    built = []

    def slow(profile: int, folder: Path, timing: Path) -> None:
        time.sleep(0.1)
        built.append(profile)
        write(profile, folder, timing)

    def open_it() -> None:
        cache = EngineCache(tmp_path, KEY)
        with cache.alone():
            if cache.find() is None:
                build_engines(cache, [0], slow, variant="v", weights=1)

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [0]


def test_a_watch_counts_files_that_are_new_or_changed(tmp_path: Path) -> None:
    folder = build(EngineCache(tmp_path, KEY))
    watch = EngineWatch(folder)
    assert watch.written == 0
    (profile_folder(folder, 0) / "another.engine").write_text("engine")
    (profile_folder(folder, 1) / "node.engine").write_bytes(bytes(101))
    assert watch.written == 2


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, KEY)
    (tmp_path / KEY.kernels).write_text("a file where the folder of timings belongs")
    with pytest.raises(ProviderError, match=r"cannot be written .*set FLETCHER_CACHE to another folder"):
        build(cache)
