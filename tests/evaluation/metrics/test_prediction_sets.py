"""Prediction sets: the smallest set of labels that reaches 90 % of the first places, vectorized and one by one."""

from __future__ import annotations

import pytest
import torch

from csp_index.evaluation.metrics.prediction_sets import prediction_sets
from csp_index.records import LabelScore, prediction_set_of


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([1.0, 0.0, 0.0], [0]),
        ([0.9, 0.1, 0.0], [0]),  # 90 % are enough
        ([0.85, 0.05, 0.1], [0, 2]),  # the most frequent, not the best score
        ([0.3, 0.3, 0.2, 0.2], [0, 1, 2, 3]),  # the first three reach 80 %
        ([0.4, 0.3, 0.3], [0, 1, 2]),
        ([0.25, 0.25, 0.25, 0.2, 0.05], [0, 1, 2, 3]),
        ([torch.nan] * 3, []),
    ],
)
def test_the_smallest_set_that_reaches_the_share(shares, expected):
    (found,) = prediction_sets(torch.tensor([shares]))
    assert found.nonzero()[:, 0].tolist() == expected
    scores = [LabelScore(str(i), 1.0, share=None if share != share else share) for i, share in enumerate(shares)]
    assert sorted(int(score.text) for score in prediction_set_of(scores)) == expected


def test_vectorised_and_one_by_one_agree_on_shares_of_resamples():
    generator = torch.Generator().manual_seed(0)
    counts = torch.distributions.Multinomial(100, torch.rand(40, 20, generator=generator) ** 4).sample()
    found = prediction_sets(counts / 100)
    for row, share in zip(found, counts / 100, strict=True):
        scores = [LabelScore(str(place), 1.0, share=value) for place, value in enumerate(share.tolist())]
        chosen = prediction_set_of(scores)
        assert sorted(int(score.text) for score in chosen) == row.nonzero()[:, 0].tolist()
        total = sum(score.share for score in chosen)
        assert total >= 0.9 - 1e-6 > total - chosen[-1].share - 1e-6  # and no smaller set does


def test_another_share_may_be_asked_for():
    share = torch.tensor([[0.5, 0.3, 0.2]])
    assert [int(prediction_sets(share, coverage).sum()) for coverage in (0.5, 0.8, 0.95)] == [1, 2, 3]
