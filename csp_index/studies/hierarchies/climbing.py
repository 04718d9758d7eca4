"""From the activations of neurons and the responses of words to the level of each label. Knows nothing of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from csp_index.studies.hierarchies.levels import (
    Compared,
    Resampled,
    Verdict,
    correlations,
    interval,
    reached,
    standardized,
)
from csp_index.studies.hierarchies.responses import Responses
from csp_index.studies.hierarchies.words import LabelWords

_NOTHING: Final = {
    "label": None,
    "state": "unlabelled",
    **dict.fromkeys(("level", "level_title", "steps", "by", "correlation", "level_correlation")),
    **dict.fromkeys(("low", "high", "ended_at", "ended_correlation")),
}


class Climb:
    """Finds the level of labels, block by block of neurons."""

    def __init__(
        self, words: LabelWords, choosing: Responses, judging: Responses, weights: np.ndarray, keep: float
    ) -> None:
        """Take the responses on the choosing and the judging images; `weights` [n, B] resample the latter."""
        self._words, self._keep = words, keep
        self._places = {label: place for place, label in enumerate(words.labels)}
        self._parents = [word.parents for word in words.words]
        self._responses, self._weights = judging, weights
        self._choosing = standardized(choosing.values)
        self._judging = Resampled.of(standardized(judging.values), weights)

    def levels(self, labels: Sequence[str | None], choosing: np.ndarray, judging: np.ndarray) -> list[dict[str, Any]]:
        """Return what is stored of each neuron, given labels [m] and activations [m, n] on both kinds of images."""
        said = [self._start(label) for label in labels]
        rows = np.array([row for row, one in enumerate(said) if one["state"] == "kept"], np.int64)
        if not len(rows):
            return said
        own = np.array([self._places[str(labels[row])] for row in rows.tolist()], np.int64)
        neurons = Resampled.of(standardized(judging), self._weights)
        found = correlations(neurons.values, self._judging.values, rows, own)
        drawn = neurons.correlations(self._judging, rows, own)
        for row, value, low in zip(rows.tolist(), found.tolist(), interval(drawn)[0].tolist(), strict=True):
            said[row] |= {"correlation": value, "level_correlation": value}
            said[row]["state"] = "kept" if low > 0 else "unexplained"
        fitted = standardized(choosing)
        by_label = correlations(fitted, self._choosing, rows, own)
        pairs = self._pairs(rows, own)
        columns, is_text, fit = self._read_as(fitted, pairs[:, 0], pairs[:, 2])
        broader = correlations(neurons.values, self._judging.values, pairs[:, 0], columns)
        resampled = neurons.correlations(self._judging, pairs[:, 0], columns)
        ends = np.searchsorted(pairs[:, 1], np.arange(len(rows)), side="right").tolist()
        for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            label = _Read(int(own[place]), float(found[place]), drawn[place], float(by_label[place]), False)
            above = {
                int(pairs[pair, 2]): _Read(
                    int(columns[pair]), float(broader[pair]), resampled[pair], float(fit[pair]), bool(is_text[pair])
                )
                for pair in range(start, end)
            }
            if above:
                self._settle(said[int(rows[place])], int(own[place]), label, above)
        return said

    def _start(self, label: str | None) -> dict[str, Any]:
        """Return what is said of a neuron before anything is compared: its label stands for itself."""
        if label is None:
            return dict(_NOTHING)
        place = self._places.get(label)
        if place is None:
            return _NOTHING | {"label": label, "state": "unknown"}
        word = self._words.starts[place][0]
        state = "kept" if self._words.embedded[place] else "unexplained"
        return _NOTHING | {
            "label": label,
            "state": state,
            "level": word,
            "level_title": self._words.words[word].title,
            "steps": 0,
        }

    def _pairs(self, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return [P, 3]: the neuron's row, its place among those compared, and a word above its label; by place."""
        pairs = [
            (row, place, word)
            for place, (row, label) in enumerate(zip(rows.tolist(), own.tolist(), strict=True))
            for word, steps in self._words.above[label].items()
            if steps
        ]
        return np.array(pairs, np.int64).reshape(-1, 3)

    def _read_as(self, choosing: np.ndarray, rows: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the row of the response by which each pair's word is read, whether it is its own text, and its fit.

        That is the response that explains the choosing images better; of equals the text.
        """
        responses = self._responses
        both = responses.text_rows(words), responses.union_rows(words)
        text, union = (correlations(choosing, self._choosing, rows, columns) for columns in both)
        text[~responses.has_text[words]] = -np.inf
        union[~responses.has_union[words]] = -np.inf
        is_text = text >= union
        return np.where(is_text, *both), is_text, np.where(is_text, text, union)

    def _settle(self, one: dict[str, Any], label: int, own: _Read, above: dict[int, _Read]) -> None:
        """Write down the level of a neuron, and where the climb ended."""
        start, begin = self._beginning(own, above)
        if start is None and one["state"] == "unexplained":
            return
        steps = self._words.above[label]
        origin = self._words.starts[label] if start is None else (start,)
        verdicts = self._verdicts(begin, {word: read for word, read in above.items() if word != start})
        found, ends = reached(origin, self._parents, verdicts)
        level = max(found, key=lambda word: (steps[word], above[word].correlation, -word), default=start)
        if level is not None:
            read = above[level]
            low, high = interval((read.resampled - own.resampled)[None])
            one |= {"state": "climbed", "level": level, "level_title": self._words.words[level].title}
            one |= {"steps": steps[level], "by": "text" if read.is_text else "union"}
            one |= {"level_correlation": read.correlation, "low": float(low[0]), "high": float(high[0])}
        ends = [end for end in ends if end in above and above[end].fit > -np.inf]
        if ends:
            last = max(ends, key=lambda word: (above[word].correlation, -word))
            one["ended_at"] = self._words.words[last].title
            one["ended_correlation"] = above[last].correlation
            if level is None:
                one["level"] = next(sense for sense in self._words.starts[label] if self._leads(sense, last))
                one["level_title"] = self._words.words[one["level"]].title

    def _leads(self, sense: int, word: int) -> bool:
        """Return whether a word is above a sense of a label."""
        waiting = [sense]
        for one in waiting:  # the list grows while it is read
            waiting += [parent for parent in self._parents[one] if parent not in waiting]
        return word in waiting

    def _beginning(self, own: _Read, above: dict[int, _Read]) -> tuple[int | None, _Read]:
        """Return the word at which the climb begins, None for the label: what explains the choosing images best.

        A broader word only if it bears the neuron beside the label on the judging images, too.
        """
        best = max(above, key=lambda word: (above[word].fit, -word))
        if above[best].fit > own.fit and self._verdicts(own, {best: above[best]})[best] == "bears":
            return best, above[best]
        return None, own

    def _verdicts(self, begin: _Read, above: dict[int, _Read]) -> dict[int, Verdict]:
        """Return what is said of words beside the one at which a climb begins."""
        if not above:
            return {}
        reads = list(above.values())
        resampled = np.stack([read.resampled for read in reads])
        _, high = interval(resampled - begin.resampled)
        columns = np.array([read.column for read in reads], np.int64)
        same = np.full(len(columns), begin.column)
        alike = correlations(self._judging.values, self._judging.values, same, columns)
        alike[np.isinf([read.fit for read in reads])] = 1.0  # nothing is known of it but the label
        correlation = np.array([read.correlation for read in reads])
        compared = Compared(begin.correlation, correlation, high, interval(resampled)[0], alike)
        return dict(zip(above, compared.verdicts(self._keep), strict=True))


@dataclass(frozen=True, slots=True)
class _Read:
    """A word as one neuron's activations are compared with it: the row of its response, and how well it explains.

    `fit` is the correlation over the choosing images, -inf for a word that has no response.
    """

    column: int
    correlation: float
    resampled: np.ndarray  # [B]
    fit: float
    is_text: bool
