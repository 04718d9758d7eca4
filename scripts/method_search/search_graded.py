"""Measure the candidates of round three with graded truth, on drawn worlds and real pictures; choose; judge once.

A *cell* is (part, family, vocabulary, kind of neuron, bias, what); its value is the mean agreement of the chosen labels
with the truth, 1 for the best word of the vocabulary. `part` is `attributes` (worlds of rounds one and two),
`categories` (`search_categories.py`) or `real` (`search_real.py`). The rule is in `search_methods.md`.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from search_breadth import FullSight, FullVariant
from search_candidates import BROAD, OWN, PUBLISHED
from search_categories import WHAT, Graded, attribute_world, category_world
from search_real import REAL_FAMILIES, REAL_VOCABULARIES, array_files, read_pictures
from search_worlds import FAMILIES, NEURONS, Sizes, load_pool

#: Family, widest label and bias of the worlds of rounds one and two; family and bias of those with categories.
ATTRIBUTES: Final[Sequence[tuple[str, int, float]]] = (
    ("clip", 3, 0.9),
    ("clip-noisy", 2, 0.9),
    ("sum-noisy", 2, 0.0),
    ("sum", 3, 0.9),
)
CATEGORIES: Final[Sequence[tuple[str, float]]] = (("clip", 0.5), ("sum-noisy", 0.5), ("sum", 0.5), ("sum", 0.0))
PARTS: Final = ("attributes", "categories", "real")
ALL: Final[Mapping[str, FullVariant]] = {**PUBLISHED, **OWN, **BROAD}
#: Words of a cell that get a column of the table.
COLUMNS: Final = (*FAMILIES, *REAL_FAMILIES, *REAL_VOCABULARIES, "unbiased", "biased", *WHAT, *NEURONS, "favorite")
_RIGHT: Final = 0.999

Cell: TypeAlias = tuple[str, ...]
Seeds: TypeAlias = tuple[Sequence[int], Sequence[int]]
Pictures: TypeAlias = tuple[Path | None, Path | None]
#: variant -> cell -> agreement of each neuron's label
Grades: TypeAlias = dict[str, dict[Cell, list[float]]]


def drawn_worlds(cache: Path, seeds: Iterable[int], sizes: Sizes) -> Iterator[Graded]:
    """Yield the drawn worlds of these seeds; each seed has half of the settings, even and odd ones in turn."""
    for seed in seeds:
        pool, start, some = load_pool(cache, seed, sizes), time.monotonic(), slice(seed % 2, None, 2)
        for family, widest, bias in ATTRIBUTES[some]:
            yield attribute_world(pool, seed, bias, family, widest)
        for family, bias in CATEGORIES[some]:
            yield category_world(cache, pool, seed, bias, family, sizes)
        print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)


def grade(worlds: Iterable[Graded], variants: Mapping[str, FullVariant]) -> Grades:
    """Label all neurons of all worlds by all variants and grade the labels."""
    grades: Grades = {name: defaultdict(list) for name in variants}
    for graded in worlds:
        sight = FullSight(graded.world)
        for name, variant in variants.items():
            scores = variant(sight)
            if not bool(scores.isfinite().all()):
                raise ValueError(f"{name} returned scores that are not finite in {graded.cells[0]}")
            values = graded.agreement.gather(1, scores.argmax(1, keepdim=True))[:, 0].tolist()
            for cell, value in zip(graded.cells, values, strict=True):
                grades[name][cell].append(value)
    return grades


def means(cells: Mapping[Cell, Sequence[float]], part: str | None = None) -> list[float]:
    """Return the mean agreement of every cell, of one part or all."""
    return [float(np.mean(values)) for cell, values in cells.items() if part in (None, cell[0])]


def exact(cells: Mapping[Cell, Sequence[float]], part: str) -> float:
    """Return the mean over a part's cells of the share of neurons that got the best word."""
    shares = [float(np.mean(np.array(v) >= _RIGHT)) for cell, v in cells.items() if cell[0] == part]
    return float(np.mean(shares or [np.nan]))


def worst_tenth(cells: Mapping[Cell, Sequence[float]], part: str | None = None) -> float:
    """Return the mean over the worst tenth of the cells."""
    values = sorted(means(cells, part))
    return float(np.mean(values[: max(1, len(values) // 10)])) if values else float("nan")


def overall(cells: Mapping[Cell, Sequence[float]]) -> float:
    """Return what the rule maximizes: half the mean of the two drawn parts, half that of the two real families."""
    real = {cell: values for cell, values in cells.items() if cell[0] == "real"}
    halves = [
        [means(cells, part) for part in PARTS[:2]],
        [means({c: v for c, v in real.items() if c[1] == family}) for family in REAL_FAMILIES],
    ]
    present = [[float(np.mean(part)) for part in half if part] for half in halves]
    return float(np.mean([np.mean(half) for half in present if half]))


def choose(grades: Grades) -> str:
    """Apply the rule: the highest overall mean among those whose worst tenth no published method exceeds."""
    least = max(worst_tenth(grades[name]) for name in grades if name in PUBLISHED)
    allowed = [name for name in grades if name in BROAD and worst_tenth(grades[name]) >= least]
    if not allowed:
        raise ValueError("no candidate's worst tenth reaches that of the published methods")
    return max(allowed, key=lambda name: overall(grades[name]))


def table(grades: Grades, columns: Sequence[str] = COLUMNS) -> str:
    """Write one row for each variant: the rule's figures, each part's, then means over cells that have a word."""
    heads = ["overall", "worst tenth"]
    parts = [part for part in PARTS if any(cell[0] == part for cell in next(iter(grades.values())))]
    for part in parts:
        heads += [part, f"{part} exact", f"{part} worst tenth"]
    columns = [word for word in columns if any(word in cell for cell in next(iter(grades.values())))]
    heads += columns
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, cells in sorted(grades.items(), key=lambda item: -overall(item[1])):
        row = [overall(cells), worst_tenth(cells)]
        for part in parts:
            row += [float(np.mean(means(cells, part))), exact(cells, part), worst_tenth(cells, part)]
        row += [float(np.mean([np.mean(v) for cell, v in cells.items() if word in cell])) for word in columns]
        lines.append(f"| {name} | " + " | ".join("-" if np.isnan(v) else f"{v:.3f}" for v in row) + " |")
    return "\n".join(lines)


def merged(parts: Iterable[Grades]) -> Grades:
    """Join the grades of several runs."""
    result: Grades = {}
    for part in parts:
        for name, cells in part.items():
            kept = result.setdefault(name, defaultdict(list))
            for cell, values in cells.items():
                kept[cell].extend(values)
    return result


def save(file: Path, grades: Grades) -> None:
    """Write grades as JSON: method -> [cell, agreement of each neuron's label]."""
    rows = {
        name: [[*cell, [round(value, 4) for value in values]] for cell, values in cells.items()]
        for name, cells in grades.items()
    }
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(rows) + "\n")
    draft.rename(file)


def load(file: Path) -> Grades:
    """Read grades."""
    rows = json.loads(file.read_text())
    return {name: {tuple(row[:-1]): row[-1] for row in cells} for name, cells in rows.items()}


def kept(file: Path, variants: Mapping[str, FullVariant], worlds: Callable[[], Iterable[Graded]]) -> Grades:
    """Return the grades in a file, or make and write them where it lacks a variant.

    Nothing notices that a formula or a world has changed: remove the files after such a change.
    """
    if file.exists() and set(variants) <= set(grades := load(file)):
        return {name: grades[name] for name in variants}
    grades = grade(worlds(), variants)
    save(file, grades)
    return grades


def of_seeds(out: Path, cache: Path, seeds: Iterable[int], variants: Mapping[str, FullVariant], sizes: Sizes) -> Grades:
    """Return the grades of the drawn worlds of some seeds; each seed's are kept in `out`."""
    files = [(seed, out / f"grades-drawn-{seed}.json") for seed in seeds]
    return merged(kept(file, variants, partial(drawn_worlds, cache, [seed], sizes)) for seed, file in files)


def of_pictures(out: Path, folder: Path | None, variants: Mapping[str, FullVariant]) -> Grades:
    """Return the grades of real pictures; each array file's are kept in `out`."""
    files = [] if folder is None else array_files(folder)
    return merged(kept(out / f"grades-real-{file.stem}.json", variants, partial(read_pictures, file)) for file in files)


def search(cache: Path, out: Path, seeds: Seeds, pictures: Pictures, sizes: Sizes) -> None:
    """Grade all variants on development data, choose, judge the chosen one once on fresh data, and write tables.

    `seeds` and `pictures` are pairs, (development, fresh).
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "fresh").mkdir(exist_ok=True)
    development = merged([of_seeds(out, cache, seeds[0], ALL, sizes), of_pictures(out, pictures[0], ALL)])
    chosen = choose(development)
    names = list(dict.fromkeys([*PUBLISHED, *OWN, chosen]))
    judges = {name: ALL[name] for name in names}
    fresh = merged(
        [of_seeds(out / "fresh", cache, seeds[1], judges, sizes), of_pictures(out / "fresh", pictures[1], judges)]
    )
    text = [
        f"# Chosen: {chosen}",
        "## Development: all variants",
        table(development),
        "## Fresh: judged once",
        table(fresh),
    ]
    (out / "graded.md").write_text("\n\n".join(text) + "\n")
    save(out / "development.json", development)
    save(out / "judged.json", fresh)
    print(f"chosen: {chosen}; written to {out / 'graded.md'}", flush=True)
