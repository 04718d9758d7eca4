"""Facets of a layer: planted meanings, stored, read again, gone on with, replaced when stale; the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from few import few
from meant import IMAGES, LAYER, NEURONS, OBJECTS, TWO, make_meant, scenes, texts
from other_process import run_python

from csp_index import AddressError, Index, NotFoundError, StudyError
from csp_index.contrast.selection import Selection
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.studies.meanings import neuron_facets
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, schema
from csp_index.store.study_tables import FACETS
from csp_index.studies import staleness
from csp_index.studies.meanings import make_facets as module
from csp_index.studies.meanings.facets import read_facets


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = make_meant(tmp_path_factory.mktemp("meant"))
    index.facets(LAYER, vocabulary=texts())
    return index


def test_each_meaning_is_a_facet_with_its_label_and_images(world: Index) -> None:
    found = read_facets(world.store, LayerKey.parse(LAYER))
    assert found is not None and len(found) == NEURONS and found.method == "contrastive-pmi"
    neurons, (_, activations, objects, _) = found.neurons(), scenes()
    for number, name in enumerate(OBJECTS):
        assert [one.label for one in neurons[number].facets] == [name]
    for number, pair in enumerate(TWO, len(OBJECTS)):
        facets = neurons[number].facets
        assert {one.label for one in facets} == {OBJECTS[place] for place in pair}
        for facet in facets:
            assert {OBJECTS[objects[image]] for image in facet.images} == {facet.label}
            assert list(facet.activations) == sorted(activations[list(facet.images), number].tolist(), reverse=True)
        assert sum(one.share for one in facets) == pytest.approx(1) and neurons[number].clear > 0.4
    assert neurons[-1].facets == () and neurons[-1].looked_at == 0, "a dead neuron has none"
    assert {one.neuron for one in found.several()} == set(range(len(OBJECTS), len(OBJECTS) + len(TWO)))


def test_a_page_reads_them_once_and_says_what_changed_since(world: Index, monkeypatch: Any) -> None:
    found = read_facets(world.store, LayerKey.parse(LAYER))
    assert found is not None and found.about(world.store) == ""
    with monkeypatch.context() as patched:
        patched.setattr(staleness, "column_digest", lambda *_: "of other values")
        other = "made of other activations or embeddings than the index has now: run `csp-index facets` again"
        assert found.about(world.store) == other
    monkeypatch.setattr(staleness.catalog, "image_count", lambda *_: IMAGES + 1)
    snapshot, neuron = Snapshot(world.uri), NeuronKey("m", "l", 0)
    shown, note = neuron_facets(snapshot, neuron, None)
    assert shown is not None and note == "made on 480 of 481 images: run `csp-index facets` again"
    monkeypatch.setattr(snapshot, "store", None)
    assert neuron_facets(snapshot, neuron, None) == (shown, note), "what the page keeps is read again"


def test_without_the_encoders_scale_the_meanings_are_the_same(world: Index, tmp_path: Path) -> None:
    found = make_meant(tmp_path, scale=None).facets(LAYER, vocabulary=texts())
    assert found.method == "csp"
    for one, other in zip(found.neurons(), world.facets(LAYER, vocabulary=texts()).neurons(), strict=True):
        assert {facet.images for facet in one.facets} == {facet.images for facet in other.facets}


def test_what_is_stored_is_read_without_torch_and_not_made_again(world: Index, monkeypatch: Any) -> None:
    first = world.facets(LAYER, vocabulary=texts())
    monkeypatch.setattr(module, "_Work", lambda *_: pytest.fail("computed"))
    assert world.facets(f"{LAYER}/7", vocabulary=texts()).rows == first.rows.filter(
        pa.compute.equal(first.rows["neuron"], 7)
    )
    with pytest.raises(pytest.fail.Exception):
        world.facets(LAYER, vocabulary=texts(), recompute=True)
    done = run_python(f"""
        import sys
        from csp_index import open_index
        from csp_index.records import LayerKey
        from csp_index.studies.meanings.facets import read_facets
        assert len(read_facets(open_index({world.uri!r}).store, LayerKey("m", "l"))) == {NEURONS}
        assert "torch" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, plain, computed = make_meant(tmp_path), module._Work._found, []
    monkeypatch.setattr(module, "_BLOCK", 4)

    def found(work: Any, block: Any, *rest: Any) -> Any:
        if len(computed) == 1:
            raise KeyboardInterrupt
        computed.append(block.neurons.tolist())
        return plain(work, block, *rest)

    monkeypatch.setattr(module._Work, "_found", found)
    with pytest.raises(KeyboardInterrupt):
        index.facets(f"{LAYER}", vocabulary=texts())
    assert index.verify().sound
    monkeypatch.setattr(module._Work, "_found", lambda *rest: computed.append(rest[1].neurons.tolist()) or plain(*rest))
    result = index.facets(LAYER, vocabulary=texts())
    assert [neuron for block in computed for neuron in block] == list(range(NEURONS)), "no neuron twice"
    assert [len(one.facets) for one in result.neurons()] == [1] * len(OBJECTS) + [2] * len(TWO) + [0]
    assert [run["state"] for run in index.status()["runs"] if run["command"] == "facets"] == ["interrupted", "done"]


@pytest.mark.slow
def test_other_texts_find_facets_anew(tmp_path: Path) -> None:
    index = make_meant(tmp_path)
    index.facets([f"{LAYER}/0", f"{LAYER}/6"], vocabulary=texts())
    own = texts()
    other = type(own)(tuple(f"a {name}" for name in own.texts), own.embeddings, key="other")
    assert index.facets(f"{LAYER}/6", vocabulary=other).neurons()[0].facets[0].label.startswith("a ")
    rows = index.store.read(FACETS)
    assert sorted(set(rows["neuron"].to_pylist())) == [0, 6], "the earlier facets of the neuron are replaced"
    assert index.verify().sound


def test_bad_input_is_one_line(world: Index) -> None:
    with pytest.raises(NotFoundError):
        world.facets("m/other", vocabulary=texts())
    with pytest.raises(AddressError, match="no neuron is named"):
        world.facets([], vocabulary=texts())
    target = catalog.layer(world.store, LayerKey.parse(LAYER))
    empty = Selection(catalog.encoder(world.store), target, np.zeros(0, np.int64))
    with pytest.raises(StudyError, match="no neuron of m/l is named"):
        module.layer_facets(world.store, empty, texts, "meant")


def test_the_command_prints_lines_and_json(world: Index, run: Any, tmp_path: Path) -> None:
    own = texts()
    np.save(tmp_path / "T.npy", own.embeddings.numpy())
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in own.texts))
    given = ("--text-embeddings", tmp_path / "T.npy", "--texts", tmp_path / "texts.txt")
    said = run("facets", world.uri, "--layer", LAYER, *given, "--several")
    assert said.status == 0 and said.err.endswith("3 of 10 neurons have several meanings\n")
    assert len(said.out.splitlines()) == 3 and " images)\t" in said.out
    rows = run("facets", world.uri, "--layer", LAYER, "--neurons", "6,9", *given, "--json").rows
    assert [row["neuron"] for row in rows] == [f"{LAYER}/6", f"{LAYER}/9"]
    assert {one["label"] for one in rows[0]["facets"]} == {"ant", "bee"} and rows[1]["facets"] == []
    world.facets(LAYER, vocabulary=texts())


@pytest.mark.parametrize(
    ("change", "message"),
    few(
        [
            ({"neuron": 99}, "neurons do not exist: neuron m/l/99"),
            ({"share": 1.5}, "share is no possible number"),
            ({"facets": 3}, "facets of the neuron are missing"),
            ({"images": [1, 2]}, "its images are not those of a facet"),
            ({"images": [IMAGES + 5], "activations": [1.0]}, "its images do not exist"),
            ({"activations": [float("nan")], "images": [3]}, "its images are not those of a facet"),
        ],
        1,
    ),
)
def test_wrong_rows_are_found_and_deleted(tmp_path: Path, world: Index, change: dict[str, Any], message: str) -> None:
    index = world
    rows = index.store.read(FACETS).to_pylist()
    wrong = [rows[0] | change, *rows[1:]]
    kind = schema.table_schema(FACETS)
    with index.store.write_lock():
        index.store.replace(FACETS, pa.Table.from_pylist(wrong, schema=kind))
        index.store.commit()
    assert any(message in finding.what for finding in index.verify().findings)
    assert index.verify(repair=True).sound
    with index.store.write_lock():
        index.store.replace(FACETS, pa.Table.from_pylist(rows, schema=kind))
        index.store.commit()
    assert index.verify().sound
