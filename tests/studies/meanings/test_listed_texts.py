"""The texts among which a neuron's images are divided: those of all its images, and of groups of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index.studies.meanings import listed_texts as module
from csp_index.studies.meanings.listed_texts import listed_texts
from csp_index.studies.meanings.residuals import Residuals


def test_a_meaning_of_few_images_has_its_text_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED", 1)
    rng = np.random.default_rng(0)
    shown = np.repeat(np.eye(16, dtype=np.float32)[[0, 1]], [57, 3], axis=0)
    images = shown + 0.02 * rng.standard_normal(shown.shape).astype(np.float32)
    rows = np.stack([images, np.concatenate([images[:50], np.zeros_like(images[50:])])])
    present = np.ones((2, 60), bool)
    present[1, 50:] = False
    residuals = Residuals(present, rows, np.zeros_like(rows))
    texts, share = torch.eye(16), np.full(16, 1 / 16)
    first, second = listed_texts(residuals, texts, 25.0, share)
    assert {0, 1} <= set(first.tolist()) and 0 in second and 1 not in second
    alone = listed_texts(Residuals(present[:1], rows[:1], np.zeros_like(rows[:1])), texts, 25.0, share)
    assert np.array_equal(alone[0], first), "a neuron's list does not depend on the others"
