"""A veil leaves open where a neuron fires, and is shut outside of what the network saw."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from csp_index.images.veils import encoded, veil_over, veiled

HEAT = np.zeros((7, 7), np.float32)
HEAT[1, 5] = 1


def test_a_veil_is_open_where_the_neuron_fires_and_shut_outside_of_what_the_network_saw() -> None:
    shut = np.asarray(veil_over(HEAT, (0.25, 0.0, 0.75, 1.0), (96, 48)))[..., 1].astype(float)
    assert shut.shape == (48, 96)
    row, column = np.unravel_index(shut.argmin(), shut.shape)
    assert (row / 48, (column / 96 - 0.25) / 0.5) == pytest.approx((1.5 / 7, 5.5 / 7), abs=0.05)
    assert shut.min() < 40 and (shut[:, :24] > 190).all() and (shut[:, 72:] > 190).all()


def test_a_veiled_picture_keeps_its_color_where_the_neuron_fires() -> None:
    picture = encoded(Image.new("RGB", (70, 70), (200, 20, 60)))
    pixels = np.asarray(Image.open(io.BytesIO(veiled(picture, HEAT, (0, 0, 1, 1)))).convert("RGB"), dtype=float)
    color = pixels.max(2) - pixels.min(2)
    assert color[15, 55] > 150 and color[60, 10] < 60
