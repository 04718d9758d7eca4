"""The pair test by hand: neurons named after what differs must rise, others must not."""

from __future__ import annotations

import pytest
import torch

from csp_index.evaluation.metrics.pair_test import pair_test


def test_the_pair_test_by_hand():
    differs = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)  # texts x pairs
    labels = torch.tensor([0, 0, 1, -2, -1])  # red, red, star, a label without pairs, no label
    rises = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    found = pair_test(rises, differs, labels)
    assert found.right[:3].tolist() == pytest.approx([1.0, 0.5, 2 / 3])
    # called otherwise: in pair 0 the star and the fourth neuron, of which one rises; in pair 1 the fourth alone; in
    # pairs 2 and 3 both red ones and the fourth, none of which rises
    assert found.gain[:3].tolist() == pytest.approx([(0.5 + 1) / 2, (0.5 + 0) / 2, 2 / 3])
    assert found.right[3:].isnan().all() and found.gain[3:].isnan().all()


def test_a_neuron_that_rises_at_random_gains_nothing():
    generator = torch.Generator().manual_seed(0)
    differs = torch.eye(4).repeat_interleave(200, 1).bool()
    labels = torch.arange(4).repeat(20)
    rises = torch.rand(80, 800, generator=generator) < 0.5
    found = pair_test(rises, differs, labels)
    assert found.gain.mean().item() == pytest.approx(0, abs=0.02) and found.right.mean() > 0.45
    good = pair_test(differs[labels], differs, labels)
    assert good.gain.tolist() == good.right.tolist() == [1.0] * 80


def test_without_anyone_called_otherwise_there_is_no_gain():
    found = pair_test(torch.ones(2, 3).bool(), torch.ones(1, 3).bool(), torch.tensor([0, 0]))
    assert found.right.tolist() == [1.0, 1.0] and found.gain.isnan().all()
