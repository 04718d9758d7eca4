"""Labels from crops belong to the maps of their neuron: by others they are made again, and the live panel says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from with_maps import OPTIONS, draw, live, make_index, turn_maps

from csp_index import Index
from csp_index.errors import LabelError
from csp_index.integrity.verify import verify
from csp_index.labelling.concept_vectors import vectors_behind
from csp_index.labelling.kept.crop_labels import outdated_crops
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import maps_digests


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw(tmp_path)


@pytest.fixture
def index(images: Path, tmp_path: Path) -> Index:
    return make_index(images, tmp_path)


def test_labels_from_other_maps_are_made_again(index: Index) -> None:
    def runs() -> list[str]:
        return [label.run_id for label in index.label("net/maps", "csp", crop=True, **OPTIONS)]

    whole, first = index.label("net/maps/0", "csp", **OPTIONS), runs()
    turn_maps(index)
    with pytest.raises(LabelError, match="or when other maps of the neurons were stored: label them"):
        live(index, run=first[0])
    second = runs()
    assert second == runs() and not set(second) & set(first)
    assert index.label("net/maps/0", "csp", **OPTIONS)[0].run_id == whole[0].run_id  # which looks at no maps
    assert live(index, run=second[0])["labels"]
    assert set(index.sql("SELECT run_id FROM labels").to_arrow()["run_id"].to_pylist()) == {whole[0].run_id, *second}
    assert verify(index.uri, full=True).sound


def test_maps_of_other_neurons_do_not_matter(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = catalog.layer(index.store, LayerKey("net", "maps")), catalog.encoder(index.store)
    first = index.label("net/maps", "csp", crop=True, **OPTIONS)
    stored = vectors_behind(index.store, source, target)
    turn_maps(index, 1)
    assert outdated_crops(index.store, target) == ("csp",)
    assert live(index, run=first[0].run_id)["labels"] and not live(index, run=first[0].run_id)["note"].count("whole")
    second = index.label("net/maps", "csp", crop=True, **OPTIONS)
    kept = [old.run_id == new.run_id for old, new in zip(first, second, strict=True)]
    assert kept == [neuron != 1 for neuron in range(target.neurons)] and outdated_crops(index.store, target) == ()
    method, run = vectors_behind(index.store, source, target)
    assert method == stored[0] == "csp" and run != stored[1], "of all neurons, also after one was labeled again"
    looked = []

    def digests(store: Store, target: LayerInfo, neurons: Sequence[int]) -> dict[int, str]:
        looked.extend(neurons)
        return maps_digests(store, target, neurons)

    monkeypatch.setattr("csp_index.labelling.kept.crop_labels.maps_digests", digests)
    assert index.label("net/maps/1", "csp", crop=True, **OPTIONS)[0].run_id == second[1].run_id
    assert looked == [1], "only its own maps are read"
    index.label("net/maps", "csp", crop=True, recompute=True, **OPTIONS)
    assert vectors_behind(index.store, source, target) == (method, run)


def test_labels_that_depend_on_each_other_are_made_again_together(index: Index) -> None:
    first = index.label("net/maps", "wpmi", crop=True, **OPTIONS)
    turn_maps(index, 1)
    second = index.label("net/maps", "wpmi", crop=True, **OPTIONS)
    assert len({label.run_id for label in second}) == 1 and second[0].run_id != first[0].run_id
    again = index.label("net/maps", "wpmi", crop=True, recompute=True, **OPTIONS)
    assert [label.labels for label in again] == [label.labels for label in second]


@pytest.mark.parametrize("lost", [False, True])
def test_a_neuron_that_fires_nowhere_keeps_its_label(index: Index, lost: bool) -> None:
    index.store.delete(column_tables.maps_table("net/maps"), "neuron = 0" if lost else "false")
    first = index.label("net/maps/0", "semanticlens", crop=True, floor=1e9, **OPTIONS)[0]
    assert first.state == "dead"
    assert index.label("net/maps/0", "semanticlens", crop=True, floor=1e9, **OPTIONS)[0].run_id == first.run_id


def test_a_live_label_says_that_its_run_cut_crops_otherwise(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("csp_index.labelling.labels.REGION_SETTINGS", {"version": 1})
        run = index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0].run_id
    with pytest.raises(LabelError, match=rf"run {run} labeled from crops that an earlier version cut, or when"):
        live(index, run=run)
    new = index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0]
    assert new.run_id != run
    assert live(index, run=new.run_id)["labels"][0]["text"] == new.labels[0].text


def test_a_live_label_says_that_labels_from_newer_maps_replaced_those_of_its_run(index: Index) -> None:
    run = index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0].run_id
    turn_maps(index, 0)
    for _ in range(2):  # before they are replaced, and after it
        with pytest.raises(LabelError, match=rf"run {run} labeled from crops .* or when other maps"):
            live(index, run=run)
        index.label("net/maps/0", "csp", crop=True, **OPTIONS)
