"""Batches end where their shard ends, whatever cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import fakes
import pytest
import torch

from csp_index.errors import ModelError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared
from csp_index.indexing.batches import batches, slices
from csp_index.indexing.model_columns import Part

PARTS = (Part(fakes.encoder(), ()), Part(fakes.other_encoder(), ()))


def image(number: int) -> Prepared:
    pixels = (torch.full((2,), float(number)), torch.full((3,), float(-number)))
    return Prepared(ImageRef(f"/{number}.png"), "", 1, 1, b"", pixels)


def cut(count: int, limits: Sequence[int] | repeat[int]) -> list[tuple[int, bool]]:
    return [(len(b.images), b.last) for b in batches(iter(map(image, range(count))), PARTS, limits)]


def test_batches_are_as_large_as_the_models_want_and_end_with_the_shard() -> None:
    assert cut(12, [10, 2]) == [(4, False), (4, False), (2, True), (2, True)]
    assert cut(9, repeat(10)) == [(4, False), (4, False), (1, True)]
    assert cut(8, repeat(4)) == [(4, True), (4, True), (0, True)]
    assert cut(0, repeat(4)) == [(0, True)]


def test_each_part_gets_its_own_input_in_the_order_of_the_images() -> None:
    (batch,) = batches(iter(map(image, range(3))), PARTS, [3])
    assert batch.pixels[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch.pixels[1].tolist() == [[0] * 3, [-1] * 3, [-2] * 3]
    assert [item.pixels for item in batch.images] == [()] * 3, "their memory is free"


def test_failures_take_no_place() -> None:
    broken = ImageFailure("/broken.png", "broken")
    found = list(batches(iter([broken, image(0), image(1), broken, image(2), broken]), PARTS, repeat(2)))
    assert [[item.ref.uri for item in batch.images] for batch in found] == [["/0.png", "/1.png"], ["/2.png"]]
    assert [len(batch.failures) for batch in found] == [1, 2]
    (only,) = batches(iter([broken]), PARTS, repeat(2))
    assert (only.images, only.pixels, only.last) == ([], (), True)


def test_inputs_of_several_shapes_are_told() -> None:
    other = Prepared(ImageRef("/x.png"), "", 1, 1, b"", (torch.zeros(5), torch.zeros(3)))
    with pytest.raises(ModelError, match="several shapes"):
        list(batches(iter([image(0), other]), PARTS, [2]))


def test_a_preprocessing_that_always_fails_is_noticed_before_the_source_ends() -> None:
    refused = [ImageFailure(f"/{number}.png", "too wide", by_model=True) for number in range(40)]
    assert [len(one.failures) for one in slices(iter(refused), 2, repeat(100))] == [8, 8, 8, 8, 8, 0]
    unreadable = [ImageFailure(f"/{number}.png", "broken") for number in range(40)]
    assert [(len(one.failures), one.last) for one in slices(iter(unreadable), 2, repeat(100))] == [(40, True)]
    mixed = list(slices(iter([*refused[:7], "a", *refused[7:9], "b"]), 2, repeat(100)))
    assert [(one.items, len(one.failures)) for one in mixed] == [(["a", "b"], 9), ([], 0)]
