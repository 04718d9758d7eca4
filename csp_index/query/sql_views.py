"""The store as others want to see it: views for SQL, and the data of a neuron's picture card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.contrast.quality import ContrastQuality, quality_of_pairs
from csp_index.images.decode import ImageRead, read_images, thumbnail
from csp_index.query.card import CardData, CardPair, draw_card
from csp_index.records import ExamplePair, Label
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.derived_images import derived_rows, describe_recipe, is_derived
from csp_index.store.tables import Store

_OF_NEURONS = (
    schema.NEURONS,
    schema.LABELS,
    schema.EXAMPLES,
    schema.ANSWERS,
    schema.CANDIDATES,
    schema.EVALUATIONS,
)
_ADDRESSED = "SELECT model || '/' || layer || '/' || neuron AS address, * FROM {}"
STATISTICS = ("images", "mean", "std", "min", "max", "firing_rate", "quantiles")  # of a neuron, as `show` tells them
_SHOWN = 10
_BINS = 40


@dataclass(frozen=True, slots=True)
class NeuronView:
    """All about one neuron: a label, its statistics, all partners of its activating images, and these images' names."""

    label: Label
    statistics: dict[str, Any]
    pairs: tuple[ExamplePair, ...]
    names: dict[int, str]

    @property
    def contrast(self) -> ContrastQuality:
        """How good the label's contrast is, as its pairs tell."""
        return quality_of_pairs(self.pairs)

    def as_json(self) -> dict[str, object]:
        """Return the object that `csp-index show --json` prints."""
        told = {"statistics": self.statistics, "pairs": [asdict(pair) for pair in self.pairs]}
        return self.label.as_json() | told | {"contrast_quality": self.contrast.as_json(), "images": self.names}


def neuron_view(store: Store, target: LayerInfo, label: Label) -> NeuronView:
    """Return what `show` tells of a labelled neuron."""
    row = catalog.neuron_rows(store, target, [label.neuron.neuron]).to_pylist()[0]
    statistics = {name: row[name] for name in STATISTICS}
    pairs = _partners(store, target, label)
    ids = {pair.image_id for pair in pairs} | {pair.contrast_id for pair in pairs if pair.contrast_id is not None}
    names: dict[int, str] = {}
    if ids:
        rows = store.read(schema.IMAGES, ["image_id", "uri"], f"image_id IN ({','.join(map(str, sorted(ids)))})")
        names = {row["image_id"]: row["uri"].rpartition("/")[2] for row in rows.to_pylist()}
        derived = derived_rows(store, (image for image in ids if is_derived(image)), ["recipe"])
        names |= {image: describe_recipe(str(row["recipe"])) for image, row in derived.items()}
    made = store.read(schema.RUNS, ["settings"], f"run_id = {catalog.sql_text(label.run_id)}")["settings"].to_pylist()
    label = told_if_stale(label, made[0] if made else None, row["images"])
    return NeuronView(label, statistics, pairs, names)


def _partners(store: Store, target: LayerInfo, label: Label) -> tuple[ExamplePair, ...]:
    """Return all stored partners of a kept label's activating images, by rank and neighbour: `pairs` has the first."""
    where = f"{catalog.layer_filter(target)} AND neuron = {label.neuron.neuron}"
    columns = [field.name for field in fields(ExamplePair)]
    rows = store.read(schema.EXAMPLES, columns, f"{where} AND run_id = {catalog.sql_text(label.run_id)}")
    order = [("rank", "ascending"), ("neighbour", "ascending")]
    return tuple(ExamplePair(**row) for row in rows.sort_by(order).to_pylist())


def told_if_stale(label: Label, settings: str | None, images: int) -> Label:
    """Return the label, noted if the run with those settings (JSON) saw others than the neuron's `images`."""
    seen = json.loads(settings).get("images") if settings else images
    if seen == images:
        return label
    stale = f"made on {seen} of {images} images: label again"
    return replace(label, note="; ".join(note for note in (label.note, stale) if note))


def sql_views(store: Store) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what SQL sees, by name, and how: every fixed table, embeddings, and `texts` over all encoders.

    Rows whose shard was never marked do not exist, and neurons come with their address.
    """
    names = set(store.table_names())
    views: dict[str, Any] = {}
    definitions = dict.fromkeys((*_OF_NEURONS, "derived"), _ADDRESSED)
    for name in schema.fixed_tables():
        views[name] = store.dataset(name) if name in names else schema.table_schema(name).empty_table()
    definitions[schema.IMAGES] = _committed(store, schema.IMAGES)
    held = catalog.encoders(store)
    for info in held:
        if info.table in names:
            name = "embeddings" if len(held) == 1 else info.table
            views[name] = store.dataset(info.table)
            definitions[name] = _committed(store, info.what)
    views["derived"] = _derived(store, [info.name for info in held])
    views["texts"] = _texts(store, [info.name for info in held])
    return views, definitions


def _committed(store: Store, what: str) -> str:
    return f"SELECT * FROM {{}} WHERE shard < {len(catalog.shards(store, what))}"


def _derived(store: Store, encoders: list[str]) -> Any:
    """Return the derived images; of several encoders in one table without embeddings and pictures."""
    found = [(name, table) for name in encoders if store.has(table := schema.derived_table(name))]
    if len(encoders) == 1 and found:
        return store.dataset(found[0][1])
    columns = [name for name in schema.derived_schema(1).names if name not in (schema.EMBEDDING, "picture")]
    parts = []
    for name, table in found:
        rows = store.read(table, columns)
        parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    return schema.derived_schema(1).empty_table().select(columns)


def _texts(store: Store, encoders: list[str]) -> pa.Table:
    parts = []
    for name in encoders:
        table = schema.texts_table(name)
        if store.has(table):
            rows = store.read(table, ["vocabulary", "template_set", "position", "text"], "text != ''")
            parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    empty = schema.texts_schema(1).empty_table().select(["vocabulary", "template_set", "position", "text"])
    return empty.append_column("encoder", pa.array([], pa.string()))


def newest_labels(layer: str | None, method: str | None, top: int) -> str:
    """Return the statement that picks, for every neuron and method, the label of the newest run."""
    chosen = [f"model || '/' || layer = {catalog.sql_text(layer)}"] if layer else []
    chosen += [f"method = {catalog.sql_text(method)}"] if method else []
    return f"""
        WITH chosen AS (
            SELECT *, max(run_id) OVER (PARTITION BY model, layer, neuron, method) AS newest FROM labels
            WHERE {" AND ".join(chosen) or "true"}
        )
        SELECT address AS neuron, method, state, rank, text, score, score_low, score_high, confidence, uncertain, note,
            run_id
        FROM chosen
        WHERE run_id = newest AND rank < {top}
        ORDER BY chosen.model, chosen.layer, chosen.neuron, method, rank
    """


def neuron_card(store: Store, label: Label, activations: np.ndarray, path: str | Path) -> Path:
    """Draw the card of a label whose neuron has the given activations [N]; pictures are thumbnails or files."""
    pairs = label.pairs[:_SHOWN]
    wanted = {pair.image_id for pair in pairs} | {pair.contrast_id for pair in pairs if pair.contrast_id is not None}
    pictures = _pictures(store, sorted(wanted))
    counts, edges = np.histogram(activations, bins=_BINS)
    return draw_card(
        CardData(
            title=str(label.neuron),
            method=label.method,
            labels=[(score.text, score.score) for score in label.labels],
            state=label.state,
            note=" · ".join(part for part in (label.note, label.doubt) if part),
            pairs=[
                CardPair(
                    pictures[pair.image_id],
                    None if pair.contrast_id is None else pictures[pair.contrast_id],
                    pair.activation,
                    pair.contrast_activation,
                    pair.similarity,
                )
                for pair in pairs
            ],
            histogram=counts.tolist(),
            edges=edges.tolist(),
            threshold=_threshold(store, label),
            threshold_name="threshold" if label.pairs else "mean",
        ),
        path,
    )


def _threshold(store: Store, label: Label) -> float | None:
    where = f"run_id = {catalog.sql_text(label.run_id)} AND neuron = {label.neuron.neuron}"
    found = store.read(schema.EXAMPLES, ["threshold"], where)["threshold"]
    if len(found):
        return float(found[0].as_py())
    target = catalog.layer(store, label.neuron.layer_key)
    return float(catalog.neuron_rows(store, target, [label.neuron.neuron])["mean"][0].as_py())


def _pictures(store: Store, ids: list[int]) -> dict[int, bytes]:
    if not ids:
        return {}
    rows = store.read(
        schema.IMAGES, ["image_id", "uri", "thumbnail"], f"image_id IN ({','.join(map(str, ids))})"
    ).to_pylist()
    found = {row["image_id"]: row["thumbnail"] or b"" for row in rows}
    made = derived_rows(store, (image for image in ids if is_derived(image)), ["picture"])
    found |= {image: row["picture"] for image, row in made.items() if isinstance(row["picture"], bytes)}
    without = [row for row in rows if not row["thumbnail"]]
    for row, item in zip(without, read_images([row["uri"] for row in without]), strict=True):
        if isinstance(item, ImageRead):
            found[row["image_id"]] = thumbnail(item.image)
    return found
