"""How often `csp-index facets` divides neurons of two meanings rightly, and leaves those of one meaning whole.

    python scripts/method_search/split_meanings.py OUT --seeds 10 11 12

In the worlds of `search_worlds.py` (embeddings drawn from a linear model; rendered scenes through the demo's encoder
and network) neurons follow one planted concept each, or two: their activation is the larger of the two concepts'.
Concepts that share a value ("blue on beige" and "white on beige") are not joined, as they have one meaning and a half.
Each world becomes an index of arrays, and its facets are those that the index stores. A neuron of two meanings is
divided rightly if it has two facets, each with at least nine in ten of its images (of those that show only one of the
meanings) of its own meaning.

Seed 0 chose the numbers in `csp_index/studies/meanings`: other seeds judge them. Pools are kept in OUT, and used again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from search_worlds import Pool, Sizes, World, load_pool, make_world, matches, vocabulary

from csp_index import CandidateTexts, open_index
from csp_index.studies.meanings.facets import NeuronFacets

FAMILIES = ("sum", "sum-noisy", "clip", "clip-noisy")
_PURE = 0.9
_ROUNDS = 1000  # of drawing pairs
_WIDEST = 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One world: how many neurons of one meaning were divided, and how many of two rightly."""

    name: str
    whole: int
    one: int
    right: int
    two: int


def judge(pool: Pool, seed: int, bias: float, family: str, kind: str, pairs: int) -> Cell:
    """Return what the facets of one world are worth."""
    world = make_world(pool, seed, bias, family, kind, _WIDEST)
    concepts = [dict(vocabulary(_WIDEST)[place]) for place in world.truth.tolist()]
    codes = _codes(pool, seed, bias)
    shown = np.stack([matches(codes, tuple(concept.items())) == 1 for concept in concepts])
    chosen = _pairs(concepts, pairs, seed)
    both = [torch.maximum(world.activations[one], world.activations[two]) for one, two in chosen]
    found = _facets(world, torch.cat([world.activations, torch.stack(both)]))
    single = found[: len(concepts)]
    right = [_is_right(one, shown[list(pair)]) for one, pair in zip(found[len(concepts) :], chosen, strict=True)]
    whole = sum(len(one.facets) == 1 for one in single)
    return Cell(f"{seed}\t{family}\t{bias}\t{kind}", whole, len(single), sum(right), len(right))


def _codes(pool: Pool, seed: int, bias: float) -> np.ndarray:
    """Return the value numbers of the world's images, chosen as `make_world` does."""
    chosen = [np.flatnonzero(pool.group == -1)]
    for number in range(len(pool.design.concepts)):
        with_look = np.flatnonzero((pool.group == number) & pool.biased)
        without = np.flatnonzero((pool.group == number) & ~pool.biased)
        count = round(bias * len(with_look))
        chosen += [with_look[:count], without[: len(with_look) - count]]
    codes: np.ndarray = pool.codes[np.random.default_rng((seed, 3)).permutation(np.concatenate(chosen))]
    return codes


def _pairs(concepts: list[dict[str, str]], count: int, seed: int) -> list[tuple[int, int]]:
    """Draw pairs of concepts that share no value."""
    rng, found = np.random.default_rng((seed, 9)), set[tuple[int, int]]()
    for _ in range(_ROUNDS):
        one, two = sorted(rng.choice(len(concepts), 2, replace=False).tolist())
        if len(found) < count and not concepts[one].items() & concepts[two].items():
            found.add((one, two))
    return sorted(found)


def _facets(world: World, activations: torch.Tensor) -> list[NeuronFacets]:
    """Return the facets of all neurons, as an index stores them."""
    names = tuple(f"text {place}" for place in range(len(world.texts)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        np.save(root / "E.npy", world.vectors.numpy())
        np.save(root / "A.npy", activations.T.contiguous().numpy())
        index = open_index(root / "db")
        index.import_arrays(root / "A.npy", "m/l", embeddings=root / "E.npy", logit_scale=world.scale)
        return index.facets("m/l", vocabulary=CandidateTexts(names, world.texts, key="world")).neurons()


def _is_right(found: NeuronFacets, shown: np.ndarray) -> bool:
    """Return whether two facets are the two meanings, whose images are `shown` [2, N]."""
    if len(found.facets) != 2:
        return False
    shares = []
    for facet in found.facets:
        own = shown[:, list(facet.images)]
        alone = own[0] != own[1]
        shares.append(own[0, alone].mean() if alone.any() else 0.5)
    return max(shares) >= _PURE and min(shares) <= 1 - _PURE


def main() -> None:
    """Print a line per world, and the shares over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where pools of images are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--biases", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--kinds", nargs="+", default=["analytic", "leaky", "cnn"])
    parser.add_argument("--pairs", type=int, default=30, help="neurons of two meanings in a world")
    parser.add_argument("--carriers", type=int, default=Sizes().carriers, help="images of a planted concept")
    parser.add_argument("--plain", type=int, default=Sizes().plain, help="images without one")
    options = parser.parse_args()
    cells = []
    print("seed\tfamily\tbias\tneurons\tone left whole\ttwo divided rightly")
    for seed in options.seeds:
        pool = load_pool(options.out, seed, Sizes(plain=options.plain, carriers=options.carriers))
        for family in options.families:
            for bias in options.biases:
                for kind in options.kinds:
                    cell = judge(pool, seed, bias, family, kind, options.pairs)
                    cells.append(cell)
                    print(f"{cell.name}\t{cell.whole}/{cell.one}\t{cell.right}/{cell.two}", flush=True)
    for family in options.families:
        own = [cell for cell in cells if f"\t{family}\t" in cell.name]
        split = 1 - sum(cell.whole for cell in own) / sum(cell.one for cell in own)
        right = sum(cell.right for cell in own) / sum(cell.two for cell in own)
        print(f"{family}: {100 * split:.1f} % of one meaning divided, {100 * right:.1f} % of two divided rightly")


if __name__ == "__main__":
    main()
