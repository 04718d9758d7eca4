"""Ratings as rows of the file of notes, out and in again: they stand below the notes, with four columns of their own.

A picture is called by its sha256, by its URI where it has none (images of arrays): another index numbers its images in
another way. Does not load torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from csp_index.errors import SettingError
from csp_index.labelling.review.words import DRAWS, OF_NEURON, VERDICTS
from csp_index.records import NeuronKey
from csp_index.store import catalog, schema
from csp_index.store.study_tables import RATINGS
from csp_index.store.tables import Store
from csp_index.studies.reviewing.notes import clean

RATE: Final = "rate"
"""The action of a row that is a rating: its text is the verdict, its label what was rated."""
RATING_COLUMNS: Final = ("image", "drawn", "weight", "activation")
"""The columns that a file of notes has further, if it has ratings."""
_SAME: Final = (
    "when",
    "method",
    "label_run",
    "layer_digest",
    "drawn",
    "weight",
    "activation",
    "verdict",
    "rater",
    "text",
)


@dataclass(frozen=True, slots=True)
class Rating:
    """One row of `ratings` but its run: see `store.study_tables`; `image` is the sha256 or the URI of the picture."""

    rating_id: str
    when: datetime
    rater: str
    neuron: NeuronKey
    text: str
    verdict: str
    method: str
    label_run: str
    layer_digest: str
    image: str
    drawn: str
    weight: float
    activation: float

    def cells(self) -> dict[str, str]:
        """Return the row of the file, by column."""
        said = {"note_id": self.rating_id, "when": self.when.isoformat(), "reader": self.rater, "action": RATE}
        about = {"subject": f"{OF_NEURON}{self.neuron}", "text": self.verdict, "label": self.text}
        made = {name: getattr(self, name) for name in ("method", "label_run", "layer_digest", "image", "drawn")}
        return said | about | made | {"weight": repr(self.weight), "activation": repr(self.activation)}


def rating_of(cells: Mapping[str, str], when: datetime) -> Rating:
    """Return the rating that a row of the file is. Errors: SettingError, AddressError, ValueError for a number."""
    verdict, drawn = cells["text"], cells["drawn"]
    for what, value, known in (("verdict", verdict, VERDICTS), ("draw", drawn, DRAWS)):
        if value not in known:
            raise SettingError(f"the {what} is {value!r}: expected {', '.join(known)}")
    weight, activation = float(cells["weight"]), float(np.float32(cells["activation"]))
    if not (math.isfinite(weight) and weight > 0 and math.isfinite(activation)):
        raise SettingError(
            f"weight and activation are {weight} and {activation}: expected finite numbers, a weight > 0"
        )
    if not (cells["label"] and cells["image"] and cells["subject"].startswith(OF_NEURON)):
        raise SettingError("a rating is of a neuron, a label and an image: one of them is missing")
    return Rating(
        rating_id=cells["note_id"],
        when=when,
        rater=clean(cells["reader"], "reader"),
        neuron=NeuronKey.parse(cells["subject"].removeprefix(OF_NEURON)),
        text=cells["label"],
        verdict=verdict,
        drawn=drawn,
        weight=weight,
        activation=activation,
        **{name: cells[name] for name in ("method", "label_run", "layer_digest", "image")},
    )


def read_ratings(store: Store) -> tuple[Rating, ...]:
    """Return all ratings in the order they were written."""
    rows = store.read(RATINGS).to_pylist()
    names = _image_names(store, {row["image_id"] for row in rows})
    ratings = (_rating(row, names) for row in rows)
    return tuple(sorted(ratings, key=lambda one: (one.when, one.rating_id)))


def _rating(row: Mapping[str, Any], names: Mapping[int, str]) -> Rating:
    key = NeuronKey(row["model"], row["layer"], row["neuron"])
    said = {name: row[name] for name in _SAME}
    return Rating(row["rating_id"], neuron=key, image=names.get(row["image_id"], ""), **said)


def append_ratings(store: Store, ratings: Sequence[Rating], run_id: str) -> None:
    """Append ratings, all of which `known_ratings` returned, as rows of a run; the caller holds the write lock."""
    ids = _image_ids(store, {one.image for one in ratings})
    rows = []
    for one in ratings:
        row = asdict(one) | {"run_id": run_id, "model": one.neuron.model, "layer": one.neuron.layer}
        rows.append(row | {"neuron": one.neuron.neuron, "image_id": ids[one.image]})
    if rows:
        store.append(RATINGS, pa.Table.from_pylist(rows, schema=schema.table_schema(RATINGS)))


def known_ratings(store: Store, ratings: Sequence[Rating]) -> list[Rating]:
    """Return the ratings whose neuron and picture the index has: of others it could not say what was rated."""
    sizes = {info.key: info.neurons for info in catalog.layers(store)}
    ids = _image_ids(store, {one.image for one in ratings})
    return [one for one in ratings if one.image in ids and one.neuron.neuron < sizes.get(one.neuron.layer_key, 0)]


def _image_names(store: Store, images: set[int]) -> dict[int, str]:
    """Return the sha256, or else the URI, of some images."""
    names: dict[int, str] = {}
    for batch in store.scan(schema.IMAGES, ["image_id", "uri", "sha256"]) if images else ():
        columns = (batch[name].to_pylist() for name in ("image_id", "uri", "sha256"))
        names |= {image: digest or uri for image, uri, digest in zip(*columns, strict=True) if image in images}
    return names


def _image_ids(store: Store, names: set[str]) -> dict[str, int]:
    """Return the first image of each sha256 or URI that the index has."""
    ids: dict[str, int] = {}
    for batch in store.scan(schema.IMAGES, ["image_id", "uri", "sha256"]) if names else ():
        columns = (batch[name].to_pylist() for name in ("image_id", "uri", "sha256"))
        for image, uri, digest in zip(*columns, strict=True):
            if (name := digest or uri) in names:
                ids.setdefault(name, image)
    return ids
