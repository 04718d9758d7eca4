"""Nearest silent images: however they are found, they are those that exact cosines over all images name."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nearest_images import NEURONS, WIDTH, asked, expected, made, write

from csp_index import open_index
from csp_index.contrast import embeddings as vectors
from csp_index.contrast import planner
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.exact_ranking import EXACT, CosineError, FinalChoice, Ranked, leading
from csp_index.contrast.examples import gather_examples
from csp_index.errors import SettingError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.records import ExampleOptions
from csp_index.store import catalog


@pytest.mark.parametrize("low_precision", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("held", [True, False], ids=["held", "streamed"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(ExampleOptions(), id="default", marks=pytest.mark.slow),  # the next one asks for more of the same
        pytest.param(ExampleOptions(examples=100, neighbours=5), id="many"),
        pytest.param(ExampleOptions(near_duplicate=0.99), id="no duplicates"),
        pytest.param(ExampleOptions(examples=12, reuse=False), id="no reuse"),
    ],
)
def test_products_find_the_nearest_silent_images(tmp_path, monkeypatch, low_precision, held, options):
    monkeypatch.setattr(vectors, "_bfloat16_pays", lambda device: low_precision)
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", "1000000" if held else "1")
    index = made(tmp_path, 1500)
    found = gather_examples(index.store, asked(index), options, context=ComputeContext(search=False))
    np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))


@pytest.mark.parametrize("free", [0, 2**40], ids=["streamed", "on the card"])
def test_what_a_card_computes_in_another_way_gives_the_same(tmp_path, monkeypatch, free):
    for module in ("exact_ranking", "list_products"):
        monkeypatch.setattr(f"csp_index.contrast.{module}.is_on_card", lambda values: True)
    for module in ("embeddings", "list_products"):
        monkeypatch.setattr(f"csp_index.contrast.{module}.free_bytes", lambda device: free)
    monkeypatch.setattr(vectors, "_bfloat16_pays", lambda device: True)
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", "1")  # of the CPU
    index, options = made(tmp_path, 1500), ExampleOptions(examples=20)
    found = gather_examples(index.store, asked(index), options, context=ComputeContext(search=False))
    np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))
    held = vectors.all_embeddings(index.store, catalog.encoder(index.store), 1500)._held
    assert {dtype for _, dtype in held} == ({torch.bfloat16, torch.float32} if free else set())
    assert all(len(copy) == 1500 for copy in held.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("held", ["1000000000", "1"], ids=["held", "streamed"])
@pytest.mark.parametrize("low_precision", [False, True], ids=["float32", "bfloat16"])
def test_a_card_finds_the_nearest_silent_images(tmp_path, monkeypatch, low_precision, held):
    monkeypatch.setattr(vectors, "_bfloat16_pays", lambda device: low_precision)
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", held)
    index, options = made(tmp_path, 3000), ExampleOptions(examples=40, neighbours=3)
    found = gather_examples(index.store, asked(index), options, context=ComputeContext("cuda", search=False))
    np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))


@pytest.mark.parametrize("waiting", [0, 2**27], ids=["at once", "together"])
def test_neurons_of_several_blocks_share_passes_over_streamed_embeddings(tmp_path, monkeypatch, waiting):
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", "1")
    monkeypatch.setattr("csp_index.contrast.nearest._BLOCK_BYTES", 4 * 1200 * 2)
    monkeypatch.setattr("csp_index.contrast.nearest._WAITING_BYTES", waiting)
    index, passes = made(tmp_path, 1200), []
    screen = vectors.Embeddings.screen
    monkeypatch.setattr(vectors.Embeddings, "screen", lambda *args: passes.append(args) or screen(*args))
    options = ExampleOptions(examples=100, neighbours=5)
    found = gather_examples(index.store, asked(index), options, context=ComputeContext(search=False))
    np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))
    activations = np.load(tmp_path / "A.npy")
    ids, neurons = found.contrastive.numpy(), np.arange(NEURONS)[:, None, None]
    np.testing.assert_array_equal(found.contrast_activations.numpy()[ids >= 0], activations[ids, neurons][ids >= 0])
    assert len(passes) < 6 if waiting else len(passes) > 6


@pytest.mark.parametrize("search", [False, True], ids=["products", "search"])
@pytest.mark.parametrize(("limit", "reuse"), [(0.99, True), (0.6, True), (0.6, False)])
def test_near_duplicates_are_counted_where_they_are_left_out(tmp_path, search, limit, reuse):
    index = made(tmp_path, 1200)
    options = ExampleOptions(examples=12, near_duplicate=limit, reuse=reuse)
    found = gather_examples(index.store, asked(index), options, context=ComputeContext(search=search))
    embeddings, activations = (np.load(tmp_path / f"{name}.npy").astype(np.float64) for name in "EA")
    counts = []
    for neuron, images in zip(found.neurons.tolist(), found.activating.tolist(), strict=True):
        silent = embeddings[activations[:, neuron] < activations[:, neuron].mean()]
        counts.append(sum(bool((silent @ embeddings[image] > limit).any()) for image in images if image >= 0))
    assert found.near_duplicates is not None and found.near_duplicates.tolist() == counts
    assert any(counts)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), images=st.integers(600, 1500), shard=st.integers(100, 1000))
def test_a_whole_layer_and_one_neuron_alone_see_the_same(tmp_path_factory, seed, images, shard):
    folder = tmp_path_factory.mktemp("layer")
    index = write(folder, images, seed, shard)
    options = ExampleOptions(examples=20, neighbours=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vectors, "_bfloat16_pays", lambda device: True)
        patched.setattr("csp_index.contrast.nearest._BLOCK_BYTES", 4 * images * 5)  # five neurons at a time
        whole = gather_examples(index.store, asked(index), options)
    np.testing.assert_array_equal(whole.contrastive.numpy(), expected(folder, whole, options))
    for neuron in range(0, NEURONS, 2):
        alone = gather_examples(open_index(folder / "db").store, asked(index, np.array([neuron])), options)
        assert torch.equal(alone.contrastive[0], whole.contrastive[neuron])
        torch.testing.assert_close(alone.similarities[0], whole.similarities[neuron], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(
            alone.contrast_activations[0], whole.contrast_activations[neuron], rtol=0, atol=0, equal_nan=True
        )


def test_labels_of_a_layer_are_those_of_its_neurons(tmp_path):
    index = made(tmp_path, 1500)
    rng = np.random.default_rng(1)
    texts = CandidateTexts(
        tuple(f"text {i}" for i in range(40)), torch.from_numpy(rng.standard_normal((40, WIDTH))).float(), "t"
    )
    whole = index.label("m/l", vocabulary=texts, keep=False)
    for label in whole:
        (alone,) = index.label(str(label.neuron), vocabulary=texts, keep=False)
        assert alone.pairs == label.pairs
        assert [score.text for score in alone.labels] == [score.text for score in label.labels]
        for one, other in zip(alone.labels, label.labels, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert one.low == pytest.approx(other.low, abs=1e-6)


def test_leading_values_are_those_of_a_full_sort():
    values = torch.randn(7, 5003, generator=torch.Generator().manual_seed(0))
    values[2] = 1.0
    values[3, 100:] = -torch.inf
    for width in (1, 40, 150, 2000, 6000):
        found, places = leading(values, width)
        torch.testing.assert_close(found, values.sort(dim=1, descending=True).values[:, :width])
        torch.testing.assert_close(values.gather(1, places), found)


def test_leading_values_above_a_limit_are_not_left_out():
    values = torch.randn(6, 5003, generator=torch.Generator().manual_seed(0))
    values[2] = 1.0
    values[3, 100:] = -torch.inf
    ordered = values.sort(dim=1, descending=True).values
    for rank in (0, 3, 39):  # as many values lie above the limit, the 40 largest at most
        found, places = leading(values, 40, ordered[:, rank])
        assert found.shape[1] < 40 or rank == 39
        torch.testing.assert_close(values.gather(1, places), found)
        for row, (limit, best) in enumerate(zip(ordered[:, rank], found, strict=True)):
            above = int((values[row] > limit).sum())
            torch.testing.assert_close(best[:above], ordered[row, :above])
    assert leading(values[:, :5000], 40, ordered[:, 0])[0].shape == (6, 0)
    for blocks in range(2, 40):
        tile = values[:, : 83 * blocks]
        limits = tile.sort(dim=1, descending=True).values[:, 2]
        found, _ = leading(tile, 2, limits)
        torch.testing.assert_close(found[:, :2], tile.sort(dim=1, descending=True).values[:, : found.shape[1]])


def test_lists_merged_tile_by_tile_are_those_of_all_images():
    values = torch.randn(9, 4000, generator=torch.Generator().manual_seed(1))
    values[1] = values[1].sort().values  # each tile exceeds all before it
    values[2] = values[2].sort(descending=True).values
    values[3, 50:] = -torch.inf
    lists = Ranked.empty(9, 12)
    for first in range(0, 4000, 700):
        lists.merge(slice(0, 9), values[:, first : first + 700], first)
    expected = values.sort(dim=1, descending=True)
    torch.testing.assert_close(lists.cosines, expected.values[:, :12])
    assert torch.equal(lists.ids, expected.indices[:, :12])


def test_rows_too_large_to_stay_in_memory_are_mapped(tmp_path, monkeypatch):
    index = made(tmp_path, 900)
    embeddings = vectors.all_embeddings(index.store, catalog.encoder(index.store), 900)
    ids = torch.arange(0, 900, 2)
    expected = embeddings.of(ids)
    monkeypatch.setattr(vectors, "_LAST_BYTES", 4 * WIDTH * 100)
    monkeypatch.setenv("CSP_INDEX_HELD_BYTES", "1000")
    rows = vectors.Embeddings(index.store, embeddings.source, 900).lasting(ids)
    assert torch.equal(rows, expected) and not rows.numpy().flags.owndata
    assert len(embeddings.lasting(ids[:3])) == 3


def test_a_row_is_settled_only_if_nothing_outside_its_list_could_win():
    final_choice = FinalChoice(1, CosineError(0.01), 1.01, lambda ids: torch.eye(4)[[0, 0, 1, 2]].__getitem__)
    ranked = Ranked(torch.tensor([[1, 2], [1, 2], [2, -1]]), torch.tensor([[0.9, 0.7], [0.9, 0.89], [0.3, -torch.inf]]))
    best, settled = final_choice.decide(torch.tensor([0, 0, 0]), ranked, torch.ones(3, 2, dtype=torch.bool))
    assert settled.tolist() == [True, False, True]
    assert best.ids[:, 0].tolist() == [1, 1, 2]
    assert not best.near_duplicate.any()
    assert (
        replace(final_choice, error=EXACT)
        .decide(torch.tensor([0, 0, 0]), ranked, torch.ones(3, 2, dtype=torch.bool))[1]
        .all()
    )


def test_a_tile_without_room_is_told_and_nothing_is_written(tmp_path, monkeypatch):
    index = made(tmp_path, 900)
    monkeypatch.setenv("CSP_INDEX_TILE_BYTES", "100")
    before = index.store.versions()
    texts = CandidateTexts(("a", "b"), torch.eye(2, WIDTH), key="t")
    with pytest.raises(SettingError, match=r"tile_bytes is 100: expected at least \d+.*set it higher"):
        index.label("m/l", vocabulary=texts, keep=False)
    assert index.store.versions() == before


def test_the_cheaper_way_is_taken_and_told(tmp_path, monkeypatch):
    index = made(tmp_path, 2000)
    texts = CandidateTexts(("a", "b"), torch.eye(2, WIDTH), key="t")
    told: list[str] = []

    def label(**options):
        told.clear()
        return index.label("m/l/5", vocabulary=texts, explain=told.append, **options)[0]

    exact = label()
    assert "by matrix products, exact" in told[0]
    assert "no vector index" in told[0]
    label()
    assert told == ["1 labels read from the index: made before, the same way"]
    index.optimize(kind="ivf_flat")
    monkeypatch.setattr(planner, "_search_seconds", lambda asked, activating: 1e-9)
    monkeypatch.setattr(planner, "_product_seconds", lambda asked, distinct: 1.0)
    assert label() == exact  # what is stored is not made again
    found = label(recompute=True)
    assert "by vector search in ivf_flat, approximate" in told[0]
    assert "by vector index, approximate" in found.note
    monkeypatch.setattr(planner, "_search_seconds", lambda asked, activating: 2.0)
    assert label() == exact  # the approximate label is kept apart from the exact one
    assert label(recompute=True).note == exact.note
    assert "by matrix products, exact" in told[0]


def test_costs_are_measured(tmp_path):
    index = made(tmp_path, 2000)
    index.optimize(kind="ivf_flat")
    told: list[str] = []
    gather_examples(index.store, asked(index), ExampleOptions(), context=ComputeContext(explain=told.append))
    assert "as measured here" in told[0]
    assert 1e6 < vectors.product_rate("cpu", torch.float32) < 1e15


def test_thousands_of_copies_of_one_picture_cost_neither_memory_nor_exactness(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((3000, WIDTH)).astype(np.float32)
    embeddings[rng.random(3000) < 0.6] = embeddings[0]  # blank pages
    embeddings[rng.random(3000) < 0.1] += np.float32(1e-6)
    np.save(tmp_path / "E.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    np.save(tmp_path / "A.npy", np.maximum(rng.standard_normal((3000, NEURONS)), 0).astype(np.float32))
    index = open_index(tmp_path / "db")
    index.import_arrays(tmp_path / "A.npy", "m/l", embeddings=tmp_path / "E.npy")
    widths: list[int] = []
    empty = Ranked.empty
    monkeypatch.setattr(Ranked, "empty", lambda rows, width, where: widths.append(rows * width) or empty(rows, width))
    monkeypatch.setattr(vectors, "_bfloat16_pays", lambda device: True)
    for room in ("nearest", "list_products"):
        monkeypatch.setattr(f"csp_index.contrast.{room}.CANDIDATES", 2**14)
    for options in (ExampleOptions(examples=20), ExampleOptions(examples=20, neighbours=3, reuse=False)):
        found = gather_examples(index.store, asked(index), options)
        np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))
    assert max(widths) <= 2**14


def test_an_index_made_anew_at_the_same_place_is_seen_as_such(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        np.save(folder / "T.npy", np.eye(WIDTH))
    index = made(first, 900, seed=1)
    made(second, 900, seed=2)
    texts = CandidateTexts(tuple("abcdefgh"), torch.eye(8, WIDTH), key="t")
    before = index.label("m/l", vocabulary=texts)
    shutil.rmtree(first / "db")
    shutil.copytree(second / "db", first / "db")  # the same tables at the same versions, with other rows
    again = index.label("m/l", vocabulary=texts)
    assert [label.pairs for label in again] == [
        label.pairs for label in open_index(second / "db").label("m/l", vocabulary=texts)
    ]
    assert [label.pairs for label in again] != [label.pairs for label in before]


def test_embeddings_are_given_back_with_the_index(tmp_path):
    index = made(tmp_path, 900)
    gather_examples(index.store, asked(index), ExampleOptions())
    held = weakref.ref(vectors.all_embeddings(index.store, catalog.encoder(index.store), 900))
    assert held() is not None
    del index
    gc.collect()
    assert held() is None


def test_an_approximate_label_depends_on_how_the_index_is_searched(tmp_path, monkeypatch):
    index = made(tmp_path, 2000)
    index.optimize(kind="ivf_flat")
    texts = CandidateTexts(("a", "b"), torch.eye(2, WIDTH), key="t")
    runs = []
    for probes in ("1", "40", "1"):
        monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", probes)
        runs.append(index.label("m/l/7", vocabulary=texts, search=True)[0].run_id)
    assert runs[0] != runs[1]
    assert runs[0] == runs[2]


def test_the_next_step_reads_no_embeddings_again(tmp_path, monkeypatch):
    index = made(tmp_path, 400)
    embeddings = vectors.all_embeddings(index.store, catalog.encoder(index.store), 400)
    taken = []
    whole = index.store.take
    monkeypatch.setattr(
        index.store, "take", lambda table, rows, columns: taken.append(rows) or whole(table, rows, columns)
    )
    first = embeddings.of(torch.tensor([7, 3, 7, 9]))
    assert torch.equal(embeddings.of(torch.tensor([9, 3])), first[[3, 1]]) and len(taken) == 1
    embeddings.of(torch.tensor([9, 4]))
    assert [rows.tolist() for rows in taken] == [[3, 7, 9], [4, 9]]
