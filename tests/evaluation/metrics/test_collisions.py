"""Collision of labels: the published figures, hand-computed values, and labels against those of their rivals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index.evaluation.metrics.collisions import (
    collisions,
    label_bits,
    label_discrimination,
    label_shared,
)

#: How many features carry a label of the feature-circuits annotations, and how many labels are carried by so many.
ANNOTATIONS = {
    101: 1, 36: 1, 25: 1, 19: 2, 18: 3, 14: 1, 13: 1, 10: 1, 9: 3, 8: 2, 7: 5, 5: 4, 4: 10, 3: 22, 2: 49, 1: 129,
}  # fmt: skip
LABELS = ["red", "red", "star", None, "moon", "red", "star", "ring"]


def test_the_published_figures_of_722_human_labels():
    """Reuse 3.07, shared 82.1 %, 70.0 % of the bits, 101 features of one label (arXiv 2605.12874)."""
    sizes = [size for size, number in ANNOTATIONS.items() for _ in range(number)]
    found = collisions([f"label {label}" for label, size in enumerate(sizes) for _ in range(size)])
    assert (found.labels, found.distinct, found.most_neurons) == (722, 235, 101)
    assert (round(found.reuse, 2), round(found.shared, 3), round(found.bits, 3)) == (3.07, 0.821, 0.700)


def test_labels_are_equal_without_regard_to_case_and_spaces():
    found = collisions(["Plural nouns", "plural nouns ", "moon", " "])
    assert (found.labels, found.distinct, found.most_common) == (3, 2, "plural nouns")
    assert label_shared(["Red", "red", ""])[:2].tolist() == [1.0, 1.0]


def test_collisions_by_hand():
    found = collisions(LABELS)
    assert (found.labels, found.distinct, found.reuse, found.shared) == (7, 4, 7 / 4, 5 / 7)
    entropy = 3 / 7 * np.log2(7 / 3) + 2 / 7 * np.log2(7 / 2) + 2 / 7 * np.log2(7)
    assert found.bits == pytest.approx(entropy / np.log2(7))
    assert (found.most_common, found.most_neurons) == ("red", 3)


def test_values_of_neurons_average_to_those_of_the_layer():
    found = collisions(LABELS)
    shared, bits = label_shared(LABELS), label_bits(LABELS)
    assert shared.isnan().tolist() == bits.isnan().tolist() == [label is None for label in LABELS]
    assert shared.nanmean().item() == pytest.approx(found.shared)
    assert bits.nanmean().item() == pytest.approx(found.bits)
    assert bits[4].item() == 1.0  # nobody else is called moon


def test_without_labels_there_is_nothing_to_collide():
    assert collisions([]) is None and collisions([None, None]) is None
    alone = collisions([None, "red"])
    assert (alone.reuse, alone.shared, alone.bits) == (1.0, 0.0, None)
    assert label_bits(["red", None]).isnan().all()
    same = collisions(["red"] * 8)
    assert (same.reuse, same.shared, same.bits) == (8.0, 1.0, 0.0)
    unique = collisions(list("abcd"))
    assert (unique.reuse, unique.shared, unique.bits) == (1.0, 0.0, 1.0)


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    gap = own[:, None] - others
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def test_discrimination_against_the_same_or_the_nearest_label():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(5, 6, generator=generator), dim=1)
    rows = torch.randint(0, 40, (9, 4), generator=generator)
    rows[1, 2:], rows[7] = -1, -1  # two images, and none
    labels = torch.tensor([0, 0, 0, 1, 2, 2, -1, 3, 4])
    found = label_discrimination(vectors, rows, texts, labels)
    carried = [0, 1, 2, 4]  # the neuron called 3 has no image
    for neuron in range(9):
        text = int(labels[neuron])
        if text not in carried:
            assert found[neuron].isnan()
            continue
        rivals = [n for n in range(9) if n != neuron and labels[n] == text]
        if not rivals:
            near = max((t for t in carried if t != text), key=lambda t: float(texts[t] @ texts[text]))
            rivals = [n for n in range(9) if labels[n] == near]
        scores = (vectors @ texts[text]).numpy()
        own, others = (scores[[i for n in side for i in rows[n].tolist() if i >= 0]] for side in ([neuron], rivals))
        assert found[neuron].item() == pytest.approx(auroc(own, others)), neuron


def test_a_label_of_two_neurons_with_the_same_images_discriminates_nothing():
    vectors, texts = torch.eye(4), torch.eye(4)[:2]
    rows = torch.tensor([[0, 1], [0, 1], [2, 3]])
    found = label_discrimination(vectors, rows, texts, torch.tensor([0, 0, 1]))
    assert found[:2].tolist() == [0.5, 0.5]
    assert label_discrimination(vectors, rows[:1], texts, torch.tensor([0])).isnan().all()  # nobody to tell it from
    assert label_discrimination(vectors, rows - 9, texts, torch.tensor([0, 0, 1])).isnan().all()
