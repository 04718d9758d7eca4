"""Do broader words find what the demo's neurons detect, where every label is too narrow?

    csp-index demo csp-demo
    python scripts/demo_hierarchy.py csp-demo OUT

OUT receives copies of the demo's indexes, a hierarchy with each pair of concepts ("red star") below both of its words,
and a vocabulary of pairs alone. The neurons are labeled with that vocabulary, and their labels put into the hierarchy.
The table has, by set and by kind of planted neuron, how many labels and how many levels are the planted words.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

from csp_index import open_index
from csp_index.demo.network import PLANTED
from csp_index.demo.run import KINDS, LAYER
from csp_index.demo.world import ATTRIBUTES, VOCABULARY


def main() -> None:
    """Label, group, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table, pairs = options.out / "words.csv", pairs_of(VOCABULARY)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("child", "parent"), *hierarchy_rows()])
    print("| set | planted | neurons | label is the planted word | level is |")
    print("| --- | --- | --- | --- | --- |")
    for bias in ("biased", "unbiased"):
        shutil.copytree(options.demo / f"{bias}.db", options.out / f"{bias}.db", dirs_exist_ok=True)
        index = open_index(options.out / f"{bias}.db")
        index.label(LAYER, vocabulary=pairs, templates="none")
        rows = index.hierarchy(LAYER, table).rows
        for kind in KINDS:
            own = [(rows[planted.index], planted.concept) for planted in PLANTED if planted.kind == kind]
            right = [sum(row[name] == concept for row, concept in own) for name in ("label", "level_title")]
            print(f"| {bias} | {kind} | {len(own)} | {right[0]} | {right[1]} |", flush=True)


def single_words() -> dict[str, str]:
    """Return the attribute of each single concept."""
    return {
        f"{value} background" if name in ("background", "pattern") else value: name
        for name, values in ATTRIBUTES.items()
        for value in values
    }


def pairs_of(vocabulary: tuple[str, ...]) -> list[str]:
    """Return the texts that name two concepts."""
    return [text for text in vocabulary if text not in single_words()]


def hierarchy_rows() -> Iterator[tuple[str, str]]:
    """Yield child and parent: single concepts below their attribute, pairs below their concepts."""
    singles = single_words()
    yield from singles.items()
    for text in pairs_of(VOCABULARY):
        yield from ((text, word) for word in singles if f" {word} " in f" {text} ")


if __name__ == "__main__":
    main()
