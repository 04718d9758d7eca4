"""Kept lists of neighbours: labelling a layer leaves them, and what rests on them is what all images would say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_once import made_once

from csp_index import Index, open_index
from csp_index.contrast import list_products, neighbour_lists
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.exact_ranking import Ranked
from csp_index.contrast.examples import Examples, gather_examples
from csp_index.contrast.selection import Selection
from csp_index.records import ExampleOptions
from csp_index.store import catalog, column_tables

NEURONS, WIDTH = 16, 12
TEXTS = [f"text {i}" for i in range(20)]


def made(folder: Path) -> Index:
    """A copy of the index that `write` makes, once in a process."""
    made_once("neighbor lists", write, folder)
    return open_index(folder / "db")


def write(folder: Path, images: int = 2500) -> None:
    """Write an index of clustered images, some of them twice; few of them excite all the neurons."""
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((10, WIDTH))[rng.integers(0, 10, images)] + 0.3 * rng.standard_normal(
        (images, WIDTH)
    )
    embeddings[::50] = embeddings[1::50]
    activations = (
        np.maximum(rng.standard_normal((images, NEURONS)), 0) * (1 + 3 * (np.arange(images) % 20 == 0))[:, None]
    )
    np.save(folder / "E.npy", (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    np.save(folder / "T.npy", rng.standard_normal((len(TEXTS), WIDTH)).astype(np.float32))
    (folder / "T.txt").write_text("\n".join(TEXTS))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy", shard_size=400)


def label_all(folder: Path, **options: object) -> None:
    from csp_index.labelling.candidates import read_text_arrays

    texts = read_text_arrays(folder / "T.npy", folder / "T.txt")
    open_index(folder / "db").label("m/l", vocabulary=texts, recompute=True, **options)


def lengths_of(folder: Path) -> set[int]:
    index = open_index(folder / "db")
    return set(map(len, index.store.read(table_of(index), ["neighbours"])["neighbours"].to_pylist()))


def examples(
    index: Index, neuron: int, told: list[str] | None = None, options: ExampleOptions | None = None
) -> Examples:
    (target,), source = catalog.layers(index.store), catalog.encoder(index.store)
    context = ComputeContext(explain=told.append if told is not None else None)
    return gather_examples(
        index.store, Selection(source, target, np.array([neuron])), options or ExampleOptions(), context=context
    )


def table_of(index: Index) -> str:
    return column_tables.neighbours_table(catalog.encoder(index.store).name)


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        pytest.param("100000000", 128, id="held, long"),
        pytest.param("1", 40, id="fetched, short"),
        pytest.param("100000000", 40, id="held, short", marks=pytest.mark.slow),
        pytest.param("1", 128, id="fetched, long", marks=pytest.mark.slow),
    ],
)
def test_one_neuron_sees_the_same_with_and_without_kept_lists(tmp_path, monkeypatch, held, kept):
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", held)
    monkeypatch.setattr(list_products, "KEPT", kept)
    made(tmp_path)
    without = [examples(open_index(tmp_path / "db"), neuron) for neuron in range(NEURONS)]
    label_all(tmp_path)
    index = open_index(tmp_path / "db")
    products: list[str] = []
    whole = list_products.computed_lists
    monkeypatch.setattr(list_products, "computed_lists", lambda *args: (products.append("lists"), whole(*args))[1])
    for neuron, other in enumerate(without):
        told: list[str] = []
        found = examples(index, neuron, told)
        assert "stored lists of neighbours, exact: 30 activating images" in told[0]
        for name in ("contrastive", "contrast_activations", "similarities"):
            torch.testing.assert_close(getattr(found, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert not products
    lists = index.store.read(table_of(index), ["neighbours"])["neighbours"].to_pylist()
    assert {len(row) for row in lists} == {kept}
    assert 30 <= len(lists) < 250


def test_a_second_layer_adds_only_the_lists_that_are_missing(tmp_path):
    index = made(tmp_path)
    label_all(tmp_path)
    before = index.store.read(table_of(index), ["image_id"])["image_id"].to_pylist()
    shifted = np.roll(np.load(tmp_path / "A.npy"), 10, axis=0)
    shifted[:1250] = np.load(tmp_path / "A.npy")[:1250]
    np.save(tmp_path / "B.npy", shifted)
    index.import_arrays(tmp_path / "B.npy", "m/b", shard_size=400)
    from csp_index.labelling.candidates import read_text_arrays

    index.label("m/b", vocabulary=read_text_arrays(tmp_path / "T.npy", tmp_path / "T.txt"))
    after = index.store.read(table_of(index), ["image_id"])["image_id"].to_pylist()
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) > len(before)
    told: list[str] = []
    (_, target), source = catalog.layers(index.store), catalog.encoder(index.store)
    gather_examples(
        index.store,
        Selection(source, target, np.arange(3)),
        ExampleOptions(),
        context=ComputeContext(explain=told.append),
    )
    assert "stored lists of neighbours" in told[0]


def test_lists_grow_for_a_method_that_looks_at_more_neighbours(tmp_path, monkeypatch):
    made(tmp_path)
    label_all(tmp_path, method="csp")
    wide = ExampleOptions(neighbours=20)
    short = examples(open_index(tmp_path / "db"), 3, options=wide)
    assert lengths_of(tmp_path) == {128}
    label_all(tmp_path, method="csp", neighbours=20)
    assert lengths_of(tmp_path) == {160}
    found = examples(open_index(tmp_path / "db"), 3, options=wide)
    torch.testing.assert_close(found.contrastive, short.contrastive, rtol=0, atol=0)
    products: list[str] = []
    monkeypatch.setattr(list_products, "computed_lists", lambda *args: products.append("lists"))
    label_all(tmp_path, method="csp")  # the longer lists serve it, and stay
    assert lengths_of(tmp_path) == {160} and not products


def test_lists_of_several_lengths_lie_side_by_side(tmp_path):
    index = made(tmp_path)
    without = [examples(index, neuron) for neuron in range(NEURONS)]
    label_all(tmp_path)
    index = open_index(tmp_path / "db")
    source, table = catalog.encoder(index.store), table_of(index)
    owners = torch.from_numpy(index.store.read(table, ["image_id"])["image_id"].to_numpy().copy())
    (lists,) = neighbour_lists.stored_lists(index.store, source, 2500, owners[:9])
    with index.store.write_lock():
        ranked = Ranked(lists.ranked.ids[lists.place][:, :50], lists.ranked.cosines[lists.place][:, :50])
        neighbour_lists.store_lists(index.store, source, 2500, owners[:9], ranked, lists.error)
    assert lengths_of(tmp_path) == {128, 50}
    index = open_index(tmp_path / "db")
    assert index.store.read(table, ["image_id"]).num_rows == len(owners)
    assert [len(some.ranked.ids[0]) for some in neighbour_lists.stored_lists(index.store, source, 2500, owners)] == [
        128,
        50,
    ]
    for neuron, other in enumerate(without):
        torch.testing.assert_close(examples(index, neuron).contrastive, other.contrastive, rtol=0, atol=0)
    assert not index.verify(full=True).findings


def test_nothing_is_kept_by_who_keeps_nothing(tmp_path):
    index = made(tmp_path)
    label_all(tmp_path, keep=False)
    assert not index.store.has(table_of(index))


def test_lists_among_fewer_images_are_not_used_and_go(tmp_path):
    index = made(tmp_path)
    label_all(tmp_path)
    source, table = catalog.encoder(index.store), table_of(index)
    owners = torch.from_numpy(index.store.read(table, ["image_id"])["image_id"].to_numpy().copy())
    assert bool(neighbour_lists.listed(index.store, source, 2500, owners).all())
    assert not bool(neighbour_lists.listed(index.store, source, 3000, owners).any())
    assert neighbour_lists.stored_lists(index.store, source, 3000, owners) == []
    (lists,) = neighbour_lists.stored_lists(index.store, source, 2500, owners[:4])
    assert not bool(lists.missing.any())
    with index.store.write_lock():
        ranked = Ranked(lists.ranked.ids[lists.place], lists.ranked.cosines[lists.place])
        neighbour_lists.store_lists(index.store, source, 3000, owners[:4], ranked, lists.error)
    assert index.store.read(table, ["images"])["images"].to_pylist() == [3000] * 4


def test_a_list_names_the_nearest_images_of_its_owner(tmp_path):
    index = made(tmp_path)
    label_all(tmp_path)
    embeddings = np.load(tmp_path / "E.npy").astype(np.float64)
    for row in index.store.read(table_of(index)).to_pylist()[::10]:
        exact = embeddings @ embeddings[row["image_id"]]
        error = row["absolute"] + row["relative"]
        np.testing.assert_allclose(row["cosines"], exact[row["neighbours"]], rtol=0, atol=error)
        others = np.delete(exact, row["neighbours"])
        assert others.max() <= min(row["cosines"]) + error
        assert row["cosines"] == sorted(row["cosines"], reverse=True)
