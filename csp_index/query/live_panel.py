"""A widget for notebooks: one neuron labeled again while its controls move. Needs the extra `notebook`.

The controls are those of the neuron's page. A question comes from the browser, its answer goes back; nothing is
written.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.errors import CspIndexError, QueryError, SettingError
from csp_index.labelling.methods import CROP, METHODS, RECOMMENDED, controls
from csp_index.records import ExampleOptions, Label, ScoringOptions

PAIRS: Final = 8
"""Pairs of images in an answer, at most."""
_STATIC = Path(__file__).parent / "static"
_MADE = ("perturbation", "synthetic")  # contrast whose images would have to be made
_KNOBS = {"gamma": float, "examples": int, "contrast": str, "threshold": str}
_LETTERS, _LINES = 200, 200  # of candidates of one's own

Relabel = Callable[..., Sequence[Label]]  # by keywords of Index.label, the first one counts


class LivePanel:
    """A neuron's label, its rivals and pairs, made again at each question.

    `question` is what the controls say: method, gamma, examples, contrast, threshold, crop, candidates (texts of one's
    own, [] for the index's vocabulary). `answer` is the label as `Label.as_json` has it, with pictures of its pairs and
    the milliseconds it took, or an `error` in one line. `widget` is the anywidget, to stand among others.
    """

    def __init__(
        self,
        neuron: str,
        method: str,
        relabel: Relabel,
        read: Callable[[Iterable[int]], Mapping[int, bytes]],
        *,
        mapped: bool = False,
    ) -> None:
        """Show a neuron, at first by `method`; `relabel` labels it, `read` returns the pictures of image ids.

        A neuron that is `mapped` has a control for crops. Errors: QueryError where anywidget is not installed.
        """
        self._relabel, self._read = relabel, read
        named = [name for name in METHODS if name not in controls()]
        contrast = [name for name in CONTRAST_KINDS if name not in _MADE]
        asked = {"method": method if method in named else RECOMMENDED, "candidates": []}
        defaults = asdict(ExampleOptions()) | asdict(ScoringOptions())
        asked |= {name: defaults[name] for name in _KNOBS} | {CROP: False}
        cropping = [name for name in named if CROP in METHODS[name].knobs] if mapped else []
        answer = self._reply(asked)
        shown = {"neuron": neuron, "choices": {"method": named, "contrast": contrast, CROP: cropping}}
        self.widget = _widget_class()(question=asked, answer=answer, **shown)
        self.widget.observe(self._replied, names="question")

    @property
    def question(self) -> dict[str, Any]:
        """What the controls said last, or a cell set."""
        return dict(self.widget.question)

    @question.setter
    def question(self, asked: Mapping[str, Any]) -> None:
        self.widget.question = dict(asked)

    @property
    def answer(self) -> dict[str, Any]:
        """What was answered last."""
        return dict(self.widget.answer)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _replied(self, change: Mapping[str, Any]) -> None:
        self.widget.answer = self._reply(change["new"])

    def _reply(self, question: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            said = self._said(self._relabel(**_keywords(question))[0])
        except CspIndexError as exc:
            said = {"error": " ".join(str(exc).split())}
        milliseconds = round(1000 * (time.perf_counter() - started))
        return said | {"milliseconds": milliseconds, "number": question.get("number", 0)}

    def _said(self, label: Label) -> dict[str, Any]:
        pairs = label.pairs[:PAIRS]
        ids = [image for pair in pairs for image in (pair.image_id, pair.contrast_id) if image is not None]
        pictures: dict[int | None, str] = {
            image: base64.b64encode(data).decode() for image, data in self._read(ids).items()
        }
        columns = [
            asdict(pair) | {"picture": pictures.get(pair.image_id), "partner": pictures.get(pair.contrast_id)}
            for pair in pairs
        ]
        return label.as_json() | {"doubt": label.doubt, "pairs": columns}


@cache
def _widget_class() -> Any:
    """Return the class of the widget, whose values the browser shares."""
    try:
        import anywidget
        import traitlets
    except ImportError as exc:
        raise QueryError("the live panel needs anywidget: pip install 'csp_index[notebook]'") from exc
    shared = {name: traitlets.Dict().tag(sync=True) for name in ("choices", "question", "answer")}
    files = {"_esm": _STATIC / "live_panel.js", "_css": _STATIC / "live_panel.css"}
    values: dict[str, Any] = {"__module__": __name__, "neuron": traitlets.Unicode().tag(sync=True), **shared, **files}
    return type("LivePanelWidget", (anywidget.AnyWidget,), values)


def _keywords(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question as keywords of `Index.label`; SettingError for what is no question."""
    candidates = question.get("candidates", [])
    if not isinstance(candidates, list) or not all(isinstance(one, str) for one in candidates):
        raise SettingError("candidates are no list of texts: give one per line")
    if len(candidates) > _LINES or any(len(one) > _LETTERS for one in candidates):
        raise SettingError(f"too many candidates or letters: expected at most {_LINES} of {_LETTERS} characters")
    words: dict[str, Any] = {"method": question.get("method"), "vocabulary": candidates or None}
    crop = question.get(CROP, False)
    if not isinstance(crop, bool):
        raise SettingError(f"{CROP} is {crop!r}: expected True or False")
    words |= {CROP: True} if crop else {}
    for name, kind in _KNOBS.items():
        value = question.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
            raise SettingError(f"{name} is {value!r}: expected {kind.__name__}")
        words[name] = kind(value)
    return words
