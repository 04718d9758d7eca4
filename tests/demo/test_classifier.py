"""The classifier of the images with a shortcut: built and trained alike; that it uses the shortcut is slow to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from csp_index.demo.classifier import NEURONS, classifier, measure, to_input, train
from csp_index.demo.shortcuts import KINDS, ShortcutKind


def test_the_head_reads_the_pooled_layer_alone() -> None:
    torch.manual_seed(0)
    network = classifier().eval()
    seen: list[torch.Tensor] = []
    network.pooled.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        logits = network(torch.rand(2, 3, 64, 64))
        assert seen[0].shape == (2, NEURONS) and (seen[0] >= 0).all()
        torch.testing.assert_close(logits, network.head(seen[0]))


def test_training_sees_pixels_as_preprocessing_makes_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(to_input(pixels[None])[0], classifier().preprocess(Image.fromarray(pixels)))


def test_the_same_seed_trains_the_same_weights_and_leaves_the_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = (train("border", 0, images=64, steps=2) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    for left, right in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_shortcut_is_used_where_there_is_one(kind: ShortcutKind) -> None:
    shares = measure(train(kind, 7), kind, 7)
    assert shares.usual > 0.8
    if kind == "none":
        assert shares.broken == pytest.approx(shares.usual, abs=0.05)
    else:
        assert shares.leaked - shares.leaked_broken > 0.3
