"""The models of the experiment: the image trunk of its CLIP, registered with timm, and the network under study.

Imported by the product's own commands (the search path of modules must hold this folder), so it needs nothing of the
experiment but this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from PIL import Image
from timm.models import register_model
from torch import Tensor, nn
from torchvision import transforms

TRUNK_NAME: Final = "csp_real_pictures_trunk"
CLIP_SIDE: Final = 48
NETWORK_SIDE: Final = 40
MEAN: Final = 0.5
DEVIATION: Final = 0.25
HIDDEN: Final = 128
#: 150 keywords and 8 backgrounds.
OUTPUTS: Final = 158
OUTPUT_LAYER: Final = "outputs"
HIDDEN_LAYER: Final = "hidden"


def _block(before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Maps [N, C, H, W] plus one convolution of them."""

    def __init__(self, width: int) -> None:
        """Build the block with fresh weights."""
        super().__init__()
        self.body = _block(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        result: Tensor = maps + self.body(maps)
        return result


def trunk_layers(widths: tuple[int, int, int]) -> nn.Sequential:
    """Return a trunk for 32 to 64 pixels: a patch-wise stem (stride 4), then three stages of halved resolution.

    Few wide convolutions: on a CPU a convolution of 64 to 256 maps runs at the speed of a matrix product, and one of
    16 to 32 maps at half of it.
    """
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(3, first, 6, 4, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        Residual(first),
        _block(first, second, 2),
        Residual(second),
        _block(second, third, 2),
        Residual(third),
    )


def pooled(maps: Tensor) -> Tensor:
    """Return the mean and the maximum of each map: [N, C, H, W] -> [N, 2 C]."""
    return torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), dim=1)


class PictureTrunk(nn.Module):
    """Images [N, 3, S, S] -> features [N, 512]."""

    def __init__(self) -> None:
        """Build the trunk with fresh weights."""
        super().__init__()
        self.layers = trunk_layers((64, 128, 256))
        self.num_features = 512
        # What open_clip's timm adapter reads of a trunk: no pool size means that pooling happens in here.
        self.default_cfg: dict[str, object] = {"input_size": (3, CLIP_SIDE, CLIP_SIDE)}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Do nothing: there is no classifier. Part of timm's interface."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 512] of images [N, 3, S, S]."""
        return pooled(self.layers(images))


@register_model
def csp_real_pictures_trunk(pretrained: bool = False, **unused: object) -> PictureTrunk:
    """Build the trunk for timm; its weights come with the CLIP checkpoint, never from a hub."""
    return PictureTrunk()


class StudiedNetwork(nn.Module):
    """Images [N, 3, S, S] -> probabilities [N, 158] of keywords and backgrounds, over a hidden layer of 128 neurons.

    Both layers are modules of their own, `hidden` (after ReLU) and `outputs` (after the sigmoid), so that an index can
    name them.
    """

    def __init__(self, outputs: int = OUTPUTS) -> None:
        """Build the network with fresh weights."""
        super().__init__()
        self.layers = trunk_layers((48, 96, 192))
        self.hidden = nn.Sequential(nn.Linear(2 * 192, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU())
        self.outputs = nn.Sequential(nn.Linear(HIDDEN, outputs), nn.Sigmoid())
        self.preprocess: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                transforms.Resize(NETWORK_SIDE, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(NETWORK_SIDE),
                transforms.ToTensor(),
                transforms.Normalize((MEAN,) * 3, (DEVIATION,) * 3),
            ]
        )

    def features(self, images: Tensor) -> Tensor:
        """Return the values of the hidden layer [N, 128]."""
        hidden: Tensor = self.hidden(pooled(self.layers(images)))
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities [N, 158]."""
        result: Tensor = self.outputs(self.features(images))
        return result
