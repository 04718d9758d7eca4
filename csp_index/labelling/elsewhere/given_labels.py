"""Labels made elsewhere, for the neurons of one layer: which rows fit, and what was left out, said with counts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from csp_index.errors import LabelError
from csp_index.files.regular_files import user_path
from csp_index.labelling.elsewhere.layouts import LabelRow, LabelTable, read_label_table
from csp_index.labelling.methods import method_names
from csp_index.records import LayerKey
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel

_NAME: Final = re.compile(r"\w[\w.-]{0,59}")
_SHOWN, _LONGEST = 4, 60  # names in a note, and letters of one
_RESERVED: Final = ("all", "none", "pinned")
_WORDS: Final = ("neuron", "unit", "channel", "feature", "latent")
_ID: Final = re.compile(
    rf"(?:(?P<layer>\S.*?)[\s/:,._-]+)?(?:(?:{'|'.join(_WORDS)})[\s:#_-]*)?(?P<number>\d{{1,9}})", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """A file or folder with labels, and the name under which they are a method."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str | Path) -> LabelsFile:
        """Return what `FILE` or `NAME=FILE` names; of a file alone the name is that of the file without its ending.

        >>> LabelsFile.parse("milan=results/m_base.csv").name, LabelsFile.parse("results/my labels.csv").name
        ('milan', 'my-labels')
        """
        name, equals, rest = str(text).partition("=")
        if equals and not user_path(str(text)).exists():
            return cls(check_name(name.strip(), rest), user_path(rest))
        path = user_path(text)
        stem = re.sub(r"[^\w.-]+", "-", path.stem if path.suffix else path.name).strip("-.")
        return cls(check_name(stem, str(text)), path)


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """The labels of one layer's neurons, by number: several texts, the best first, each with its weight or None.

    `weighted`: they are a sum, with the neuron's `bias`; otherwise the first is the label. `notes` say what was left
    out. `sha256` is that of the file.
    """

    name: str
    file: str
    sha256: str
    layout: str
    texts: Mapping[int, tuple[tuple[str, float | None], ...]]
    weighted: bool = False
    bias: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the labels themselves: files that say the same of a layer have the same."""
        content = [self.weighted, sorted(self.texts.items()), sorted(self.bias.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def label(self, neuron: int) -> WeightedLabel | None:
        """Return a neuron's label, None without one."""
        texts = self.texts.get(neuron)
        if not texts:
            return None
        if not self.weighted:
            return WeightedLabel((LabelTerm(texts[0][0]),))
        terms = tuple(LabelTerm(text, 1.0 if weight is None else weight) for text, weight in texts)
        return WeightedLabel(terms, self.bias.get(neuron, 0.0))

    def described(self) -> dict[str, object]:
        """Return where the labels come from, for reports and records of runs."""
        return {"file": self.file, "sha256": self.sha256, "layout": self.layout, "notes": list(self.notes)}


def check_name(name: str, file: str) -> str:
    """Return a name for labels made elsewhere; LabelError for one that is no name or that a method has."""
    if name.casefold() in {*_RESERVED, *map(str.casefold, method_names())}:
        raise LabelError(f"labels cannot be called {name!r}, which is a word of csp-index: give {file} another name")
    if not _NAME.fullmatch(name):
        raise LabelError(
            f"labels cannot be called {name!r}: expected at most 60 letters, digits, '.', '-' or '_', as in a={file}"
        )
    return name


def read_given(file: LabelsFile, layer: LayerKey, neurons: int, layer_name: str | None = None) -> GivenLabels:
    """Return the labels that a file has for a layer with `neurons` neurons.

    Rows that name another layer are counted and not used; `layer_name` is what the file calls this layer, by default
    its own name. Raises LabelError for a file without a label for it.
    """
    if not file.path.exists():
        raise LabelError(f"the labels file {file.path} does not exist: give NAME=FILE, or a file")
    table = read_label_table(file.path)
    names = {layer.layer, str(layer)} if layer_name is None else {layer_name}
    reader = _Reader(file.path, layer, neurons, frozenset(map(_plain, names)), table)
    texts, bias = reader.read()
    labeled = {neuron: own for neuron, own in texts.items() if own}
    if not labeled:
        raise LabelError(
            f"the labels file {file.path} has no label for a neuron of {layer}, which has the neurons 0 to "
            f"{neurons - 1}: {'; '.join(reader.notes()) or 'it has no rows'}"
            + ("" if layer_name or not reader.elsewhere else "; --labels-layer says what the file calls this layer")
        )
    notes = [*table.notes, *reader.notes()]
    if table.first:
        notes.append(f"its units count from {table.first}, as {table.layout} does: they are read as 0 on")
    several = sum(len(own) > 1 for own in labeled.values())
    if several and not table.weighted:
        notes.append(f"neurons with several texts, of which the first is the label: {several:,}")
    if len(labeled) < neurons:
        notes.append(f"neurons of the layer without a label: {neurons - len(labeled):,} of {neurons:,}")
    place = file.path.name or str(file.path)
    return GivenLabels(file.name, place, _sha256(file.path), table.layout, labeled, table.weighted, bias, tuple(notes))


class _Reader:
    """Sorts the rows of a table by neuron, and counts what does not fit."""

    def __init__(self, path: Path, layer: LayerKey, neurons: int, names: frozenset[str], table: LabelTable) -> None:
        self._path, self._layer, self._neurons, self._names, self._table = path, layer, neurons, names, table
        self.elsewhere: dict[str, int] = {}  # rows by layer
        self._left_out: dict[str, list[str]] = {}  # by reason, what

    def read(self) -> tuple[dict[int, tuple[tuple[str, float | None], ...]], dict[int, float]]:
        """Return the texts of each neuron with their weights, and the biases."""
        rows = [(neuron, row) for row in self._table.rows if (neuron := self._neuron(row)) is not None]
        numbers = {neuron for neuron, _ in rows}
        if len(numbers) > 1 and min(numbers) == 1 and max(numbers) == self._neurons:
            raise LabelError(
                f"the labels file {self._path} numbers its neurons from 1 to {self._neurons}, and {self._layer} has "
                f"the neurons 0 to {self._neurons - 1}: count from 0 there"
            )
        texts: dict[int, list[tuple[str, float | None, float]]] = {}
        bias: dict[int, float] = {}
        for neuron, row in rows:
            if not 0 <= neuron < self._neurons:
                self._leave("units that the layer does not have", str(neuron))
                continue
            own = texts.setdefault(neuron, [])
            self._add(neuron, row, own)
            if (number := _number(row.bias)) is not None:
                bias[neuron] = number
            elif row.bias not in (None, ""):
                self._leave("biases that are no finite numbers, taken as 0", f"neuron {neuron}: {row.bias!r}")
        return {neuron: self._ordered(own) for neuron, own in texts.items()}, bias

    def notes(self) -> list[str]:
        """Return a line for each reason to leave something out, with the count and examples."""
        lines = []
        if self.elsewhere:
            names = _few(list(self.elsewhere))
            lines.append(f"rows of other layers: {sum(self.elsewhere.values()):,} ({names})")
        for reason, what in self._left_out.items():
            lines.append(f"{reason}: {len(what):,} ({_few(list(dict.fromkeys(what)))})")
        return lines

    def _neuron(self, row: LabelRow) -> int | None:
        """Return the number of a row's neuron, None for a row of another layer or one that cannot be read."""
        written = _number(row.neuron)
        match = None if written is not None else _ID.fullmatch(str(row.neuron or "").strip())
        layer = row.layer
        if match is not None:
            written = float(match["number"])
            stated = match["layer"]
            layer = layer or (None if stated is None or stated.casefold() in _WORDS else stated)
        if layer is not None and _plain(layer) not in self._names:
            self.elsewhere[layer] = self.elsewhere.get(layer, 0) + 1
            return None
        if written is None or written != int(written) or written < 0:
            self._leave("rows whose neuron cannot be read", repr(row.neuron))
            return None
        return int(written) - self._table.first

    def _add(self, neuron: int, row: LabelRow, own: list[tuple[str, float | None, float]]) -> None:
        """Add the texts of a row to those of its neuron."""
        empty = True
        for text, written in row.texts:
            weight = _number(written) if self._table.weighted else None
            if self._table.weighted and weight == 0:
                empty = False
                if text not in ("", "0"):  # the published tables fill slots that are not used with zeros
                    self._leave("texts of weight 0, which add nothing", f"neuron {neuron}: {text}")
                continue
            if not text:
                continue
            empty = False
            if self._table.weighted and weight is None:
                self._leave("texts whose weight is no finite number, left out", f"neuron {neuron}: {written!r}")
            elif text in (known for known, *_ in own):
                self._leave("texts that a neuron has twice, of which the first counts", f"neuron {neuron}: {text}")
            else:
                score = _number(row.score)
                own.append((text, weight if self._table.weighted else score, -math.inf if score is None else score))
        if empty:
            self._leave("rows without a text", f"neuron {neuron}")

    def _ordered(self, own: Iterable[tuple[str, float | None, float]]) -> tuple[tuple[str, float | None], ...]:
        key = (lambda item: -(item[1] or 0.0)) if self._table.weighted else (lambda item: -item[2])
        return tuple((text, weight) for text, weight, _ in sorted(own, key=key))

    def _leave(self, reason: str, what: str) -> None:
        self._left_out.setdefault(reason, []).append(what)


def _few(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:_SHOWN]) + more


def _plain(layer: str) -> str:
    """Return a layer's name with the indices of modules as PyTorch writes them: `features[43]` is `features.43`."""
    return re.sub(r"\[(\d+)\]", r".\1", layer.strip())


def _number(value: object) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _sha256(path: Path) -> str:
    """Return the hash of a file, or of all files of a folder with their places."""
    digest = hashlib.sha256()
    files: Sequence[Path] = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest() if path.is_dir() else stream.read())
    return digest.hexdigest()
