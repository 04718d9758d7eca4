"""Redrawn weights: the same every time, tensors keep their mean and deviation, layers stay alive."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.checkpoints import load_weights
from csp_index.models.networks import load_network
from csp_index.models.redrawn import noise_pictures, redraw, redrawn
from csp_index.models.specs import Redrawing, check_weights, split_redrawn
from csp_index.models.weights import hash_weights
from csp_index.models.zoo import load_module

EXPECTED = [1.2821, 0.956, 2.4012, 0.339]


class Tied(nn.Module):
    """Two layers that share a weight, one that holds a single value, whole numbers, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.full((8,), 0.3), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(2.7))
        self.whole = nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("statistics", torch.ones(4))


def test_tensors_keep_their_mean_and_deviation_and_ties() -> None:
    module = Tied()
    with torch.no_grad():
        module.first.weight.mul_(3).add_(0.5)
    before = copy.deepcopy(module)
    report = redraw(module, Redrawing(1))
    assert (report.tensors, report.constant, report.whole) == (3, ("frozen", "scale"), ("whole",))
    assert module.second.weight is module.first.weight
    assert not torch.equal(module.first.weight, before.first.weight)
    for name in ("mean", "std"):
        new, old = (float(getattr(one.first.weight.detach(), name)()) for one in (module, before))
        assert new == pytest.approx(old, abs=0.05)
    assert torch.equal(module.statistics, before.statistics) and torch.equal(module.frozen, before.frozen)


def test_centered_draws_around_zero_where_a_tensor_has_several_axes() -> None:
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.sub_(5)
        layer.bias.sub_(5)
    plain, centered = redrawn(layer, 1), redrawn(layer, 1, centered=True)
    means = [float(one.detach().mean()) for one in (plain.weight, centered.weight, centered.bias)]
    assert means == pytest.approx([-5, 0, -5], abs=0.1)


def test_a_seed_gives_the_same_weights_whatever_else_is_redrawn() -> None:
    layer = nn.Linear(16, 16)
    assert hash_weights(redrawn(layer, 7)) == hash_weights(redrawn(layer, 7)) != hash_weights(redrawn(layer, 8))
    torch.manual_seed(0)
    pair = nn.ModuleDict({"a": copy.deepcopy(layer), "b": nn.Linear(16, 16)})
    alone = nn.ModuleDict({"a": copy.deepcopy(layer)})
    redraw(pair, Redrawing(7))
    redraw(alone, Redrawing(7))
    assert torch.equal(pair["a"].weight, alone["a"].weight)
    fixed = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        fixed.weight.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    # The numbers themselves: another order of draws, or other ones, would make every null layer another.
    assert redrawn(fixed, 0).weight.tolist()[0] == pytest.approx(EXPECTED, abs=1e-3)


@pytest.mark.parametrize(
    ("module", "seed", "message"),
    [
        (nn.ReLU(), 1, "ReLU has no weights to redraw"),
        (nn.Linear(2, 2), -1, "seed -1 cannot redraw weights: expected a whole number from 0"),
        (nn.Linear(2, 2), True, "seed True cannot redraw"),
    ],
)
def test_what_cannot_be_redrawn_is_refused(module: nn.Module, seed: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        redrawn(module, seed)


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="holds numbers in weight that are not finite"):
        redrawn(layer, 1)


@pytest.mark.parametrize("text", ["redrawn:", "redrawn:x", "redrawn:-1", "redrawn:1:", "centered:99999999999"])
def test_a_seed_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ModelError, match=f"weights '{text}' cannot be read: write {text.partition(':')[0]}:SEED"):
        split_redrawn(text)


def test_the_file_of_redrawn_weights_is_checked(tmp_path: Path) -> None:
    check_weights("redrawn:1")
    with pytest.raises(ModelError, match=r"the weight file nowhere\.pt does not exist"):
        check_weights("redrawn:1:nowhere.pt")


def test_the_network_of_the_demo_stays_alive_and_says_what_it_is() -> None:
    from csp_index.demo.network import NETWORK_WEIGHTS

    spec = "python:csp_index.demo.network:planted_cnn"
    network = load_network(spec, layers=["concepts", "hidden"], weights=f"centered:1:{NETWORK_WEIGHTS}")
    assert network.name == "planted_cnn~centered-1"
    assert network.weights == f"centered:1:{NETWORK_WEIGHTS.resolve()}"
    trained = load_module(spec, NETWORK_WEIGHTS)
    assert network.identity["redrawn"] == f"centered:1 of {hash_weights(trained.module)}"
    assert load_module(spec, network.weights).traits["weights"] == network.identity["weights"]
    pictures = torch.stack([network.preprocess(picture) for picture in noise_pictures(8)])
    values = network.activations(pictures)["hidden"]
    fires = values.amax(0) > 0
    assert float(fires.float().mean()) > 0.5
    spread = values[:, fires].std(0) / values[:, fires].mean(0)
    assert float(spread.median()) > 0.3  # statistics of the trained weights leave 0.1: every picture alike


def test_an_autoencoder_is_redrawn_with_its_network(tmp_path: Path) -> None:
    from csp_index.demo.network import NETWORK_WEIGHTS

    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {
        "encoder.weight": torch.randn(12, 256, generator=generator),
        "encoder.bias": torch.randn(12, generator=generator),
        "decoder.weight": torch.randn(256, 12, generator=generator),
    }
    save_file(tensors, tmp_path / "sae.safetensors")
    spec = f"python:csp_index.demo.network:planted_cnn+sae:hidden={tmp_path / 'sae.safetensors'}:topk=2"
    options = {"layers": ["hidden.sae-sae"], "name": "net"}
    plain = load_network(spec, weights=str(NETWORK_WEIGHTS), **options)
    drawn = load_network(spec, weights=f"redrawn:1:{NETWORK_WEIGHTS}", **options)
    plain_identity, identity = (one.identity_of("hidden.sae-sae")["sparse"] for one in (plain, drawn))
    assert '"redrawn": "redrawn:1"' in identity and "redrawn" not in plain_identity
    pictures = torch.stack([drawn.preprocess(picture) for picture in noise_pictures(4)])
    features = drawn.activations(pictures)["hidden.sae-sae"]
    assert features.shape == (4, 12) and float((features > 0).sum(1).max()) <= 2


def test_batch_statistics_in_the_module_of_a_caller_stay() -> None:
    from csp_index.demo.network import NETWORK_WEIGHTS, planted_cnn

    module = planted_cnn()
    load_weights(module, NETWORK_WEIGHTS)
    other = redrawn(module, 1)
    assert torch.equal(other.layers[1].running_mean, module.layers[1].running_mean)
