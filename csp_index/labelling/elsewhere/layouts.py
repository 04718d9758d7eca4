"""Tables of labels as they are published: which column names the neuron, its layer, its texts and their weights.

Read from the files of the projects themselves; units count from 0 but where it says otherwise:

- Linear Explanations: `layer,unit,...,weight0,concept0,...,weight9,concept9,bias`; a slot that is not used has weight 0
  and the concept 0. Its tables of other methods: `unit,description,...`.
- CLIP-Dissect: `layer,unit,description,similarity`. MILAN: `layer,unit,description`, people's own `layer,unit,summary`
  with several rows for each unit.
- Describe-and-Dissect: `Neuron ID,Label 1,Label 2,Label 3`, the best first, a blank where there are fewer.
- Network Dissection: `unit,category,label,score,...-iou`; units count from 1.
- MAIA: folders `.../LAYER/UNIT/` with `label.txt`, `description.txt` and `history.json`.
- Anything else: a table `neuron,label[,weight]`, or JSON from neurons to texts.

Knows nothing about indexes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from csp_index.errors import LabelError, SourceError, one_line
from csp_index.files.regular_files import decoded, read_bytes
from csp_index.images.tables.json_tables import load_json
from csp_index.images.tables.read_table import read_metadata_file
from csp_index.settings import MAX_TEXT_BYTES

_NEURON: Final = (
    "neuron",
    "unit",
    "neuron id",
    "unit id",
    "neuron index",
    "unit index",
    "channel",
    "feature",
    "latent",
)
_TEXT: Final = ("label", "description", "summary", "text", "concept", "explanation", "annotation")
_NUMBERED: Final = re.compile(r"(label|concept|description|weight) ?(\d+)")
_SCORE: Final = ("similarity", "score")
_MAIA: Final = ("label.txt", "history.json", "description.txt")  # the first one that says something counts
_MAIA_LABEL: Final = re.compile(r"\[LABEL(?: \d+)?\]:\s*(.+)")
_MAIA_DESCRIPTION: Final = re.compile(r"\[DESCRIPTION\]:\s*(.+)")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What one row says: the neuron as it is written there, its layer if that is said, its texts, best first.

    A text's weight is as written, None without one; `score` is how well its own method finds that it fits.
    """

    neuron: object
    texts: tuple[tuple[str, object], ...]
    layer: str | None = None
    bias: object = None
    score: object = None


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The rows of a file, the name of its layout, and whether weights count; units count from `first`."""

    rows: tuple[LabelRow, ...]
    layout: str
    weighted: bool = False
    first: int = 0
    notes: tuple[str, ...] = field(default=())


def read_label_table(path: Path) -> LabelTable:
    """Return the rows of a file, or of a folder as MAIA writes it. Raises LabelError in one line."""
    if path.is_dir():
        return _maia(path)
    if path.suffix.lower() == ".json" and (plain := _plain_json(path)) is not None:
        return plain
    try:
        table = read_metadata_file(path)
    except SourceError as exc:
        raise LabelError(str(exc).replace("the metadata table", "the labels file", 1)) from exc
    return _from_columns(table.columns, tuple(table.notes), path)


def _from_columns(columns: Any, notes: tuple[str, ...], path: Path) -> LabelTable:
    names = {" ".join(name.casefold().replace("_", " ").split()): name for name in columns.column_names}
    numbered = {match.groups(): names[name] for name in names if (match := _NUMBERED.fullmatch(name))}
    neuron = next((names[name] for name in _NEURON if name in names), None)
    kind = next((kind for kind, _ in numbered if kind != "weight"), None)
    numbers = sorted((number for of, number in numbered if of == kind), key=int)
    text = next((names[name] for name in _TEXT if name in names), None)
    if neuron is None or (text is None and not numbers):
        what = "which neuron a row is about" if neuron is None else "the label"
        raise LabelError(
            f"the labels file {path} has no column that says {what} (has: {', '.join(columns.column_names)}): expected "
            "neuron,label[,weight], or a table as Linear Explanations, CLIP-Dissect, MILAN or DnD publish"
        )
    cells = {name: columns[name].to_pylist() for name in columns.column_names}
    size = columns.num_rows

    def column(name: str | None) -> Sequence[object]:
        return [None] * size if name is None else cells[name]

    if numbers and kind is not None:
        slots = [(column(numbered[kind, n]), column(numbered.get(("weight", n)))) for n in numbers]
    else:
        slots = [(column(text), column(names.get("weight")))]
    weighted = "weight" in names or any(of == "weight" for of, _ in numbered)
    dissected = "category" in names and any(name.endswith("-iou") for name in columns.column_names)
    score = None if weighted else next((names[name] for name in _SCORE if name in names), None)
    layers, biases, scores = column(names.get("layer")), column(names.get("bias")), column(score)
    rows = tuple(
        LabelRow(
            one,
            tuple((_dissected(cell) if dissected else _cell(cell), weights[row]) for cell, weights in parts),
            _cell(layers[row]) or None,
            biases[row],
            scores[row],
        )
        for row, (one, parts) in enumerate(
            zip(cells[neuron], [[(texts[row], w) for texts, w in slots] for row in range(size)], strict=True)
        )
    )
    return LabelTable(rows, _name(names, numbered, dissected), weighted, int(dissected), notes)


def _name(names: Mapping[str, str], numbered: Mapping[tuple[str | Any, ...], str], dissected: bool) -> str:
    if dissected:
        return "Network Dissection"
    if ("weight", "0") in numbered and ("concept", "0") in numbered:
        return "Linear Explanations"
    if "neuron id" in names and ("label", "1") in numbered:
        return "Describe-and-Dissect"
    if "unit" in names and "similarity" in names:
        return "CLIP-Dissect"
    return "MILAN" if {"layer", "unit"} <= names.keys() and {"description", "summary"} & names.keys() else "table"


def _cell(value: object) -> str:
    """Return a cell as a text; a whole number is written without a point."""
    if value is None:
        return ""
    whole = isinstance(value, float) and value.is_integer()
    return " ".join(str(int(value) if whole and isinstance(value, float) else value).split())


def _dissected(value: object) -> str:
    """Return a label of Network Dissection in words, as later projects write it.

    >>> _dissected("purple-c"), _dissected("ball_pit-s"), _dissected("swimming_pool-outdoor-s")
    ('purple color', 'ball pit', 'swimming pool outdoor')
    """
    text = re.sub(r"-s$", "", re.sub(r"-c$", " color", _cell(value)))
    return " ".join(text.replace("_", " ").replace("-", " ").split())


def _plain_json(path: Path) -> LabelTable | None:
    """Return JSON from neurons to texts, or a list of texts by neuron; None for JSON of another form."""
    try:
        value = load_json(decoded(read_bytes(path, MAX_TEXT_BYTES))[0], [])
    except (OSError, ValueError, RecursionError):
        return None  # read as a table, whose reader says what is wrong
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    lists = [(neuron, own if isinstance(own, list) else [own]) for neuron, own in items]
    if not lists or not all(isinstance(text, str | None) for _, own in lists for text in own):
        return None
    rows = (LabelRow(neuron, tuple((_cell(text), None) for text in own)) for neuron, own in lists)
    return LabelTable(tuple(rows), "JSON")


def _maia(folder: Path) -> LabelTable:
    """Return the labels in folders `.../LAYER/UNIT/`, those of `label.txt` before those of the dialogue."""
    units = sorted({file.parent for name in _MAIA for file in folder.rglob(name)})
    if not units:
        raise LabelError(
            f"the folder {folder} has no labels: expected folders LAYER/UNIT with label.txt, description.txt or "
            "history.json, as MAIA writes them"
        )
    rows = [LabelRow(unit.name, tuple((text, None) for text in _maia_texts(unit)), unit.parent.name) for unit in units]
    return LabelTable(tuple(rows), "MAIA")


def _maia_texts(unit: Path) -> list[str]:
    for name in _MAIA:
        try:
            content = decoded(read_bytes(unit / name, MAX_TEXT_BYTES))[0]
            texts = _said(json.loads(content)) if name == "history.json" else content.splitlines()[:1]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as exc:
            raise LabelError(f"{unit / name} cannot be read: {one_line(exc)}") from exc
        found = [text for text in (_cell(text).strip("\"'` ") for text in texts) if text]
        if found:
            return found
    return [""]


def _said(history: object) -> list[str]:
    """Return the labels at the end of a dialogue, or else its description."""
    texts = [
        part["text"]
        for turn in (history if isinstance(history, list) else [])
        if isinstance(turn, dict) and turn.get("role") != "user" and isinstance(turn.get("content"), list)
        for part in turn["content"]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    for pattern in (_MAIA_LABEL, _MAIA_DESCRIPTION):
        for text in reversed(texts):
            if labels := pattern.findall(text):
                return [str(label) for label in labels]
    return []
