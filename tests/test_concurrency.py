"""Work ahead and behind keeps order and hands errors on; a pool of processes has its payload and ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from csp_index.concurrency import Workers, Writer, ahead, worker_payload


def test_the_next_item_is_made_while_the_reader_holds_the_last() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number in range(3):
            made[number].set()
            yield number

    stream = ahead(items())
    assert next(stream) == 0
    assert made[1].wait(60)
    assert not made[2].is_set(), "one ahead, not more"
    assert list(stream) == [1, 2]


def test_items_that_are_false_are_items() -> None:
    assert list(ahead(iter([0, None, ""]))) == [0, None, ""]


def test_an_error_comes_in_the_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("out of luck")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="out of luck"):
        next(stream)


def test_closing_closes_what_is_read_even_in_the_midst_of_an_item() -> None:
    closed, busy, go = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            busy.set()
            go.wait(60)
            yield 2
        finally:
            closed.set()

    stream = ahead(items())
    next(stream)
    assert busy.wait(60)
    threading.Timer(0.05, go.set).start()
    stream.close()
    assert closed.is_set()


def test_jobs_run_in_order_and_beside_their_maker() -> None:
    done, go = list[int](), threading.Event()
    with Writer() as writer:
        writer.put(lambda: (go.wait(60), done.append(1))[1])
        writer.check()
        assert done == [], "the maker goes on"
        go.set()
        writer.put(lambda: done.append(2))
    assert done == [1, 2], "the block ends with the last job"


def test_the_error_of_a_job_is_raised_by_the_next_one_or_at_the_end() -> None:
    def fail() -> None:
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"), Writer() as writer:
        writer.put(fail)
        writer.put(lambda: None)
    with pytest.raises(ValueError, match="the disk is full"), Writer() as writer:
        writer.put(fail)


def test_the_makers_own_error_is_the_one_told_and_the_job_ends_all_the_same() -> None:
    done = list[int]()
    with pytest.raises(KeyError), Writer() as writer:
        writer.put(lambda: done.append(1))
        raise KeyError
    assert done == [1]


def test_workers_have_the_payload_and_end_while_they_work() -> None:
    workers = Workers(2, b"payload")
    assert workers.submit(worker_payload).result(60) == b"payload"
    started = time.monotonic()
    pending = [workers.submit(time.sleep, 60) for _ in range(4)]
    workers.end()
    assert time.monotonic() - started < 30
    assert all(future.done() for future in pending)  # canceled, or broken by the end of their process
