"""Worlds of networks that have learned nothing: redrawn weights on the same images, whose labels all count as wrong.

The networks are those of `csp-index index --weights redrawn:SEED` and `centered:SEED:FILE`: the demo's on the images of
a drawn seed, with every kind of encoder and vocabulary that the drawn worlds have, and the network under study on the
real pictures of a model seed. The layers are the hidden one and the outputs, each with a random few of its neurons that
fire. An untrained neuron may well answer to a bright background; its label counts as wrong all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import search_categories
import search_worlds as base
import torch
from PIL import Image
from search_categories import Graded
from search_real import REAL_VOCABULARIES
from search_worlds import Sizes, World
from torch import Tensor
from torch.nn.functional import normalize

from csp_index.demo.network import NETWORK_WEIGHTS
from csp_index.demo.world import render
from csp_index.models.networks import load_network

_REAL = Path(__file__).resolve().parent.parent / "real_pictures"
_DEMO, _STUDIED = "python:csp_index.demo.network:planted_cnn", "python:picture_models:StudiedNetwork"
_IMAGES, _NEURONS, _FEWEST, _BATCH = 3000, 16, 5, 128  # neurons of each layer of each network; images that fire one
#: Family and widest word of the settings of drawn seeds; "categories" has the words of `search_categories`.
_SETTINGS: Final = (("clip", 3), ("sum-noisy", 2), ("categories", 2), ("clip-noisy", 2), ("sum", 3), ("categories", 2))


def drawn_nulls(cache: Path, seeds: Iterable[int], sizes: Sizes) -> Iterator[Graded]:
    """Yield worlds of the demo's network with redrawn weights, over the images of drawn seeds; three for each seed."""
    for seed in seeds:
        pool = base.load_pool(cache, seed, sizes)
        scenes, group, _ = base.draw_scenes(pool.design, seed, sizes)
        picked = np.random.default_rng((seed, 50)).permutation(np.flatnonzero(group != -2))[:_IMAGES]
        images = [Image.fromarray(render(scenes[place], (900_000 + seed, int(place)))) for place in picked]
        weights = (f"redrawn:{seed}", f"redrawn:{seed}:{NETWORK_WEIGHTS}", f"centered:{seed}:{NETWORK_WEIGHTS}")
        fired = _activations(images, _DEMO, weights, ("hidden", "concepts"), seed)
        for family, widest in _SETTINGS[seed % 2 :: 2]:
            yield _graded(*_encoded(pool, picked, seed, family, widest), fired, ("drawn", family, f"{widest}"))


def picture_nulls(file: Path, run: Path) -> Iterator[Graded]:
    """Yield a world of every vocabulary, of the studied network with redrawn weights, over real pictures.

    `file` has the arrays of a model seed and a condition, `run` is the folder of `real_pictures.py` that made them.
    """
    name, _, condition = file.stem.partition("-")
    folder, seed = run / name, 2 * int(name.removeprefix("seed")) + (condition == "biased")
    sys.path.insert(0, str(_REAL))
    with np.load(file, allow_pickle=False) as stored:
        count = len(stored["embeddings"])
        rows = np.sort(np.random.default_rng(count).permutation(count)[:_IMAGES])
        images = [Image.open(folder / condition / "images" / f"{row:05d}.png").convert("RGB") for row in rows]
        trained = folder / "network.safetensors"
        weights = (f"redrawn:{seed}:{trained}", f"centered:{seed}:{trained}")
        fired = _activations(images, _STUDIED, weights, ("hidden", "outputs"), seed)
        vectors = normalize(torch.from_numpy(stored["embeddings"][rows]), dim=1)
        texts = normalize(torch.from_numpy(stored["text_embeddings"]), dim=1)
        for vocabulary in REAL_VOCABULARIES:
            words = texts[torch.from_numpy(stored[f"in_{vocabulary}"])]
            yield _graded(vectors, words, float(stored["logit_scale"]), fired, ("real", vocabulary, condition))


def _activations(
    images: Sequence[Image.Image], spec: str, weights: Sequence[str], layers: tuple[str, ...], seed: int
) -> Tensor:
    """Return the activations [M, N] of a random few of the neurons that fire, of every layer of every network."""
    parts = []
    for drawn in weights:
        network = load_network(spec, layers=layers, weights=drawn, device="cpu")
        batches: list[dict[str, Tensor]] = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                pixels = torch.stack([network.preprocess(image) for image in images[start : start + _BATCH]])
                batches.append(network.activations(pixels))
        for layer in layers:
            values = torch.cat([batch[layer] for batch in batches]).T.float()
            live = np.flatnonzero(((values > 0).sum(1) >= _FEWEST).numpy() & (values.std(1) > 0).numpy())
            chosen = np.sort(np.random.default_rng((seed, len(live))).permutation(live)[:_NEURONS])
            parts.append(values[torch.from_numpy(chosen)].clamp(min=0))
    return torch.cat(parts).clone()


def _encoded(pool: Any, picked: np.ndarray, seed: int, family: str, widest: int) -> tuple[Tensor, Tensor, float]:
    """Return the embeddings of a pool's images and of a vocabulary, and the scale, of one family of encoders."""
    codes, rng = pool.codes[picked], torch.Generator().manual_seed(seed)
    if family.startswith("clip"):
        vectors, (texts, scale) = pool.embeddings[picked], base._clip_texts(widest)
        vectors = base._disturb(vectors, rng) if family == "clip-noisy" else vectors
    else:
        model = partial(base._sum_model, widest=widest) if family != "categories" else search_categories._category_model
        vectors, texts, scale = model(codes, seed=seed, noise=0.7 if family == "sum-noisy" else 0.3)
    return vectors, torch.cat([texts, base._unrelated(texts, rng)]), scale


def _graded(vectors: Tensor, texts: Tensor, scale: float, fired: Tensor, cell: tuple[str, ...]) -> Graded:
    """Return a world in which no text is right of any neuron."""
    wrong = torch.zeros(len(fired), len(texts))
    nothing = torch.zeros(len(fired)).long()
    return Graded(World(vectors, fired, texts, scale, nothing, nothing), wrong, [cell] * len(fired), wrong[:, 0])
