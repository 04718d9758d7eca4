"""What an index holds: encoders, layers, shard marks, statistics of neurons. Knows nothing about tensors.

Reads only committed shards: a row whose shard has no mark does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import NotFoundError, SettingError, StoreError
from csp_index.records import LayerKey
from csp_index.store import column_tables, schema
from csp_index.store.foreign import MOST_DIMENSIONS, MOST_NEURONS, check_size, check_table
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store

ARRAYS = "arrays"  # the library of encoders, and the network of layers, that were imported
DRAFT = "draft"  # the trait of a model's identity that says how large JPEGs were at least when they were decoded
_MOST_DRAFT = 2**31  # pixels


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """An encoder whose embeddings the index holds."""

    name: str
    width: int
    logit_scale: float | None
    identity: dict[str, str]
    table: str

    @property
    def what(self) -> str:
        """The encoder's name in the shard marks."""
        return f"embeddings:{self.name}"

    @property
    def is_imported(self) -> bool:
        """Whether the embeddings came as arrays, so that the index knows no model of them."""
        return self.identity.get("library") == ARRAYS


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer whose activations the index holds."""

    key: LayerKey
    neurons: int
    pool: str
    network: str
    weights: str | None
    dtype: str
    identity: dict[str, str]
    table: str

    @property
    def what(self) -> str:
        """The layer's name in the shard marks."""
        return f"activations:{self.key}"

    @property
    def is_imported(self) -> bool:
        """Whether the activations came as arrays, so that the index knows no network of them."""
        return self.network == ARRAYS

    @property
    def is_sparse(self) -> bool:
        """Whether activations that are 0 are not stored."""
        return column_tables.is_sparse(self.table)

    @property
    def row_neurons(self) -> int:
        """How many neurons a row of the table has the activations of."""
        return column_tables.SPARSE_NEURONS if self.is_sparse else 1

    @property
    def shard_rows(self) -> int:
        """How many rows of the table a shard has."""
        return -(-self.neurons // self.row_neurons)


Column = EncoderInfo | LayerInfo  # what a shard holds besides its images


@dataclass(frozen=True, slots=True)
class Shard:
    """A committed shard: images first_image .. first_image + rows - 1."""

    number: int
    first_image: int
    rows: int
    settings_hash: str


def encoders(store: Store) -> list[EncoderInfo]:
    """Return the encoders of the index, in the order they were added; one without a committed shard is none."""
    rows = store.read(schema.ENCODERS).to_pylist()
    infos = [_encoder_info(row) for row in rows]
    marked = _marked(store)
    return [info for info in infos if info.what in marked]


def columns(store: Store) -> list[Column]:
    """Return the encoders and the layers of the index."""
    return [*encoders(store), *layers(store)]


def draft(infos: Iterable[Column]) -> int | None:
    """Return the least short side, in pixels, that JPEGs were decoded at for columns of an index; None: decoded whole.

    An index has one such number, for all columns that were not imported.
    """
    sides = [(info.what, info.identity[DRAFT]) for info in infos if not info.is_imported and DRAFT in info.identity]
    if not sides:
        return None
    what, side = sides[0]
    number = int(side) if isinstance(side, str) and side.isascii() and side.isdigit() and len(side) < 20 else None
    return check_size(number, _MOST_DRAFT, what, DRAFT)


def encoder(store: Store, name: str | None = None) -> EncoderInfo:
    """Return the named encoder, or the only one.

    Raises NotFoundError if it is not there, and SettingError if several are and none is named.
    """
    infos = encoders(store)
    if name is None and len(infos) == 1:
        return infos[0]
    for info in infos:
        if info.name == name:
            return info
    names = ", ".join(info.name for info in infos)
    if name is None and infos:
        raise SettingError(f"the index holds several encoders: name one (has: {names})")
    what = "the index holds no encoder" if name is None else f"encoder {name!r} is not in the index"
    raise NotFoundError(f"{what} (has: {names or 'none'})")


def layers(store: Store) -> list[LayerInfo]:
    """Return the layers of the index, in the order they were added; one without a committed shard is none."""
    infos = [_layer_info(row) for row in store.read(schema.LAYERS).to_pylist()]
    marked = _marked(store)
    return [info for info in infos if info.what in marked]


def _encoder_info(row: Mapping[str, Any]) -> EncoderInfo:
    name = row["encoder"]
    owner = f"the encoder {name} of the table {schema.ENCODERS}"
    return EncoderInfo(
        name,
        check_size(row["width"], MOST_DIMENSIONS, owner, "width"),
        row["logit_scale"],
        read_object(row["identity"], schema.ENCODERS, "identity"),
        check_table(row["table"], column_tables.embeddings_table(name), owner),
    )


def _layer_info(row: Mapping[str, Any]) -> LayerInfo:
    key = LayerKey(row["model"], row["layer"])
    owner = f"the layer {key} of the table {schema.LAYERS}"
    return LayerInfo(
        key,
        check_size(row["neurons"], MOST_NEURONS, owner, "neurons"),
        row["pool"],
        row["network"],
        row["weights"],
        row["dtype"],
        read_object(row["identity"], schema.LAYERS, "identity"),
        check_table(
            row["table"],
            column_tables.activations_table(str(key), sparse=column_tables.is_sparse(str(row["table"]))),
            owner,
        ),
    )


def _marked(store: Store) -> set[str]:
    return set(store.read(schema.SHARDS)["what"].unique().to_pylist())


def layer(store: Store, key: LayerKey) -> LayerInfo:
    """Return the layer; NotFoundError says which ones there are. Raises StoreError as `check_activations` does."""
    info = find_layer({info.key: info for info in layers(store)}, key)
    check_activations(store, info)
    return info


def check_activations(store: Store, target: LayerInfo) -> None:
    """Refuse a layer that names more neurons than its activations have rows per shard, before memory is taken for them.

    Raises StoreError; reads no row.
    """
    marked = len(shards(store, target.what))
    rows = store.count(target.table) if store.has(target.table) else 0
    if rows < marked * target.shard_rows:
        each = f"{target.row_neurons} neurons" if target.is_sparse else "neuron"
        raise StoreError(
            f"the layer {target.key} of the table {schema.LAYERS} has {target.neurons:,} neurons and {marked:,} "
            f"shards, its activations have {rows:,} rows, expected one per {each} and shard: the index is damaged, run "
            f"`csp-index verify {store.uri}`"
        )


def find_layer(known: Mapping[LayerKey, LayerInfo], key: LayerKey) -> LayerInfo:
    """Return the layer among those of an index; NotFoundError says which ones there are."""
    if key not in known:
        raise NotFoundError(f"layer {key} is not in the index (has: {', '.join(map(str, known)) or 'none'})")
    return known[key]


def check_neurons(target: LayerInfo, numbers: Iterable[int]) -> None:
    """Refuse neuron numbers that the layer does not have: NotFoundError names the first of them."""
    for number in numbers:
        if not 0 <= number < target.neurons:
            raise NotFoundError(
                f"neuron {target.key}/{number} does not exist: {target.key} has neurons 0 to {target.neurons - 1}"
            )


def unfinished(target: LayerInfo) -> NotFoundError:
    """Return the error for a layer whose neurons have no statistics yet."""
    return NotFoundError(
        f"layer {target.key} is not finished: run `csp-index index` again, it goes on where it stopped"
    )


def shards(store: Store, what: str) -> list[Shard]:
    """Return the committed shards of `images`, an encoder or a layer, in image order."""
    return list(store.memo(schema.SHARDS, ("shards", what), lambda: _shards(store, what)))


def _shards(store: Store, what: str) -> list[Shard]:
    marks_of_all = store.read(schema.SHARDS)
    rows = marks_of_all.filter(pc.equal(marks_of_all["what"], what)).to_pylist()
    marks = [Shard(r["shard"], r["first_image"], r["rows"], r["settings_hash"]) for r in rows]
    marks.sort(key=lambda mark: mark.number)
    for before, mark in pairwise(marks):
        if mark.number != before.number + 1 or mark.first_image != before.first_image + before.rows:
            raise StoreError(f"shards of {what} do not follow each other at shard {mark.number}: index again")
    return marks


def image_count(store: Store, what: str = schema.IMAGES) -> int:
    """Return how many images are committed for `what`."""
    marks = shards(store, what)
    return marks[-1].first_image + marks[-1].rows if marks else 0


def covered(store: Store, what: str, images: int) -> list[Shard]:
    """Return the shards that make up the first `images` images."""
    marks = [mark for mark in shards(store, what) if mark.first_image + mark.rows <= images]
    if not marks or marks[-1].first_image + marks[-1].rows != images:
        raise StoreError(f"{what} does not hold the {images} images of its statistics: run `csp-index index` again")
    return marks


def neuron_rows(store: Store, target: LayerInfo, neurons: Sequence[int] | None = None) -> pa.Table:
    """Return the statistics of the neurons (default all), sorted by neuron; NotFoundError if there are none yet."""

    def read() -> pa.Table:
        return store.read(schema.NEURONS, where=layer_filter(target)).sort_by("neuron").combine_chunks()

    rows = store.memo(schema.NEURONS, ("neurons", target.what), read)
    if rows.num_rows == 0:
        raise unfinished(target)
    if neurons is None or len(neurons) >= rows.num_rows:
        return rows
    if len(neurons) == 1 and rows["neuron"][neurons[0]].as_py() == neurons[0]:
        return rows.slice(neurons[0], 1)
    return rows.filter(pc.is_in(rows["neuron"], pa.array(sorted(neurons), pa.int32())))


def fires(statistics: pa.Table) -> np.ndarray:
    """Return which neurons fire [M] by their statistics: those whose highest activation is above 0."""
    fires: np.ndarray = statistics["max"].to_numpy() > 0
    return fires


def is_finished(store: Store, target: LayerInfo) -> bool:
    """Return whether the layer's statistics are stored, so that its neurons can be labelled."""
    return store.count(schema.NEURONS, layer_filter(target)) == target.neurons


def layer_filter(target: LayerInfo) -> str:
    """Return the SQL condition that picks a layer's rows."""
    return of_layer(target.key)


def of_layer(key: LayerKey) -> str:
    """Return the SQL condition that picks the rows of the layer with this address, whether the index has it or not."""
    return f"model = {sql_text(key.model)} AND layer = {sql_text(key.layer)}"


def sql_text(value: str) -> str:
    """Return a string as a SQL literal.

    >>> sql_text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"
