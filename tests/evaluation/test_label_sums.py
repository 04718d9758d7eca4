"""Labels as weighted sums of texts: what they predict of an image, and how metrics judge them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from csp_index.errors import SettingError
from csp_index.evaluation.judge_labels import LabelTexts, activation_metrics
from csp_index.evaluation.label_sums import LabelSums
from csp_index.evaluation.metrics.calibration import TextCalibration
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel

TEXTS = ("dog", "grass", "water")


def label(**weights: float) -> WeightedLabel:
    return WeightedLabel(tuple(LabelTerm(text, weight) for text, weight in weights.items()))


def test_a_label_is_written_with_the_largest_weight_first() -> None:
    assert label(grass=0.3, dog=0.6).text == "0.6 dog + 0.3 grass"
    assert label(dog=-1.0).text == "-1 dog" and label(dog=-1.0).is_sum
    assert not label(dog=12.0).is_sum
    assert label(dog=123.4, grass=0.000123).text == "120 dog + 0.00012 grass"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((), "has the texts none"),
        ((LabelTerm("dog"), LabelTerm("dog")), "has the texts dog, dog"),
        ((LabelTerm("dog", float("nan")),), "has the weight or bias nan"),
    ],
)
def test_a_label_that_is_no_sum_is_refused_in_one_line(terms: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        WeightedLabel(terms)


def test_sums_predict_by_all_their_texts() -> None:
    sums = LabelSums.of([label(dog=2.0, water=-1.0), None, label(grass=0.5)], TEXTS)
    presence = torch.tensor([[1.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    predicted = sums.predicted(lambda rows: presence[rows])
    assert predicted.tolist() == [[1.0, -1.0], [0.0, 0.0], [0.0, 0.25]]
    assert sums.share(lambda rows: presence[rows]).tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.5]]
    assert sums.heads.tolist() == [0, -1, 1]
    assert sums.known(torch.tensor([True, True, False])).tolist() == [False, False, True]
    vectors = torch.eye(3)
    expected = normalize(torch.tensor([[2.0, 0.0, -1.0]]), dim=1)[0]
    assert torch.equal(sums.directions(vectors)[2], vectors[1])
    torch.testing.assert_close(sums.directions(vectors)[0], expected)


class Images:
    """Judging images without a store: 300 to fit on, 300 to judge by, embeddings in 8 dimensions."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.shown = torch.from_numpy(rng.random((3, 600)) < 0.1)
        common = 3 * torch.eye(8)[:, 7:]  # as in CLIP, all images are alike in the main
        parts = (
            common + torch.eye(3, 8).T @ self.shown.float() + torch.from_numpy(rng.normal(0, 0.05, (8, 600))).float()
        )
        embeddings = normalize(parts, dim=0).T
        self.fit_embeddings, self.embeddings = embeddings[:300], embeddings[300:]
        self.neurons, self.alpha = np.arange(3), 0.05
        dog, grass, _ = self.shown.float()
        self.activations = torch.stack([0.6 * dog + 0.3 * grass, dog, torch.zeros(600)])

    def blocks(self) -> Any:
        yield slice(0, 2), self.activations[:2, :300], self.activations[:2, 300:]
        yield slice(2, 3), self.activations[2:, :300], self.activations[2:, 300:]


def judged(images: Images, labels: list[WeightedLabel | None], **concepts: Any) -> dict[str, torch.Tensor]:
    vectors = torch.eye(3, 8)
    cosines = vectors @ images.fit_embeddings.T
    fitted = PresenceSigmoids.fit(cosines), TextCalibration.fit(cosines)
    texts = LabelTexts(vectors, LabelSums.of(labels, TEXTS), *fitted, **concepts)
    return activation_metrics(images, texts, lambda *_: None)  # type: ignore[arg-type]


def test_a_neuron_of_two_concepts_is_predicted_by_their_sum() -> None:
    images = Images()
    both = judged(images, [label(dog=0.6, grass=0.3), label(dog=0.6), None])
    one = judged(images, [label(dog=0.6), label(dog=0.6), None])
    for name in ("simulation", "simulation-calibrated"):
        assert both[name][0] > one[name][0] + 0.05
    for name in ("simulation", "simulation-calibrated", "pearson", "label-images"):
        assert both[name][1] == one[name][1]
        assert both[name][2].isnan()


def test_with_metadata_an_image_shows_a_sum_if_it_shows_half_of_its_weight() -> None:
    images = Images()
    shown = {"presence": images.shown[:, 300:], "known": torch.tensor([True, True, False])}
    sums = judged(images, [label(dog=0.6, grass=0.3), label(water=0.6, dog=0.3), None], **shown)
    dogs = judged(images, [label(dog=1.0), label(dog=1.0), None], **shown)
    assert sums["recall"][0] == dogs["recall"][0]
    assert sums["recall"][1].isnan()  # water is no value of the metadata
