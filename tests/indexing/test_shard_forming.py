"""Shards have as many images as planned, whatever failed; their values are those of their images."""

from __future__ import annotations

import random

import numpy as np
import pytest

from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared
from csp_index.indexing.batches import slices
from csp_index.indexing.shard_forming import ComputedBatch, shards_of


def image(number: int) -> Prepared:
    return Prepared(ImageRef(str(number)), "", 1, 1, b"", ())


@pytest.mark.parametrize("seed", range(20))
def test_shards_are_the_images_without_the_failures_in_order(seed: int) -> None:
    chance = random.Random(seed)
    count, size, limit = chance.randrange(0, 60), chance.randrange(1, 6), chance.randrange(1, 12)
    fails = {number for number in range(count) if chance.random() < 0.3}

    def computed():
        for batch in slices(iter(range(count)), size, iter(lambda: limit, None)):
            sound = [number for number in batch.items if number not in fails]
            failures = [ImageFailure(str(number), "") for number in batch.items if number in fails]
            yield ComputedBatch([image(number) for number in sound], np.array(sound), failures, batch.last)

    shards = list(shards_of(computed(), iter(lambda: limit, None)))
    numbers = [[int(item.ref.uri) for item in shard.prepared] for shard in shards]
    sound = [number for number in range(count) if number not in fails]
    expected = [sound[start : start + limit] for start in range(0, len(sound), limit)]
    assert [one for one in numbers if one] == expected
    for shard, own in zip(shards, numbers, strict=True):
        assert np.concatenate([[], *(values[a:b] for values, a, b in shard.pieces)]).tolist() == own
    assert sorted(int(one.uri) for shard in shards for one in shard.failures) == sorted(fails)
