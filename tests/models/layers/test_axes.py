"""Which axis has the neurons: read from modules, weights and a second size, or asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from csp_index.errors import ModelError
from csp_index.models.networks import list_layers, load_network

RESIZE = transforms.Compose([transforms.Resize((32, 16)), transforms.ToTensor()])


class Upright(nn.Module):
    """Maps with the channels last of pictures that are not square, as in Swin; of one size only."""

    preprocess = staticmethod(RESIZE)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.norm = nn.LayerNorm(12)
        self.drop = nn.Dropout()
        self.block = nn.Sequential(nn.Linear(12, 12), nn.GELU())
        self.back = nn.Identity()
        self.head = nn.Linear(12, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.drop(self.norm(self.stem(pixels).permute(0, 2, 3, 1)))
        if maps.shape[1:3] != (8, 4):
            raise ValueError("another size")
        maps = self.block(maps)
        self.back(maps.permute(0, 3, 1, 2))
        out: Tensor = self.head(maps.mean((1, 2)))
        return out


def upright() -> nn.Module:
    torch.manual_seed(0)
    return Upright()


class Heads(nn.Module):
    """A hook point of tokens x heads x width, tokens with the neurons first, and a class token that comes late."""

    preprocess = staticmethod(RESIZE)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.embed = nn.Identity()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 12))
        self.norm = nn.LayerNorm(12)
        self.hook_z = nn.Identity()
        self.turned = nn.Conv1d(12, 6, 1)
        self.both = Both()

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(self.patches(pixels).flatten(2).transpose(1, 2))
        tokens = self.norm(torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1))
        self.hook_z(tokens.unflatten(2, (3, 4)))
        self.turned(tokens.transpose(1, 2))
        out: Tensor = self.both(tokens[:, 0])["out"]
        return out


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 2), nn.Linear(12, 5)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        return {"count": torch.ones(len(values), 1).long(), "out": self.one(values), "aux": self.two(values)}


def heads() -> nn.Module:
    torch.manual_seed(0)
    return Heads()


UPRIGHT, HEADS = f"python:{__name__}:upright", f"python:{__name__}:heads"


def test_channels_last_are_read_from_norms_linear_layers_and_what_passes_them_on() -> None:
    network = load_network(UPRIGHT, layers=["stem", "norm", "drop", "block", "block.1", "back"], device="cpu")
    pools = {name: (output.pool, output.neurons) for name, output in network.layers.items()}
    assert pools.pop("back") == ("mean", 12), "of the same shape as the stem"
    assert pools.pop("stem") == ("mean", 12)
    assert set(pools.values()) == {("mean-last", 12)}


def test_a_second_size_settles_what_modules_do_not() -> None:
    class Free(nn.Module):
        preprocess = staticmethod(RESIZE)

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 5, 3), nn.Identity()

        def forward(self, pixels: Tensor) -> Tensor:
            last: Tensor = self.last(self.conv(pixels).permute(0, 2, 3, 1))
            return last

    from csp_index.models.objects import Network

    network = Network(Free(), layers=["last"]).hooked("cpu")
    assert (network.layers["last"].pool, network.layers["last"].neurons) == ("mean-last", 5)


@pytest.mark.parametrize(
    ("axis", "pool", "neurons"),
    [((3,), "mean-last", 4), ((2, 3), "mean@2,3", 12), ((2,), "mean@2", 3), ((-1,), "mean-last", 4)],
)
def test_heads_are_asked_for_and_read_as_the_user_says(axis: tuple[int, ...], pool: str, neurons: int) -> None:
    with pytest.raises(
        ModelError, match=r"nothing says which axis of its output \[33, 3, 4\] has the neurons: give --axis"
    ):
        load_network(HEADS, layers=["hook_z"], device="cpu")
    network = load_network(HEADS, layers=["hook_z"], axis=axis, device="cpu")
    assert (network.layers["hook_z"].pool, network.layers["hook_z"].neurons) == (pool, neurons)
    pixels = torch.rand(3, 3, 32, 16)
    found = network.activations(pixels)["hook_z"]
    tokens = network._loaded.module.get_submodule("norm")
    kept = []
    handle = tokens.register_forward_hook(lambda module, inputs, output: kept.append(output))
    network.activations(pixels)
    handle.remove()
    whole = kept[0].unflatten(2, (3, 4))  # [B, L, 3, 4]
    over = tuple(place for place in (1, 2, 3) if place not in [a if a > 0 else 4 + a for a in axis])
    if over == (1,):
        whole = whole[:, 1:]  # over the tokens, without the class token
    assert torch.allclose(found, whole.mean(over).flatten(1), atol=1e-5)


def test_an_index_reads_its_pools_exactly() -> None:
    network = load_network(
        HEADS, layers=["hook_z", "norm"], pool={"hook_z": "mean@2,3", "norm": "token-max"}, device="cpu"
    )
    assert {name: output.pool for name, output in network.layers.items()} == {"hook_z": "mean@2,3", "norm": "token-max"}


def test_patches_before_the_class_token_are_not_read_at_their_first() -> None:
    network = load_network(HEADS, layers=["embed", "norm"], device="cpu")
    assert (network.layers["embed"].pool, network.layers["norm"].pool) == ("token-mean", "cls")
    mean = load_network(HEADS, layers=["norm"], pool="token-mean", device="cpu")
    assert mean.maps(torch.rand(2, 3, 32, 16), "norm", torch.tensor([0, 1])).shape == (2, 8, 4)  # type: ignore[union-attr]


def test_neurons_first_in_a_sequence() -> None:
    network = load_network(HEADS, layers=["turned"], device="cpu")
    assert (network.layers["turned"].pool, network.layers["turned"].neurons) == ("mean@1", 6)


def test_one_of_several_tensors_is_named(caplog: pytest.LogCaptureFixture) -> None:
    network = load_network(HEADS, layers=["both", "both[aux]", "both[2]"], device="cpu")
    assert [output.neurons for output in network.layers.values()] == [2, 5, 5], "numbers that count are no activations"
    assert "layer both of heads: it gives 3 tensors" in caplog.text
    with pytest.raises(ModelError, match=r"layer 'both\[9\]' of heads gives no tensor"):
        load_network(HEADS, layers=["both[9]"], device="cpu")


def test_layers_that_are_not_settled_are_listed_with_a_question() -> None:
    layers = {layer.name: layer for layer in list_layers(HEADS)}
    assert layers["hook_z"].neurons == 0 and "--axis 1 to 3" in layers["hook_z"].note
    assert "the first of 3 tensors" in layers["both"].note


def test_a_wrong_axis_is_refused() -> None:
    with pytest.raises(ModelError, match=r"axis 4 is not in an output of shape \[33, 3, 4\]: its axes are 1 to 3"):
        load_network(HEADS, layers=["hook_z"], axis=(4,), device="cpu")


def test_swin_and_convnext_of_timm(tmp_path: Path) -> None:
    import timm

    from csp_index.models.objects import Network

    torch.manual_seed(0)
    sizes = {"img_size": (64, 32), "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **sizes)
    transform = transforms.Compose([transforms.Resize((64, 32)), transforms.ToTensor()])
    network = Network(swin, preprocess=transform).hooked("cpu", ["layers.0", "layers.1", "norm"])
    assert [output.neurons for output in network.layers.values()] == [12, 24, 24]
    small = timm.create_model("convnext_atto", num_classes=3, depths=(1, 1, 1, 1), dims=(8, 12, 16, 20))
    names = ["stages.0", "stages.1.blocks.0.norm", "stages.1.blocks.0.mlp.fc1", "stages.2.downsample.0"]
    network = Network(small, preprocess=transform).hooked("cpu", names)
    assert [output.neurons for output in network.layers.values()] == [8, 12, 48, 12]


class Patterns(nn.Module):
    """Attention patterns [heads, L, L], whose rows sum to 1."""

    preprocess = staticmethod(RESIZE)

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.pattern = nn.Conv2d(3, 12, 4, 4), nn.Softmax(-1)

    def forward(self, pixels: Tensor) -> Tensor:
        queries = self.patches(pixels).flatten(2).transpose(1, 2).unflatten(2, (3, 4)).transpose(1, 2)
        pattern: Tensor = self.pattern(queries @ queries.transpose(-1, -2))
        return pattern


def patterns() -> nn.Module:
    torch.manual_seed(0)
    return Patterns()


def test_the_mean_of_attention_patterns_is_said_to_be_constant(caplog: pytest.LogCaptureFixture) -> None:
    spec = f"python:{__name__}:patterns"
    assert load_network(spec, layers=["pattern"], device="cpu").layers["pattern"].neurons == 3
    assert "layer pattern with pool mean gives two different pictures the same values" in caplog.text
    caplog.clear()
    load_network(spec, layers=["pattern"], pool="max", device="cpu")
    assert not caplog.text


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_part_is_no_layer_and_leaves_the_others_usable() -> None:
    from csp_index.models.objects import Network

    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 1)))]
    network = Network(nn.Sequential(*parts), preprocess=RESIZE)
    assert network.hooked("cpu", ["0"]).layers["0"].neurons == 4
    for layer in ("1", "1.0"):
        with pytest.raises(ModelError, match=f"layer '{layer}' is not in Sequential"):
            network.hooked("cpu", [layer])
