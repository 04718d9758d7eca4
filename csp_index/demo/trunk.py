"""The image trunk of the demo's CLIP, registered with timm so that open_clip builds it by name.

Importing this module registers the model `csp_demo_trunk`; after that a directory whose `open_clip_config.json` names
it as `timm_model_name` loads through open_clip like any other. Five convolutions: a patch-wise transformer did not
learn shapes in the minutes a demo may train, a convolution that keeps its resolution down to 32 x 32 did.
"""

from __future__ import annotations

from typing import Final

import torch
from timm.models import register_model
from torch import Tensor, nn

__all__ = ["TRUNK_NAME", "DemoTrunk", "convolutions"]

TRUNK_NAME: Final = "csp_demo_trunk"
WIDTHS: Final = (16, 32, 64, 128, 192)


def convolutions(widths: tuple[int, ...] = WIDTHS, pools: tuple[int, ...] = (0, 2, 3)) -> nn.Sequential:
    """Return 3 x 3 convolution blocks over RGB input; a max-pooling by 2 follows the blocks named in `pools`."""
    blocks: list[nn.Module] = []
    before = 3
    for i, width in enumerate(widths):
        blocks += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if i in pools:
            blocks.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*blocks)


class DemoTrunk(nn.Module):
    """Images [N, 3, 64, 64] -> features [N, 384]: the mean and the maximum of each of 192 maps."""

    def __init__(self) -> None:
        """Build the trunk with fresh weights."""
        super().__init__()
        self.layers = convolutions()
        self.num_features = 2 * WIDTHS[-1]
        # What open_clip's timm adapter reads of a trunk: no pool size means that pooling happens in here.
        self.default_cfg: dict[str, object] = {"input_size": (3, 64, 64)}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Do nothing: there is no classifier. Part of timm's interface."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the mean and the maximum of every map as two rows, [N, 2, 192]: what the demo's captioner reads."""
        maps = self.layers(images)
        return torch.stack((maps.mean((2, 3)), maps.amax((2, 3))), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, 384] of images [N, 3, H, W]."""
        return self.forward_features(images).flatten(1)


@register_model
def csp_demo_trunk(pretrained: bool = False, **unused: object) -> DemoTrunk:
    """Build the trunk for timm; its weights come with the CLIP checkpoint, never from a hub."""
    return DemoTrunk()
