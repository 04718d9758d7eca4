"""The known meaning of neurons, and how far labels agree with it.

The truth about neurons is a file of labels, or a classifier's class names; ranked labels are compared with it. Texts
are compared in the form of `hierarchy.normal_text`. What cannot be computed for a neuron is NaN and has a note.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from csp_index.errors import AddressError, EvaluationError, one_line
from csp_index.evaluation.evaluation import ALL
from csp_index.evaluation.graded_truth import grades_by_hierarchy, grades_by_images
from csp_index.evaluation.hierarchy import Hierarchy, Relation, normal_text
from csp_index.evaluation.metadata_concepts import ConceptTable
from csp_index.files.regular_files import read_bytes, user_path
from csp_index.records import LayerKey, NeuronKey
from csp_index.settings import MAX_TEXT_BYTES
from csp_index.store.stored_json import parse_json

Embed = Callable[[Sequence[str]], torch.Tensor]
"""From T texts to their unit embeddings [T, D]."""

_TOP = 5
_DIGITS = 18  # of a neuron's number, as in its address
_SHOWN = 5  # unknown neurons named in an error
_BLOCK_BYTES = 256 * 2**20
_CLOSEST: tuple[Relation, ...] = ("same", "broader", "narrower", "sibling", "other", "unknown")


@dataclass(frozen=True, slots=True)
class Truth:
    """The accepted texts of neurons of one layer; any of a neuron's texts is right.

    `kinds` groups neurons as the file does, "" without a group. `elsewhere` counts rows about other layers.
    """

    layer: LayerKey
    accepted: Mapping[int, tuple[str, ...]]
    kinds: Mapping[int, str] = field(default_factory=dict)
    elsewhere: int = 0

    def kind(self, neuron: int) -> str:
        """Return the neuron's kind, "" if it has none."""
        return self.kinds.get(neuron, "")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Values [M] and notes by metric name, in the order of `neurons`; a NaN value has a note."""

    neurons: tuple[int, ...]
    values: Mapping[str, torch.Tensor]
    notes: Mapping[str, tuple[str, ...]]
    relations: tuple[Relation, ...] = ()  # of the first label to the closest accepted text; empty without a hierarchy


def read_truth(path: str | Path, layer: LayerKey, neurons: int, *, synonyms: bool = False) -> Truth:
    """Return a file's truth about a layer with `neurons` neurons; the file's suffix decides the format.

    A table (.csv, or any other suffix) has the columns neuron, label and optionally kind. The neuron is a full address
    or an index; rows of other layers are counted, not used. Several rows of a neuron are synonyms. In a .txt file, line
    i (from 0) names output neuron i, as the class names of a classifier do; an empty line leaves its neuron out. A
    .json file has a list like the lines of a .txt file, or an object from neuron to text; a text may be a list of
    synonyms. In all three, commas belong to the text unless `synonyms` says that they separate synonyms ("tench, Tinca
    tinca").
    """
    file = user_path(path)
    where = f"the truth file {file}"
    try:
        text = read_bytes(file, MAX_TEXT_BYTES).decode("utf-8-sig")
    except OSError as exc:
        raise EvaluationError(f"{where} cannot be read: {one_line(exc)}") from exc
    except UnicodeDecodeError as exc:
        raise EvaluationError(f"{where} is not UTF-8 text: {one_line(exc)}") from exc
    suffix = file.suffix.lower()
    rows = _lines(text) if suffix == ".txt" else _json(text, where) if suffix == ".json" else _table(text, where)
    keys = [_neuron(name, layer, where) for name, _, _ in rows]
    own_rows = [(key.neuron, *row[1:]) for key, row in zip(keys, rows, strict=True) if key.layer_key == layer]
    unknown = list(dict.fromkeys(neuron for neuron, _, _ in own_rows if neuron >= neurons))
    if unknown and suffix == ".txt":
        raise EvaluationError(
            f"{where} has {max(unknown) + 1} lines, {layer} {neurons} neurons: expected at most one per neuron"
        )
    if unknown:
        names = ", ".join(map(str, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        raise EvaluationError(
            f"{where} names {len(unknown)} unknown neurons ({names}): {layer} has {neurons}, from 0 to {neurons - 1}"
        )
    if not own_rows:
        others = ", ".join(sorted({str(key.layer_key) for key in keys})) or "nothing: it is empty"
        raise EvaluationError(f"{where} names no neuron of {layer} (has: {others})")
    accepted: dict[int, dict[str, str]] = {}  # by normal form, the first spelling
    kinds: dict[int, str] = {}
    for neuron, label, kind in sorted(own_rows, key=lambda row: row[0]):
        texts = [" ".join(part.split()) for part in (label.split(",") if synonyms else [label]) if normal_text(part)]
        if not texts:
            raise EvaluationError(f"{where} has an empty label for neuron {neuron}: expected a text")
        texts_of = accepted.setdefault(neuron, {})
        for text in texts:
            texts_of.setdefault(normal_text(text), text)
        if kind == ALL:
            raise EvaluationError(f"{where} has a kind {ALL!r}, which means every neuron: rename it")
        if kind and kinds.setdefault(neuron, kind) != kind:
            raise EvaluationError(
                f"{where} has two kinds of neuron {neuron}: {kinds[neuron]!r}, {kind!r}: expected one"
            )
    return Truth(
        layer,
        {neuron: tuple(texts_of.values()) for neuron, texts_of in accepted.items()},
        kinds,
        len(rows) - len(own_rows),
    )


def agreement(
    truth: Truth,
    ranked: Mapping[int, Sequence[str]],
    vocabulary: Sequence[str] = (),
    scores: torch.Tensor | None = None,
    embed: Embed | None = None,
    hierarchy: Hierarchy | None = None,
    concepts: ConceptTable | None = None,
) -> Agreement:
    """Compare each neuron's ranked labels (best first; empty for a neuron without label) with its accepted texts.

    exact, top5: 0 or 1. rank, reciprocal rank: of the best accepted text among all candidates, from `scores` [M, C] of
    the `vocabulary` (rows in the order of `ranked`; equal scores rank in the vocabulary's order); without scores, among
    the ranked labels. NaN where no accepted text is among them. text: with `embed`, the greatest cosine of the first
    label with an accepted text. hierarchy-similarity and `relations`: with `hierarchy`, for the closest accepted text.
    overlap, level, same, narrower, broader: with `concepts`, see `graded_truth`, and all but overlap with `hierarchy`.
    NaN throughout for a neuron without truth or label.
    """
    if scores is not None and tuple(scores.shape) != (len(ranked), len(vocabulary)):
        raise EvaluationError(
            f"scores are {list(scores.shape)}: expected {len(ranked)} neurons x {len(vocabulary)} candidates"
        )
    missing = [
        "no truth for this neuron" if neuron not in truth.accepted else "" if labels else "no label"
        for neuron, labels in ranked.items()
    ]
    usable = [row for row, note in enumerate(missing) if not note]
    pairs = [
        (labels, truth.accepted[neuron]) for neuron, labels in ranked.items() if labels and neuron in truth.accepted
    ]
    accepted = [texts for _, texts in pairs]
    ranks_in_list = _first_accepted(pairs)
    if scores is None:
        ranks = ranks_in_list.masked_fill(ranks_in_list.isinf(), torch.nan)
    else:
        ranks = _ranks(accepted, scores[torch.tensor(usable, dtype=torch.int64)], vocabulary)
    unranked = _why_unranked(accepted, vocabulary, scores is not None)
    results = {
        "agreement-exact": ((ranks_in_list == 1).float(), unranked),
        "agreement-top5": ((ranks_in_list <= _TOP).float(), unranked),
        "agreement-rank": (ranks, unranked),
        "agreement-reciprocal-rank": (1 / ranks, unranked),
    }
    firsts = [labels[0] for labels, _ in pairs]
    if embed is not None:
        results["agreement-text"] = (_text_similarity(firsts, accepted, embed), ["no text embedding"] * len(usable))
    if concepts is not None:
        results |= grades_by_images(firsts, accepted, concepts)
    elif hierarchy is not None:
        results |= grades_by_hierarchy(firsts, accepted, hierarchy)
    relations: tuple[Relation, ...] = ()
    if hierarchy is not None:
        similarities, closest = _hierarchy_similarity(hierarchy, firsts, accepted)
        results["hierarchy-similarity"] = (
            similarities,
            ["the label or its truth is not in the hierarchy"] * len(usable),
        )
        relation_of = dict(zip(usable, closest, strict=True))
        relations = tuple(relation_of.get(row, "unknown") for row in range(len(missing)))
    values, notes = {}, {}
    for name, (value, reasons) in results.items():
        values[name] = torch.full((len(missing),), torch.nan, dtype=value.dtype)
        values[name][usable] = value
        note_of = dict(zip(usable, reasons, strict=True))
        unknowns = values[name].isnan().tolist()
        notes[name] = tuple(missing[row] or (note_of[row] if unknowns[row] else "") for row in range(len(missing)))
    return Agreement(tuple(ranked), values, notes, relations)


def set_agreement(truth: Truth, sets: Mapping[int, Sequence[str]]) -> tuple[torch.Tensor, list[str]]:
    """Return 1 where a neuron's prediction set has an accepted text, else 0, [M], and the reasons for missing values.

    NaN for a neuron without truth, and for one with an empty set, of which nothing was resampled.
    """
    values = torch.full((len(sets),), torch.nan)
    notes = [""] * len(sets)
    for row, (neuron, texts) in enumerate(sets.items()):
        if neuron not in truth.accepted:
            notes[row] = "no truth for this neuron"
        elif not texts:
            notes[row] = "it has no prediction set: resampling changes nothing"
        else:
            accepted = {normal_text(text) for text in truth.accepted[neuron]}
            values[row] = float(any(normal_text(text) in accepted for text in texts))
    return values, notes


def _lines(text: str) -> list[tuple[str, str, str]]:
    """Return (neuron, label, kind) of class names, one per line."""
    return [(str(number), line, "") for number, line in enumerate(text.splitlines()) if line.strip()]


def _json(text: str, where: str) -> list[tuple[str, str, str]]:
    try:
        data = parse_json(text)
    except ValueError as exc:
        raise EvaluationError(f"{where} is not JSON: {one_line(exc)}") from exc
    if not isinstance(data, list | dict):
        raise EvaluationError(f"{where} holds a {type(data).__name__}: expected a list of names or an object")
    rows = []
    for neuron, label in data.items() if isinstance(data, dict) else enumerate(data):
        for one in label if isinstance(label, list) else [label]:
            if not isinstance(one, str):
                raise EvaluationError(f"{where} has {one!r} for neuron {neuron}: expected a text or a list of texts")
            rows.append((str(neuron), one, ""))
    return rows


def _table(text: str, where: str) -> list[tuple[str, str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = {(name or "").strip().casefold(): name for name in reader.fieldnames or ()}
        for needed in ("neuron", "label"):
            if needed not in columns:
                has = ", ".join(columns) or "nothing: it is empty"
                raise EvaluationError(f"{where} has no column {needed!r} (has: {has}): expected neuron,label[,kind]")
        names = [columns.get(name) for name in ("neuron", "label", "kind")]
        rows = [[(row[name] or "").strip() if name is not None else "" for name in names] for row in reader]
        return [(neuron, label, kind) for neuron, label, kind in rows]
    except csv.Error as exc:
        raise EvaluationError(f"{where} cannot be read as a CSV: {one_line(exc)}") from exc


def _neuron(name: str, layer: LayerKey, where: str) -> NeuronKey:
    if name.isascii() and name.isdigit() and len(name) <= _DIGITS:
        return NeuronKey(layer.model, layer.layer, int(name))
    try:
        return NeuronKey.parse(name)
    except AddressError:
        raise EvaluationError(
            f"{where} names the neuron {name!r}: expected an index such as 7, or an address such as {layer}/7"
        ) from None


def _first_accepted(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> torch.Tensor:
    """Return the rank, from 1, of each neuron's first accepted label; infinite where no label is accepted."""
    ranks = []
    for labels, texts in pairs:
        accepted = {normal_text(text) for text in texts}
        ranks.append(next((rank for rank, text in enumerate(labels, 1) if normal_text(text) in accepted), torch.inf))
    return torch.tensor(ranks, dtype=torch.float32)


def _ranks(accepted: Sequence[Sequence[str]], scores: torch.Tensor, vocabulary: Sequence[str]) -> torch.Tensor:
    """Return the rank, from 1, of each neuron's best accepted text; NaN where none is a candidate with a score."""
    columns: dict[str, list[int]] = {}
    for column, text in enumerate(vocabulary):
        columns.setdefault(normal_text(text), []).append(column)
    pairs = [(row, c) for row, own in enumerate(accepted) for text in own for c in columns.get(normal_text(text), ())]
    ranks = torch.full((len(scores),), torch.inf)
    order = torch.arange(len(vocabulary))
    for part in torch.tensor(pairs, dtype=torch.int64).view(-1, 2).split(max(1, _BLOCK_BYTES // (8 * len(order) + 1))):
        row, column = part.unbind(1)
        own = scores[row, column][:, None]
        before = (scores[row] > own) | ((scores[row] == own) & (order < column[:, None]))
        rank = (1 + before.sum(1).float()).masked_fill(own[:, 0].isnan(), torch.inf)
        ranks = ranks.scatter_reduce(0, row, rank, "amin")
    return ranks.masked_fill(ranks.isinf(), torch.nan)


def _why_unranked(accepted: Sequence[Sequence[str]], vocabulary: Sequence[str], scored: bool) -> list[str]:
    """Return for each neuron why its truth would have no rank."""
    candidates = {normal_text(text) for text in vocabulary}
    other = "the truth has no score" if scored else "the truth is not among the ranked labels"
    known = [not candidates or any(normal_text(text) in candidates for text in texts) for texts in accepted]
    return [other if is_candidate else "the truth is not among the candidates" for is_candidate in known]


def _text_similarity(firsts: Sequence[str], accepted: Sequence[Sequence[str]], embed: Embed) -> torch.Tensor:
    """Return the greatest cosine of each label with its accepted texts; every text is embedded once."""
    row_of = {
        text: number for number, text in enumerate(dict.fromkeys([*firsts, *(t for own in accepted for t in own)]))
    }
    result = torch.full((len(firsts),), -torch.inf)
    if not row_of:
        return result
    units = embed(list(row_of)).float()
    row = torch.tensor([row for row, own in enumerate(accepted) for _ in own])
    left = torch.tensor([row_of[first] for first in firsts])[row]
    right = torch.tensor([row_of[text] for own in accepted for text in own])
    parts = zip(left.split(16384), right.split(16384), strict=True)
    cosines = torch.cat([(units[a] * units[b]).sum(1) for a, b in parts]).clamp(-1, 1)
    return result.scatter_reduce(0, row, cosines, "amax")


def _hierarchy_similarity(
    hierarchy: Hierarchy, firsts: Sequence[str], accepted: Sequence[Sequence[str]]
) -> tuple[torch.Tensor, list[Relation]]:
    """Return each label's similarity and relation to the closest of its accepted texts."""
    pairs = list(zip(firsts, accepted, strict=True))
    defined = [
        [value for text in texts if (value := hierarchy.similarity(first, text)) == value] for first, texts in pairs
    ]
    similarities = torch.tensor([max(own, default=torch.nan) for own in defined], dtype=torch.float32)
    return similarities, [
        min((hierarchy.relation(f, text) for text in texts), key=_CLOSEST.index) for f, texts in pairs
    ]
