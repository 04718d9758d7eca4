"""Sums over the dataset in the store: computed once, grown with the images, named by content, checked."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from imported_arrays import build

from csp_index.integrity.verify import verify
from csp_index.labelling import gather
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.response.dataset_sums import DatasetSums, dataset_sums
from csp_index.labelling.response.stored_sums import kept_sums
from csp_index.store import catalog, column_tables


def test_a_vocabulary_is_summed_over_the_images_once(tmp_path, monkeypatch):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    loose = list(index.label("m/l", "firing-contrast", vocabulary=texts, keep=False))
    table = column_tables.sums_table(catalog.encoder(index.store).name)
    assert not index.store.has(table), "keep=False writes nothing"
    kept = list(index.label("m/l", "firing-contrast", vocabulary=texts))
    assert [label.labels for label in kept] == [label.labels for label in loose]
    monkeypatch.setattr(gather, "dataset_sums", None)
    (alone,) = index.label("m/l/2", "firing-contrast", vocabulary=texts, keep=False, recompute=True)
    assert [one.text for one in alone.labels] == [one.text for one in loose[2].labels]
    assert [one.score for one in alone.labels] == pytest.approx([one.score for one in loose[2].labels], rel=1e-5)
    for method in ("pmi", "contrastive-pmi", "consensus"):  # the same sums
        assert index.label("m/l/0", method, vocabulary=texts)[0].text
    with pytest.raises(TypeError):  # sums at another scale are computed
        index.label("m/l/0", "pmi", vocabulary=texts, logit_scale=29.0)
    found = verify(str(tmp_path / "db"))
    assert found.sound and found.checked["sums"] == 1


def test_sums_grow_with_the_images(tmp_path):
    index, arrays, _ = build(tmp_path)
    store, source = index.store, catalog.encoder(index.store)
    e, t = (torch.from_numpy(arrays[name]) for name in ("embeddings", "text_embeddings"))
    asked: list[int] = []

    def kept(images: int, key: str = "k") -> DatasetSums:
        def make(first: int) -> DatasetSums:
            asked.append(first)
            return dataset_sums([e[first:images]], t, 20.0)

        with store.write_lock():
            return kept_sums(store, source, key, images, make, keep=True)

    kept(40), kept(40)
    whole, again = kept(60), kept(60)
    assert asked == [0, 40]
    expected = dataset_sums([e], t, 20.0)
    for found in (whole, again):
        assert found.images == 60
        for part in ("totals", "share", "root", "embedding", "products"):
            torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=1e-5, atol=1e-6)
    assert kept(30).images == 30 and asked == [0, 40, 0], "sums over more images are no sums over fewer"
    for number in range(20):
        kept(60, f"other {number}")
    keys = set(store.read(column_tables.sums_table(source.name), ["key"])["key"].to_pylist())
    assert keys == {f"other {number}" for number in range(4, 20)}, "the newest are kept"


def test_statistics_of_texts_are_computed_once_and_checked(tmp_path, monkeypatch):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    first = list(index.label("m/l", "linear", vocabulary=texts))
    table = column_tables.sums_table(catalog.encoder(index.store).name)
    assert set(index.store.read(table, ["part"])["part"].to_pylist()) == set(column_tables.PRESENCE_PARTS)
    with monkeypatch.context() as once:
        once.setattr(gather, "text_statistics", None)
        (alone,) = index.label("m/l/2", "linear", vocabulary=texts, keep=False, recompute=True)
        assert [one.text for one in alone.labels] == [one.text for one in first[2].labels]
        index.label("m/l", "linear-1", vocabulary=texts)
    found = verify(str(tmp_path / "db"))
    assert found.sound and found.checked["sums"] == 1
    rows = index.store.read(table).to_pylist()
    mean = next(row for row in rows if row["part"] == "mean")
    mean["values"] = [2.0, *mean["values"][1:]]
    with index.store.write_lock():
        index.store.delete(table, "true")
        index.store.append(table, pa.Table.from_pylist(rows, schema=column_tables.sums_schema()))
    assert not verify(str(tmp_path / "db")).sound
