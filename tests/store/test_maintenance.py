"""Fragments, versions and indexes of a table: rows keep their order, readers keep what they opened."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from csp_index.errors import StoreError
from csp_index.store import column_tables, maintenance
from csp_index.store.connect import create_store, open_store
from csp_index.store.tables import Store, VectorIndex

WIDTH = 16


def vectors(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, WIDTH))
    rows = centres[rng.integers(0, 20, count)] + 1.5 * rng.standard_normal((count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def append(store: Store, rows: np.ndarray, first: int = 0, shard: int = 100) -> None:
    for start in range(0, len(rows), shard):
        part = rows[start : start + shard]
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), WIDTH)
        ids = pa.array(np.arange(first + start, first + start + len(part)))
        shards = pa.array([0] * len(part), pa.int32())
        store.append("e", pa.table([ids, shards, column], schema=column_tables.embeddings_schema(WIDTH)))


@pytest.fixture
def store(tmp_path) -> Store:
    made = create_store(tmp_path / "db")
    append(made, vectors(2000))
    return made


def nearest(rows: np.ndarray, query: int, count: int) -> list[int]:
    return np.argsort(-(rows @ rows[query]), kind="stable")[:count].tolist()


def test_compaction_keeps_the_order_and_the_rows(store):
    before = store.read("e")
    assert maintenance.table_state(store, "e").fragments == 20
    maintenance.compact(store, "e")
    assert maintenance.table_state(store, "e").fragments == 1
    assert store.read("e").equals(before)
    taken = store.dataset("e").take([1999, 0, 777], columns=["image_id"])
    assert taken["image_id"].to_pylist() == [1999, 0, 777]  # a row's place is still its image's id
    version = store.versions()["e"]
    maintenance.compact(store, "e")
    assert store.versions()["e"] == version  # nothing to do, no commit


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_compaction_keeps_lists_of_activations(store, sparse):
    rng, name = np.random.default_rng(0), column_tables.activations_table("m/l", sparse=sparse)
    for shard in range(12):
        lengths = rng.integers(0, 90, 5)
        ends, values = pa.array(np.cumsum([0, *lengths]).astype(np.int32)), rng.random(lengths.sum())
        lists = [pa.array(values.astype(np.float16))]
        if sparse:
            lists = [pa.array((values * 64).astype(np.uint8)), pa.array((values * 500).astype(np.int32)), *lists]
        columns = [pa.ListArray.from_arrays(ends, column) for column in lists]
        keys = [pa.array(np.full(5, shard, np.int32)), pa.array(np.arange(5, dtype=np.int32))]
        rows_schema = column_tables.sparse_schema("float16") if sparse else column_tables.activations_schema("float16")
        store.append(name, pa.table([*keys, *columns], schema=rows_schema))
    before = store.read(name)
    maintenance.compact(store, name)
    assert maintenance.table_state(store, name).fragments == 1
    assert store.read(name).equals(before)
    for _ in range(2):  # pages that were copied are copied again
        store.append(name, before)
        maintenance.compact(store, name)
        assert store.read(name).slice(store.count(name) - 60).equals(before)


def test_deleted_rows_leave_and_the_others_stay_in_order(store):
    store.delete("e", "image_id % 3 = 0")
    maintenance.compact(store, "e")
    assert store.read("e", ["image_id"])["image_id"].to_pylist() == [i for i in range(2000) if i % 3]


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"])
def test_every_kind_is_built_named_and_dropped(store, kind):
    assert store.vector_index("e") is None
    maintenance.build_vector_index(store, "e", kind, 4)
    held = store.vector_index("e")
    assert (held.kind, held.rows, held.unindexed) == (kind, 2000, 0)
    assert held.bytes > 0
    assert maintenance.partition_count(store, "e") == 4
    assert open_store(store.uri).vector_index("e") == held
    maintenance.drop_vector_index(store, "e")
    assert store.vector_index("e") is None
    maintenance.drop_vector_index(store, "e")  # nothing to drop


def test_search_through_all_partitions_is_exact_and_through_one_is_not(store, monkeypatch):
    rows = vectors(2000)
    maintenance.build_vector_index(store, "e", "ivf_flat", 40)
    wanted = [nearest(rows, query, 10) for query in range(20)]
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "40")
    assert [found.tolist() for found in store.search("e", rows[:20], 10)] == wanted
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "1")
    assert [found.tolist() for found in store.search("e", rows[:20], 10)] != wanted
    assert [found.tolist() for found in store.search("e", rows[:20], 10, exact=True)] == wanted


def test_all_rows_are_gone_through_where_the_partitions_hold_too_few(store, monkeypatch):
    rows = vectors(2000)
    maintenance.build_vector_index(store, "e", "ivf_flat", 40)
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "1")
    few = "image_id IN (3, 700, 1500)"
    assert [sorted(found.tolist()) for found in store.search("e", rows[:9], 3, few)] == [[3, 700, 1500]] * 9


def test_refining_brings_the_exact_order_back(store, monkeypatch):
    rows = vectors(2000)
    maintenance.build_vector_index(store, "e", "ivf_pq", 4)
    wanted = [nearest(rows, query, 10) for query in range(20)]

    def right() -> float:
        found = store.search("e", rows[:20], 10)
        return float(np.mean([len(set(a) & set(b.tolist())) / 10 for a, b in zip(wanted, found, strict=True)]))

    coarse = right()
    monkeypatch.setenv("CSP_INDEX_SEARCH_REFINE", "100")
    assert coarse < right() == 1.0


def test_new_rows_are_found_before_and_after_they_join_the_index(store, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "4")
    maintenance.build_vector_index(store, "e", "ivf_flat", 4)
    maintenance.index_column(store, "e", "image_id")
    new = vectors(300, seed=1)
    append(store, new, first=2000)
    held = store.vector_index("e")
    assert (held.rows, held.unindexed) == (2000, 300)
    for _ in range(2):
        found = store.search("e", new[:5], 1, "image_id < 2300")
        assert [int(ids[0]) for ids in found] == [2000, 2001, 2002, 2003, 2004]
        assert [int(ids[0]) for ids in store.search("e", new[:5], 1, "image_id IN (5, 2299)")] != []
        maintenance.extend_indexes(store, "e")
    held = store.vector_index("e")
    assert isinstance(held, VectorIndex)
    assert (held.rows, held.unindexed) == (2300, 0)
    maintenance.compact(store, "e")
    assert [int(ids[0]) for ids in store.search("e", new[:5], 1)] == [2000, 2001, 2002, 2003, 2004]


def test_an_indexed_column_filters_the_same(store):
    rows = vectors(2000)
    chosen = "image_id NOT IN (3, 5, 8) AND image_id < 1500"
    before = [found.tolist() for found in store.search("e", rows[:9], 40, chosen)]
    maintenance.index_column(store, "e", "image_id")
    version = store.versions()["e"]
    maintenance.index_column(store, "e", "image_id")
    assert store.versions()["e"] == version
    assert [found.tolist() for found in store.search("e", rows[:9], 40, chosen)] == before


def test_a_build_that_fails_is_told_and_changes_nothing(store):
    version = store.versions()["e"]
    with pytest.raises(StoreError, match=r"table e of .* cannot be written: "):
        maintenance.build_vector_index(store, "e", "ivf_unknown", 4)
    assert store.versions()["e"] == version


def test_partitions_trained_elsewhere_are_taken(store, monkeypatch):
    rows = vectors(2000)
    maintenance.build_vector_index(store, "e", "ivf_flat", 5, rows[:5])
    assert maintenance.partition_count(store, "e") == 5
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "5")
    assert store.search("e", rows[:1], 9)[0].tolist() == nearest(rows, 0, 9)
