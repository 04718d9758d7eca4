"""Concept hierarchies: broader and narrower words, from a table of child,parent or WordNet's own `data.noun`.

Knows nothing about neurons. A node is a concept with one or more names; a name may belong to several nodes (its
senses). Every method considers all senses of a name, and the best one counts. Texts are compared in their normal form,
see `normal_text`.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from csp_index.errors import EvaluationError, one_line
from csp_index.files.regular_files import read_bytes, user_path
from csp_index.settings import MAX_TEXT_BYTES

Relation = Literal["same", "broader", "narrower", "sibling", "other", "unknown"]

#: The start of a line of WordNet's data files: synset_offset, lex_filenum, ss_type, w_cnt.
_SYNSET = re.compile(rb"\d{8} \d{2} [nvasr] [0-9a-fA-F]{2} ")
_HYPERNYM = ("@", "@i")
_SHOWN = 6  # names of a cycle in its error


def normal_text(text: str) -> str:
    """Return the form in which texts are compared: case folded; underscores, hyphens and runs of spaces are one space.

    >>> normal_text("  Red_STAR "), normal_text("man-of-war")
    ('red star', 'man of war')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


class Hierarchy:
    """Concepts and their broader concepts; a node may have several parents.

    `names` [nodes] are each node's names, of which the first is its title, and `parents` [nodes] the indices of its
    parents. Errors: EvaluationError for a node among its own ancestors; `where` names the source in the message.
    """

    def __init__(
        self, names: Sequence[Sequence[str]], parents: Sequence[Sequence[int]], where: str = "the hierarchy"
    ) -> None:
        self._names = names
        self._parents = parents
        self._children: list[list[int]] = [[] for _ in names]
        for child, broader in enumerate(parents):
            for parent in broader:
                self._children[parent].append(child)
        self._nodes_of: dict[str, list[int]] = {}
        for node, own in enumerate(names):
            for key in {normal_text(name) for name in own}:
                self._nodes_of.setdefault(key, []).append(node)
        self._refuse_cycles(where)
        self._depth = self._depths()

    def __len__(self) -> int:
        return len(self._names)

    def has(self, text: str) -> bool:
        """Return whether a node has this name."""
        return normal_text(text) in self._nodes_of

    def names(self, text: str) -> tuple[str, ...]:
        """Return all names of the text's nodes: the text and its synonyms; empty for an unknown text."""
        return tuple(dict.fromkeys(name for node in self.nodes(text) for name in self._names[node]))

    def parents(self, text: str) -> tuple[str, ...]:
        """Return the titles of the directly broader nodes, over all senses."""
        return self._titles(parent for node in self.nodes(text) for parent in self._parents[node])

    def children(self, text: str) -> tuple[str, ...]:
        """Return the titles of the directly narrower nodes, over all senses."""
        return self._titles(child for node in self.nodes(text) for child in self._children[node])

    def ancestors(self, text: str) -> tuple[str, ...]:
        """Return the titles of all broader nodes, nearest first."""
        return self._titles(node for node, steps in self.above(text).items() if steps)

    def depth(self, text: str) -> float:
        """Return the number of nodes on the shortest path to a root, 1 for a root; NaN for an unknown text."""
        return float(min((self._depth[node] for node in self.nodes(text)), default=math.nan))

    def similarity(self, a: str, b: str) -> float:
        """Return the Wu-Palmer similarity, in [0, 1]: 2 depth(c) / (depth of a + depth of b), c their common ancestor.

        The depths of a and b are counted through c, and the best c over all senses counts: in a tree that is the
        deepest one, and with several parents the value is still at most 1. Two names of one node have similarity 1,
        names without a common ancestor 0. NaN for a text that is not in the hierarchy.
        """
        above_a, above_b = self.above(a), self.above(b)
        if not above_a or not above_b:
            return math.nan
        common = above_a.keys() & above_b.keys()
        twice = {node: 2 * self._depth[node] for node in common}
        return max((twice[c] / (twice[c] + above_a[c] + above_b[c]) for c in common), default=0.0)

    def relation(self, label: str, truth: str) -> Relation:
        """Return the label's relation to the truth: the first of same, broader, narrower, sibling, other that holds.

        A `sibling` shares a direct parent. Texts with the same normal form are always the same; otherwise a text that
        is not in the hierarchy makes the relation `unknown`.
        """
        if normal_text(label) == normal_text(truth):
            return "same"
        labels, truths = set(self.nodes(label)), set(self.nodes(truth))
        if not labels or not truths:
            return "unknown"
        if labels & truths:
            return "same"
        if labels & self.above(truth).keys():
            return "broader"
        if truths & self.above(label).keys():
            return "narrower"
        shared = {p for n in labels for p in self._parents[n]} & {p for n in truths for p in self._parents[n]}
        return "sibling" if shared else "other"

    def _titles(self, nodes: Iterable[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._names[node][0] for node in nodes))

    def nodes(self, text: str) -> Sequence[int]:
        """Return the nodes with this name, its senses; none for an unknown text."""
        return self._nodes_of.get(normal_text(text), ())

    def title(self, node: int) -> str:
        """Return the first name of a node."""
        return self._names[node][0]

    def node_names(self, node: int) -> Sequence[str]:
        """Return all names of a node, its title first."""
        return self._names[node]

    def broader(self, node: int) -> Sequence[int]:
        """Return the parents of a node."""
        return self._parents[node]

    def above(self, text: str) -> dict[int, int]:
        """Return the text's nodes and all their ancestors with the fewest steps up to them, nearest first."""
        steps = dict.fromkeys(self.nodes(text), 0)
        waiting = list(steps)
        for node in waiting:  # the list grows while it is read: breadth first
            for parent in self._parents[node]:
                if parent not in steps:
                    steps[parent] = steps[node] + 1
                    waiting.append(parent)
        return steps

    def _depths(self) -> list[int]:
        depth = [0] * len(self._names)
        waiting = [node for node, broader in enumerate(self._parents) if not broader]
        for node in waiting:
            depth[node] = 1
        for node in waiting:
            for child in self._children[node]:
                if not depth[child]:
                    depth[child] = depth[node] + 1
                    waiting.append(child)
        return depth

    def _refuse_cycles(self, where: str) -> None:
        """Remove roots until none is left; what remains is on a cycle or below one."""
        missing = [len(set(broader)) for broader in self._parents]
        ready = [node for node, count in enumerate(missing) if not count]
        for node in ready:
            for child in set(self._children[node]):
                missing[child] -= 1
                if not missing[child]:
                    ready.append(child)
        if len(ready) == len(missing):
            return
        path = [next(node for node, count in enumerate(missing) if count)]
        while path[-1] not in path[:-1]:
            path.append(next(parent for parent in self._parents[path[-1]] if missing[parent]))
        cycle = [self._names[node][0] for node in path[path.index(path[-1]) :]]
        excerpt = cycle if len(cycle) <= _SHOWN + 1 else [*cycle[:_SHOWN], "...", cycle[-1]]
        raise EvaluationError(
            f"{where} has a cycle: {' < '.join(excerpt)} (each is a child of the next): remove one of these rows"
        )


def load_hierarchy(path: str | Path) -> Hierarchy:
    """Return the hierarchy in a file: a CSV with the header child,parent, or WordNet's `data.noun` (or its folder).

    The content decides which of the two formats it is. Errors: EvaluationError for a file that cannot be read, has
    neither format, or has a cycle.
    """
    file = user_path(path)
    if os.path.isdir(file):
        file = file / "data.noun"
    try:
        data = read_bytes(file, MAX_TEXT_BYTES)
    except OSError as exc:
        raise EvaluationError(
            f"the hierarchy {file} cannot be read: {one_line(exc)}: give a CSV with the header child,parent, "
            "or WordNet's data.noun"
        ) from exc
    opening = next((line for line in io.BytesIO(data) if line.strip() and not line.startswith(b"  ")), b"")
    if _SYNSET.match(opening):
        return read_wordnet(data, f"the hierarchy {file}")
    return read_pairs(data, f"the hierarchy {file}")


def read_pairs(data: bytes, where: str) -> Hierarchy:
    """Return the hierarchy of a UTF-8 CSV with columns child and parent; a row without parent names a root.

    A child may have several rows, one per parent. Names with the same normal form are one node, whose title is the
    first spelling.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
        if not {"child", "parent"} <= columns.keys():
            has = ", ".join(columns) or "nothing"
            raise EvaluationError(f"{where} is not WordNet's data.noun and lacks the columns child,parent (has: {has})")
        rows = [(row[columns["child"]] or "", row[columns["parent"]] or "") for row in reader]
    except (ValueError, csv.Error) as exc:
        raise EvaluationError(f"{where} cannot be read as a UTF-8 CSV: {one_line(exc)}") from exc
    nodes: dict[str, int] = {}
    names: list[tuple[str, ...]] = []
    parents: list[list[int]] = []

    def node_of(text: str) -> int:
        node = nodes.setdefault(normal_text(text), len(names))
        if node == len(names):
            names.append((" ".join(text.split()),))
            parents.append([])
        return node

    for number, (child, parent) in enumerate(rows, 1):
        if not normal_text(child):
            raise EvaluationError(f"{where} has no child in row {number}: expected child,parent")
        node = node_of(child)
        if normal_text(parent) and (above := node_of(parent)) not in parents[node]:
            parents[node].append(above)
    if not names:
        raise EvaluationError(f"{where} has no rows: expected child,parent")
    return Hierarchy(names, parents, where)


def read_wordnet(data: bytes, where: str) -> Hierarchy:
    """Return the hierarchy of a WordNet data file (format: wndb(5)), from its hypernym pointers @ and @i.

    All words of a synset are names of its node, with underscores as spaces; pointers of other kinds, frames and glosses
    are ignored. A synset is identified by its offset field, so a file with changed line endings reads the same.
    """
    offsets: dict[str, int] = {}
    names: list[tuple[str, ...]] = []
    above: list[list[str]] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").split("\n"), 1):
        if line.startswith("  ") or not line.strip():  # lines of the license start with two spaces
            continue
        try:
            fields = line.partition(" | ")[0].split()
            words = int(fields[3], 16)
            first = 5 + 2 * words
            pointers = int(fields[first - 1])
            marks = fields[first : first + 4 * pointers]
            if words < 1 or len(marks) != 4 * pointers:
                raise ValueError("counts do not fit the line")
        except (ValueError, IndexError) as exc:
            raise EvaluationError(
                f"{where} is broken in line {number}: expected a synset of a WordNet data file"
            ) from exc
        offsets[fields[0]] = len(names)
        names.append(tuple(fields[position].replace("_", " ") for position in range(4, 4 + 2 * words, 2)))
        above.append([marks[position + 1] for position in range(0, len(marks), 4) if marks[position] in _HYPERNYM])
    try:
        parents = [[offsets[offset] for offset in dict.fromkeys(own)] for own in above]
    except KeyError as exc:
        raise EvaluationError(
            f"{where} points to synset {exc.args[0]}, which it does not have: check that the file is complete"
        ) from exc
    return Hierarchy(names, parents, where)
