"""The network under study in the demo: a small convolutional net whose penultimate neurons know planted concepts.

`planted_cnn()` builds it; its layer `concepts` (values after ReLU, [N, M]) is the one to index. `PLANTED` is the
truth: what each of its M neurons was trained to detect. The module carries its own `preprocess` (PIL image -> tensor
[3, 64, 64]). Its weights are in a safetensors file next to the encoder's (`NETWORK_WEIGHTS`) and are named
separately, as for any network of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from csp_index.demo.probing import PAIRS, SINGLES
from csp_index.demo.trunk import convolutions
from csp_index.demo.world import ATTRIBUTES, SIDE

Kind: TypeAlias = Literal["single", "pair", "random", "dead"]

MODELS: Final = Path(__file__).parent / "models"
CLIP_FOLDER: Final = MODELS / "clip"
NETWORK_WEIGHTS: Final = MODELS / "network.safetensors"
CAPTIONER_FOLDER: Final = MODELS / "captioner"
REPORT: Final = MODELS / "report.json"
CONCEPT_LAYER: Final = "concepts"
WIDTHS: Final = (16, 32, 48, 96, 128)
RANDOM_NEURONS: Final = 6
DEAD_NEURONS: Final = 4


@dataclass(frozen=True, slots=True)
class PlantedNeuron:
    """The truth about one neuron of the layer `concepts`."""

    index: int
    kind: Kind
    #: A label of the demo vocabulary; empty for random and dead neurons.
    concept: str


def _planted() -> tuple[PlantedNeuron, ...]:
    """List the neurons in order: singles, pairs, random, dead."""
    rows: list[tuple[Kind, str]] = [("single", concept) for concept in SINGLES]
    rows += [("pair", concept) for concept in PAIRS]
    rows += [("random", "") for _ in range(RANDOM_NEURONS)]
    rows += [("dead", "") for _ in range(DEAD_NEURONS)]
    return tuple(PlantedNeuron(index, kind, concept) for index, (kind, concept) in enumerate(rows))


PLANTED: Final[tuple[PlantedNeuron, ...]] = _planted()


class PlantedCNN(nn.Module):
    """Images [N, 3, 64, 64] -> logits of the eight shapes [N, 8], read off the layer `concepts` [N, M].

    A planted neuron's value before the activation is the log-odds of its concept, three times over: it is silent where
    the concept is less likely than not and at its ceiling, the 6 of ReLU6, where the concept is plain to see. Without a
    ceiling the highest activations would go to whatever is easiest to see (large, solid), in every set alike.
    """

    def __init__(self) -> None:
        """Build the network with fresh weights."""
        super().__init__()
        self.layers = convolutions(WIDTHS)
        self.hidden = nn.Sequential(nn.Linear(2 * WIDTHS[-1], 256), nn.ReLU())
        self.concepts = nn.Sequential(nn.Linear(256, len(PLANTED)), nn.ReLU6())
        self.head = nn.Linear(len(PLANTED), len(ATTRIBUTES["shape"]))
        self.config = SimpleNamespace(id2label=dict(enumerate(ATTRIBUTES["shape"])))
        self.preprocess: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(SIDE),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def features(self, images: Tensor) -> Tensor:
        """Return the hidden features [N, 256] below the layer `concepts`."""
        maps = self.layers(images)
        hidden: Tensor = self.hidden(torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), dim=1))
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Return shape logits [N, 8]."""
        logits: Tensor = self.head(self.concepts(self.features(images)))
        return logits


def planted_cnn() -> PlantedCNN:
    """Build the network under study; load `NETWORK_WEIGHTS` into it to get the planted neurons."""
    return PlantedCNN()
