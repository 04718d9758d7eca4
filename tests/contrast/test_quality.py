from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_arrays
from pyarrow import csv

from csp_index import CandidateTexts, Index, open_index
from csp_index.contrast.examples import Examples, gather_examples, quality_of
from csp_index.contrast.quality import ContrastQuality, quality_of_pairs, similarity_floor
from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.evaluation.report.write import write_report
from csp_index.records import ExampleOptions, ExamplePair
from csp_index.store import catalog


def examples(
    similarity: Any = 0.9, drop: Any = 0.8, partnered: int = 30, *, neurons: int = 3, ranks: int = 30, width: int = 1
) -> Examples:
    """Return example sets whose pairs all have that similarity and lose that share of an activation of 2."""
    shape = (neurons, ranks, width)
    absent = torch.arange(ranks)[None, :, None].expand(shape) >= partnered
    activations = torch.full((neurons, ranks), 2.0)
    return Examples(
        torch.arange(neurons),
        torch.arange(ranks).expand(neurons, -1).clone(),
        activations,
        torch.full(shape, 500).masked_fill(absent, -1),
        (activations[..., None] * (1 - torch.as_tensor(drop))).expand(shape).clone().masked_fill(absent, torch.nan),
        torch.as_tensor(similarity).expand(shape).clone().masked_fill(absent, torch.nan),
        torch.ones(neurons),
        1000,
        kinds=("nearest",),
    )


def oracle(given: Examples, floor: float) -> list[tuple[int, float, float, float, float]]:
    """Return pairs, partnered, similarity, drop and near of each neuron, pair by pair in plain Python."""
    found = []
    for row in range(len(given.neurons)):
        values, with_partner, fired = [], 0, 0
        for rank in range(given.activating.shape[1]):
            if given.activating[row, rank] < 0:
                continue
            fired += 1
            a = float(given.activations[row, rank])
            own = [
                (float(given.similarities[row, rank, m]), (a - float(given.contrast_activations[row, rank, m])) / a)
                for m in range(given.contrastive.shape[2])
                if given.contrastive[row, rank, m] >= 0
            ]
            with_partner += bool(own)
            values += own
        columns = zip(*values, strict=True) if values else [(math.nan,)] * 2
        mean = [sum(column) / len(column) for column in map(list, columns)]
        near = sum(s >= floor for s, _ in values) / len(values) if values else math.nan
        found.append((len(values), with_partner / fired if fired else math.nan, *mean, near))
    return found


def test_quality_is_what_the_pairs_say() -> None:
    rng = torch.Generator().manual_seed(0)
    given = examples(neurons=5, ranks=9)
    given = replace(
        given,
        activations=torch.rand(5, 9, generator=rng) + 0.5,
        contrast_activations=torch.rand(5, 9, 1, generator=rng) - 0.3,
        similarities=torch.rand(5, 9, 1, generator=rng),
    )
    given.contrastive[1, 4:] = -1
    given.contrastive[2] = -1
    given.activating[3, 6:], given.activations[3, 6:], given.contrastive[3, 6:] = -1, 0.0, -1
    given.activating[4], given.activations[4], given.contrastive[4] = -1, 0.0, -1
    for name in ("contrast_activations", "similarities"):
        getattr(given, name)[given.contrastive < 0] = torch.nan
    found = quality_of(given, floor=0.4)
    columns = (found.pairs, found.partnered, found.similarity, found.drop, found.near)
    np.testing.assert_allclose(np.array(columns).T, oracle(given, 0.4), rtol=1e-6)
    assert found.pairs.tolist() == [9, 4, 0, 6, 0] and np.isnan(found.drop[[2, 4]]).all()


def test_only_the_nearest_partner_of_each_kind_counts() -> None:
    given = replace(examples(width=6), kinds=("nearest", "random"))
    given.similarities[..., :3] = torch.tensor([0.9, 0.1, 0.1])
    given.similarities[..., 3:] = torch.tensor([0.5, 0.1, 0.1])
    found = quality_of(given)
    assert found.similarity == pytest.approx(0.7) and found.pairs.tolist() == [60] * 3
    assert quality_of(replace(given, kinds=("nearest",))).similarity == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (examples(), ""),
        (examples(partnered=14), "poor contrast: only 47% of the activating images have a partner"),
        (examples(partnered=15), ""),
        (examples(similarity=0.2), "poor contrast: 0% of the pairs reach similarity 0.5"),
        (examples(drop=0.1), "poor contrast: the activation falls by 10% only"),
        (examples(drop=-0.5, similarity=0.0), "poor contrast: 0% of the pairs reach similarity 0.5, the activation "),
        (examples(partnered=0), ""),  # told by the label's state
    ],
)
def test_each_flag_is_raised_by_its_own_fault(made: Examples, why: str) -> None:
    found = quality_of(made, floor=0.5)
    assert all(note.startswith(why) and bool(note) == bool(why) for note in found.notes())
    assert found.poor.tolist() == [bool(why)] * 3


def test_one_neurons_poor_contrast_is_not_anothers() -> None:
    given = examples()
    given.similarities[1] = 0.1
    assert quality_of(given, floor=0.5).poor.tolist() == [False, True, False]


def test_pairs_of_a_label_tell_the_same_as_the_examples_they_come_from() -> None:
    given = examples(neurons=1, ranks=10, partnered=7, similarity=0.6, drop=0.4)
    pairs = [ExamplePair(rank, rank, 2.0, *((500, 1.2, 0.6) if rank < 7 else (None, None, None))) for rank in range(10)]
    one, other = quality_of(given), quality_of_pairs(pairs)
    assert one.as_json() == pytest.approx(other.as_json())
    assert other.summary() == "contrast: 7 pairs, similarity 0.600 (100% reach 0.5), activation falls by 40%"
    assert quality_of_pairs(()).summary() == "" and quality_of_pairs(()).as_json()["similarity"] is None


def test_the_floor_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_SIMILARITY_FLOOR", "0.95")
    assert quality_of(examples()).poor.all() and similarity_floor() == 0.95
    assert not quality_of(examples(), floor=0.5).poor.any()
    monkeypatch.setenv("CSP_INDEX_SIMILARITY_FLOOR", "much")
    with pytest.raises(SettingError, match="similarity_floor"):
        quality_of(examples())


# in an index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    paths = write_arrays(tmp_path / "arrays", images=400, neurons=8, width=12)
    made = open_index(tmp_path / "db")
    made.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return made


def _texts() -> CandidateTexts:
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((10, 12)).astype(np.float32))
    return CandidateTexts(tuple(f"t{i}" for i in range(10)), vectors, key="texts")


def test_healthy_neurons_of_made_arrays_are_not_flagged(index: Index) -> None:
    for method in ("csp", "semanticlens"):
        labels = index.label("m/l", method, vocabulary=_texts())
        assert not [label.note for label in labels if "poor" in label.note]


def test_a_label_says_that_its_contrast_is_poor(index: Index) -> None:
    labels = index.label("m/l", vocabulary=_texts(), min_similarity=0.9)
    poor = [label for label in labels if "poor contrast: only" in label.note]
    assert poor and all(label.state == "labelled" for label in poor)
    for label in poor:
        partnered = [pair for pair in label.pairs if pair.contrast_id is not None]
        assert len(partnered) < len(label.pairs) / 2
    assert poor[0].note in [index.view(str(poor[0].neuron)).label.note]
    assert index.label("m/l", vocabulary=_texts(), min_similarity=0.9)[poor[0].neuron.neuron].note == poor[0].note


def test_near_duplicates_dropped_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((60, 12)).astype(np.float32)
    embeddings[30:40] = embeddings[:10]  # the same pictures, silent
    activations = np.zeros((60, 1), dtype=np.float32)
    activations[:20, 0] = np.linspace(3, 2, 20)
    np.save(tmp_path / "E.npy", embeddings)
    np.save(tmp_path / "A.npy", activations)
    made = open_index(tmp_path / "db")
    made.import_arrays(tmp_path / "A.npy", "m/l", embeddings=tmp_path / "E.npy")
    source = catalog.encoder(made.store)
    ((target, neurons),) = made.resolve("m/l")

    def found(limit: float, **options: Any) -> ContrastQuality:
        chosen = ExampleOptions(near_duplicate=limit, **options)
        return quality_of(gather_examples(made.store, Selection(source, target, neurons), chosen))

    assert found(0.99).duplicates.tolist() == [10] and found(0.99).similarity < 0.99
    assert found(1.01).duplicates.tolist() == [0] and found(1.01).similarity > found(0.99).similarity
    assert "10 near duplicates dropped" in found(0.99).summary()


def test_an_evaluation_holds_the_quality_of_each_methods_contrast(index: Index, tmp_path: Path) -> None:
    from csp_index.evaluation.options import EvaluationOptions, parse_methods

    methods = parse_methods(["csp", "csp:min_similarity=0.9", "mean-centred"])
    found = index.evaluate("m/l", EvaluationOptions(methods=methods), vocabulary=_texts())
    rows = [row for row in found.values.to_pylist() if row["metric"].startswith("contrast-")]
    assert {row["method"] for row in rows} == {"csp", "csp:min_similarity=0.9"}
    values = {(row["method"], row["neuron"], row["metric"]): row["value"] for row in rows}
    assert values["csp", 0, "contrast-poor"] == 0.0 and 0 < values["csp", 0, "contrast-similarity"] <= 1
    assert values["csp", 3, "contrast-drop"] is None  # it never fires
    poor = [neuron for method, neuron, metric in values if metric == "contrast-poor" and values[method, neuron, metric]]
    assert poor
    page = write_report(found, tmp_path / "report").read_text()
    assert "The contrast that labels rest on" in page and f"m/l/{poor[0]}" in page
    assert f"Poor contrasts ({len(poor)})" in page
    assert "csp:<wbr>min_similarity=<wbr>0.9</th>" in page  # a name breaks between its parts
    assert ".scroll { position: relative;" in page  # what is hidden in a wide table does not widen the page
    assert "contrast-similarity" in csv.read_csv(tmp_path / "report" / "values.csv")["metric"].to_pylist()
