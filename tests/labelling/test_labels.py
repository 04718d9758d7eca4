"""Labels of imported arrays against the NumPy oracle, whole way through the store, by both paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from fakes import write_arrays
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from imported_arrays import build

from csp_index import CspIndexError, Index, open_index
from csp_index.labelling.candidates import read_text_arrays
from csp_index.records import Label, LabelScore, NeuronKey

SIMPLE = (
    "csp",
    "csp-difference",
    "semanticlens",
    "mean-centred",
    "clip-dissect-mean",
    "pmi",
    "contrastive-pmi",
    "consensus",
    "firing-contrast",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, dict[str, np.ndarray], dict[str, Path]]:
    return build(tmp_path_factory.mktemp("labels"))


@pytest.mark.parametrize("search", [False, True], ids=["products", "search"])
@pytest.mark.parametrize("method", SIMPLE)
def test_scores_equal_the_oracle(small, method, search):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    labels = index.label(
        "m/l", method, vocabulary=texts, examples=10, renormalise_text=False, top=20, search=search, keep=False
    )
    for k, label in enumerate(labels):
        a = arrays["activations"][:, k]
        if k == 3:
            assert label.state == "dead"
            assert label.labels == ()
            continue
        expected = oracle.scores(method, arrays["embeddings"], a, arrays["text_embeddings"], 10, scale=30.0)
        got = np.full(len(expected), np.nan)
        for score in label.labels:
            got[int(score.text.split()[1])] = score.score
        # An image at the border of a bin of the second pass may fall to either side.
        loose = 20 if method in ("consensus", "firing-contrast") else 1
        np.testing.assert_allclose(got, expected, atol=loose * 2e-4, rtol=loose * 1e-4)
        assert [s.score for s in label.labels] == sorted((s.score for s in label.labels), reverse=True)


def test_clip_dissect_equals_the_oracle_and_depends_on_the_neurons_of_the_run(small):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    labels = index.label("m/l", "clip-dissect", vocabulary=texts, renormalise_text=False, top=20, keep=False)
    expected = oracle.clip_dissect(arrays["embeddings"], arrays["activations"], arrays["text_embeddings"])
    for k, label in enumerate(labels):
        if k != 3:
            got = {int(s.text.split()[1]): s.score for s in label.labels}
            np.testing.assert_allclose([got[i] for i in range(20)], expected[k], atol=1e-3)
    alone = index.label("m/l/0", "clip-dissect", vocabulary=texts, renormalise_text=False, top=20, keep=False)
    assert alone[0].labels[0].score == pytest.approx(0.0)  # a prior over one neuron takes everything away


def test_trap_12_the_mean_variant_is_not_called_clip_dissect(small):
    index, _, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    published = index.label("m/l/0", "clip-dissect", vocabulary=texts, prior="images", keep=False)
    variant = index.label("m/l/0", "clip-dissect-mean", vocabulary=texts, keep=False)
    assert published[0].method != variant[0].method
    assert published[0].labels[0].score != pytest.approx(variant[0].labels[0].score, rel=0.01)


@example(seed=10_000, images=35, shard=5, neighbours=1)  # an activation equal to the mean but for a rounding
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), images=st.integers(12, 150), shard=st.integers(5, 60), neighbours=st.integers(1, 5))
def test_both_paths_and_the_oracle_choose_the_same_images(tmp_path_factory, seed, images, shard, neighbours):
    folder = tmp_path_factory.mktemp("paths")
    index, arrays, paths = build(folder, shard_size=shard, images=images, seed=seed)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    asked = {"vocabulary": texts, "examples": 10, "neighbours": neighbours, "keep": False}
    products = index.label("m/l", search=False, **asked)
    searched = index.label("m/l", search=True, **asked)
    for k, (one, other) in enumerate(zip(products, searched, strict=True)):
        a = arrays["activations"][:, k]
        p = oracle.activating(a, 10)
        assert [pair.image_id for pair in one.pairs] == p.tolist()
        if len(p):
            expected = oracle.contrastive(arrays["embeddings"], a, p)[:, 0].tolist()
            assert [pair.contrast_id if pair.contrast_id is not None else -1 for pair in one.pairs] == expected
        assert one.pairs == other.pairs
        assert [s.text for s in one.labels] == [s.text for s in other.labels]


def test_equal_embeddings_are_told_apart_by_the_lower_id(tmp_path):
    paths = write_arrays(tmp_path, images=80)
    embeddings = np.load(paths["embeddings"])
    embeddings[40:] = embeddings[:40]
    np.save(paths["embeddings"], embeddings)
    activations = np.load(paths["activations"])
    activations[40:] = activations[:40]
    np.save(paths["activations"], activations)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=30)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    for search in (False, True):
        for label in index.label("m/l", vocabulary=texts, search=search, keep=False):
            pairs = [(pair.image_id, pair.contrast_id) for pair in label.pairs if pair.contrast_id is not None]
            assert all(other < 40 or other == own + 40 for own, other in pairs)  # no image is its own partner
            ids = [pair.image_id for pair in label.pairs]
            assert ids == oracle.activating(activations[:, label.neuron.neuron], 30).tolist()


@pytest.mark.parametrize("search", [False, True], ids=["products", "search"])
def test_many_identical_pictures_go_to_the_lowest_id(tmp_path, search):
    paths = write_arrays(tmp_path, images=400)
    embeddings, activations = np.load(paths["embeddings"]), np.load(paths["activations"])
    embeddings[100:300] = embeddings[100]
    activations[100:300] = 0  # two hundred copies of one silent picture
    embeddings[0] = embeddings[100]
    activations[0] = 9.0
    np.save(paths["embeddings"], embeddings)
    np.save(paths["activations"], activations)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=150)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    (label,) = index.label("m/l/0", vocabulary=texts, search=search, keep=False)
    assert (label.pairs[0].image_id, label.pairs[0].contrast_id) == (0, 100)


def test_trap_4_few_examples_are_never_padded(small):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    fires = int((arrays["activations"][:, 4] > 0).sum())
    assert 0 < fires <= 5
    for method in SIMPLE:
        (label,) = index.label("m/l/4", method, vocabulary=texts, examples=30, keep=False)
        assert [pair.image_id for pair in label.pairs] == oracle.activating(arrays["activations"][:, 4], 30).tolist()
        assert len(arrays["embeddings"]) - 1 not in [pair.image_id for pair in label.pairs]
        assert label.note.startswith(f"{fires} activating images, 30 asked for")


def test_no_contrast_is_told_per_neuron_and_the_run_goes_on(tmp_path):
    paths = write_arrays(tmp_path)
    activations = np.load(paths["activations"])
    activations[:, 0] = 2.0 + np.arange(len(activations)) / 100  # falls below half of its maximum nowhere
    np.save(paths["activations"], activations)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    for search in (False, True):
        labels = index.label("m/l", vocabulary=texts, threshold="max:0.5", search=search, keep=False)
        assert [label.state for label in labels[:4]] == ["no-contrast", "labelled", "labelled", "dead"]
        assert "no image activates it less" in labels[0].note
    assert index.label("m/l/0", "semanticlens", vocabulary=texts)[0].state == "labelled"


@pytest.mark.parametrize("search", [False, True], ids=["products", "search"])
def test_options_of_the_contrastive_set(small, search):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])

    def pairs(**options):
        return [
            pair
            for label in index.label("m/l", vocabulary=texts, examples=10, search=search, keep=False, **options)
            for pair in label.pairs
            if pair.contrast_id is not None
        ]

    assert all(pair.similarity >= 0.5 for pair in pairs(min_similarity=0.5))
    assert all(pair.similarity <= 0.8 for pair in pairs(near_duplicate=0.8))
    assert any(pair.similarity > 0.8 for pair in pairs())
    for label in index.label("m/l", vocabulary=texts, examples=10, search=search, reuse=False, keep=False):
        chosen = [pair.contrast_id for pair in label.pairs if pair.contrast_id is not None]
        assert len(set(chosen)) == len(chosen)
    limits = np.quantile(arrays["activations"], 0.5, axis=0)
    for label in index.label("m/l", vocabulary=texts, threshold="quantile:0.5", search=search, keep=False):
        for pair in label.pairs:
            if pair.contrast_id is not None:
                assert pair.contrast_activation <= limits[label.neuron.neuron] + 0.011


def test_random_contrast_is_seeded_distinct_and_of_low_activation(small):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])

    def ids(seed, search=False):
        labels = index.label(
            "m/l", "csp", vocabulary=texts, examples=8, contrast="random", seed=seed, search=search, keep=False
        )
        return [[pair.contrast_id for pair in label.pairs] for label in labels]

    assert ids(0) == ids(0) == ids(0, search=True)
    assert ids(0) != ids(1)
    for k, chosen in enumerate(ids(0)):
        assert len(set(chosen)) == len(chosen)
        assert all(arrays["activations"][i, k] < arrays["activations"][:, k].mean() for i in chosen)


def test_gamma_zero_is_the_weighted_mean(small):
    index, arrays, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    (label,) = index.label("m/l/0", "csp", vocabulary=texts, gamma=0.0, renormalise_text=False, top=20, keep=False)
    expected = oracle.scores(
        "csp", arrays["embeddings"], arrays["activations"][:, 0], arrays["text_embeddings"], gamma=0.0
    )
    assert label.labels[0].score == pytest.approx(expected.max(), abs=1e-5)


def test_renormalised_texts_make_the_score_a_cosine(small):
    index, _, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    (with_length,) = index.label("m/l/0", "semanticlens", vocabulary=texts, renormalise_text=False, keep=False, top=20)
    (cosine,) = index.label("m/l/0", "semanticlens", vocabulary=texts, keep=False, top=20)
    lengths = {f"text {i}": float(v.norm()) for i, v in enumerate(texts.embeddings)}
    found = {s.text: s.score for s in cosine.labels}
    for score in with_length.labels:
        assert score.score == pytest.approx(found[score.text] * lengths[score.text], abs=1e-5)


def test_a_neuron_with_one_activating_image_is_uncertain_without_a_figure(tmp_path):
    paths = write_arrays(tmp_path)
    activations = np.load(paths["activations"])
    activations[1:, 4] = 0.0
    activations[0, 4] = 2.0
    np.save(paths["activations"], activations)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    label = index.label("m/l", vocabulary=texts)[4]
    assert label.state == "labelled"
    assert (label.confidence, label.uncertain, label.rivals) == (None, True, ())
    assert label.as_json()["confidence"] is None
    assert label.doubt == "uncertain: resampling its images says nothing"


@pytest.mark.parametrize("search", [False, True], ids=["products", "search"])
def test_the_control_methods(small, search):
    index, _, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    asked = {"vocabulary": texts, "examples": 8, "search": search, "keep": False}
    control = index.label("m/l", "random-contrast", **asked)
    same = index.label("m/l", "csp", contrast="random", **asked)
    assert [label.pairs for label in control] == [label.pairs for label in same]
    assert [label.labels for label in control] == [label.labels for label in same]
    assert index.label("m/l", "random-contrast", contrast="nearest", **asked)[0].pairs == control[0].pairs
    lots = index.label("m/l", "random-label", **asked)
    assert [label.text for label in index.label("m/l/6", "random-label", **asked)] == [lots[6].text]
    assert len({label.text for label in lots}) > 3
    assert [label.text for label in index.label("m/l", "random-label", seed=1, **asked)] != [x.text for x in lots]
    assert all(label.uncertain for label in lots if label.state == "labelled")


def test_trap_9_any_string_can_be_a_label(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    names = [f"a/b\\c: {i} 'quoted' \"twice\" 斑馬 🦓 " + "x" * 200 for i in range(20)]
    (label,) = index.label("m/l/0", vocabulary=type(texts)(tuple(names), texts.embeddings, "odd"))
    (again,) = index.label("m/l/0", vocabulary=type(texts)(tuple(names), texts.embeddings, "odd"))
    assert label == again
    assert label.text in names


@pytest.mark.parametrize(
    ("address", "options", "told"),
    [
        ("m/l/8", {}, "neurons 0 to 7"),
        ("m/other", {}, "has: m/l"),
        ("m/l", {"method": "csq"}, "csp, csp-difference"),
        ("m/l", {"gamma": 1.5}, "gamma is 1.5"),
        ("m/l", {"gama": 1.0}, "option 'gama' is unknown"),
        ("m/l", {"gamma": "1"}, "expected a finite number"),
        ("m/l", {"floor": float("nan")}, "expected a finite number"),
        ("m/l", {"floor": -100.0}, "floor is -100.0: expected 0 or more"),
        ("m/l", {"examples": 2.5}, "expected a whole number"),
        ("m/l/99999999999999999999", {}, "is not an address"),
        ("m/l", {"threshold": "median"}, "write mean, max:F"),
        ("m/l", {"threshold": "quantile:0.33"}, "quantile:Q with Q of"),
        ("m/l", {"contrast": "far"}, "several joined by +"),
        ("m", {}, "not an address"),
    ],
)
def test_bad_requests_are_told_in_one_line(small, address, options, told):
    index, _, paths = small
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    with pytest.raises(CspIndexError) as error:
        index.label(address, vocabulary=texts, **options)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_pmi_without_a_scale_asks_for_one(tmp_path):
    paths = write_arrays(tmp_path)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    with pytest.raises(CspIndexError, match="--logit-scale"):
        index.label("m/l", "pmi", vocabulary=texts)
    assert index.label("m/l", "pmi", vocabulary=texts, logit_scale=30.0)[0].state == "labelled"


def test_a_doubt_names_the_rivals_that_count() -> None:
    shares = (0.6, 0.3, 0.05, 0.04, 0.01)
    scores = tuple(LabelScore(f"text {rank}", 1.0, share=share) for rank, share in enumerate(shares))
    label = Label(NeuronKey("m", "l", 0), "csp", "labelled", scores, uncertain=True, rivals=scores[1:])
    assert label.doubt == "uncertain: stable in 60 of 100 resamples, rivals text 1 0.30, text 2 0.05"
    rare = replace(label, rivals=scores[3:])
    assert rare.doubt == "uncertain: stable in 60 of 100 resamples, rivals text 3 0.04"
