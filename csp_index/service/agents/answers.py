"""The answers of the tools: the service's documents, with what a model needs of them, in a bounded size.

Each function takes the service and checked arguments. Its errors are those of the document that it asks for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from PIL import Image

from csp_index.concurrency import go_on
from csp_index.errors import NotFoundError, SettingError
from csp_index.printable import printable_json, shortened
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.agents import arguments as asked
from csp_index.service.agents.fitting import CUT, LETTERS, fitted, page_of, plain
from csp_index.service.documents.card import card_of
from csp_index.service.documents.concepts.concept import concept_document
from csp_index.service.documents.home import home_document
from csp_index.service.documents.image import image_document, picture_for_card, stored_thumbnail
from csp_index.service.documents.layer import neurons_document
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.documents.search import search_document
from csp_index.service.documents.studies import classes
from csp_index.service.http.api import Service, sql_document
from csp_index.service.http.schemas import LabelBody, SqlBody
from csp_index.studies.concepts.concept import WAYS

Check = Callable[[], None]

_INDEX: Final = ("name", "images", "failures", "labels", "encoders", "networks")
_LAYER: Final = ("layer", "neurons", "dead", "labelled", "methods", "images", "ready")
_NEURON: Final = ("neuron", "label", "method", "state", "score", "confidence", "probability", "uncertain")
_LISTED: Final = (*_NEURON, "lead", "firing_rate", "max", "clarity", "effect", "effect_on", "auroc", "auroc_on")
_FOUND: Final = (*_NEURON, "similarity", "activation", "quantile")
_ANSWERING: Final = (
    *_NEURON,
    *("says", "by_reader", "similarity", "above_layer", "stands_out", "candidate_rank", "candidate_score"),
    *("auroc", "auroc_by", "auroc_class", "tells_class", "ways"),
)
_GROUPED: Final = ("neuron", "label", "uncertain", "ways", "similarity", "candidate_rank", "auroc")
_SHOWN: Final = (
    *_NEURON,
    *("null_percentile", "doubt", "note", "class_name", "firing_rate", "dead", "labels", "rivals", "prediction_set"),
    *("terms", "bias", "methods", "formula", "effects", "previous", "next"),
)
_STATISTICS: Final = ("images", "mean", "std", "min", "max", "firing_rate")
_LIVE: Final = (
    *("neuron", "method", "state", "labels", "confidence", "probability", "uncertain", "null_percentile", "doubt"),
    *("note", "rivals", "terms", "bias"),
)
_PAIR: Final = ("activation", "contrast_activation", "similarity", "kind")
_PAIRS: Final = 10
_TOLD: Final = ("class_name", "names_class", "auroc", "rate_in", "rate_out", "mean_in", "mean_out")
_PICTURE_BYTES: Final = 1_000_000  # above that a card is sent as JPEG
_JPEG: Final = 85


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and its media type."""

    data: bytes
    kind: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool returns: a document for JSON, and a picture, if it has one."""

    document: dict[str, Any]
    picture: Picture | None = None


def layers(service: Service, wanted: asked.LayersArguments, check: Check = go_on) -> Answer:
    """Return what the index holds, and its layers page by page."""
    home = home_document(service.snapshot)
    rows = [_some(row, _LAYER) for row in home["layers"]]
    return Answer(page_of(_some(home, _INDEX), "layers", rows, wanted.offset, wanted.limit, _most(service)))


def neurons(service: Service, wanted: asked.NeuronsArguments, check: Check = go_on) -> Answer:
    """Return a page of a layer's neurons: as many of the `limit` as fit; `next` is the cursor of the page after it."""
    key, most = LayerKey.parse(wanted.layer), _most(service)
    limit, page = wanted.limit, neurons_document(service.snapshot, service.engine, key, wanted.query(wanted.limit))
    rows = [_some(row, _LISTED) | {"top_images": row["top_images"][:3]} for row in page["neurons"]]
    document = fitted(
        {"layer": wanted.layer, "neurons": rows, "total": page["total"], "next": "x" * 40}, most, ["neurons"]
    )
    document["next"] = page["next"]
    if document.pop(CUT, None):
        query = wanted.query(limit)
        document["next"] = query.cursor_at(key, query.place(key) + len(document["neurons"]))
    return Answer(document)


def neuron(service: Service, wanted: asked.NeuronArguments, check: Check = go_on) -> Answer:
    """Return what is known of a neuron: its label and rivals, the images behind it, classes, effects, notes."""
    page = neuron_document(service.snapshot, service.engine, NeuronKey.parse(wanted.neuron), wanted.method)
    names, statistics = page["images"], page["statistics"]
    pairs = [pair for pair in page["pairs"] if not pair["neighbour"]][:_PAIRS]
    activating = [
        {
            "image": _named(pair["image_id"], names),
            "contrast": None if pair["contrast_id"] is None else _named(pair["contrast_id"], names),
            **_some(pair, _PAIR),
        }
        for pair in pairs
    ] or [
        {"image": _named(image["image_id"], names), "activation": image["activation"]}
        for image in page["quantile_rows"][0]["images"]
    ]
    document = {
        **_some(page, _SHOWN),
        "statistics": _some(statistics, _STATISTICS),
        "contrast_quality": page["contrast_quality"],
        "activating": activating,
        "facets": [
            {
                "label": facet["label"],
                "share": facet["share"],
                "images": [_named(i, names) for i in facet["images"][:3]],
            }
            for facet in page["facets"]
        ],
        "similar": [_some(row, ("neuron", "label", "similarity")) for row in page["similar"]],
        "similar_note": page["similar_note"],
        "classes": [
            {"by": told["by"]["by"]} | {side: [_some(row, _TOLD) for row in told[side]] for side in ("best", "silent")}
            for told in page["classes"]
        ],
        "tags": page["review"]["tags"],
        "notes": [_some(note, ("when", "reader", "action", "text")) for note in page["review"]["notes"]],
    }
    lists = ("notes", "labels", "terms", "rivals", "prediction_set", "activating", "similar", "methods", "classes")
    return Answer(fitted(document, _most(service), lists))


def search(service: Service, wanted: asked.SearchArguments, check: Check = go_on) -> Answer:
    """Return neurons that mean, name or react to what is asked for, and images that resemble it."""
    found = search_document(service.snapshot, service.engine, wanted.query())
    names = service.snapshot.names(row["image_id"] for row in found["images"])
    document = {
        "query": found["query"],
        "means": [_some(row, _FOUND) for row in found["means"]],
        "by_name": [_some(row, _FOUND) for row in found["by_name"]],
        "excites": [_some(row, _FOUND) for row in found["excites"] or ()],
        "images": [{"image": _named(r["image_id"], names), "similarity": r["similarity"]} for r in found["images"]],
        "note": found["note"],
    }
    return Answer(fitted(document, _most(service), ("means", "by_name", "excites", "images")))


def concept(service: Service, wanted: asked.ConceptArguments, check: Check = go_on) -> Answer:
    """Return the neurons of all layers that answer to a word: each once by its strongest way, and those of each way."""
    page = concept_document(service.snapshot, service.engine, wanted.word, wanted.limit)
    groups = [{**group, "neurons": [_some(row, _GROUPED) for row in group["neurons"]]} for group in page["groups"]]
    ways = {way: [_some(row, _ANSWERING) for row in page[way]] for way in WAYS}
    document = (
        _some(page, ("word", "sentence"))
        | {"groups": groups}
        | ways
        | _some(page, ("layers", "also", "also_by", "classes", "uncompared", "notes"))
    )
    lists = (*(f"groups.{place}.neurons" for place in range(len(groups))), *WAYS, "layers", "also", "classes")
    return Answer(fitted(document, _most(service), lists))


def label(service: Service, wanted: LabelBody, check: Check = go_on) -> Answer:
    """Return labels of neurons made for this question, and not stored."""
    results = service.engine.models().relabel(wanted.query(), check)
    rows = [
        _some(result, _LIVE)
        | {"activating": result["activating"][:_PAIRS], "contrastive": result["contrastive"][:_PAIRS]}
        for result in results
    ]
    return Answer(fitted({"results": rows}, _most(service), ["results"]))


def card(service: Service, wanted: asked.NeuronArguments, check: Check = go_on) -> Answer:
    """Return the picture card of a neuron, PNG, or JPEG where that would be large."""
    page = neuron_document(service.snapshot, service.engine, NeuronKey.parse(wanted.neuron), wanted.method)
    data = card_of(page, partial(picture_for_card, service.snapshot))
    picture = Picture(data, "image/png")
    if len(data) > _PICTURE_BYTES:
        compressed = io.BytesIO()
        Image.open(io.BytesIO(data), formats=["PNG"]).convert("RGB").save(compressed, "JPEG", quality=_JPEG)
        picture = Picture(compressed.getvalue(), "image/jpeg")
    return Answer(plain(_some(page, _NEURON)), picture)


def image(service: Service, wanted: asked.ImageArguments, check: Check = go_on) -> Answer:
    """Return an image: its metadata, the neurons it excites most, similar images, and its small picture."""
    page = image_document(service.snapshot, service.engine, wanted.image_id)
    document = {
        **_some(page, ("image_id", "name", "width", "height", "split")),
        "metadata": {name: _told(value) for name, value in page["metadata"].items()},
        **_some(page, ("derived",)),
        "excites": [_some(row, _FOUND) for row in page["excites"]],
        "neighbours": page["neighbours"],
    }
    picture = None
    if wanted.picture:
        try:
            picture = Picture(*stored_thumbnail(service.snapshot, wanted.image_id))
        except NotFoundError as exc:
            document["note"] = str(exc)
    return Answer(fitted(document, _most(service), ("metadata", "excites", "neighbours")), picture)


def associations(service: Service, wanted: asked.AssociationsArguments, check: Check = go_on) -> Answer:
    """Return the classes of a layer, the neurons that tell one of them, or the classes of a neuron."""
    key, snapshot = wanted.key(), service.snapshot
    if isinstance(key, NeuronKey):
        if wanted.class_name is not None:
            raise SettingError(
                f"class_name goes with a layer, and {key} is a neuron: leave it out, or give {key.layer_key}"
            )
        of_neuron = classes.neuron_classes_document(snapshot, key, wanted.by)
        return _paged(service, wanted, {"neuron": str(key), "by": of_neuron["by"]}, of_neuron["classes"])
    if wanted.class_name is None:
        of_layer = classes.classes_document(snapshot, key, wanted.by)
        return _paged(service, wanted, _some(of_layer, ("layer", "by", "others")), of_layer["classes"], ())
    page = classes.class_document(snapshot, key, wanted.class_name, wanted.by, wanted.limit)
    document = {
        **_some(page, ("layer", "by", "class_name", "images", "others", "chance")),
        **{side: [_telling(row) for row in page[side]] for side in ("neurons", "silent")},
        "saying": [_some(row, _NEURON) for row in page["saying"]],
    }
    return Answer(fitted(document, _most(service), ("neurons", "silent", "saying")))


def sql_views(service: Service, wanted: asked.ViewsArguments, check: Check = go_on) -> Answer:
    """Return what SQL can read: the views, or one of them with its columns, functions and examples."""
    schema = _runner(service).schema_document()
    described = {view["name"]: view for view in (*schema["views"], *schema["functions"])}
    if wanted.view is None:
        document = {
            "views": [_some(view, ("name", "about")) for view in described.values()],
            "examples": schema["examples"],
        }
        return Answer(fitted(document, _most(service), ("views", "examples")))
    if wanted.view not in described:
        raise NotFoundError(f"view {wanted.view!r} does not exist (has: {', '.join(described)})")
    return Answer(fitted({**described[wanted.view]}, _most(service), ["columns"]))


def sql(service: Service, wanted: SqlBody, check: Check = go_on) -> Answer:
    """Return the rows of one SELECT, as many as fit; `truncated` says whether there are more."""
    document = fitted({**sql_document(service, wanted.sql)}, _most(service), ["rows"])
    return Answer({**document, "truncated": document["truncated"] or CUT in document})


def _paged(
    service: Service,
    wanted: asked.AssociationsArguments,
    document: dict[str, Any],
    rows: Iterable[Mapping[str, Any]],
    columns: Iterable[str] = _TOLD,
) -> Answer:
    kept = [_some(row, columns) if columns else {**row} for row in rows]
    return Answer(page_of(document, "classes", kept, wanted.offset, wanted.limit, _most(service)))


def _telling(row: Mapping[str, Any]) -> dict[str, Any]:
    return _some(row["neuron"], _NEURON) | {name: row[name] for name in _TOLD if name != "class_name"}


def _runner(service: Service) -> Any:
    if service.sql is None:
        raise NotFoundError("SQL is off here: `csp-index serve DB --sql` turns it on")
    return service.sql


def _some(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a document by some names, those that it has."""
    return {name: row[name] for name in names if name in row}


def _named(image_id: int, names: Mapping[Any, str]) -> dict[str, Any]:
    """Return an image as the tools name it: its id, for `image`, and its file name."""
    return {"id": image_id, "name": names.get(image_id) or names.get(str(image_id))}


def _told(value: Any) -> Any:
    """Return a value of metadata; a list or table of many letters as the beginning of its JSON."""
    told = printable_json(value)
    return value if isinstance(value, str) or len(told) <= LETTERS else shortened(told, LETTERS)


def _most(service: Service) -> int:
    return service.settings.agent_characters
