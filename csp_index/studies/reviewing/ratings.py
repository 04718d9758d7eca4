"""Ratings: whether a person finds a label true of a picture, added to the table `ratings`. Does not load torch."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import SettingError
from csp_index.labelling.review.words import DRAWS, VERDICTS
from csp_index.records import NeuronKey
from csp_index.store import catalog, schema
from csp_index.store.runs import record_run
from csp_index.store.study_tables import RATINGS
from csp_index.store.tables import Store
from csp_index.store.waiting import waiting_lock
from csp_index.studies.reviewing.notes import clean


@dataclass(frozen=True, slots=True)
class Question:
    """Is this label true of this picture? And what a person does not see: the neuron, who made the label, the draw."""

    neuron: NeuronKey
    text: str
    image_id: int
    method: str
    label_run: str
    layer_digest: str
    drawn: str
    weight: float
    activation: float


def write_rating(
    store: Store,
    question: Question,
    rater: str,
    verdict: str,
    *,
    run_of: Callable[[Store], str] | None = None,
    wait: float | None = None,
) -> str:
    """Add a person's verdict on a question, and return the rating's id; waits up to `wait` seconds for another writer.

    It belongs to the run whose id `run_of` returns, which is called under the lock and only if nothing is refused; by
    default to one of its own. Errors: SettingError for a verdict that is none and a name that cannot be shown;
    LockedError while somebody else writes: nothing was written then.
    """
    rater = clean(rater, "reader")
    for name, value, known in (("verdict", verdict, VERDICTS), ("draw", question.drawn, DRAWS)):
        if value not in known:
            raise SettingError(f"the {name} is {value!r}: expected {', '.join(known)}")
    with waiting_lock(store, wait):
        moment = datetime.now(UTC)
        row = asdict(question) | {"model": question.neuron.model, "layer": question.neuron.layer}
        row |= {"neuron": question.neuron.neuron, "rater": rater, "verdict": verdict, "when": moment}
        row["rating_id"] = f"{moment:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        if run_of is not None:
            _append(store, row, run_of(store))
        else:
            with record_run(store, "rate", {"rater": rater}, {}) as run:
                _append(store, row, run.run_id)
    return str(row["rating_id"])


def rated_by(store: Store, rater: str) -> dict[tuple[str, str, int, str], set[int]]:
    """Return the images on which a person rated labels, by (model, layer, neuron, text)."""
    columns = ["model", "layer", "neuron", "text", "image_id"]
    rows = store.read(RATINGS, columns, f"rater = {catalog.sql_text(rater)}")
    rated: dict[tuple[str, str, int, str], set[int]] = {}
    for *label, image in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        rated.setdefault(tuple(label), set()).add(image)
    return rated


def rating_counts(store: Store) -> dict[str, int]:
    """Return how many ratings each person wrote, by name."""
    counted = pc.value_counts(store.read(RATINGS, ["rater"])["rater"]).to_pylist()
    return {str(entry["values"]): int(entry["counts"]) for entry in counted}


def _append(store: Store, row: dict[str, object], run_id: str) -> None:
    store.append(RATINGS, pa.Table.from_pylist([row | {"run_id": run_id}], schema=schema.table_schema(RATINGS)))
