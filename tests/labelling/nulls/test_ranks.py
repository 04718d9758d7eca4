"""Labels among those of a null: the shares, how they decide, where they are stored and shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import csp_index
from csp_index.errors import CspIndexError, LabelError, NotFoundError
from csp_index.labelling.nulls.ranks import null_ranks, with_rank
from csp_index.records import Label, LabelScore, NeuronKey
from csp_index.records.assurance import NullRank, above_null
from csp_index.service.layer_table import read_layer

WORDS = csp_index.CandidateTexts(("striped", "red", "moon"), torch.eye(16)[[0, 3, 7]], key="words")


def label(neuron: int, scores: tuple[float, ...], uncertain: bool = False) -> Label:
    texts = ("a", "b")
    best = tuple(LabelScore(text, score) for text, score in zip(texts, scores, strict=False))
    return Label(NeuronKey("m", "l", neuron), "csp", "labelled" if best else "dead", best, uncertain=uncertain)


def test_ranks_are_shares_of_the_labels_and_of_the_neurons_of_the_null() -> None:
    # Scores 1 to 20, leads of half the score; the labels of the five best are sure; five neurons are dead.
    null = [label(n, (n + 1.0, (n + 1.0) / 2), uncertain=n < 15) for n in range(20)]
    null += [label(n, ()) for n in range(20, 25)]
    low, tied, high, dead = null_ranks(
        [label(0, (0.5, 0.1)), label(1, (18.0, 17.0)), label(2, (21.0,)), label(3, ())], null, "n/l"
    )
    assert low == NullRank(0.0, 0.0, 5 / 25, "n/l", 20)
    assert tied == NullRank(17.5 / 20, 1.5 / 20, 3 / 25, "n/l", 20)
    assert high == NullRank(1.0, 0.0, 0.0, "n/l", 20) and dead is None
    assert not tied.passes and high.passes
    doubted = with_rank(label(1, (18.0, 17.0)), tied)
    assert doubted.uncertain and doubted.null_percentile == 17.5 / 20
    assert doubted.doubt == f"uncertain: {tied.doubt}" and tied.doubt.startswith("12% of the neurons of n/l")
    assert with_rank(label(2, (21.0,), uncertain=True), high).uncertain  # a null makes no label sure


def test_a_null_of_few_labels_is_refused_with_what_helps() -> None:
    null = [label(n, (1.0,) if n < 19 else ()) for n in range(40)]
    with pytest.raises(LabelError, match=r"19 of the 40 neurons of the null n/l have a label: expected at least 20"):
        null_ranks([label(0, (1.0,))], null, "n/l")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> csp_index.Index:
    """A layer of one real and one random neuron, and a null of 24 random neurons, over 300 images."""
    folder: Path = tmp_path_factory.mktemp("nulls")
    rng = np.random.default_rng(1)
    images = (rng.standard_normal((300, 16)) * 0.4).astype(np.float32)
    shows = np.arange(300) % 8 == 0
    images[shows, 0] += 3
    real = shows * rng.uniform(2, 3, 300)
    np.save(folder / "E.npy", images)
    np.save(folder / "A.npy", np.stack([real, rng.uniform(0, 1, 300)], 1).astype(np.float32))
    np.save(folder / "N.npy", rng.uniform(0, 1, (300, 24)).astype(np.float32))
    index = csp_index.open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "net/layer", embeddings=folder / "E.npy")
    index.import_arrays(folder / "N.npy", "null/layer")
    return index


def test_ranks_are_stored_with_labels_and_read_wherever_they_are(index: csp_index.Index) -> None:
    plain = index.label("net/layer", "semanticlens", vocabulary=WORDS)
    assert plain[0].null_rank is None and plain[0].as_json()["null_percentile"] is None
    ranked = index.label("net/layer", "semanticlens", vocabulary=WORDS, null="null/layer")
    real, other = ranked
    assert (real.null_percentile, real.uncertain) == (1.0, False) and other.null_percentile is not None
    assert other.null_percentile < 1 and real.null_rank is not None and real.null_rank.neurons == 24
    assert list(index.label("net/layer", "semanticlens", vocabulary=WORDS)) == list(ranked)
    assert index.view("net/layer/0", "semanticlens").label.null_rank == real.null_rank
    assert json.loads(json.dumps(real.as_json()))["null_percentile"] == 1.0
    rows = index.sql('SELECT neuron, percentile, "null", null_neurons FROM label_nulls ORDER BY neuron').rows()
    assert [row["percentile"] for row in rows] == [label.null_percentile for label in ranked]
    assert {(row["null"], row["null_neurons"]) for row in rows} == {("null/layer", 24)}
    ((target, _),) = index.resolve("net/layer")
    assert read_layer(index.store, target).row(0, "semanticlens")["null_percentile"] == 1.0
    assert not index.verify().findings
    shown = index.sql("SELECT null_percentile FROM neuron_labels WHERE null_percentile IS NOT NULL").rows()
    assert sorted(row["null_percentile"] for row in shown) == sorted(
        row["percentile"] for row in index.sql("SELECT percentile FROM label_nulls").rows()
    )


def test_a_label_that_a_null_matches_is_uncertain_on_pages_too(index: csp_index.Index) -> None:
    from csp_index.labelling.nulls.ranks import forget_ranks, store_ranks

    made = index.label("net/layer", "mean-centred", vocabulary=WORDS)
    assert not made[0].uncertain
    rank = NullRank(0.5, 0.5, 0.3, "null/layer", 24)
    with index.store.write_lock():
        store_ranks(index.store, [with_rank(made[0], rank)], {}, "run")
    assert index.label("net/layer", "mean-centred", vocabulary=WORDS)[0].uncertain
    ((target, _),) = index.resolve("net/layer")
    row = read_layer(index.store, target).row(0, "mean-centred")
    assert row["uncertain"] is True and row["null_percentile"] == 0.5
    with index.store.write_lock():
        forget_ranks(index.store, target.key, "mean-centred", [0, 1])
    assert index.label("net/layer", "mean-centred", vocabulary=WORDS)[0] == made[0]


def test_ranking_one_neuron_keeps_the_ranks_of_the_others(index: csp_index.Index) -> None:
    ranked = index.label("net/layer", "pmi", vocabulary=WORDS, logit_scale=10.0, null="null/layer")
    again = index.label("net/layer/0", "pmi", vocabulary=WORDS, logit_scale=10.0, null="null/layer")
    assert again[0].null_rank == ranked[0].null_rank
    assert list(index.label("net/layer", "pmi", vocabulary=WORDS, logit_scale=10.0)) == list(ranked)


def test_what_is_no_null_is_refused_before_anything_is_written(index: csp_index.Index) -> None:
    before = index.store.versions()
    cases: tuple[tuple[str, type[CspIndexError], str], ...] = (
        ("net/layer", LabelError, "net/layer cannot be its own null"),
        ("none/layer", NotFoundError, "layer none/layer is not in the index"),
    )
    for null, error, message in cases:
        with pytest.raises(error, match=message):
            index.label("net/layer", "semanticlens", vocabulary=WORDS, null=null)
    assert index.store.versions() == before
    kept = index.label("net/layer", "csp", vocabulary=WORDS, null="null/layer", keep=False)
    assert kept[0].null_percentile == 1.0 and index.store.versions() == before


def test_words() -> None:
    assert above_null(0.974) == "scores higher than 97 % of a random network's neurons"
