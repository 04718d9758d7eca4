"""What crops do to labels: the planted concepts named right, with whole activating images and with crops.

    python scripts/benchmarks/measure_crops.py OUT

Worlds of the demo's objects, each with the demo's models and planted neurons. `alone`: its biased pictures, one object
in each; the layer has no places, so its maps are made by gradient x input and put into the store. `scenes`: the same
objects, four in a picture, seen by the planted network through windows of the size of an object, so that the layer has
places; `even` has the objects of the unbiased set. Numbers are shares of the planted concepts, single ones and pairs,
that are the best label, and among the best five. With `--whole-partners` also those of crops of activating images
alone, compared with whole partners.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

from csp_index import Index, Labels, Network, NetworkSource, open_index
from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED, planted_cnn
from csp_index.demo.probing import Bias, probing_scenes, write_probing_set
from csp_index.demo.run import accuracy
from csp_index.demo.world import SIDE, VOCABULARY, render
from csp_index.labelling.cropped import PartnerCrops
from csp_index.store.tables import Store

METHODS = ("csp", "csp-difference", "semanticlens", "mean-centred", "pmi", "contrastive-pmi")
ENCODER = f"open_clip:{CLIP_FOLDER}"
ACROSS = 2  # objects side by side in a scene
STRIDE = SIDE // 2


class Windows(torch.nn.Module):
    """The planted network at each window of a picture; `places` has the neurons' maps."""

    def __init__(self) -> None:
        super().__init__()
        self.planted = planted_cnn()
        self.planted.load_state_dict(load_file(str(NETWORK_WEIGHTS)))
        self.places = torch.nn.Identity()
        self.preprocess = transforms.Compose(
            [
                transforms.Resize((ACROSS * SIDE, ACROSS * SIDE)),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the neurons' largest activations over the windows [B, M]."""
        cut = pixels.unfold(2, SIDE, STRIDE).unfold(3, SIDE, STRIDE)
        batch, _, rows, columns = cut.shape[:4]
        windows = cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, SIDE, SIDE)
        values = self.planted.concepts(self.planted.features(windows))
        maps: torch.Tensor = self.places(values.view(batch, rows, columns, -1).permute(0, 3, 1, 2))
        return maps.amax((2, 3))


def write_scenes(folder: Path, bias: Bias, seed: int) -> Path:
    """Draw the objects of a probing set four to a picture, each object once."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = probing_scenes(bias, seed)
    order = np.random.default_rng((seed, 1)).permutation(len(objects))
    each = ACROSS * ACROSS
    for number in range(len(order) // each):
        picture = np.zeros((ACROSS * SIDE, ACROSS * SIDE, 3), np.uint8)
        for place, own in enumerate(order[number * each : (number + 1) * each].tolist()):
            row, column = divmod(place, ACROSS)
            there = slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)
            picture[there] = render(objects[own], (seed, own, 7))
        Image.fromarray(picture).save(folder / f"{number:05d}.png")
    return folder


def scenes(out: Path, seed: int, bias: Bias = "biased", name: str = "scenes") -> tuple[Index, str]:
    """Return the index of scenes, and its layer with maps."""
    network = Network(Windows(), "places", name="scenes", pool="max")
    folder = out / f"{name}-{seed}"
    if not folder.exists():
        write_scenes(folder.with_suffix(".draft"), bias, seed).rename(folder)
    index = open_index(out / f"{name}-{seed}.db", models={"scenes": network})
    index.add_images(folder, encoders=[ENCODER], networks=[network])
    return index, "scenes/places"


def alone(out: Path, seed: int) -> tuple[Index, str]:
    """Return the index of single objects, and its layer with maps by gradient x input."""
    folder = out / f"alone-{seed}"
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        write_probing_set(draft, "biased", seed)
        draft.rename(folder)
    index = open_index(out / f"alone-{seed}.db")
    source = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    index.add_images(folder, encoders=[ENCODER], networks=[source])
    layer = f"cnn/{CONCEPT_LAYER}"
    index.make_maps(layer)
    return index, layer


WORLDS: dict[str, Callable[[Path, int], tuple[Index, str]]] = {
    "alone": alone,
    "scenes": scenes,
    "even": partial(scenes, bias="unbiased", name="even"),
}


@contextmanager
def whole_partners() -> Iterator[None]:
    """Let labels from crops leave contrastive images whole."""
    real = PartnerCrops.of

    def none(store: Store, contrastive: np.ndarray, pairs: Any) -> PartnerCrops:
        return real(store, np.full_like(contrastive, -1), pairs)

    with patch.object(PartnerCrops, "of", none):
        yield


def rounded(made: Labels) -> dict[str, tuple[float, float]]:
    """Return the shares of planted concepts that are the best label, and among the best five, by kind."""
    return {kind: (round(share.top1, 3), round(share.top5, 3)) for kind, share in accuracy(made).items()}


def main() -> None:
    """Print a line of JSON per world, method and kind of concept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--whole-partners", action="store_true", help="Beside crops on both sides, crops on one alone.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for world in options.worlds:
        for seed in range(options.seeds):
            index, layer = WORLDS[world](options.out, seed)
            firing = {kind: sum(p.kind == kind for p in PLANTED) for kind in ("single", "pair")}
            for method in METHODS:
                row: dict[str, object] = {"world": world, "seed": seed, "method": method, "neurons": firing}
                for crop in (False, True):
                    made = index.label(
                        layer, method, vocabulary=list(VOCABULARY), templates="none", bootstrap=0, crop=crop
                    )
                    row["crop" if crop else "whole"] = rounded(made)
                if options.whole_partners:
                    with whole_partners():
                        made = index.label(
                            layer,
                            method,
                            vocabulary=list(VOCABULARY),
                            templates="none",
                            bootstrap=0,
                            crop=True,
                            keep=False,
                            recompute=True,
                        )
                    row["crop, partners whole"] = rounded(made)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
