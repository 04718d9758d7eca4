"""The pass on Ray without Ray: a pool in this process, whose results are there at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from csp_index.indexing import indexer, ray_indexer
from csp_index.indexing.ray_cluster import Chunk, PoolWorker
from csp_index.indexing.ray_worker import Worker


class Report(list):
    """What is known of a chunk of images."""


class Here:
    """A pool in this process: every call is done at once, and its result is there at random."""

    ready = 2

    def __init__(self, parts: Any, uri: str, draft: int | None, seed: int) -> None:
        self._worker = Worker([], uri, [], 128, draft)
        self._worker._parts = list(parts)
        self._chance = random.Random(seed)
        self.chunks = self.most_chunks = 0

    def decode(self, refs, places):
        self.chunks += 1
        self.most_chunks = max(self.most_chunks, self.chunks)
        _, report, pixels = self._worker.decode(refs, places)
        return Chunk(Report(report), pixels, PoolWorker(None))

    def compute(self, places, uris, pieces):
        rows = [(start, stop) for _, start, stop in pieces]
        return self._worker.compute(places, uris, rows, *(chunk.pixels for chunk, _, _ in pieces))[1:]

    def write(self, order, outputs):
        return self._worker.write(order, *outputs)[1]

    def get(self, where):
        self.chunks -= isinstance(where, Report)
        return where

    def is_done(self, where):
        return self._chance.random() < 0.4

    def settle(self, limit=1):
        pass

    def close(self):
        pass


@contextmanager
def engine_here(
    name: str, monkeypatch: pytest.MonkeyPatch, seed: int = 0
) -> Iterator[tuple[indexer.Engine | None, list[Here]]]:
    """The engine `ray` in this process with the pools it makes, or the local one, None."""
    pools: list[Here] = []

    def pool(parts: Any, uri: str, draft: int | None) -> Here:
        pools.append(Here(parts, uri, draft, seed))
        return pools[-1]

    with monkeypatch.context() as patch, ExitStack() as ending:
        patch.setattr(ray_indexer, "WorkerPool", pool)
        yield indexer.Engine("ray", partial(ray_indexer.RayExecutor, ending)) if name == "ray" else None, pools
