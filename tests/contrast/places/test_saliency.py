"""Where a neuron looks: maps, gradients, and the region of the picture behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spots import SIDE, spot, spotted

from csp_index.contrast.edits import STRENGTHS
from csp_index.contrast.places.saliency import driving_maps, middle, over_picture, peaked, region
from csp_index.errors import ModelError
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.models.sparse_autoencoders import SparseAutoencoder


@pytest.fixture(scope="module")
def network() -> LoadedNetwork:
    return load_network("python:spots:spot", layers=["maps", "vector", "ceiling"], device="cpu")


@pytest.mark.parametrize("layer", ["maps", "vector", "ceiling"])
def test_the_driving_region_is_where_the_neuron_looks(network, layer):
    pictures = [spotted(4, 18), spotted(20, 2, colour="blue"), spotted(20, 2)]
    pixels = torch.stack([network.preprocess(picture) for picture in pictures])
    found, scales = driving_maps(network, layer, pixels, torch.tensor([0, 1, 0]))
    assert found.shape == (3, 14, 14) and found.dtype == torch.uint8 and bool((scales > 0).all())
    for levels, (left, top) in zip(found, ((4, 18), (20, 2), (20, 2)), strict=True):
        heat = peaked(levels)
        assert heat is not None
        mask = region(heat, (0, 0, SIDE, SIDE), (SIDE, SIDE), 0.03)
        assert mask[top : top + 8, left : left + 8].sum() / mask.sum() > 0.9


def test_maps_are_of_each_images_own_neuron(network):
    pixels = torch.rand(3, 3, SIDE, SIDE)
    found = network.maps(pixels, "maps", torch.tensor([1, 0, 1]))
    assert found is not None
    whole = torch.stack([spot().maps(pixels)[i, k] for i, k in enumerate((1, 0, 1))])
    torch.testing.assert_close(found, whole)
    assert network.maps(pixels, "vector", torch.tensor([0, 0, 0])) is None


def test_gradients_are_of_each_images_own_neuron(network):
    pixels = torch.rand(2, 3, SIDE, SIDE)
    found = network.gradients(pixels, "maps", torch.tensor([1, 0]))
    inputs = pixels.clone().requires_grad_(True)
    means = spot().maps(inputs).mean((2, 3))
    (means[0, 1] + means[1, 0]).backward()
    torch.testing.assert_close(found, inputs.grad)


@pytest.mark.parametrize("layer", ["vector", "ceiling"])
def test_the_gradient_times_the_input_is_that_of_captum(network, layer):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    pixels, neurons = torch.rand(4, 3, SIDE, SIDE), torch.tensor([0, 1, 1, 0])
    means = pixels.mean((2, 3), keepdim=True)
    model = spot()

    def neuron_layer(distance: torch.Tensor) -> torch.Tensor:
        found = model.vector(model.maps(distance + means).amax((2, 3)))
        return found if layer == "vector" else model.ceiling(60 * found)

    distance = (pixels - means).requires_grad_(True)
    expected = attr.InputXGradient(neuron_layer).attribute(distance, target=neurons)
    torch.testing.assert_close(network.gradients(pixels, layer, neurons) * (pixels - means), expected)


def test_tokens_of_a_vision_transformer_are_maps_and_its_class_token_is_none():
    source = "timm:vit_tiny_patch16_224/none"
    network = load_network(source, layers=["blocks.0"], pool="token-mean", device="cpu")
    pixels = torch.rand(1, 3, 224, 224)
    maps = network.maps(pixels, "blocks.0", torch.tensor([5]))
    assert maps is not None and maps.shape == (1, 14, 14)
    pooled = network.activations(pixels)["blocks.0"][0, 5]
    torch.testing.assert_close(maps.mean(), pooled)
    network = load_network(source, layers=["blocks.0"], pool="cls", device="cpu")
    assert network.maps(pixels, "blocks.0", torch.tensor([5])) is None
    assert network.gradients(pixels, "blocks.0", torch.tensor([5])).abs().amax() > 0


def test_gradients_pass_a_sparse_autoencoder(tmp_path):
    from safetensors.torch import save_file

    save_file({"W_enc": torch.eye(2), "b_enc": torch.zeros(2)}, tmp_path / "sae.safetensors")
    spec = f"python:spots:spot+sae:maps={tmp_path}/sae.safetensors:relu:pool=max"
    network = load_network(spec, layers=["maps.sae-sae"], device="cpu")
    assert any(isinstance(module, SparseAutoencoder) for module in network._modules.values())
    pixels = network.preprocess(spotted(4, 18))[None]
    heat = peaked(driving_maps(network, "maps.sae-sae", pixels, torch.tensor([0]))[0][0])
    assert heat is not None
    mask = region(heat, (0, 0, SIDE, SIDE), (SIDE, SIDE), 0.03)
    assert mask[18:26, 4:12].sum() / mask.sum() > 0.9


def test_where_nothing_tells_there_is_no_peak(network):
    pixels = torch.full((2, 3, SIDE, SIDE), 0.5)
    for layer in ("maps", "vector"):
        levels, _ = driving_maps(network, layer, pixels, torch.tensor([0, 1]))
        assert [peaked(one) for one in levels] == [None, None]
    assert middle(15, 15).argmax().item() == 7 * 15 + 7


def test_an_input_that_is_no_picture_is_told(network):
    with pytest.raises(ModelError, match=r"shape \[16, 12\], which is no picture"):
        driving_maps(network, "maps", torch.rand(2, 16, 12), torch.tensor([0, 0]))


def test_a_region_lies_where_the_network_saw_it():
    heat = torch.zeros(10, 10)
    heat[2:4, 6:8] = 1.0
    mask = region(heat, (50, 0, 150, 100), (200, 100), 0.01)
    assert mask.sum() == 200
    rows, columns = np.nonzero(mask)
    assert rows.min() >= 15 and rows.max() < 45 and columns.min() >= 105 and columns.max() < 135
    for share in STRENGTHS:
        assert region(heat, (50, 0, 150, 100), (200, 100), share).mean() == pytest.approx(share, abs=1e-3)


def test_a_map_covers_the_part_of_the_picture_that_the_network_sees():
    over = over_picture(torch.ones(2, 2), (2, 0, 6, 4), (8, 4))
    assert over.shape == (4, 8) and np.isnan(over[:, :2]).all() and np.isnan(over[:, 6:]).all()
    np.testing.assert_allclose(over[:, 2:6], 1)
