"""A layer's neurons in a list: sorted, filtered, page by page.

Sorting and filtering use whole columns; rows are made for the neurons of one page alone. So is clarity, which needs the
embeddings of their images; sorting by clarity computes it once for the whole layer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator

from csp_index import settings
from csp_index.errors import SettingError
from csp_index.records import LayerKey
from csp_index.service.documents.layers.clarity import clarities
from csp_index.service.documents.layers.histograms import histogram_of
from csp_index.service.documents.layers.overview_shapes import Histogram
from csp_index.service.documents.maps import placed_maps
from csp_index.service.documents.shapes import GalleryRow, GalleryTerms, LayerDocument, NeuronsDocument
from csp_index.service.documents.studies.classes import class_aurocs, class_set_rows
from csp_index.service.documents.studies.effects import peaks, stored_effects
from csp_index.service.documents.studies.hierarchy import has_hierarchy
from csp_index.service.documents.studies.meanings import has_meanings
from csp_index.service.layer_table import LayerTable, MethodLabels, finite
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog
from csp_index.store.addresses import number_ranges

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

Sort = Literal[
    "index", "label", "score", "lead", "confidence", "probability", "firing_rate", "clarity", "effect", "auroc", "max"
]
Order = Literal["asc", "desc"]
Shown = Literal["all", "labelled", "unlabelled", "dead", "uncertain"]
Bound = Annotated[float | None, BeforeValidator(lambda value: None if value == "" else value)]
"""An end of a range; a field of a form that is left empty is none."""

RANGES: Final = ("score", "firing_rate", "effect")
"""The columns of which a range can be shown, and histograms."""

_LONGEST = 300  # characters of a text searched for in labels
_LONGEST_CLASS = 500  # characters of the name of a class, and of a column
_LONGEST_SET = 16_000  # characters of a set of neurons: an address is no longer anyway


@dataclass(frozen=True, slots=True)
class GalleryQuery:
    """Which neurons of a layer to show, in what order; `cursor` comes from an earlier answer.

    `neurons` are numbers such as `3,8,100-120`: only these are shown. `class_name` is the class of images that `auroc`
    sorts by, of the column `by` (that compared last); without it the class that a neuron tells best. `unlabelled`
    leaves out dead neurons. `q` is searched for in the labels, ignoring case; `label` is all of one. Of `score_from`,
    `score_to` and so on one end may be left open; with either, neurons without a value are left out. Raises
    SettingError for values that do not exist, AddressError for a text that is no set of numbers.
    """

    sort: Sort = "index"
    order: Order = "asc"
    state: Shown = "all"
    q: str = ""
    method: str | None = None
    limit: int | None = None  # None: the setting serve_page
    cursor: str | None = None
    class_name: str = ""
    by: str | None = None
    neurons: str = ""
    label: str = ""
    score_from: Bound = None
    score_to: Bound = None
    firing_rate_from: Bound = None
    firing_rate_to: Bound = None
    effect_from: Bound = None
    effect_to: Bound = None

    def __post_init__(self) -> None:
        for name, kinds in (("sort", Sort), ("order", Order), ("state", Shown)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise SettingError(f"{name} is {value!r}: expected {', '.join(get_args(kinds))}")
        if len(self.q) > _LONGEST:
            raise SettingError(f"the text to search for has {len(self.q)} characters: expected at most {_LONGEST}")
        for column in RANGES:
            for name in (f"{column}_from", f"{column}_to"):
                if (end := getattr(self, name)) is not None and not math.isfinite(end):
                    raise SettingError(f"{name} is {end}: expected a number")
        for name in ("class_name", "by", "label"):
            if len(getattr(self, name) or "") > _LONGEST_CLASS:
                raise SettingError(f"{name} has more than {_LONGEST_CLASS} characters: there is none such")
        if len(self.neurons) > _LONGEST_SET:
            raise SettingError(f"neurons has {len(self.neurons):,} characters: expected at most {_LONGEST_SET:,}")
        self.numbers()
        if self.size < 1:
            raise SettingError(f"limit is {self.limit}: expected at least 1")

    @property
    def size(self) -> int:
        """How many neurons a page has."""
        return settings.SERVE_PAGE.value() if self.limit is None else self.limit

    def numbers(self) -> list[range] | None:
        """Return the numbers of `neurons` as ranges, None for all; AddressError for another text."""
        return None if self.neurons.strip() in ("", "all") else number_ranges(self.neurons)

    def range(self, column: str) -> tuple[float | None, float | None]:
        """Return the ends of the range of a column of `RANGES`, None where it is open."""
        return getattr(self, f"{column}_from"), getattr(self, f"{column}_to")

    @property
    def narrows(self) -> bool:
        """Whether it may leave out neurons."""
        ends = [end for column in RANGES for end in self.range(column)]
        texts = (self.q.strip(), self.neurons.strip(), self.label)
        return self.state != "all" or any(texts) or any(end is not None for end in ends)

    def terms(self, method: str | None) -> GalleryTerms:
        """Return the query as documents have it, with the method that is shown."""
        return {
            "sort": self.sort,
            "order": self.order,
            "state": self.state,
            "q": self.q,
            "method": method,
            "limit": self.size,
            "class_name": self.class_name,
            "by": self.by,
            "neurons": self.neurons,
            "label": self.label,
            "ranges": {column: self.range(column) for column in RANGES},
        }

    def cursor_at(self, key: LayerKey, place: int) -> str:
        """Return the cursor of the page that begins at a place of this query's neurons."""
        return base64.urlsafe_b64encode(f"{place}.{self._mark(key)}".encode()).decode().rstrip("=")

    def place(self, key: LayerKey) -> int:
        """Return where the page begins. Raises SettingError for anything but a cursor of this query."""
        if not self.cursor:
            return 0
        try:
            padded = self.cursor + "=" * (-len(self.cursor) % 4)
            text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            text = ""
        place, _, mark = text.partition(".")
        if mark != self._mark(key) or not place.isdigit() or len(place) > 9:
            raise SettingError(
                "the cursor does not belong to this query: start without a cursor, then use `next` of each answer"
            )
        return int(place)

    def _mark(self, key: LayerKey) -> str:
        """Return a short hash of everything that determines the order of neurons."""
        terms = [str(key), *(value for name, value in asdict(self).items() if name not in ("limit", "cursor"))]
        return hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:12]


def layer_document(
    snapshot: Snapshot, engine: Engine, key: LayerKey, query: GalleryQuery, *, with_clarity: bool = True
) -> LayerDocument:
    """Return the document of a layer: the layer, the query, one page of neurons, cursors both ways, histograms.

    Without `with_clarity` clarity is None, and no embedding is read.
    """
    table = snapshot.layer(key)
    labels, shown = table.labels(query.method), selected(snapshot, engine, table, query)
    place, page = query.place(key), _page(snapshot, engine, table, query, shown, with_clarity)
    return {
        "layer": next(row for row in snapshot.layer_rows() if row["layer"] == str(key)),
        "query": query.terms(None if labels is None else labels.method),
        "neurons": page["neurons"],
        "total": page["total"],
        "next": page["next"],
        "previous": query.cursor_at(key, max(0, place - query.size)) if place else None,
        "classes": class_set_rows(snapshot, key),
        "has_effects": stored_effects(snapshot, key) is not None,
        "has_hierarchy": has_hierarchy(snapshot, key),
        "has_meanings": has_meanings(snapshot, key),
        "mapped": placed_maps(snapshot, key).count,
        "histograms": _histograms(snapshot, engine, table, query, shown),
    }


def neurons_document(
    snapshot: Snapshot, engine: Engine, key: LayerKey, query: GalleryQuery, *, with_clarity: bool = True
) -> NeuronsDocument:
    """Return one page of a layer's neurons, their total number, and the cursor of the next page."""
    table = snapshot.layer(key)
    return _page(snapshot, engine, table, query, selected(snapshot, engine, table, query), with_clarity)


def column(snapshot: Snapshot, engine: Engine, table: LayerTable, name: str, method: str | None = None) -> np.ndarray:
    """Return a column of numbers of a layer's neurons, [M] float64; NaN where a neuron has none.

    For `label` it is the place of the label among all labels of the layer in alphabetical order, for `effect` the size
    of the largest effect on a class.
    """
    if name == "clarity":
        return clarities(snapshot, engine, table).all()
    if name == "effect":
        sizes: np.ndarray = np.abs(peaks(snapshot, table)[0])
        return sizes
    if name == "index":
        return np.arange(table.info.neurons, dtype=np.float64)
    if name in ("firing_rate", "max"):
        return table.firing_rates if name == "firing_rate" else table.maxima
    labels = table.labels(method)
    if labels is None:
        return np.full(table.info.neurons, np.nan)
    if name == "label":
        return _alphabetical(labels)
    columns = {"score": labels.scores, "lead": labels.leads, "confidence": labels.confidences}
    return (columns | {"probability": labels.probabilities})[name]


def _page(
    snapshot: Snapshot, engine: Engine, table: LayerTable, query: GalleryQuery, shown: np.ndarray, with_clarity: bool
) -> NeuronsDocument:
    """Return one page of the neurons that are `shown` [M]."""
    key, first = table.info.key, query.place(table.info.key)
    order = _in_order(snapshot, engine, table, query, shown)
    numbers = order[first : first + query.size]
    clarity = clarities(snapshot, engine, table).of(numbers) if with_clarity else np.full(len(numbers), np.nan)
    effect, on, effects = peaks(snapshot, table)
    auroc, placed = _aurocs(snapshot, key, query), placed_maps(snapshot, key)
    rows: list[GalleryRow] = [
        {
            **(row := table.row(neuron, query.method)),
            "clarity": finite(value),
            "effect": finite(float(effect[neuron])),
            "effect_on": str(effects.classes[on[neuron]]) if effects is not None and on[neuron] >= 0 else None,
            "auroc": None if auroc is None else finite(float(auroc[0][neuron])),
            "auroc_on": None if auroc is None else auroc[1][neuron],
            "mapped": placed.of(neuron, row["top_images"]),
        }
        for neuron, value in zip(numbers.tolist(), clarity.tolist(), strict=True)
    ]
    after = first + query.size
    more = query.cursor_at(key, after) if after < len(order) else None
    return {"neurons": rows, "total": len(order), "next": more}


def ordered(snapshot: Snapshot, engine: Engine, table: LayerTable, query: GalleryQuery) -> np.ndarray:
    """Return the numbers of the query's neurons in its order: neurons without a value last, ties by number."""
    return _in_order(snapshot, engine, table, query, selected(snapshot, engine, table, query))


def _in_order(
    snapshot: Snapshot, engine: Engine, table: LayerTable, query: GalleryQuery, shown: np.ndarray
) -> np.ndarray:
    neurons = np.flatnonzero(shown)
    if query.sort == "auroc":
        auroc = _aurocs(snapshot, table.info.key, query)
        values = np.full(len(neurons), np.nan) if auroc is None else auroc[0][neurons]
    else:
        values = column(snapshot, engine, table, query.sort, query.method)[neurons]
    absent = np.isnan(values)
    keys = np.where(absent, 0, values if query.order == "asc" else -values)
    ordered: np.ndarray = neurons[np.lexsort((keys, absent))]
    return ordered


def _aurocs(snapshot: Snapshot, key: LayerKey, query: GalleryQuery) -> tuple[np.ndarray, list[str]] | None:
    """Return the AUROC of each neuron [M] for the query's class, or the highest one, and the name of that class.

    None where the query does not ask for it. Raises NotFoundError where nothing was compared, or for another class.
    """
    if query.class_name or query.by or (query.sort == "auroc" and class_set_rows(snapshot, key)):
        return class_aurocs(snapshot, key, query.class_name, query.by)
    return None


def selected(snapshot: Snapshot, engine: Engine, table: LayerTable, query: GalleryQuery) -> np.ndarray:
    """Return which neurons [M] pass the query's filters."""
    labels, none = table.labels(query.method), np.zeros(table.info.neurons, dtype=bool)
    labelled = none if labels is None else labels.states == "labelled"
    passing: np.ndarray = ~none
    if query.state == "labelled":
        passing = labelled
    elif query.state == "unlabelled":
        passing = ~labelled & ~table.dead
    elif query.state == "dead":
        passing = table.dead
    elif query.state == "uncertain":
        passing = none if labels is None else labels.uncertain > 0
    if (numbers := query.numbers()) is not None:
        passing = passing & _members(table, numbers)
    if query.q.strip():
        passing = passing & (none if labels is None else named(labels, query.q))
    if query.label:
        passing = passing & (none if labels is None else labels.texts == query.label)
    for name in RANGES:
        low, high = query.range(name)
        if low is not None or high is not None:
            values = column(snapshot, engine, table, name, query.method)
            low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
            passing = passing & (values >= low) & (values <= high)  # NaN is neither
    return passing


def _histograms(
    snapshot: Snapshot, engine: Engine, table: LayerTable, query: GalleryQuery, shown: np.ndarray
) -> list[Histogram]:
    """Return the histogram of each column of `RANGES` that has values, with the part that is `shown` [M]."""
    made = (histogram_of(name, column(snapshot, engine, table, name, query.method), shown) for name in RANGES)
    return [one for one in made if one is not None]


def _members(table: LayerTable, numbers: list[range]) -> np.ndarray:
    """Return which neurons [M] are among the numbers. Raises NotFoundError for one that the layer does not have."""
    catalog.check_neurons(table.info, [max(run[-1] for run in numbers)])
    members = np.zeros(table.info.neurons, dtype=bool)
    for run in numbers:
        members[run.start : run.stop] = True
    return members


def named(labels: MethodLabels, text: str) -> np.ndarray:
    """Return which neurons' labels [M] contain a text, ignoring case."""
    matches = pc.match_substring(pc.utf8_lower(_texts(labels)), text.strip().lower())
    named: np.ndarray = matches.fill_null(False).to_numpy(zero_copy_only=False)
    return named


def _alphabetical(labels: MethodLabels) -> np.ndarray:
    lowered = pc.utf8_lower(_texts(labels))
    places = pc.index_in(lowered, lowered.drop_null().unique().sort()).cast(pa.float64())
    order: np.ndarray = places.to_numpy(zero_copy_only=False)  # null is NaN
    return order


def _texts(labels: MethodLabels) -> pa.Array:
    return pa.array(labels.texts, pa.string(), from_pandas=True)
