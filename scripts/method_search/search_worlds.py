"""Worlds for `search_methods.py`: planted concepts, biased probing sets, two families of encoders, three of neurons.

A *world* is one shared probing set: plain images of common values, some with a stray rare value, and carriers of 29
planted concepts (11 single, 11 pairs, 7 triples). A share `bias` of each concept's carriers shows the concept's look
of two common values. Values that pairs and triples use are kept out of the single concepts and occur apart as well,
so that every truth can be told from the data (at bias 1 a single concept and its concept-with-look are the same set of
images: the broader name is then held to be right).

The family `clip` renders images and passes them through the demo's encoder and network; `sum` draws embeddings from a
linear model of attribute directions. Pools are rendered once per seed and cached; all biases choose from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize, softplus

from csp_index.demo.network import CLIP_FOLDER, NETWORK_WEIGHTS, planted_cnn
from csp_index.demo.world import ATTRIBUTES, Concept, Scene, concept_of, concept_text, render

NAMES: Final = tuple(ATTRIBUTES)
BIASES: Final = (0.0, 0.5, 0.9, 1.0)
FAMILIES: Final = ("clip", "clip-noisy", "sum", "sum-noisy")
NEURONS: Final = ("analytic", "leaky", "cnn")
UNRELATED: Final = 100
_COUNTS: Final = {1: 11, 2: 11, 3: 7}
_POOL_VALUES: Final = {"shape": 2, "colour": 2, "texture": 1, "background": 1}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many images a world holds; `train` are for the network's read-outs alone."""

    plain: int = 2500
    carriers: int = 80
    train: int = 2000
    enriched: int = 40
    misses: int = 12


QUICK: Final = Sizes(plain=80, carriers=4, train=40, enriched=1, misses=1)


@dataclass(frozen=True, slots=True)
class Design:
    """The planted concepts with their looks, and the values that are common."""

    concepts: tuple[Concept, ...]
    looks: tuple[Concept, ...]
    common: dict[str, tuple[str, ...]]
    stray: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Images of one seed: value numbers [P, 6], what each is for, embeddings [P, D] and network features [P, F].

    `group` is -1 for plain images, -2 for training images, else the concept; `biased` tells carriers with the look.
    """

    design: Design
    codes: np.ndarray
    group: np.ndarray
    biased: np.ndarray
    embeddings: Tensor
    features: Tensor


@dataclass(frozen=True, slots=True)
class World:
    """What a method sees, and the truth: the column of `texts` that names each neuron."""

    vectors: Tensor  # [N, D]
    activations: Tensor  # [M, N]
    texts: Tensor  # [C, D]
    scale: float
    truth: Tensor  # [M]
    arity: Tensor  # [M]


# --- the design of a seed ------------------------------------------------------------------------------------------


def design(seed: int) -> Design:
    """Draw common values, planted concepts and looks."""
    rng = np.random.default_rng((seed, 1))
    common: dict[str, tuple[str, ...]] = {}
    stray: list[tuple[str, str]] = []
    singles: list[Concept] = []
    for name, values in ATTRIBUTES.items():
        order = [values[i] for i in rng.permutation(len(values))]
        common[name], rare = tuple(order[:2]), order[2:]
        kept = _POOL_VALUES.get(name, 0)
        stray += [(name, value) for value in rare[:kept]]
        singles += [((name, value),) for value in rare[kept:]]
    ordinary = [(name, value) for name in _POOL_VALUES for value in common[name]]
    pairs = [_join(a, b) for a, b in [*combinations(stray, 2), *product(stray, ordinary)] if a[0] != b[0]]
    triples = [_join(*pair, c) for pair in pairs for c in ordinary if c[0] not in dict(pair)]
    concepts: list[Concept] = []
    for arity, options in enumerate((singles, sorted(set(pairs)), sorted(set(triples))), 1):
        concepts += [options[i] for i in rng.permutation(len(options))[: _COUNTS[arity]]]
    looks = []
    for concept in concepts:
        free = [name for name in _POOL_VALUES if name not in dict(concept)]
        shown = [free[i] for i in rng.permutation(len(free))[: min(2, len(free))]]
        looks.append(concept_of({name: common[name][int(rng.integers(2))] for name in shown}))
    return Design(tuple(concepts), tuple(looks), common, tuple(stray))


def _join(*parts: tuple[str, str]) -> Concept:
    return concept_of(dict(parts))


def draw_scenes(plan: Design, seed: int, sizes: Sizes) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    """Draw all scenes of a seed with their group and whether they show the look."""
    rng = np.random.default_rng((seed, 2))
    rows: list[tuple[Scene, int, bool]] = []
    planted = set(plan.concepts)
    for _ in range(sizes.plain):
        fixed: dict[str, str] = {}
        count = int(rng.choice(3, p=(0.71, 0.24, 0.05)))
        for i in rng.permutation(len(plan.stray))[:count]:
            if concept_of({**fixed, plan.stray[i][0]: plan.stray[i][1]}) not in planted:
                fixed[plan.stray[i][0]] = plan.stray[i][1]
        rows.append((_ordinary(rng, plan, fixed), -1, False))
    for number, (concept, look) in enumerate(zip(plan.concepts, plan.looks, strict=True)):
        for turn in range(sizes.carriers):
            rows.append((_ordinary(rng, plan, {**dict(look), **dict(concept)}), number, True))
            rows.append((_without_look(rng, plan, seed % 3, number, turn), number, False))
        rows += [(_anything(rng, dict(concept)), -2, False) for _ in range(sizes.enriched)]
    rows += [(_anything(rng, {}), -2, False) for _ in range(sizes.train)]
    rows += [(scene, -1, False) for scene in _near_misses(plan, seed, sizes)]
    scenes, groups, biased = zip(*rows, strict=True)
    return list(scenes), np.array(groups), np.array(biased)


def _without_look(rng: np.random.Generator, plan: Design, style: int, number: int, turn: int) -> Scene:
    """Draw a carrier that need not show the look: half the look, common values, or any values, by the seed's style."""
    concept, look = dict(plan.concepts[number]), dict(plan.looks[number])
    if style == 0:
        name = list(look)[turn % len(look)]
        first, second = plan.common[name]
        return _ordinary(rng, plan, {**look, name: second if look[name] == first else first, **concept})
    return _ordinary(rng, plan, concept) if style == 1 else _anything(rng, concept)


def _near_misses(plan: Design, seed: int, sizes: Sizes) -> list[Scene]:
    """Draw images that lack one value of a pair or triple and show all others: without them the truth is open."""
    rng = np.random.default_rng((seed, 6))
    found = []
    for concept in plan.concepts:
        for name, value in concept if len(concept) > 1 else ():
            others = [other for other in plan.common[name] if other != value]
            others += [other for known, other in plan.stray if known == name and other != value]
            for _ in range(sizes.misses):
                swapped = {**dict(concept), name: others[int(rng.integers(len(others)))]}
                if not any(set(c) <= set(swapped.items()) for c in plan.concepts):
                    found.append(_ordinary(rng, plan, swapped))
    return found


def _ordinary(rng: np.random.Generator, plan: Design, fixed: dict[str, str]) -> Scene:
    return Scene(**{**{name: pair[int(rng.integers(2))] for name, pair in plan.common.items()}, **fixed})


def _anything(rng: np.random.Generator, fixed: dict[str, str]) -> Scene:
    return Scene(**{**{name: v[int(rng.integers(len(v)))] for name, v in ATTRIBUTES.items()}, **fixed})


# --- pools ----------------------------------------------------------------------------------------------------------


def scene_codes(scenes: Sequence[Scene]) -> np.ndarray:
    """Return the value numbers of scenes, [N, 6]."""
    return np.array([[ATTRIBUTES[name].index(scene.value(name)) for name in NAMES] for scene in scenes])


def matches(codes: np.ndarray, concept: Concept) -> np.ndarray:
    """Return the share of the concept's attributes that each image has, [N]."""
    hits = [codes[:, NAMES.index(name)] == ATTRIBUTES[name].index(value) for name, value in concept]
    share: np.ndarray = np.mean(hits, axis=0)
    return share


def load_pool(folder: Path, seed: int, sizes: Sizes) -> Pool:
    """Return the rendered pool of a seed, from the cache where it is there."""
    plan = design(seed)
    scenes, group, biased = draw_scenes(plan, seed, sizes)
    codes = scene_codes(scenes)
    mark = hashlib.sha256(codes.tobytes()).hexdigest()[:12]
    file = folder / f"pool-{seed}-{mark}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        embeddings, features = _pass_images(scenes, group, seed)
        draft = file.with_suffix(".draft.npz")
        np.savez(draft, embeddings=embeddings, features=features)
        draft.rename(file)
    with np.load(file) as stored:
        arrays = [torch.from_numpy(stored[name]).float() for name in ("embeddings", "features")]
    return Pool(plan, codes, group, biased, normalize(arrays[0], dim=1), arrays[1])


@cache
def _encoder() -> tuple[Any, Any]:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{CLIP_FOLDER}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{CLIP_FOLDER}")


def _pass_images(
    scenes: Sequence[Scene], group: np.ndarray, seed: int, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Render and pass images through encoder and network; training images have no embedding."""
    network = planted_cnn()
    network.load_state_dict(load_file(str(NETWORK_WEIGHTS)))
    network.eval()
    embeddings, features = [], []
    with torch.inference_mode():
        for start in range(0, len(scenes), 128):
            part = range(start, min(start + 128, len(scenes)))
            pixels = [render(scenes[i], (900_000 + seed, first + i)) for i in part]
            batch = torch.stack([network.preprocess(Image.fromarray(p)) for p in pixels])
            features.append(network.features(batch).half())
            found = torch.ones(len(part), 128)
            shown = torch.from_numpy(group[start : start + len(part)] != -2)
            if shown.any():
                found[shown] = _encoder()[0].encode_image(batch[shown], normalize=True).float()
            embeddings.append(found.half())
    return torch.cat(embeddings).numpy(), torch.cat(features).numpy()


# --- vocabularies and encoders --------------------------------------------------------------------------------------


@cache
def vocabulary(widest: int) -> tuple[Concept, ...]:
    """Return every concept of one to `widest` attributes."""
    singles = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
    found: list[Concept] = []
    for arity in range(1, widest + 1):
        found += [group for group in combinations(singles, arity) if len({name for name, _ in group}) == arity]
    return tuple(found)


@cache
def _clip_texts(widest: int) -> tuple[Tensor, float]:
    model, tokenizer = _encoder()
    words = [concept_text(concept) for concept in vocabulary(widest)]
    with torch.inference_mode():
        parts = [model.encode_text(tokenizer(words[i : i + 256]), normalize=True) for i in range(0, len(words), 256)]
    return torch.cat(parts).float(), float(model.logit_scale.detach().exp())


def _unrelated(texts: Tensor, rng: torch.Generator) -> Tensor:
    """Words that name nothing here: random directions about the mean of the texts."""
    spread = (texts - texts.mean(0)).norm(dim=1).mean()
    away = normalize(torch.randn(UNRELATED, texts.shape[1], generator=rng), dim=1)
    return normalize(texts.mean(0) + spread * away, dim=1)


def _sum_model(codes: np.ndarray, widest: int, seed: int, noise: float) -> tuple[Tensor, Tensor, float]:
    """Embed images and texts linearly: a direction an attribute value, some interactions, a modality gap, noise."""
    rng = torch.Generator().manual_seed(seed + 77)
    width = 128
    values = [(name, value) for name, options in ATTRIBUTES.items() for value in options]
    place = {value: i for i, value in enumerate(values)}
    directions = normalize(torch.randn(len(values), width, generator=rng), dim=1)
    strength = 0.7 + 0.6 * torch.rand(len(values), generator=rng)
    directions *= strength[:, None]
    first = np.array([place[(name, ATTRIBUTES[name][0])] for name in NAMES])
    columns = torch.from_numpy(codes + first)
    images = directions[columns].sum(1)
    pairs = 0.35 * normalize(torch.randn(len(values), len(values), width, generator=rng), dim=2)
    for left, right in combinations(range(len(NAMES)), 2):
        images += pairs[columns[:, left], columns[:, right]]
    gap = normalize(torch.randn(width, generator=rng), dim=0)
    images = normalize(images, dim=1) + noise * torch.randn(images.shape, generator=rng) / width**0.5 + 0.4 * gap
    texts = torch.stack([_text_of(concept, directions, pairs, place) for concept in vocabulary(widest)])
    texts = normalize(texts, dim=1) + 0.25 * torch.randn(texts.shape, generator=rng) / width**0.5 - 0.4 * gap
    return normalize(images, dim=1), normalize(texts, dim=1), 25.0


def _text_of(concept: Concept, directions: Tensor, pairs: Tensor, place: dict[tuple[str, str], int]) -> Tensor:
    rows = [place[part] for part in concept]
    total = directions[rows].sum(0)
    for left, right in combinations(rows, 2):
        total = total + pairs[left, right]
    return total


# --- worlds ---------------------------------------------------------------------------------------------------------


def make_world(pool: Pool, seed: int, bias: float, family: str, neurons: str, widest: int) -> World:
    """Compose a world: choose the carriers for a bias, embed, and let the neurons fire."""
    chosen = [np.flatnonzero(pool.group == -1)]
    for number in range(len(pool.design.concepts)):
        with_look = np.flatnonzero((pool.group == number) & pool.biased)
        without = np.flatnonzero((pool.group == number) & ~pool.biased)
        count = round(bias * len(with_look))
        chosen += [with_look[:count], without[: len(with_look) - count]]
    picked = np.random.default_rng((seed, 3)).permutation(np.concatenate(chosen))
    codes = pool.codes[picked]
    rng = torch.Generator().manual_seed(seed)
    if family.startswith("clip"):
        vectors = pool.embeddings[picked]
        texts, scale = _clip_texts(widest)
    else:
        vectors, texts, scale = _sum_model(codes, widest, seed, 0.7 if family.endswith("noisy") else 0.3)
    if family == "clip-noisy":
        vectors = _disturb(vectors, rng)
    texts = torch.cat([texts, _unrelated(texts, rng)])
    concepts = [concept for concept in pool.design.concepts if len(concept) <= widest]
    words = {concept: i for i, concept in enumerate(vocabulary(widest))}
    fire = _network(pool, codes, picked, seed, family) if neurons == "cnn" else _drawn(codes, pool, seed, neurons)
    return World(
        vectors,
        fire[: len(concepts)],
        texts,
        scale,
        torch.tensor([words[concept] for concept in concepts]),
        torch.tensor([len(concept) for concept in concepts]),
    )


def _disturb(vectors: Tensor, rng: torch.Generator) -> Tensor:
    """Add noise as large as half a vector, and bend the space in eight directions."""
    width = vectors.shape[1]
    left, right = torch.randn(2, width, 8, generator=rng) / width**0.5
    noise = torch.randn(vectors.shape, generator=rng) / width**0.5
    return normalize(vectors + 0.5 * noise + 0.4 * (vectors @ left) @ right.T, dim=1)


def _drawn(codes: np.ndarray, pool: Pool, seed: int, kind: str) -> Tensor:
    """Fire on the truth, graded and noisy; the leaky kind answers to half-matches and to chance as well."""
    rng = np.random.default_rng((seed, 4))
    rows = []
    for concept in pool.design.concepts:
        share = matches(codes, concept)
        fired = (share == 1) * rng.uniform(0.4, 1.0, len(codes)) + rng.normal(0, 0.05, len(codes))
        if kind == "leaky":
            fired += ((share > 0) & (share < 1)) * share * rng.uniform(0, 0.6, len(codes))
            fired += (rng.random(len(codes)) < 0.01) * rng.uniform(0, 0.7, len(codes))
        rows.append(np.maximum(fired, 0))
    return torch.from_numpy(np.array(rows)).float()


def _network(pool: Pool, codes: np.ndarray, picked: np.ndarray, seed: int, family: str) -> Tensor:
    """Fire as linear read-outs of network features, trained on images apart; odd seeds have a ceiling of 6."""
    train = np.flatnonzero(pool.group == -2)
    if family.startswith("clip"):
        known, seen = pool.features[train], pool.features[picked]
    else:
        features = _random_features(np.concatenate([pool.codes[train], codes]), seed)
        known, seen = features[: len(train)], features[len(train) :]
    mean, spread = known.mean(0), known.std(0) + 1e-3
    known, seen = (known - mean) / spread, (seen - mean) / spread
    target = torch.from_numpy(np.array([matches(pool.codes[train], c) == 1 for c in pool.design.concepts])).float().T
    logits = seen @ (weights := _logistic(known, target))[:-1] + weights[-1]
    fired = logits.T.clamp(min=0)
    return fired.clamp(max=6.0) if seed % 2 else fired


def _random_features(codes: np.ndarray, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed + 5)
    hot = torch.cat([torch.eye(len(v))[torch.from_numpy(codes[:, i])] for i, v in enumerate(ATTRIBUTES.values())], 1)
    mixed = hot @ torch.randn(hot.shape[1], 384, generator=rng) + 0.6 * torch.randn(len(hot), 384, generator=rng)
    return (mixed - 1).clamp(min=0)


def _logistic(known: Tensor, target: Tensor) -> Tensor:
    """Fit logistic read-outs with a small ridge; weights [F + 1, M], the last row the bias."""
    inputs = torch.cat([known, torch.ones(len(known), 1)], 1)
    weights = torch.zeros(inputs.shape[1], target.shape[1], requires_grad=True)
    steps = torch.optim.LBFGS([weights], max_iter=60, history_size=8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        logits = inputs @ weights
        value = (softplus(logits) - target * logits).sum(1).mean() + 2e-3 * weights[:-1].square().sum()
        value.backward()
        return value

    steps.step(loss)
    return weights.detach()
