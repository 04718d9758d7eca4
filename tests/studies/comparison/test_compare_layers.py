"""Two layers compared: permuted neurons are found, nothing is found where nothing is, results are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compared import NEURONS, WIDTH, make_compared, order, scenes, texts, with_layers

from csp_index import Index, open_index
from csp_index.errors import SettingError
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.studies.comparison.compare_layers import _lacking
from csp_index.studies.comparison.shared_images import Side, shared_images


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_compared(tmp_path_factory.mktemp("layers"))


def test_a_copy_with_permuted_neurons_matches_one_to_one(index: Index) -> None:
    places = order()
    found = index.compare("a/l", "permuted/l")
    assert [way.by for way in found.ways] == ["concepts", "activations"]
    for way in found.ways:
        assert (way.live, way.other_live, way.matched, way.share) == (11, 11, 11, 1.0)
        assert way.null is not None and way.null < 0.99
        pairs = found.pairs(way.by).to_pylist()
        assert all(places[row["other_neuron"]] == row["neuron"] for row in pairs)
        assert all(row["score"] == pytest.approx(1, abs=1e-4) and row["matched"] for row in pairs)
        assert all(row["label"] == row["other_label"] for row in pairs)
    assert found.own_concepts() == () == found.own_concepts(second=True)
    assert found.coverage is None  # texts that came as an object are no vocabulary of the index


def test_dead_neurons_and_those_of_the_larger_side_have_no_partner(index: Index) -> None:
    found = index.compare("a/l", "alone/l")
    rows = found.matches.to_pylist()
    for by in ("concepts", "activations"):
        own = [row for row in rows if row["by"] == by]
        assert len(own) == NEURONS and {row["other_neuron"] for row in own} == {None, 0, 1, 2, 3}
        dead = own[5]
        assert (dead["neuron"], dead["other_neuron"], dead["score"], dead["best"]) == (5, None, None, None)
    back = index.compare("alone/l", "a/l").matches.to_pylist()
    assert sum(row["neuron"] is None for row in back) == 2 * (NEURONS - 4)
    labels = {row["label"] for row in rows if row["label"]}
    shared = {row["other_label"] for row in rows if row["other_label"]}
    assert {concept.text for concept in found.own_concepts()} <= labels - shared


def test_what_is_stored_is_read_and_what_changed_is_made_again(index: Index, tmp_path: Path) -> None:
    first = index.compare("a/l", "alone/l")
    runs = index.sql("SELECT count(*) AS n FROM runs").rows()
    again = index.compare("a/l", "alone/l")
    assert again == first and index.sql("SELECT count(*) AS n FROM runs").rows() == runs
    other = index.compare("a/l", "alone/l", seed=1)
    assert other.run_id != first.run_id
    assert index.compare("a/l", "alone/l", seed=1, recompute=True).run_id not in (first.run_id, other.run_id)
    heads = index.sql(
        "SELECT count(*) AS n, count(DISTINCT run_id) AS runs FROM comparisons WHERE other_model = 'alone'"
    )
    assert heads.rows() == [{"n": 2, "runs": 1}]  # one comparison of two layers is kept
    index.label("alone/l", "mean-centred", vocabulary=texts(), bootstrap=0, recompute=True)
    assert index.compare("a/l", "alone/l", seed=1).run_id != other.run_id


def test_a_name_that_a_reader_gave_is_the_label(tmp_path: Path) -> None:
    index = make_compared(tmp_path)
    before = index.compare("a/l", "alone/l")
    index.note("a/l/2", "rename", "a name", by="ann")
    found = index.compare("a/l", "alone/l")
    assert found.run_id != before.run_id and index.compare("a/l", "alone/l") == found
    for by in ("concepts", "activations"):
        (row,) = [row for row in found.matches.to_pylist() if row["by"] == by and row["neuron"] == 2]
        assert row["label"] == "a name" != row["other_label"] is not None


def test_layers_of_two_indexes_without_hashes_share_nothing(index: Index, tmp_path: Path) -> None:
    other = with_layers(tmp_path, b=scenes()[1])
    with pytest.raises(Exception, match="0 of them are the same by sha256"):
        index.compare("a/l", "b/l", other=other)


def test_a_layer_with_itself_is_refused(index: Index) -> None:
    with pytest.raises(SettingError, match="a/l is named twice"):
        index.compare("a/l", "a/l", other=index.uri)


def unlearned(folder: Path, names: str) -> Index:
    """Make an index of layers that are random directions of one space, cut alike: as untrained networks are."""
    rng = np.random.default_rng(0)
    space = rng.standard_normal((2000, 24)) * np.linspace(3, 0.3, 24)
    embeddings = space[:, :WIDTH] / np.linalg.norm(space[:, :WIDTH], axis=1, keepdims=True)
    np.save(folder / "E.npy", embeddings.astype(np.float32))
    index = open_index(folder / "db")
    for place, name in enumerate(names):
        values = np.maximum(space @ rng.standard_normal((24, 64)), 0)
        np.save(folder / f"{name}.npy", values.astype(np.float32))
        index.import_arrays(folder / f"{name}.npy", f"{name}/l", **({} if place else {"embeddings": folder / "E.npy"}))
    return index


def test_layers_that_see_the_same_but_share_no_neuron_match_at_the_null(tmp_path: Path) -> None:
    index = unlearned(tmp_path, "abc")
    without = index.compare("a/l", "b/l")
    found = index.compare("a/l", "b/l", untrained="c/l")
    assert found.run_id != without.run_id and index.compare("a/l", "b/l", untrained="c/l") == found
    assert (without.untrained, found.untrained) == ("", "c/l")
    for way, before in zip(found.ways, without.ways, strict=True):
        assert before.share is not None and before.share <= 0.15 and before.null_untrained is None
        assert way.null_images is not None and way.null_mixed is not None and way.null_untrained is not None
        assert way.null_mixed > way.null_images and way.share is not None and way.share <= 0.1
        oracle = [row["score"] for row in index.compare("a/l", "c/l").pairs(way.by).to_pylist()]
        assert way.null_untrained == pytest.approx(np.percentile(oracle, 95))
    with pytest.raises(SettingError, match="b/l is named twice"):
        index.compare("a/l", "b/l", untrained="b/l")


def test_an_untrained_layer_of_fewer_images_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    both = index.compare("a/l", "permuted/l")
    pair = [Side(index.store, catalog.layer(index.store, LayerKey.parse(one))) for one in ("a/l", "permuted/l")]
    shared = shared_images(*pair)
    monkeypatch.setattr(Side, "images", property(lambda _: both.images - 3))
    told = f"permuted/l, which has learned nothing, lacks 3 of these {both.images} images: its null is over the others"
    assert _lacking(pair[1], shared) == told
    monkeypatch.setattr(Side, "images", property(lambda _: both.images))
    assert _lacking(pair[1], shared) == ""


def test_a_seed_that_numpy_cannot_draw_with_is_refused(index: Index) -> None:
    with pytest.raises(SettingError, match="seed is -1: expected a whole number from 0 to 4294967295"):
        index.compare("a/l", "permuted/l", seed=-1)
