"""The demo's OR and AND NOT neurons: what they are of the planted ones, and that facets and formulas tell them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csp_index.demo.mixed import LAYER, MIXED, mixed_cnn, run_mixed
from csp_index.demo.network import NETWORK_WEIGHTS, PLANTED, planted_cnn
from csp_index.demo.run import make_index
from csp_index.demo.world import VOCABULARY


def test_mixed_neurons_are_formulas_of_planted_ones() -> None:
    weights = load_file(str(NETWORK_WEIGHTS))
    plain, mixed = planted_cnn(), mixed_cnn()
    plain.load_state_dict(weights)
    mixed.load_state_dict(weights)  # nothing is missing, nothing left over
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        concepts, found = plain.concepts(plain.features(pixels)), mixed(pixels)
    names = {planted.concept: planted.index for planted in PLANTED}
    for row, neuron in enumerate(MIXED):
        expected = sum(concepts[:, names[concept]] for concept in neuron.either)
        if neuron.without:
            expected = expected - 2 * concepts[:, names[neuron.without]]
        assert torch.allclose(found[:, row], expected.clamp(0, 6), atol=1e-5)
    made = torch.eye(len(PLANTED)) * 6
    assert dict(mixed.named_modules())[LAYER](made).amax(0).tolist() == [6.0] * len(MIXED)
    assert len({neuron.formula for neuron in MIXED}) == len(MIXED)
    assert all({*neuron.either, neuron.without} - {""} <= set(VOCABULARY) for neuron in MIXED)


@pytest.mark.slow
def test_facets_and_formulas_tell_them(tmp_path: Path) -> None:
    index = make_index(tmp_path, "unbiased", 0, print)
    index.label("cnn/concepts", "csp", vocabulary=list(VOCABULARY), templates="none", bootstrap=0)
    found = run_mixed(index, str(tmp_path / "images-unbiased"), print)
    assert found.divided >= 0.9 * found.of_two and found.whole >= 0.95 * found.of_one
    assert found.told >= 0.8 * found.of_mixed
