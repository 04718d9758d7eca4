"""How many threads torch computes on: entering and leaving, in several threads at once; idle ones sleep."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from fakes import write_arrays
from other_process import run_python

from csp_index import EvaluationOptions, open_index
from csp_index.evaluation import steps
from csp_index.evaluation.options import MethodChoice
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.pipeline import Pipeline
from csp_index.tensors.torch_threads import (
    numpy_on_one_thread,
    one_thread,
    sleep_when_idle,
    spread,
    threads_for,
)


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


def test_labels_and_metrics_of_a_small_index_are_made_on_one_thread(three, tmp_path, monkeypatch):
    paths, counts = write_arrays(tmp_path), {"ranking": 0, "evaluate_activations": 0}

    def counted(owner, name):
        real = getattr(owner, name)

        def work(*args, **options):
            counts[name] = torch.get_num_threads()
            return real(*args, **options)

        monkeypatch.setattr(owner, name, work)

    counted(Pipeline, "ranking")
    counted(steps, "evaluate_activations")
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    index.label("m/l", "csp", vocabulary=texts, keep=False)
    index.evaluate("m/l", EvaluationOptions(methods=(MethodChoice.parse("csp"),), most_judging=20), vocabulary=texts)
    assert counts == {"ranking": 1, "evaluate_activations": 1}
    assert torch.get_num_threads() == 3


def test_small_work_is_done_on_one_thread_and_large_work_on_all(three):
    with threads_for(1e6):
        assert torch.get_num_threads() == 1
        with threads_for(1e12):
            assert torch.get_num_threads() == 1, "what is inside small work is small"
    with threads_for(1e12):
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_unless_the_user_wants_otherwise(monkeypatch, before, after):
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be restored")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if before:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    monkeypatch.delitem(sys.modules, "torch")
    sleep_when_idle()
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_nothing_is_set_that_torch_has_read_already(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    sleep_when_idle()
    assert "OMP_WAIT_POLICY" not in os.environ


def test_importing_the_package_is_enough(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = "import os, sys, csp_index; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    assert run_python(code).stdout == "PASSIVE\n"


def test_work_is_spread_over_as_many_threads_as_torch_has_each_computing_on_one(three) -> None:
    together, seen = Barrier(3, timeout=30), []

    def work(item: int) -> None:
        if item < 3:
            together.wait()  # three items are under way at once
        seen.append((item, torch.get_num_threads()))

    spread(work, range(20))
    assert sorted(seen) == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == 3


def test_spread_work_is_done_here_and_in_order_where_torch_has_one_thread() -> None:
    seen = []
    with one_thread():
        spread(lambda item: seen.append((item, threading.current_thread())), range(5))
    assert seen == [(item, threading.current_thread()) for item in range(5)]


def test_the_first_error_of_spread_work_is_raised_and_ends_the_rest(three) -> None:
    seen = []

    def work(item: int) -> None:
        seen.append(item)
        if item == 1:
            raise ValueError(f"item {item}")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="item 1"):
        spread(work, range(1000))
    assert len(seen) < 100


def test_numpy_multiplies_on_one_thread_where_a_command_loads_it(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "to be restored")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    numpy_on_one_thread()
    assert "OPENBLAS_NUM_THREADS" not in os.environ, "NumPy has read it already"
    monkeypatch.delitem(sys.modules, "numpy")
    numpy_on_one_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    numpy_on_one_thread()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2", "what the user sets"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc")
@pytest.mark.parametrize(("environment", "shared"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_threads_of_a_command_take_memory_from_one_heap(environment, shared):
    work = """
import ctypes, sys, threading
from csp_index.tensors.torch_threads import share_one_heap
share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
gate = threading.Barrier(3)
def allocate():
    libc.malloc(1000)
    gate.wait()
threads = [threading.Thread(target=allocate) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""
    kept = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", work], env=kept | environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout.count("<heap nr=") == 1) == shared, done.stdout[:500]
