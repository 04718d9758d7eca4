"""The page of an image: what it is, which neurons it excites, its neighbors; and its thumbnail.

An id is all that names an image: pictures come from the index's own tables, and no file is ever opened.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_index.errors import NotFoundError, SourceError
from csp_index.images.decode import stored_size
from csp_index.images.files.formats import stored_type
from csp_index.records import NeuronKey
from csp_index.service.documents.excited import rows_of_image
from csp_index.service.documents.layers.clarity import top_images
from csp_index.service.documents.shapes import ExcitedRow, ImageDocument, ImageFacts, NeighbourRow
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import column_tables
from csp_index.store.catalog import LayerInfo
from csp_index.store.stored_json import parse_json
from csp_index.store.values.derived_images import derived_rows, describe_recipe, is_derived

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

NEIGHBOURS: Final = 12
EXCITES: Final = 24  # neurons shown for an image
_INSIDE: Final = 2**17  # bytes of pictures that a page has inside
_INDEXED = ("uri", "width", "height", "split", "metadata")
_DERIVED = ("kind", "origin", "model", "layer", "neuron", "rank", "recipe", "activation")
_ENTRIES = 2**21  # most neurons x images of a layer that are sorted by image


@dataclass(frozen=True, slots=True)
class TopOf:
    """Which neurons of a layer keep an image among their highest activating ones: E entries, sorted by image id.

    `neurons`, `ranks` (0 is the highest) and `activations` are [E]; neurons that never fire have no entry.
    """

    images: np.ndarray
    neurons: np.ndarray
    ranks: np.ndarray
    activations: np.ndarray
    total: int  # images of the layer's statistics

    @property
    def nbytes(self) -> int:
        """The memory it takes."""
        return self.images.nbytes + self.neurons.nbytes + self.ranks.nbytes + self.activations.nbytes

    def of(self, image_id: int) -> list[tuple[int, int, float, float]]:
        """Return (rank, neuron, activation, quantile) of an image, in [0, 1] the share of images below it."""
        first, last = np.searchsorted(self.images, [image_id, image_id + 1])
        rows = slice(int(first), int(last))
        quantiles = 1 - self.ranks[rows] / max(1, self.total - 1)
        columns = (self.ranks[rows], self.neurons[rows], self.activations[rows], quantiles)
        return list(zip(*(values.tolist() for values in columns), strict=True))


def image_document(snapshot: Snapshot, engine: Engine, image_id: int) -> ImageDocument:
    """Return the document of an indexed or a derived image."""
    snapshot.check_image(image_id)
    facts = _derived(snapshot, image_id) if is_derived(image_id) else _indexed(snapshot, image_id)
    return {
        "image_id": image_id,
        **facts,
        "excites": excited_by(snapshot, image_id, EXCITES),
        "neighbours": _neighbours(snapshot, engine, image_id),
    }


def stored_thumbnail(snapshot: Snapshot, image_id: int) -> tuple[bytes, str]:
    """Return the small picture of an image in the index, and its media type. NotFoundError where it has none."""
    snapshot.check_image(image_id)
    if is_derived(image_id):
        picture = _derived_row(snapshot, image_id, ["picture"])["picture"]
    else:
        picture = snapshot.cache.find(("thumbnail", image_id))
        picture = picture or snapshot.image_rows([image_id], ["thumbnail"])[image_id]["thumbnail"]
    kind = stored_type(picture)
    if kind:
        return picture, kind
    raise NotFoundError(f"image {image_id} has no picture in the index: it came as an array, or without a thumbnail")


def read_ahead(snapshot: Snapshot, image_ids: Iterable[int]) -> None:
    """Read the small pictures of indexed images into memory in one step: a page is about to ask for each of them."""
    missing = [image for image in image_ids if snapshot.cache.find(("thumbnail", image)) is None]
    for image, row in snapshot.image_rows(missing, ["thumbnail"]).items():
        if row["thumbnail"]:
            snapshot.cache.put(("thumbnail", image), row["thumbnail"], len(row["thumbnail"]) + 200)


def pictures_inside(snapshot: Snapshot, image_ids: Sequence[int]) -> dict[int, str]:
    """Return small pictures of indexed images as addresses that have them inside: a page need not ask for them.

    Those that exceed 128 KiB together are left out, and read ahead.
    """
    read_ahead(snapshot, image_ids)
    inside, room = dict[int, str](), _INSIDE
    for image in dict.fromkeys(image_ids):
        picture = snapshot.cache.find(("thumbnail", image))
        kind = stored_type(picture)
        if picture is not None and kind:
            room -= len(picture)
            if room < 0:
                break
            inside[image] = f"data:{kind};base64,{b64encode(picture).decode()}"
    return inside


def picture_for_card(snapshot: Snapshot, image_id: int) -> bytes:
    """Return the small picture of an image, and none of one that came as an array: its card says so."""
    try:
        return stored_thumbnail(snapshot, image_id)[0]
    except NotFoundError:
        return b""


def excited_by(snapshot: Snapshot, image_id: int, most: int) -> list[ExcitedRow]:
    """Return the neurons of all layers that keep the image among their highest activating ones.

    These are the `most` extreme ones: those with a label first, in each part the most extreme first.
    """
    entries = []
    for place, info in enumerate(snapshot.layers()):
        with suppress(NotFoundError):  # not finished
            top = _top_of(snapshot, info).of(image_id)
            entries += [(rank, place, neuron, info.key, values) for rank, neuron, *values in top]
    entries.sort(key=lambda entry: entry[:3])
    found = (
        (NeuronKey(key.model, key.layer, neuron), rank, activation, quantile)
        for rank, _, neuron, key, (activation, quantile) in entries[:most]
    )
    return rows_of_image(snapshot, image_id, found)


def finished(snapshot: Snapshot) -> Iterator[LayerTable]:
    """Yield the layers whose statistics are complete."""
    for info in snapshot.layers():
        with suppress(NotFoundError):
            yield snapshot.layer(info.key)


def check_image(snapshot: Snapshot, image_id: int) -> None:
    """Refuse an image that does not exist, indexed or derived."""
    snapshot.check_image(image_id)
    if is_derived(image_id):
        _derived_row(snapshot, image_id, [])


def has_vectors(snapshot: Snapshot, engine: Engine) -> bool:
    """Return whether the index has embeddings, and the engine did not fail to load them."""
    return bool(snapshot.encoders) and not engine.failed


def image_vector(snapshot: Snapshot, engine: Engine, image_id: int) -> np.ndarray | None:
    """Return the embedding [D] of an image, or None: no encoder, or another one embedded a derived image."""
    if not has_vectors(snapshot, engine):
        return None
    if is_derived(image_id):
        table = column_tables.derived_table(snapshot.encoder.name)
        if not snapshot.store.count(table, f"image_id = {image_id}"):
            return None
    vector: np.ndarray = engine.vectors_of([image_id])[0]
    return vector


def near_images(engine: Engine, vector: np.ndarray, count: int, but: int | None = None) -> list[tuple[int, float]]:
    """Return the indexed images most similar to a unit vector [D] and their cosines, without the image `but`."""
    near = engine.nearest_images(vector, count + (but is not None))
    return [(image, min(1.0, cosine)) for image, cosine in near if image != but][:count]


def _top_of(snapshot: Snapshot, info: LayerInfo) -> TopOf:
    def read() -> TopOf:
        return _by_image(snapshot.layer(info.key), max(1, _ENTRIES // info.neurons))

    return snapshot.cache.get(("top of", info.key), read, lambda top: top.nbytes)


def _by_image(table: LayerTable, most: int) -> TopOf:
    """Return the `most` highest activating images of each neuron, sorted by image."""
    images, activations = top_images(table, most)
    neurons, ranks = np.nonzero(images >= 0)
    order = np.argsort(images[neurons, ranks], kind="stable")
    neurons, ranks = neurons[order], ranks[order]
    return TopOf(
        images[neurons, ranks],
        neurons.astype(np.int32),
        ranks.astype(np.int32),
        activations[neurons, ranks],
        table.images,
    )


def _neighbours(snapshot: Snapshot, engine: Engine, image_id: int) -> list[NeighbourRow]:
    vector = image_vector(snapshot, engine, image_id)
    near = [] if vector is None else near_images(engine, vector, NEIGHBOURS, image_id)
    names = snapshot.names(image for image, _ in near)
    return [{"image_id": image, "similarity": cosine, "name": names[image]} for image, cosine in near]


def _indexed(snapshot: Snapshot, image_id: int) -> ImageFacts:
    row = snapshot.image_rows([image_id], _INDEXED)[image_id]
    return {
        "name": row["uri"].rpartition("/")[2],
        "width": row["width"],
        "height": row["height"],
        "split": row["split"],
        "metadata": _parsed(row["metadata"]),
        "derived": None,
    }


def _derived(snapshot: Snapshot, image_id: int) -> ImageFacts:
    row = _derived_row(snapshot, image_id, [*_DERIVED, "picture"])
    width, height = _size(row["picture"])
    recipe = {name: _last(value) if isinstance(value, str) else value for name, value in _parsed(row["recipe"]).items()}
    return {
        "name": describe_recipe(row["recipe"]),
        "width": width,
        "height": height,
        "split": None,
        "metadata": {},
        "derived": {
            "kind": row["kind"],
            "origin": row["origin"],
            "neuron": f"{row['model']}/{row['layer']}/{row['neuron']}",
            "rank": row["rank"],
            "activation": row["activation"],
            "recipe": recipe,
        },
    }


def _size(picture: object) -> tuple[int, int] | tuple[None, None]:
    try:
        return stored_size(picture)
    except SourceError:
        return None, None


def _derived_row(snapshot: Snapshot, image_id: int, columns: Sequence[str]) -> dict[str, Any]:
    rows = derived_rows(snapshot.store, [image_id], columns)
    if image_id not in rows:
        raise NotFoundError(f"derived image {image_id} does not exist: the pairs of a neuron name the derived images")
    return rows[image_id]


def _parsed(text: str | None) -> dict[str, Any]:
    """Return the entries of a JSON object; none where the text is no JSON object."""
    try:
        entries = parse_json(text or "{}", constants=False)
    except ValueError:
        return {}
    return entries if isinstance(entries, dict) else {}


def _last(text: str) -> str:
    """Return the last part of a path, also of a path in a model's name, and other texts unchanged.

    >>> _last("/data/models/painter"), _last("diffusers:/models/painter"), _last("a red star, large/small")
    ('painter', 'painter', 'a red star, large/small')
    """
    return text.rstrip("/").rpartition("/")[2] if text.startswith("/") or ":/" in text else text
