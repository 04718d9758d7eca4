"""What the labels of many neurons amount to, in one line: how many, how many are doubtful, which is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from csp_index.labelling.elsewhere.records import imported_names
from csp_index.labelling.texts.candidate_names import VOCABULARY, last_vocabulary_name
from csp_index.printable import shortened
from csp_index.records import Label, LabelState
from csp_index.store.tables import Store

_LETTERS = 60  # of the label that the line repeats, which may be a caption
_STATES: dict[LabelState, str] = {
    "dead": "dead",
    "constant": "constant",
    "no-contrast": "without contrast",
    "no-candidates": "no candidates",
}


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """Counts of the labels of some neurons by one method; `shared` is the label of most of them, and of how many."""

    method: str
    candidates: str
    neurons: int
    labelled: int
    doubtful: int
    unlabelled: tuple[tuple[str, int], ...]
    shared: tuple[str, int] | None

    def told(self, why: str = "") -> str:
        """Return the counts in words; `why` says in brackets why it was this method."""
        by = f"{self.method} ({why})" if why else self.method
        of = f" from {self.candidates}" if self.candidates else ""
        parts = [f"labeled {self.labelled:,} of {self.neurons:,} neurons by {by}{of}"]
        if self.labelled:
            parts.append(f"{self.doubtful:,} of them doubtful")
        parts += [f"{count:,} {state}" for state, count in self.unlabelled]
        if self.shared is not None:
            parts.append(f"most shared label: {shortened(self.shared[0], _LETTERS)} ({self.shared[1]:,} neurons)")
        return ", ".join(parts)


def summary_of(labels: Sequence[Label], candidates: str) -> LabelSummary:
    """Return the summary of labels, one a neuron, all by one method; `candidates` says what they were chosen from."""
    named = [label for label in labels if label.labels]
    texts = Counter(label.labels[0].text for label in named)
    states = Counter(label.state for label in labels)
    most = texts.most_common(1)[0] if texts else None
    return LabelSummary(
        labels[0].method,
        candidates,
        len(labels),
        len(named),
        sum(label.uncertain for label in named),
        tuple((name, states[state]) for state, name in _STATES.items() if states[state]),
        most if most is not None and most[1] > 1 else None,
    )


def candidates_named(store: Store, method: str, kinds: str | Iterable[str], vocabulary: object) -> str:
    """Return in words what labels were chosen from, given what a caller named; a vocabulary is named or the last one.

    Only a text names a vocabulary that this can repeat: other candidates are called the texts given. Labels made
    elsewhere were chosen from nothing that is known.
    """
    if method in imported_names(store):
        return ""
    kinds = [kind.strip() for kind in (kinds.split(",") if isinstance(kinds, str) else kinds)]
    names = [kind for kind in kinds if kind != VOCABULARY]
    if VOCABULARY in kinds:
        given = f"vocabulary {vocabulary}" if isinstance(vocabulary, str) else "the texts given"
        names.insert(0, f"vocabulary {last_vocabulary_name(store)}" if vocabulary is None else given)
    return " and ".join(names)
