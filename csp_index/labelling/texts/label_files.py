"""Read lists of labels as they lie about: one label per line, JSON, YAML, and the mappings that data sets ship.

What was guessed about a file is in a note; what is no list of labels is refused. Knows nothing about vocabularies.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from csp_index.errors import LabelError, one_line
from csp_index.files.regular_files import decoded, read_bytes
from csp_index.images.tables.json_tables import load_json
from csp_index.settings import MAX_TEXT_BYTES

_LISTS: Final = ("id2label", "names", "classes", "categories", "labels", "concepts", "class_names")
_NAMES: Final = ("name", "label", "text", "concept", "class", "class_name", "title")
_HEADERS: Final = frozenset(f"{name}{end}" for name in _NAMES for end in ("", "s", "es", "_name", "_names"))
_SYNSET: Final = re.compile(r"n\d{8}")
_ID: Final = re.compile(r"n\d{8}|/[mg]/[0-9a-z_]+")  # of WordNet, of Open Images
_ID_LINE: Final = re.compile(r"(?:n\d{8}|/[mg]/0[0-9a-z_]+)[\s,:]+(\S.*)")
_NUMBERED_LINE: Final = re.compile(r"(\d+)\s*(?:[:.)=,;]\s*|\s+)(\S.*)")
_KEYED_LINE: Final = re.compile(r"(\d+)(?:\s*[:=)]\s*|\t+)([^\d\s].*)")
_NUMBER_LAST_LINE: Final = re.compile(r"(\S.*?)[\s,;:=]+(\d+)")
_PLACES_LINE: Final = re.compile(r"/[a-z]/(\S+)\s+\d+")
_ITEM_LINE: Final = re.compile(r"\s*[-*\u2022]\s+(\S.*)")
_QUOTED_LINE: Final = re.compile(r"""\s*(["']).*\1\s*,?\s*""")
_CELL_LINE: Final = re.compile(r'"((?:[^"]|"")*)"')
_PROGRAM_LINE: Final = re.compile(r"\s*(?:[\w.]+\s*=\s*[\[({].*|[\w.]*\s*[\[{(]|[\]})]+[,;]?)\s*")
_NO_LIST: Final = re.compile(
    r"\s*(?:<[!?/a-z]|#!|import |from \S+ import |def |%PDF|version https://git-lfs)", re.IGNORECASE
)
_DEEPEST: Final = 200  # brackets inside each other, before a parser reads them


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The labels of a file in their order, as written there; `rows` has one entry per line, class or item of it."""

    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def read_label_file(path: Path) -> LabelFile:
    """Return the labels of a text, JSON or YAML file. Raises LabelError or OSError."""
    try:
        text, note = decoded(read_bytes(path, MAX_TEXT_BYTES))
    except ValueError as exc:
        raise LabelError(f"vocabulary {path} cannot be read as text: {one_line(exc)}") from exc
    labels = _labels(text.replace("\r\n", "\n").replace("\r", "\n"), path)
    texts = [text for row in labels.rows for text in row]
    if len(texts) > 1 and all(_ID.fullmatch(text.strip()) for text in texts):
        raise LabelError(
            f"vocabulary {path} has ids such as {texts[0]!r}, which say nothing to an encoder: expected names"
        )
    return replace(labels, note="; ".join(filter(None, (labels.note, f"{path.name}: {note}" if note else ""))))


def _labels(text: str, path: Path) -> LabelFile:
    kind = path.suffix.lower()
    if "\0" in text or _NO_LIST.match(text):
        raise LabelError(f"vocabulary {path} is no list of labels: expected one label per line, or a JSON list")
    if kind in (".json", ".jsonl", ".ndjson") or text.lstrip()[:1] in ("{", "["):
        repeated: list[str] = []
        labels = _structured(_parsed(text, path, repeated), path)
        if not repeated:
            return labels
        note = (
            f"{path.name}: names that are there twice, of which the last counts: {len(repeated)} (first: {repeated[0]})"
        )
        return replace(labels, note="; ".join(filter(None, (labels.note, note))))
    if kind in (".yaml", ".yml"):
        import yaml

        try:
            return _structured(yaml.safe_load(text), path)
        except (yaml.YAMLError, RecursionError) as exc:
            raise LabelError(f"vocabulary {path} cannot be read as YAML: {one_line(exc)}") from exc
    return _lines(text, path)


def _parsed(text: str, path: Path, repeated: list[str]) -> Any:
    """Return the value of JSON, of lines of JSON, or of a Python literal, as class lists of ImageNet are passed on."""
    if text.count("[") > _DEEPEST < text.count("[" * _DEEPEST) or ("{" * _DEEPEST) in text:
        raise LabelError(f"vocabulary {path} is no list of labels: it is {_DEEPEST} brackets deep")
    try:
        return load_json(text, repeated)
    except (ValueError, RecursionError) as exc:
        reason = one_line(exc)
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        if len(lines) > 1:
            return [load_json(line, []) for line in lines]
    except (ValueError, RecursionError):
        pass  # no lines of JSON: what follows says why it is no JSON at all
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise LabelError(f"vocabulary {path} cannot be read as JSON: {reason}") from None


def _structured(value: Any, path: Path) -> LabelFile:
    """Return the labels of a list or a dictionary."""
    if isinstance(value, Mapping):
        part = next((name for name in _LISTS if isinstance(value.get(name), Mapping | list)), None)
        if part is not None:
            return LabelFile(_structured(value[part], path).rows, f"{path.name}: the labels are those under {part!r}")
        return _mapping({str(key): item for key, item in value.items()}, path)
    if isinstance(value, list | tuple | set) and value:
        items = sorted(value) if isinstance(value, set) else list(value)
        if all(isinstance(item, str) for item in items):
            return LabelFile(tuple((item,) for item in items))
        if all(isinstance(item, Mapping) for item in items):
            return _objects(items, path)
        if all(_is_pair(item) for item in items):
            return LabelFile(
                tuple((item[1],) for item in items), f"{path.name}: the ids before the labels are left out"
            )
        if all(isinstance(item, list | tuple) and all(isinstance(text, str) for text in item) for item in items):
            rows = tuple((text,) for item in items for text in item)
            return LabelFile(rows, f"{path.name}: the labels are the {len(rows)} texts of its {len(items)} lists")
    raise _refused(path, value)


def _mapping(value: Mapping[str, Any], path: Path) -> LabelFile:
    """Return the labels of a dictionary: names by number or synset, numbers by name, or concepts by class."""
    items = list(value.items())
    parts = [item for _, item in items]
    if not items:
        raise _refused(path, value)
    lists = all(isinstance(item, list | tuple) for item in parts) and not all(map(_is_pair, parts))
    if lists and all(isinstance(text, str) for item in parts for text in item):
        rows = tuple((text,) for item in parts for text in item)
        return LabelFile(rows, f"{path.name}: the labels are the {len(rows)} concepts of its {len(items)} classes")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in parts):  # the number of each label
        return LabelFile(tuple((key,) for key, _ in sorted(items, key=lambda item: item[1])))
    if all(key.lstrip("-").isdigit() or _SYNSET.fullmatch(key) for key in value):
        if all(key.lstrip("-").isdigit() for key in value):
            items.sort(key=lambda item: int(item[0]))
        parts = [item for _, item in items]
        if all(isinstance(item, str) for item in parts):
            return LabelFile(tuple((item,) for item in parts))
        if all(map(_is_pair, parts)):
            return LabelFile(tuple((item[1],) for item in parts))
        if all(isinstance(item, Mapping) for item in parts):
            return _objects(parts, path)
    if all(isinstance(item, str) and _SYNSET.fullmatch(item) for item in parts):
        return LabelFile(tuple((key,) for key in value))
    raise _refused(path, value)


def _is_pair(item: object) -> bool:
    """Return whether this is a pair of a synset or number and a label, as in `imagenet_class_index.json`."""
    if not (isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], str)):
        return False
    return isinstance(item[0], int) or (isinstance(item[0], str) and _SYNSET.fullmatch(item[0]) is not None)


def _objects(items: Sequence[Mapping[Any, Any]], path: Path) -> LabelFile:
    name = next((name for name in _NAMES if all(isinstance(item.get(name), str) for item in items)), None)
    if name is None:
        keys = ", ".join(dict.fromkeys(str(key) for item in items for key in item))
        raise LabelError(
            f"vocabulary {path} has objects without a text under {', '.join(_NAMES)} (have: {keys}): write a list of "
            "labels"
        )
    return LabelFile(tuple((item[name],) for item in items), f"{path.name}: the labels are those under {name!r}")


def _lines(text: str, path: Path) -> LabelFile:
    """Return one label per line, without what every line begins or ends with that is no label, and without comments."""
    lines = text.rstrip().split("\n")
    notes = []
    comments = [line for line in lines if line.startswith("# ")]
    if comments and len(comments) < len(lines):
        notes.append(f"{len(comments)} comment lines (# ..) are left out")
        lines = [line for line in lines if not line.startswith("# ")]
    table = path.suffix.lower() in (".csv", ".tsv")
    header = lines[0].strip().strip('"').lower().replace(" ", "_")
    if table and len(lines) > 1 and header in _HEADERS:
        notes.append(f"the first line, {lines[0]!r}, is the name of the column")
        lines = lines[1:]
    cells = [_CELL_LINE.fullmatch(line.rstrip()) for line in lines]
    if all(cells) or (table and any(cells)):
        lines = [cell[1].replace('""', '"') if cell else line for cell, line in zip(cells, lines, strict=True)]
        notes.append("the quotes around labels are left out")
    _check_lines(lines, path)
    if len(lines) > 2 and all(line.rstrip().endswith(",") for line in lines[:-1]):
        lines = [line.rstrip().rstrip(",") for line in lines]
        notes.append("the commas at the ends of lines are left out")
    if len(lines) > 1:
        lines = _without_ids(lines, notes)
    elif "," in lines[0]:
        notes.append("its only line is taken as one label")
    return LabelFile(
        tuple((line,) for line in lines), f"{path.name}: {'; '.join(dict.fromkeys(notes))}" if notes else ""
    )


def _check_lines(lines: Sequence[str], path: Path) -> None:
    """Refuse lines of a program, of its data, or of a table."""
    quoted = sum(_QUOTED_LINE.fullmatch(line) is not None for line in lines) > len(lines) / 2
    part = next((line for line in lines if _PROGRAM_LINE.fullmatch(line)), lines[0] if quoted else None)
    if part is not None:
        raise LabelError(
            f"vocabulary {path} looks like part of a program, with the line {part.strip()[:60]!r}: save a JSON list"
        )
    if len(lines) == 1 and lines[0].count(",") > 1:
        raise LabelError(
            f"vocabulary {path} is one line with several commas, {lines[0][:60]!r}: write one label per line"
        )


def _without_ids(lines: list[str], notes: list[str]) -> list[str]:
    """Return lines without the ids or numbers that all of them begin or end with."""
    if texts := _all(_ITEM_LINE, lines):
        lines = [groups[0] for groups in texts]
        notes.append("the dashes before the labels are left out")
    for pattern, what in ((_ID_LINE, "ids"), (_PLACES_LINE, "folders and numbers")):
        if texts := _all(pattern, lines):
            lines = [groups[0] for groups in texts]
            notes.append(f"the {what} before the labels are left out")
    last = _all(_NUMBER_LAST_LINE, lines)
    if last and _are_in_order(groups[1] for groups in last) and len({groups[0] for groups in last}) == len(lines):
        lines = [groups[0] for groups in last]
        notes.append("the numbers behind the labels are left out")
    for pattern in (_NUMBERED_LINE, _KEYED_LINE, _NUMBERED_LINE):  # '1 001.Black_footed_Albatross' has two
        numbered = _all(pattern, lines)
        numbers = [groups[0] for groups in numbered]
        if numbered and (_are_in_order(numbers) or (pattern is _KEYED_LINE and len(set(numbers)) == len(numbers))):
            lines = [groups[1] for groups in numbered]
            notes.append("the numbers before the labels are left out")
    return lines


def _are_in_order(numbers: Iterable[str]) -> bool:
    """Return whether numbers count up by one."""
    values = [int(number) for number in numbers]
    return values == [*range(values[0], values[0] + len(values))]


def _all(pattern: re.Pattern[str], lines: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of every line, or nothing if a line does not fit the pattern."""
    matches = [pattern.fullmatch(line.rstrip()) for line in lines]
    return [match.groups() for match in matches if match is not None] if all(matches) else []


def _refused(path: Path, value: object) -> LabelError:
    shown = json.dumps(value, default=str, ensure_ascii=False)[:80]
    return LabelError(
        f"vocabulary {path} is no list of labels, it starts with {shown}: expected a list of texts, labels by number, "
        "or lists of concepts by class"
    )
