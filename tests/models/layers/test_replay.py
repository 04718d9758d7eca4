"""Passes with one neuron changed: equal to a plain pass in which a hook changes it, whichever way they are made."""

from __future__ import annotations

from typing import Any

import ablated
import pytest
import torch
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.layers.opened import find_logits
from csp_index.models.layers.pooling import first_tensor, neuron_place
from csp_index.models.layers.replay import Replays, copied
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.models.objects import Network

VALUE = 0.7


def pixels(count: int = 3) -> Tensor:
    return torch.rand(count, 3, ablated.SIDE, ablated.SIDE, generator=torch.Generator().manual_seed(2))


def loaded(factory: str, layer: str, pool: str | None = None) -> LoadedNetwork:
    return load_network(f"python:ablated:{factory}", layers=[layer], pool=pool, device="cpu")


def replays(network: LoadedNetwork, layer: str) -> Replays:
    opened = network.opened(layer)
    return Replays(opened, find_logits(opened, None))


def plainly(module: nn.Module, layer: str, inputs: Tensor, place: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Return logits [B, C] as they are, and with part of a module's output set to VALUE."""

    def hook(part: nn.Module, given: object, output: Any) -> Any:
        tensor = first_tensor(output).clone()  # type: ignore[union-attr]
        tensor[(slice(None), *place)] = VALUE
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    with torch.no_grad():
        before = first_tensor(module(inputs))
        handle = module.get_submodule(layer).register_forward_hook(hook)
        after = first_tensor(module(inputs))
        handle.remove()
    assert before is not None and after is not None
    return before, after


@pytest.mark.parametrize(
    ("factory", "layer", "pool", "way"),
    [
        ("residual", "stem", None, "layer alone"),
        ("residual", "conv", None, "recorded"),  # the sum around it needs what the stem gave
        ("residual", "norm", "max", "recorded"),
        ("residual", "act", None, "recorded"),  # the sum is made in place, which NaN that takes no memory forbids
        ("tokens", "patches", None, "layer alone"),
        ("tokens", "norm", None, "layer alone"),
        ("tokens", "block", None, "layer alone"),  # of the class token, which no patch is added to
        ("twice", "second", None, "layer alone"),
        ("twice", "pair", None, "layer alone"),
    ],
)
def test_a_changed_neuron_gives_what_a_plain_pass_gives(factory: str, layer: str, pool: str | None, way: str) -> None:
    network = loaded(factory, layer, pool)
    made = replays(network, layer)
    replay = made.of(pixels())
    module = getattr(ablated, factory)()
    opened = network.opened(layer)
    prefix = opened.loaded.prefix_tokens
    for neuron in range(network.layers[layer].neurons):
        place = neuron_place(opened.shape, opened.pool, neuron, prefix, opened.grid)
        before, after = plainly(module, layer, pixels(), place)
        torch.testing.assert_close(replay.logits, before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(replay.changed([neuron], [VALUE])[0], before - after, atol=1e-5, rtol=1e-4)
    assert made.ways[0] == way


def test_several_neurons_go_through_at_once_and_in_any_number() -> None:
    network = loaded("residual", "conv")
    replay = replays(network, "conv").of(pixels())
    assert network.batch_size // 3 > 6
    alone = torch.cat([replay.changed([neuron], [0.0]) for neuron in range(6)])
    torch.testing.assert_close(replay.changed(range(6), [0.0] * 6), alone, atol=1e-6, rtol=1e-5)
    network.batch_size = 4  # one neuron at a time
    torch.testing.assert_close(
        replays(network, "conv").of(pixels()).changed(range(6), [0.0] * 6), alone, atol=1e-6, rtol=1e-5
    )


def test_a_head_of_an_attention_is_changed_in_what_the_projection_reads() -> None:
    network = loaded("tokens", "block.head-1", "token-mean")
    made = replays(network, "block.head-1")
    replay = made.of(pixels())
    module = ablated.tokens()
    assert isinstance(module, ablated.Tokens)

    def hook(part: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        joined = inputs[0].clone()
        joined[:, 1:, 4 + 2] = VALUE  # the head's third value, without the class token
        return (joined,)

    with torch.no_grad():
        before = module(pixels())["logits"]
        module.block.proj.register_forward_pre_hook(hook)
        after = module(pixels())["logits"]
    torch.testing.assert_close(replay.changed([2], [VALUE])[0], before - after, atol=1e-6, rtol=1e-4)


def test_a_part_of_an_output_is_changed_alone() -> None:
    network = loaded("twice", "pair[1]")
    change = replays(network, "pair[1]").of(pixels()).changed([0], [0.0])[0]
    module = ablated.twice()
    assert isinstance(module, ablated.Twice)
    with torch.no_grad():
        _, mean = module.pair(module.act(module.second(module.act(module.first(pixels())))))
        expected = mean[:, :1] * module.head.weight[:, 0]
    torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-4)


def test_a_layer_that_runs_twice_is_changed_each_time() -> None:
    network = loaded("twice", "act")
    made = replays(network, "act")
    replay = made.of(pixels())
    assert made.ways == ["whole"]
    before, after = plainly(ablated.twice(), "act", pixels(), (0,))
    torch.testing.assert_close(replay.changed([0], [VALUE])[0], before - after, atol=1e-6, rtol=1e-4)


def test_what_ended_before_the_layer_is_not_run_again_and_the_module_is_left_as_it_was() -> None:
    module = ablated.residual()
    assert isinstance(module, ablated.Residual)
    runs: list[str] = []
    module.stem[0].register_forward_hook(lambda *_: runs.append("stem"))
    module.head.register_forward_hook(lambda *_: runs.append("head"))
    network = Network(module, "conv", name="mine").hooked("cpu")
    made = replays(network, "conv")
    runs.clear()
    replay = made.of(pixels())
    replay.changed(range(6), [0.0] * 6)
    settled = runs.count("stem")
    replay.changed(range(6), [1.0] * 6)
    assert runs.count("stem") == settled <= 2 and runs.count("head") > settled
    assert not any("forward" in vars(part) for part in module.modules())
    assert {len(part._forward_pre_hooks) for part in module.modules()} == {0}
    assert sum(len(part._forward_hooks) for part in module.modules()) == 2


def test_features_beside_the_network_cannot_be_changed() -> None:
    from csp_index.models.layers.changes import change
    from csp_index.models.layers.multihead import SplitAttention
    from csp_index.models.layers.readers import MultiheadHead

    head = MultiheadHead(0, SplitAttention(nn.MultiheadAttention(4, 2)))
    with pytest.raises(ModelError, match=r"'attn.head-0' cannot be changed .* choose a layer of the network itself"):
        change("attn.head-0", head, torch.clone)


def test_where_logits_come_from() -> None:
    opened = loaded("tokens", "norm").opened("norm")
    found = find_logits(opened, None)
    assert (found.head, found.classes, found.linear is not None) == ("head", 3, True)
    with pytest.raises(ModelError, match=r"head 'hea' is no module of tokens \(near: head"):
        find_logits(opened, "hea")
    with pytest.raises(ModelError, match=r"norm gives \[2, 5, 8\] for two images, and logits are \[images, classes\]"):
        find_logits(opened, "norm")
    loose = loaded("twice", "second").opened("second")
    assert find_logits(loose, "head").linear is not None


def test_copies_of_what_has_no_axis_of_images() -> None:
    assert copied(torch.arange(6).reshape(2, 3), 2, 2).tolist() == [[0, 1, 2], [3, 4, 5]] * 2
    assert copied(torch.arange(3), 2, 2).tolist() == [0, 1, 2]
    spread = copied(torch.full((), torch.nan).expand(2, 3), 4, 2)
    assert spread.shape == (8, 3) and not any(spread.stride())
