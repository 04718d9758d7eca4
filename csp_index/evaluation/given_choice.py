"""Labels made elsewhere as methods of an evaluation: what an encoder can say of their texts, and what is left out.

Such labels were chosen on images that nobody here knows, so no metric that needs the choice itself has a value: the
lead, the confidence, the rank of the truth, relabelings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from csp_index.contrast.selection import Selection
from csp_index.errors import EvaluationError
from csp_index.evaluation.options import EvaluationOptions
from csp_index.labelling.elsewhere.given_labels import GivenLabels, read_given
from csp_index.labelling.elsewhere.names_of_readers import given_names
from csp_index.labelling.elsewhere.stored_imports import imported_labels
from csp_index.models.prompt_templates import fill
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from csp_index.evaluation.steps import Tools

_NONE: Final = "no label: the table of labels has none for this neuron"
_NO_EMBEDDING: Final = "no label: the encoder was imported as arrays, and none of them is the embedding of its text"
_LONG = 60  # letters: a shorter text has fewer tokens than any encoder's context


@dataclass(frozen=True, slots=True)
class GivenChoice:
    """Labels made elsewhere, the texts of them that cannot be embedded, and notes of the encoder on them."""

    given: GivenLabels
    unknown: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The name under which they are a method."""
        return self.given.name

    def described(self) -> dict[str, object]:
        """Return where the labels come from and what was left out."""
        described = self.given.described()
        return {**described, "notes": [*self.given.notes, *self.notes], "weighted": self.given.weighted}

    def of_neurons(self, neurons: Sequence[int]) -> GivenMethodLabels:
        """Return the labels of M neurons."""
        labels = [self.given.label(neuron) for neuron in neurons]
        usable = [label if label and not self.unknown.intersection(_texts(label)) else None for label in labels]
        ranked = [
            [text for text, _ in self.given.texts[neuron]] if label else []
            for neuron, label in zip(neurons, usable, strict=True)
        ]
        reasons = [_NO_EMBEDDING if label else _NONE for label in labels]
        return GivenMethodLabels(tuple(usable), tuple(map(tuple, ranked)), tuple(reasons))


@dataclass(frozen=True, slots=True)
class GivenMethodLabels:
    """The labels of M neurons by one file, and its texts for them, best first; `reasons` say why one has none.

    Nothing is known of other candidates: there are no scores.
    """

    weighted: tuple[WeightedLabel | None, ...]
    ranked: tuple[tuple[str, ...], ...]
    reasons: tuple[str, ...]
    scores: None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the labels."""
        return tuple(dict.fromkeys(text for texts in self.ranked for text in texts))

    @property
    def labels(self) -> list[str | None]:
        """The label of each neuron as it is written, or None."""
        return [label.text if label else None for label in self.weighted]

    def ranked_texts(self) -> list[list[str]]:
        """Return the texts of each neuron, best first."""
        return [list(texts) for texts in self.ranked]


def read_choices(
    store: Store, selection: Selection, options: EvaluationOptions, judge: EncoderInfo, tools: Tools
) -> dict[str, GivenChoice]:
    """Return the labels made elsewhere that options name, by name: those of files, those that the index
    keeps, and the names that readers gave.

    Errors: LabelError for a file that does not fit, EvaluationError for two files of one name.
    """
    target = selection.target
    names = [file.name for file in options.labels]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise EvaluationError(f"two files of labels are called {twice!r}: give one of them another name, NAME=FILE")
    kept = imported_labels(store, target.key)
    if (named := given_names(store, target)) is not None:
        kept[named.name] = named
    given = [kept[choice.text] for choice in options.methods if choice.text in kept and choice.text not in names]
    given += [read_given(file, target.key, target.neurons, options.labels_layer) for file in options.labels]
    return {labels.name: _checked(labels, selection, judge, tools) for labels in given}


def _checked(given: GivenLabels, selection: Selection, judge: EncoderInfo, tools: Tools) -> GivenChoice:
    """Return the labels with what the judging encoder cannot embed, or not whole."""
    of_neuron = {neuron: _texts(label) for neuron in given.texts if (label := given.label(neuron))}
    texts = list(dict.fromkeys(text for own in of_neuron.values() for text in own))
    if judge.is_imported:
        unknown = frozenset(texts) - set(tools.candidates().texts)
        count = sum(bool(unknown.intersection(own)) for own in of_neuron.values())
        if count == len(of_neuron):
            raise EvaluationError(
                f"none of the labels {given.name} can be judged: encoder {judge.name} was imported as arrays, which "
                "hold no embedding of their texts; give these with --text-embeddings and --texts"
            )
        first = next((text for text in texts if text in unknown), "")
        note = f"texts without an imported embedding: {len(unknown):,} ({first!r}, ...), of {count:,} neurons"
        return GivenChoice(given, unknown, (f"{note}, which are not judged",) if unknown else ())
    long = [text for text in texts if len(text) > _LONG]
    cut = _overlong(tools.encoder(judge), long, tools.templates[0]) if long else 0
    note = f"texts that fill the encoder's context, so that their ends may be cut: {cut:,} of {len(texts):,}"
    return GivenChoice(given, frozenset(), (note,) if cut else ())


def _texts(label: WeightedLabel) -> list[str]:
    return [term.text for term in label.terms]


def _overlong(encoder: Any, texts: Sequence[str], template: str) -> int:
    """Return how many texts leave no room for padding; 0 for an encoder that does not show its tokens."""
    tokens = getattr(encoder, "tokens", None)
    if tokens is None:
        return 0
    rows = next(_matrices(tokens([fill(template, text) for text in ["a", *texts]]).values()), None)
    return 0 if rows is None else int((rows[1:, -2] != rows[0, -1]).sum())


def _matrices(parts: Iterable[object]) -> Iterator[torch.Tensor]:
    return (part for part in parts if isinstance(part, torch.Tensor) and part.ndim == 2 and part.shape[1] > 1)
