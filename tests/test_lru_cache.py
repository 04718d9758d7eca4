"""The cache: bounded by size, each missing value made by one thread, values of another state made again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from csp_index.lru_cache import LRUCache


def test_values_are_made_once_and_the_least_recently_used_is_dropped() -> None:
    cache, calls = LRUCache(10), []

    def value(name: str, size: int = 4) -> str:
        return cache.get(name, lambda: calls.append(name) or name, lambda _: size)  # type: ignore[func-returns-value]

    assert [value(name) for name in "abac"] == ["a", "b", "a", "c"]
    assert value("a") == "a" and calls == ["a", "b", "c"]  # b was the least recently used
    assert cache.find("b") is None and cache.find("c") == "c"
    value("b")
    value("large", 11)
    value("large", 11)
    assert calls == ["a", "b", "c", "b", "large", "large"]


def test_replacing_a_value_frees_its_size() -> None:
    cache = LRUCache(10)
    cache.put("a", 1, 9)
    cache.put("a", 2, 5)
    cache.put("b", 3, 5)
    assert (cache.find("a"), cache.find("b")) == (2, 3)
    cache.put("a", 4, 11)  # too large, and the value it replaces is out of date
    assert cache.find("a") is None and cache.find("b") == 3


def test_a_value_is_valid_for_one_state_and_the_last_state_is_cached() -> None:
    cache, states = LRUCache(), []

    def value(state: int | None) -> int:
        return cache.get("key", lambda: states.append(state) or len(states), state=state)  # type: ignore[func-returns-value]

    assert [value(state) for state in (None, None, 1, 1, None)] == [1, 1, 2, 2, 3]
    assert states == [None, 1, None]
    assert cache.find("key") == 3 and cache.find("key", 1) is None


def test_none_and_false_are_values() -> None:
    cache, calls = LRUCache(), []
    for _ in range(2):
        assert cache.get("none", lambda: calls.append(1)) is None  # type: ignore[func-returns-value]
    assert len(calls) == 1


def test_values_are_removed_by_key() -> None:
    cache = LRUCache(3)
    for name in "abc":
        cache.put(name, name)
    cache.remove(lambda key: key == "a")
    cache.put("d", "d")
    assert [cache.find(name) for name in "abcd"] == [None, "b", "c", "d"]
    cache.remove()
    assert [cache.find(name) for name in "abcd"] == [None] * 4


def test_threads_wait_for_the_one_that_makes_a_value() -> None:
    cache, calls, barrier = LRUCache(10), [], threading.Barrier(4)

    def make() -> int:
        calls.append(1)
        return 7

    def ask(_: int) -> int:
        barrier.wait(60)
        return cache.get("key", make)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [7, 7, 7, 7]
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        cache.get("other", lambda: 1 // 0)
    assert cache.get("other", lambda: 3) == 3


def test_after_an_error_still_one_thread_at_a_time_makes_the_value() -> None:
    cache, waiting, at_work, most = LRUCache(), threading.Barrier(6), [0], [0]
    mutex, attempts = threading.Lock(), [0]

    def make() -> int:
        with mutex:
            attempts[0] += 1
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            failing = attempts[0] <= 3
        threading.Event().wait(0.01)
        with mutex:
            at_work[0] -= 1
        if failing:
            raise ValueError("not yet")
        return 7

    def ask(_: int) -> int:
        waiting.wait(60)
        while True:
            try:
                return cache.get("key", make)
            except ValueError:
                continue

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, range(6))) == [7] * 6
    assert most == [1] and attempts == [4]
