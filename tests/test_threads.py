"""Torch computes on one thread inside, and on as many as before outside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from csp_index.concurrency import one_thread


@pytest.fixture
def three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_after(three):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with one_thread(False):
        assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="stop"), one_thread():
        raise ValueError("stop")
    assert torch.get_num_threads() == 3


def test_threads_that_overlap_all_go_back_and_so_do_new_ones(three):
    entered, left = Barrier(2), Barrier(2)

    def first() -> int:
        with one_thread():
            entered.wait()
        left.wait()
        return torch.get_num_threads()

    def second() -> tuple[int, int]:
        with one_thread():
            entered.wait()
            left.wait()
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        early, late = pool.submit(first), pool.submit(second)
        assert late.result() == (1, 3)
        assert early.result() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
