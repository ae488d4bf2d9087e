"""`BoundedCache`: the values that it keeps and removes, and its bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fletcher.runtime.byte_cache import BoundedCache


def test_the_least_recently_used_value_is_removed_first() -> None:
    cache: BoundedCache[str, int] = BoundedCache(30)
    for name in "abc":
        cache.put(name, ord(name), 10)
    assert cache.get("a") == ord("a")
    cache.put("d", ord("d"), 10)
    assert [cache.get(name) for name in "abcd"] == [ord("a"), None, ord("c"), ord("d")]
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (4, 1, 30, 3)


def test_a_new_value_replaces_the_old_one() -> None:
    cache: BoundedCache[str, int] = BoundedCache(30)
    cache.put("a", 1, 20)
    cache.put("a", 2, 5)
    assert (cache.get("a"), cache.bytes, len(cache)) == (2, 5, 1)


def test_a_value_larger_than_the_cache_is_not_cached() -> None:
    cache: BoundedCache[str, int] = BoundedCache(30)
    cache.put("a", 1, 10)
    cache.put("b", 2, 31)
    assert (cache.get("a"), cache.get("b")) == (1, None)
    disabled: BoundedCache[str, int] = BoundedCache(0)
    disabled.put("a", 1, 1)
    assert disabled.get("a") is None


def test_threads_never_exceed_the_bound() -> None:
    cache: BoundedCache[int, int] = BoundedCache(1000)

    def work(seed: int) -> None:
        for key in np.random.default_rng(seed).integers(0, 200, 2000).tolist():
            if cache.get(key) is None:
                cache.put(key, key, 1 + key % 50)
            assert cache.bytes <= 1000

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert cache.hits + cache.misses == 8000
    assert cache.bytes == sum(size for _, size in cache._entries.values())
