"""The kinds of contrastive images beside the nearest: falcon's against NumPy, made ones by a stand-in, mixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from csp_index import CspIndexError, Index, open_index
from csp_index.contrast import falcon
from csp_index.contrast.context import ComputeContext, DerivedRequest
from csp_index.contrast.examples import Examples, gather_examples, quality_of
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, SettingError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.records import ExampleOptions
from csp_index.store import catalog
from csp_index.store.values.derived_images import FIRST, DerivedImage, append_derived, is_derived

IMAGES, NEURONS, WIDTH = 240, 9, 10
TEXTS = CandidateTexts(("striped", "red"), torch.eye(2, WIDTH), key="two")


def build(folder: Path, neurons: int = NEURONS) -> Index:
    """An index of images in clusters, with layers that fire by cluster; neuron 3 is dead, neuron 4 fires on five."""
    rng = np.random.default_rng(3)
    cluster = rng.integers(0, 6, IMAGES)
    embeddings = rng.standard_normal((6, WIDTH))[cluster] + 0.5 * rng.standard_normal((IMAGES, WIDTH))
    embeddings[1] = embeddings[0]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    activations = np.maximum(rng.standard_normal((6, neurons))[cluster] + rng.standard_normal((IMAGES, neurons)), 0)
    if neurons > 4:
        activations[:, 3] = 0
        activations[5:, 4] = 0
    np.save(folder / "E.npy", embeddings.astype(np.float32))
    np.save(folder / "A.npy", np.round(activations, 2).astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy", shard_size=50)
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build(tmp_path_factory.mktemp("kinds"))


def selection(index: Index, neurons: list[int] | None = None) -> Selection:
    (target,), source = catalog.layers(index.store), catalog.encoder(index.store)
    return Selection(source, target, np.arange(target.neurons) if neurons is None else np.array(neurons))


def arrays(index: Index) -> tuple[np.ndarray, np.ndarray]:
    folder = Path(index.uri).parent
    return np.load(folder / "E.npy").astype(np.float64), np.load(folder / "A.npy").astype(np.float64)


def ten_by_hand(a: np.ndarray, neuron: int, activating: list[int], pool: np.ndarray | None = None) -> list[int]:
    """METHODS, section 1: silent images by similarity to the mean activating vector, without the neuron's own place."""
    seen = np.ones(len(a), dtype=bool) if pool is None else pool
    others = np.delete(a, neuron, axis=1)
    mean = others[activating].mean(0)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(mean)
    cosines = np.divide(others @ mean, lengths, out=np.full(len(a), -1.0), where=lengths > 0)
    silent = (a[:, neuron] < a[seen, neuron].mean()) & (cosines >= 0.3) & seen
    order = np.lexsort((np.arange(len(a)), -cosines.astype(np.float32)))
    return [int(image) for image in order if silent[image]][:10]


def nearest_of(e: np.ndarray, image: int, ten: list[int], m: int, limit: float = 2.0) -> list[int]:
    ten = [other for other in sorted(ten) if e[image] @ e[other] <= limit]
    order = sorted(ten, key=lambda other: -(e[image] @ e[other]))
    return (order + [-1] * m)[:m]


@pytest.mark.parametrize("neighbours", [1, 3])
def test_falcon_is_what_numpy_says(index, neighbours):
    e, a = arrays(index)
    options = ExampleOptions(examples=20, contrast="falcon", neighbours=neighbours)
    found = gather_examples(index.store, selection(index), options)
    for k in range(NEURONS):
        activating = [image for image in found.activating[k].tolist() if image >= 0]
        if k == 3:
            assert (found.contrastive[k] == -1).all()
            continue
        ten = ten_by_hand(a, k, activating)
        assert len(ten) == 10
        for rank, image in enumerate(activating):
            expected = nearest_of(e, image, ten, neighbours)
            assert found.contrastive[k, rank].tolist() == expected
            np.testing.assert_allclose(found.contrast_activations[k, rank], a[expected, k], atol=1e-6)
            np.testing.assert_allclose(found.similarities[k, rank], e[expected] @ e[image], atol=1e-6)
    assert (found.contrast_activations < found.thresholds[:, None, None])[found.contrastive >= 0].all()


def test_falcon_of_few_neurons_and_in_blocks_is_the_same(index, monkeypatch):
    options = ExampleOptions(examples=20, contrast="falcon")
    whole = gather_examples(index.store, selection(index), options).contrastive
    some = gather_examples(index.store, selection(index, [2, 7]), options).contrastive
    assert torch.equal(some, whole[[2, 7]])
    monkeypatch.setattr(falcon, "_MEANS_BYTES", 8 * NEURONS * 2)
    monkeypatch.setattr(falcon, "_TILE_BYTES", 1)
    assert torch.equal(gather_examples(index.store, selection(index), options).contrastive, whole)


def test_falcon_sees_the_pool_alone(index):
    e, a = arrays(index)
    mask = torch.arange(IMAGES) % 3 > 0
    asked = selection(index, [0, 6])
    target = asked.target
    asked = Selection(asked.source, target, asked.neurons, draw_pool(index.store, target, asked.neurons, mask))
    found = gather_examples(index.store, asked, ExampleOptions(examples=15, contrast="falcon"))
    for row, neuron in enumerate((0, 6)):
        activating = found.activating[row].tolist()
        ten = ten_by_hand(a, neuron, activating, mask.numpy())
        assert found.contrastive[row, :, 0].tolist() == [nearest_of(e, image, ten, 1)[0] for image in activating]


def test_falcon_in_a_layer_of_one_neuron_has_no_space_to_look_in(tmp_path):
    index = build(tmp_path, neurons=1)
    (label,) = index.label("m/l", vocabulary=TEXTS, contrast="falcon")
    assert label.state == "no-contrast"


def test_falcons_near_duplicates_are_left_out(index):
    e, a = arrays(index)
    found = gather_examples(index.store, selection(index), ExampleOptions(contrast="falcon", near_duplicate=0.8))
    assert (found.contrastive >= 0).any()
    for k, rank in (found.contrastive[..., 0] >= 0).nonzero().tolist():
        activating = [image for image in found.activating[k].tolist() if image >= 0]
        expected = nearest_of(e, activating[rank], ten_by_hand(a, k, activating), 1, 0.8)
        assert found.contrastive[k, rank].tolist() == expected


def test_random_near_duplicates_are_dropped(index):
    loose = gather_examples(index.store, selection(index), ExampleOptions(contrast="random"))
    strict = gather_examples(index.store, selection(index), ExampleOptions(contrast="random", near_duplicate=0.5))
    close = loose.similarities > 0.5
    assert close.any()
    assert torch.equal(strict.contrastive, loose.contrastive.masked_fill(close, -1))


@pytest.mark.parametrize("contrast", ["falcon", "nearest+falcon", "falcon+random+nearest"])
def test_without_reuse_no_image_serves_a_neuron_twice(index, contrast):
    options = ExampleOptions(examples=20, contrast=contrast, neighbours=2, reuse=False)
    found = gather_examples(index.store, selection(index), options)
    for row in found.contrastive.flatten(1):
        used = row[row >= 0]
        assert len(used) == len(used.unique())
    assert (found.contrastive >= 0).any()


def test_a_mixture_has_the_partners_of_each_kind_in_the_order_written(index):
    def of(contrast: str) -> Examples:
        return gather_examples(index.store, selection(index), ExampleOptions(contrast=contrast, neighbours=2))

    mixed = of("random+nearest+falcon")
    assert mixed.kinds == ("random", "nearest", "falcon")
    for place, kind in enumerate(mixed.kinds):
        own, alone = slice(2 * place, 2 * place + 2), of(kind)
        assert torch.equal(mixed.contrastive[..., own], alone.contrastive)
        assert torch.equal(mixed.similarities[..., own].nan_to_num(), alone.similarities.nan_to_num())
        assert torch.equal(mixed.contrast_activations[..., own].nan_to_num(), alone.contrast_activations.nan_to_num())


def test_least_similarity_holds_for_all_kinds(index):
    options = ExampleOptions(contrast="nearest+falcon+random", min_similarity=0.6)
    found = gather_examples(index.store, selection(index), options)
    kept = found.contrastive >= 0
    assert kept[..., 0].any() and kept[..., 1].any() and kept[..., 2].any()
    assert (found.similarities[kept] >= 0.6).all()
    assert found.similarities[~kept].isnan().all()


def test_stored_pairs_name_their_kind(index):
    (label,) = index.label("m/l/4", vocabulary=TEXTS, contrast="nearest+falcon", neighbours=2)
    columns = "rank, kind, neighbour, contrast_id"
    where = f"WHERE run_id = '{label.run_id}' ORDER BY rank, neighbour"
    rows = index.sql(f"SELECT {columns} FROM examples {where}").rows()
    found = gather_examples(index.store, selection(index, [4]), ExampleOptions(contrast="nearest+falcon", neighbours=2))
    fired = len(label.pairs)
    expected = [
        (rank, kind, place)
        for rank in range(fired)
        for place, kind in enumerate(("nearest", "nearest", "falcon", "falcon"))
    ]
    assert [(row["rank"], row["kind"], row["neighbour"]) for row in rows] == expected
    assert [row["contrast_id"] for row in rows] == found.contrastive[0, :fired].flatten().tolist()
    assert label.pairs[0].contrast_id == rows[0]["contrast_id"]


def test_show_lists_all_partners_of_an_image(index, run):
    (label,) = index.label("m/l/4", vocabulary=TEXTS, contrast="falcon+nearest", neighbours=2)
    fired = len(label.pairs)
    (found,) = run("show", index.uri, "m/l/4", "--json").rows
    pairs = found["pairs"]
    kinds = ["falcon", "falcon", "nearest", "nearest"]
    assert [(pair["rank"], pair["neighbour"], pair["kind"]) for pair in pairs] == [
        (rank, place, kind) for rank in range(fired) for place, kind in enumerate(kinds)
    ]
    assert [pair["contrast_id"] for pair in pairs[::4]] == [pair.contrast_id for pair in label.pairs]
    assert all(str(pair["contrast_id"]) in found["images"] for pair in pairs)
    examples = gather_examples(index.store, selection(index, [4]), ExampleOptions(contrast="falcon+nearest"))
    assert found["contrast_quality"] == pytest.approx(quality_of(examples).as_json(), rel=1e-5)
    head, *lines = run("show", index.uri, "m/l/4").out.splitlines()[-1 - 4 * fired :]
    assert head.split()[-1] == "kind"
    assert [line.split()[-1] for line in lines] == kinds * fired
    assert [line.startswith(" ") for line in lines] == [False, True, True, True] * fired  # an image is told once


@pytest.mark.parametrize("wrong", ["", "near", "nearest+", "nearest+nearest", "nearest,falcon", 3])
def test_what_is_no_kind_is_refused(wrong):
    with pytest.raises(SettingError, match="nearest, falcon, perturbation, synthetic, random"):
        ExampleOptions(contrast=wrong)


# made images, by a stand-in for what makes them


def stand_in(index: Index, rows: list[tuple[int, int, float, int]]) -> Callable[[DerivedRequest], str]:
    """Return a maker that once stores images (neuron, origin, activation, axis its embedding lies on)."""
    calls: list[DerivedRequest] = []

    def make(wanted: DerivedRequest) -> str:
        calls.append(wanted)
        if len(calls) == 1:
            source, key = wanted.selection.source, wanted.selection.key
            embeddings = np.eye(WIDTH, dtype=np.float32)
            images = [
                DerivedImage("perturbation", origin, key(neuron), 0, "stand-in", value, embeddings[axis], b"")
                for neuron, origin, value, axis in rows
            ]
            append_derived(index.store, source, images)
        return "stand-in"

    return make


def test_made_images_below_the_threshold_are_partners_most_similar_first(tmp_path):
    index = build(tmp_path)
    e, _ = arrays(index)
    plain = gather_examples(index.store, selection(index), ExampleOptions(examples=5, contrast="random"))
    first, second = plain.activating[2, :2].tolist()
    low, high = 0.0, float(plain.thresholds[2])
    axes = np.argsort(-e[first])  # the axes most like the first image come first
    rows = [
        (2, first, low, int(axes[4])),
        (2, first, low, int(axes[0])),
        (2, first, high, int(axes[1])),  # not below the threshold
        (2, second, low, 0),
        (2, 239 if 239 not in plain.activating[2].tolist() else 238, low, 0),  # from an image that is not asked about
        (5, plain.activating[5, 0].item(), low, 1),
    ]
    context = ComputeContext(derive={"perturbation": stand_in(index, rows)})
    options = ExampleOptions(examples=5, contrast="nearest+perturbation", neighbours=3)
    found = gather_examples(index.store, selection(index), options, context=context)
    made = found.contrastive[..., 3:]
    assert made[2, 0].tolist() == [FIRST + 1, FIRST, -1]
    assert made[2, 1].tolist() == [FIRST + 3, -1, -1]
    assert made[5, 0].tolist() == [FIRST + 5, -1, -1]
    assert int(is_derived(made).sum()) == 4 and not is_derived(found.contrastive[..., :3]).any()
    np.testing.assert_allclose(found.similarities[2, 0, 3:5], np.sort(e[first])[::-1][[0, 4]], atol=1e-6)
    assert found.contrast_activations[2, 0, 3] == 0.0
    again = gather_examples(index.store, selection(index, [5]), options, context=context)
    assert torch.equal(again.contrastive[0], found.contrastive[5])


def test_edits_are_near_by_design_and_no_near_duplicates(tmp_path):
    index = build(tmp_path)
    plain = gather_examples(index.store, selection(index), ExampleOptions(examples=5, contrast="random"))
    rows = [(2, plain.activating[2, 0].item(), 0.0, 0)]
    context = ComputeContext(derive={"perturbation": stand_in(index, rows)})
    options = ExampleOptions(examples=5, contrast="perturbation", near_duplicate=-1.0)
    assert gather_examples(index.store, selection(index), options, context=context).contrastive[2, 0].item() == FIRST


def test_a_question_that_makes_nothing_says_so(index):
    with pytest.raises(LabelError, match="which is not possible here: use `csp-index label`"):
        gather_examples(index.store, selection(index), ExampleOptions(contrast="perturbation"))


def test_an_index_of_arrays_cannot_edit_and_says_so(index, run):
    with pytest.raises(CspIndexError, match=r"layer m/l came as arrays: choose nearest, falcon or random"):
        index.label("m/l", vocabulary=TEXTS, contrast="nearest+perturbation")
    said = run("label", index.uri, "--layer", "m/l", "--contrast", "perturbation", "--vocabulary", "imagenet1k")
    assert said.status == 1 and len(said.err.splitlines()) == 1 and "came as arrays" in said.err
