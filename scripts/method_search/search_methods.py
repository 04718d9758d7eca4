"""Search a scoring method that holds under biased probing data, and judge the chosen one once on fresh worlds.

    python scripts/method_search/search_methods.py --cache DIR --development 0-5 --fresh 100-103 [--quick] [--out DIR]

Every variant of `search_variants.py` labels the neurons of every world (`search_worlds.py`): seeds x biases 0, .5, .9,
1 x encoders clean and noisy, rendered and drawn x analytic, leaky and trained neurons x vocabularies of singles and
pairs, and with all triples. A *cell* is one combination of these and of the truth's arity, over all seeds.

The rule, fixed beforehand: of the candidates take the one with the highest mean over the worst tenth of the
development cells; ties within .002 go to the higher mean over all cells. It, the known methods and two simpler forms
of it then see the fresh seeds once. `table.md` and `results.json` in --out (default: the cache) hold all variants.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from search_graded import search
from search_variants import CANDIDATES, KNOWN, Sight, Variant, top1
from search_worlds import BIASES, NEURONS, QUICK, Sizes, load_pool, make_world

#: LoadedEncoder family and arity of the widest label.
SETTINGS: Final = (("clip", 2), ("clip", 3), ("clip-noisy", 2), ("sum", 2), ("sum", 3), ("sum-noisy", 2))
#: Judged beside the chosen method, to show what its parts buy.
ABLATIONS: Final = ("odds m=50", "odds m=50 x linear")
#: family, widest label, neurons, bias, arity of the truth
Cell: TypeAlias = tuple[str, int, str, float, int]
#: variant -> cell -> a truth value a neuron
Results: TypeAlias = dict[str, dict[Cell, list[bool]]]


def measure(cache: Path, seeds: Iterable[int], variants: Mapping[str, Variant], sizes: Sizes) -> Results:
    """Label all neurons of all worlds of these seeds by all variants."""
    found: Results = {name: defaultdict(list) for name in variants}
    settings, biases = (SETTINGS[::3], (0.9,)) if sizes == QUICK else (SETTINGS, BIASES)
    for seed in seeds:
        pool, start = load_pool(cache, seed, sizes), time.monotonic()
        for family, widest in settings:
            for neurons in NEURONS:
                for bias in biases:
                    world = make_world(pool, seed, bias, family, neurons, widest)
                    for name, hits in top1(Sight(world), world.truth, dict(variants)).items():
                        for arity, hit in zip(world.arity.tolist(), hits, strict=True):
                            found[name][(family, widest, neurons, bias, arity)].append(hit)
        print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    return found


def shares(cells: Mapping[Cell, list[bool]]) -> dict[Cell, float]:
    """Return the share of right labels in every cell."""
    return {cell: float(np.mean(hits)) for cell, hits in cells.items()}


def worst_tenth(cells: Mapping[Cell, list[bool]]) -> float:
    """Return the mean over the worst tenth of the cells."""
    values = sorted(shares(cells).values())
    return float(np.mean(values[: max(1, len(values) // 10)]))


def choose(found: Results) -> str:
    """Apply the rule to the candidates."""
    ranks = {name: worst_tenth(found[name]) for name in found if name in CANDIDATES}
    best = max(ranks.values())
    tied = [name for name, rank in ranks.items() if rank >= best - 0.002]
    return max(tied, key=lambda name: float(np.mean(list(shares(found[name]).values()))))


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"


def summary(found: Results) -> str:
    """Write the table of all variants: mean, worst cell, worst tenth, and means over families, biases and arities."""
    columns = [f"{family} {widest}" for family, widest in SETTINGS]
    heads = ["mean", "worst", "worst tenth", *columns, *NEURONS, *(f"b {b}" for b in BIASES), "k1", "k2", "k3"]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, cells in found.items():
        known = shares(cells)
        row = [_mean(list(known.values())), f"{min(known.values()):.2f}", f"{worst_tenth(cells):.3f}"]
        row += [_mean([v for c, v in known.items() if c[:2] == setting]) for setting in SETTINGS]
        for place, options in ((2, NEURONS), (3, BIASES), (4, (1, 2, 3))):
            row += [_mean([v for c, v in known.items() if c[place] == option]) for option in options]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def by_cell(found: Results, names: Sequence[str]) -> str:
    """Write every cell of some variants: a line a cell with the number of neurons."""
    lines = ["| cell | n | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for cell in found[names[0]]:
        family, widest, neurons, bias, arity = cell
        values = [f"{np.mean(found[name][cell]):.2f}" for name in names]
        label = f"{family}, labels to {widest}, {neurons}, bias {bias}, arity {arity}"
        lines.append(f"| {label} | {len(found[names[0]][cell])} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def merge(parts: Sequence[Results]) -> Results:
    """Join the results of several seeds."""
    found: Results = {}
    for part in parts:
        for name, cells in part.items():
            held = found.setdefault(name, {})
            for cell, hits in cells.items():
                held.setdefault(cell, []).extend(hits)
    return found


def spread(parts: Mapping[int, Results], names: Sequence[str]) -> str:
    """Write the mean over cells by seed."""
    lines = ["| method | " + " | ".join(f"seed {seed}" for seed in parts) + " |", "|---" * (len(parts) + 1) + "|"]
    for name in names:
        values = [_mean(list(shares(part[name]).values())) for part in parts.values()]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def as_json(found: Results) -> dict[str, list[dict[str, object]]]:
    """Return results as plain rows."""
    names = ("family", "widest", "neurons", "bias", "arity")
    return {
        name: [dict(zip(names, cell, strict=True), right=sum(hits), n=len(hits)) for cell, hits in cells.items()]
        for name, cells in found.items()
    }


def seeds_of(text: str) -> list[int]:
    """Read `0-5` or `3`.

    >>> seeds_of("0-2")
    [0, 1, 2]
    """
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, choose, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the rendered pools")
    parser.add_argument("--development", default="0-5", help="seeds that choose, as FIRST-LAST")
    parser.add_argument("--fresh", default="100-103", help="seeds that judge, as FIRST-LAST")
    parser.add_argument("--out", type=Path, help="folder of table.md and results.json (default: the cache)")
    parser.add_argument("--graded", action="store_true", help="round three: graded truth, categories, real pictures")
    parser.add_argument("--real", type=Path, help="folder of real-picture arrays that choose (implies --graded)")
    parser.add_argument("--fresh-real", type=Path, help="folder of real-picture arrays that judge (implies --graded)")
    parser.add_argument("--quick", action="store_true", help="tiny pools: shows that it runs, not what is better")
    options = parser.parse_args(arguments)
    seeds, fresh = seeds_of(options.development), seeds_of(options.fresh)
    if set(seeds) & set(fresh):
        parser.error(f"--fresh {options.fresh} shares seeds with --development {options.development}")
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    if options.graded or options.real or options.fresh_real:
        out = options.out or options.cache
        search(options.cache, out, (seeds, fresh), (options.real, options.fresh_real), sizes)
        return
    variants = {**KNOWN, **CANDIDATES}
    development = {seed: measure(options.cache, [seed], variants, sizes) for seed in seeds}
    chosen = choose(merge(list(development.values())))
    names = list(dict.fromkeys([*KNOWN, *ABLATIONS, chosen]))
    judged = {seed: measure(options.cache, [seed], {n: variants[n] for n in names}, sizes) for seed in fresh}
    write(options.out or options.cache, chosen, names, development, judged)


def write(
    out: Path, chosen: str, names: Sequence[str], development: Mapping[int, Results], judged: Mapping[int, Results]
) -> None:
    """Write table.md and results.json."""
    all_of, fresh = merge(list(development.values())), merge(list(judged.values()))
    text = [
        f"# Chosen: {chosen}",
        f"## Development, seeds {min(development)}-{max(development)}: all variants",
        summary(all_of),
        spread(development, names),
        f"## Fresh, seeds {min(judged)}-{max(judged)}: judged once",
        summary(fresh),
        spread(judged, names),
        "## Fresh, every cell",
        by_cell(fresh, names),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n\n".join(text) + "\n")
    results = {"chosen": chosen, "development": as_json(all_of), "fresh": as_json(fresh)}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"chosen: {chosen}; written to {out / 'table.md'} and {out / 'results.json'}", flush=True)


if __name__ == "__main__":
    main()
