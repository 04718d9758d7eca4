"""Worlds of round three: OR, AND-NOT and category neurons, with narrower and broader words in the vocabulary.

Images are those of a seed's pool: a share `bias` are plain ones of common values, the others show every combination
with the same chance. Truth is graded: a *region* is a set of the 9,216 possible scenes, and the agreement of a label
with a neuron is the overlap (IoU) of their regions, divided by the best overlap that any label has, so that 1 is the
best word of the vocabulary. A neuron that fires on circles OR hearts is named as well as it can be by either word.

Each neuron fires in three ways: `analytic` (its truth, graded and noisy), `leaky` (half-matches and chance as well),
and `favorite` (at full strength only on images that also show one favorite value, at about a third elsewhere: its top
images are narrower than what it answers to, as they are for trained outputs).

Families `clip` and `clip-noisy` have the demo's own words, which name no categories. In `sum` and `sum-noisy` the
vocabulary has eight categories and their pairs with single values. A category has a direction of its own, a part of
which is added to each member's direction; its text is the mean of its members plus a part of its own direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
import search_worlds as base
import torch
from search_worlds import NAMES, Pool, Sizes, World
from torch import Tensor
from torch.nn.functional import normalize

from csp_index.demo.world import ATTRIBUTES, Concept, Scene

_Option = TypeVar("_Option")

FIRING: Final = ("analytic", "leaky", "favorite")
FIRED: Final = ("leaky", "cnn")  # the kinds of rounds one and two that are looked at again
WHAT: Final = ("single", "pair", "category", "category pair", "or", "and-not")
CATEGORIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "round shape": ("shape", ("circle", "ring", "moon")),
    "angular shape": ("shape", ("square", "triangle", "star", "cross")),
    "symbol": ("shape", ("star", "cross", "heart", "moon")),
    "warm color": ("colour", ("red", "orange", "yellow")),
    "cool color": ("colour", ("blue", "green", "purple", "cyan")),
    "patterned": ("texture", ("checkered", "striped", "dotted")),
    "dark background": ("background", ("black", "navy", "brown")),
    "earthy background": ("background", ("brown", "beige", "olive")),
}
_IMAGES: Final = 2000
_SHARED = 0.4  # how much of a category's own direction its members have
_OWN = 0.3  # how much of it the category's text has beyond its members' mean

#: Attribute -> the values it may have; attributes that are absent are free. The words of the vocabulary are boxes.
Box: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Graded:
    """A world with graded truth: `agreement` [M, C] in [0, 1] of labels with neurons, 1 for the best there is.

    `best` [M] is the overlap (IoU) of the best label and the truth: agreement x best is a label's overlap.
    """

    world: World
    agreement: Tensor
    cells: Sequence[tuple[str, ...]]  # [M] where each neuron's result belongs
    best: Tensor  # [M]


@dataclass(frozen=True, slots=True)
class Neuron:
    """What a neuron answers to: `region` [9216] of all scenes, and the parts whose half-match a leaky one takes."""

    what: str
    regions: tuple[np.ndarray, np.ndarray]  # over all scenes: the truth and the half-matches
    favorite: tuple[str, str]


# --- regions of scenes ----------------------------------------------------------------------------------------------


@cache
def all_codes() -> np.ndarray:
    """Return the value numbers of every possible scene, [9216, 6]."""
    return np.array(list(product(*(range(len(values)) for values in ATTRIBUTES.values()))))


def inside(codes: np.ndarray, box: Box) -> np.ndarray:
    """Return which scenes a box holds, [N] bool."""
    result: np.ndarray = np.ones(len(codes), dtype=bool)
    for name, values in box:
        places = [ATTRIBUTES[name].index(value) for value in values]
        result &= np.isin(codes[:, NAMES.index(name)], places)
    return result


def box_of(concept: Concept) -> Box:
    """Return a concept of fixed values as a box."""
    return tuple((name, (value,)) for name, value in concept)


def overlaps(truths: np.ndarray, words: np.ndarray) -> Tensor:
    """Return the IoU of regions [M, S] and [C, S], [M, C]."""
    left, right = (torch.from_numpy(part.astype(np.float32)) for part in (truths, words))
    both = left @ right.T
    return both / (left.sum(1, keepdim=True) + right.sum(1) - both).clamp(min=1)


@cache
def words_of(widest: int, categories: bool) -> tuple[Box, ...]:
    """Return the vocabulary's boxes: concepts of up to `widest` values, then categories and their pairs."""
    words = [box_of(concept) for concept in base.vocabulary(widest)]
    if categories:
        words += [(part,) for part in CATEGORIES.values()]
        for part in CATEGORIES.values():
            others = [(name, (value,)) for name in NAMES if name != part[0] for value in ATTRIBUTES[name]]
            words += [tuple(sorted((part, other), key=lambda p: NAMES.index(p[0]))) for other in others]
    return tuple(words)


@cache
def word_regions(widest: int, categories: bool) -> np.ndarray:
    """Return the regions of the vocabulary, with the unrelated words' empty ones at the end, [C, 9216]."""
    rows = [inside(all_codes(), box) for box in words_of(widest, categories)]
    return np.array([*rows, *[np.zeros(len(all_codes()), dtype=bool)] * base.UNRELATED])


def relative(overlap: Tensor) -> Tensor:
    """Return overlaps as shares of the best one that any label has."""
    return overlap / overlap.amax(1, keepdim=True).clamp(min=1e-9)


# --- neurons --------------------------------------------------------------------------------------------------------


def draw_neurons(seed: int, categories: bool) -> list[Neuron]:
    """Draw the neurons of a seed."""
    rng = np.random.default_rng((seed, 31))
    singles = [(name, value) for name in NAMES for value in ATTRIBUTES[name]]

    def pick(options: Sequence[_Option], count: int) -> list[_Option]:
        return [options[i] for i in rng.permutation(len(options))[:count]]

    whole = all_codes()
    nothing = np.zeros(len(whole), dtype=bool)
    rows: list[tuple[str, np.ndarray, np.ndarray]] = []
    members = [(name, value) for name, values in CATEGORIES.values() for value in values]
    for name, value in pick(members, 5):
        rows.append(("single", inside(whole, ((name, (value,)),)), nothing))
    pairs = [(a, b) for a, b in combinations(singles, 2) if a[0] != b[0]]
    for a, b in pick(pairs, 5):
        left, right = (inside(whole, ((name, (value,)),)) for name, value in (a, b))
        rows.append(("pair", left & right, left ^ right))
    if categories:
        for part in pick(list(CATEGORIES.values()), 5):
            rows.append(("category", inside(whole, (part,)), nothing))
        options = [(part, other) for part in CATEGORIES.values() for other in singles if other[0] != part[0]]
        for part, (name, value) in pick(options, 5):
            left, right = inside(whole, (part,)), inside(whole, ((name, (value,)),))
            rows.append(("category pair", left & right, left ^ right))
    alike = [(a, b) for a, b in combinations(singles, 2) if a[0] == b[0] and len(ATTRIBUTES[a[0]]) > 3]
    for a, b in [*pick(alike, 3), *pick(pairs, 2)]:
        left, right = (inside(whole, ((name, (value,)),)) for name, value in (a, b))
        rows.append(("or", left | right, nothing))
    for a, b in pick(pairs, 5):
        left, right = (inside(whole, ((name, (value,)),)) for name, value in (a, b))
        rows.append(("and-not", left & ~right, left & right))
    result = []
    for what, truth, half in rows:
        shown = [single for single in singles if 0.05 < inside(whole[truth], (_part(single),)).mean() < 0.6]
        result.append(Neuron(what, (truth, half), shown[int(rng.integers(len(shown)))]))
    return result


def _part(single: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    return single[0], (single[1],)


def fire(neurons: Sequence[Neuron], codes: np.ndarray, seed: int, kind: str) -> Tensor:
    """Return the activations of neurons on images of these value numbers, [M, N]."""
    rng = np.random.default_rng((seed, 32, FIRING.index(kind)))
    counts = [len(values) for values in ATTRIBUTES.values()]
    places = np.ravel_multi_index(codes.T, counts)
    rows = []
    for neuron in neurons:
        truth, half = (region[places] for region in neuron.regions)
        strength = rng.uniform(0.4, 1.0, len(codes))
        if kind == "favorite":
            best = inside(codes, (_part(neuron.favorite),))
            strength = np.where(best, rng.uniform(0.7, 1.0, len(codes)), rng.uniform(0.2, 0.5, len(codes)))
        fired = truth * strength + rng.normal(0, 0.05, len(codes))
        if kind == "leaky":
            fired += half * rng.uniform(0, 0.3, len(codes))
            fired += (rng.random(len(codes)) < 0.01) * rng.uniform(0, 0.7, len(codes))
        rows.append(np.maximum(fired, 0))
    return torch.from_numpy(np.array(rows)).float()


# --- images and words -----------------------------------------------------------------------------------------------


def load_even(folder: Path, pool: Pool, seed: int, sizes: Sizes) -> tuple[np.ndarray, Tensor]:
    """Return value numbers and embeddings of images that show every combination alike, from the cache if there."""
    rng = np.random.default_rng((seed, 33))
    count = min(_IMAGES, 20 * sizes.plain)
    codes = all_codes()[rng.integers(len(all_codes()), size=count)]
    file = folder / f"even-{seed}-{hashlib.sha256(codes.tobytes()).hexdigest()[:12]}.npy"
    if not file.exists():
        scenes = [Scene(*(ATTRIBUTES[name][i] for name, i in zip(NAMES, row, strict=True))) for row in codes]
        embeddings, _ = base._pass_images(scenes, np.zeros(count), seed, 500_000)
        draft = file.with_suffix(".draft.npy")
        np.save(draft, embeddings)
        draft.rename(file)
    return codes, normalize(torch.from_numpy(np.load(file)).float(), dim=1)


def _category_model(codes: np.ndarray, seed: int, noise: float) -> tuple[Tensor, Tensor, float]:
    """Embed images and words linearly, as the family `sum` does, with categories."""
    rng = torch.Generator().manual_seed(seed + 177)
    width = 128
    values = [(name, value) for name, options in ATTRIBUTES.items() for value in options]
    place = {value: i for i, value in enumerate(values)}
    directions = normalize(torch.randn(len(values), width, generator=rng), dim=1)
    directions *= (0.7 + 0.6 * torch.rand(len(values), generator=rng))[:, None]
    own = normalize(torch.randn(len(CATEGORIES), width, generator=rng), dim=1)
    for row, (name, members) in zip(own, CATEGORIES.values(), strict=True):
        directions[[place[(name, member)] for member in members]] += _SHARED * row
    pairs = 0.35 * normalize(torch.randn(len(values), len(values), width, generator=rng), dim=2)
    first = np.array([place[(name, ATTRIBUTES[name][0])] for name in NAMES])
    columns = torch.from_numpy(codes + first)
    images = directions[columns].sum(1)
    for left, right in combinations(range(len(NAMES)), 2):
        images += pairs[columns[:, left], columns[:, right]]
    gap = normalize(torch.randn(width, generator=rng), dim=0)
    images = normalize(images, dim=1) + noise * torch.randn(images.shape, generator=rng) / width**0.5 + 0.4 * gap
    places = {part: i for i, part in enumerate(CATEGORIES.values())}
    rows = []
    for box in words_of(2, True):
        groups = [[place[(name, value)] for value in members] for name, members in box]
        total = torch.stack([directions[group].mean(0) for group in groups]).sum(0)
        for part in box:
            total = total + (_OWN * own[places[part]] if part in places else 0.0)
        if len(groups) == 2:
            total = total + pairs[groups[0]][:, groups[1]].mean((0, 1))
        rows.append(total)
    texts = normalize(torch.stack(rows), dim=1)
    texts = texts + 0.25 * torch.randn(texts.shape, generator=rng) / width**0.5 - 0.4 * gap
    return normalize(images, dim=1), normalize(texts, dim=1), 25.0


# --- worlds ---------------------------------------------------------------------------------------------------------


def category_world(folder: Path, pool: Pool, seed: int, bias: float, family: str, sizes: Sizes) -> Graded:
    """Compose a world of round three, with the neurons of every way to fire one after another."""
    even_codes, even = load_even(folder, pool, seed, sizes)
    plain = np.flatnonzero(pool.group == -1)
    rng = np.random.default_rng((seed, 34))
    common = rng.permutation(plain)[: round(bias * len(even))]
    rest = len(even) - len(common)
    codes = np.concatenate([even_codes[:rest], pool.codes[common]])
    torch_rng = torch.Generator().manual_seed(seed + 9)
    categories = family.startswith("sum")
    if categories:
        vectors, texts, scale = _category_model(codes, seed, 0.7 if family.endswith("noisy") else 0.3)
    else:
        vectors = torch.cat([even[:rest], pool.embeddings[common]])
        texts, scale = base._clip_texts(2)
    if family == "clip-noisy":
        vectors = base._disturb(vectors, torch_rng)
    texts = torch.cat([texts, base._unrelated(texts, torch_rng)])
    neurons = draw_neurons(seed, categories)
    overlap = overlaps(np.array([n.regions[0] for n in neurons]), word_regions(2, categories))
    agreement, best = relative(overlap), overlap.amax(1).repeat(len(FIRING))
    activations = torch.cat([fire(neurons, codes, seed, kind) for kind in FIRING])
    live = activations.gt(0.3).sum(1) >= 5  # a combination that hardly any image shows says nothing
    cells = [("categories", family, "2", kind, f"{bias}", neuron.what) for kind in FIRING for neuron in neurons]
    agreement = agreement.repeat(len(FIRING), 1)[live]
    world = World(vectors, activations[live], texts, scale, agreement.argmax(1), torch.ones(len(agreement)).long())
    cells = [cell for cell, alive in zip(cells, live.tolist(), strict=True) if alive]
    return Graded(world, agreement, cells, best[live])


def attribute_world(pool: Pool, seed: int, bias: float, family: str, widest: int) -> Graded:
    """Return a world of rounds one and two with graded truth, its leaky and its trained neurons one after another."""
    worlds = [base.make_world(pool, seed, bias, family, kind, widest) for kind in FIRED]
    concepts = [concept for concept in pool.design.concepts if len(concept) <= widest]
    truths = np.array([inside(all_codes(), box_of(concept)) for concept in concepts])
    agreement = overlaps(truths, word_regions(widest, False)).repeat(len(worlds), 1)
    cells = [
        ("attributes", family, f"{widest}", kind, f"{bias}", f"arity {len(concept)}")
        for kind in FIRED
        for concept in concepts
    ]
    first = worlds[0]
    joint = torch.cat([world.activations for world in worlds])
    truth, arity = (torch.cat([getattr(world, name) for world in worlds]) for name in ("truth", "arity"))
    world = World(first.vectors, joint, first.texts, first.scale, truth, arity)
    return Graded(world, agreement, cells, torch.ones(len(agreement)))
