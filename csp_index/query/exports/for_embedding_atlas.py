"""An index as Parquet tables that Embedding Atlas shows: points with places, pictures and, of neurons, neighbors.

`images.parquet` has the images by their embeddings, `neurons/MODEL%2FLAYER.parquet` a layer's neurons by their concept
vectors: `x` and `y` are the plane of `query.planes`, so the tool need not compute one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from csp_index.query.exports.rows import BATCH, Exported, Subject, file_name, names_of, pictures, write_parquet
from csp_index.query.planes import axes_of_blocks, plane_of
from csp_index.query.stored_pictures import StoredPictures
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.values.arrays import embedding_blocks, embedding_rows

_NEIGHBORS = 15  # of a neuron, nearest first


def write_embedding_atlas(subject: Subject, folder: Path, place: str) -> Exported:
    """Write the points of images and of each layer's neurons, which will lie at `place`.

    The tool opens the last layer of which a neuron has a point, else the images.
    """
    (folder / "neurons").mkdir()
    images = write_parquet(_image_points(subject), folder / "images.parquet")
    neurons, opened, columns = 0, "images.parquet", "--text name"
    for layer in subject.layers:
        points = f"neurons/{file_name(str(layer.key))}.parquet"
        if count := write_parquet([_neuron_points(subject, layer)], folder / points):
            neurons, opened, columns = neurons + count, points, "--text label --neighbors neighbors"
    command = shlex.join(["embedding-atlas", f"{place}/{opened}"])
    return Exported("embedding-atlas", images, neurons, f"{command} --x x --y y --image picture {columns}")


def _image_points(subject: Subject) -> Iterator[pa.Table]:
    store, encoder = subject.store, subject.encoder
    if encoder is None:
        return
    marks = catalog.shards(store, encoder.what)
    mean, axes = axes_of_blocks(embedding_blocks(store, encoder, marks), encoder.width)
    for batch in subject.images(["image_id", "uri", "split", "thumbnail"]):
        places = (embedding_rows(store, encoder, batch["image_id"].to_numpy()) - mean) @ axes
        names = names_of(batch["uri"])
        yield pa.table(
            {
                "image_id": batch["image_id"],
                "name": names,
                "split": batch["split"],
                "x": places[:, 0].astype(np.float32),
                "y": places[:, 1].astype(np.float32),
                "picture": pictures(batch["thumbnail"], names),
            }
        )


def _neuron_points(subject: Subject, layer: LayerInfo) -> pa.Table:
    """Return the neurons of a layer that have a place, each with its strongest image."""
    rows, vectors = subject.neurons(layer), subject.vectors(layer)
    plane = plane_of(vectors, catalog.fires(rows), most=layer.neurons)
    rows = rows.take(pa.array(plane.neurons))
    first = [images[0] if images else None for images in rows["top_images"].to_pylist()]
    found = StoredPictures(subject.store)(image for image in first if image is not None)
    thumbnails = pa.array([found.get(image) if image is not None else None for image in first], pa.binary())
    rows = rows.drop_columns(["top_images", "top_activations"])
    rows = rows.append_column("x", pa.array(plane.places[:, 0])).append_column("y", pa.array(plane.places[:, 1]))
    rows = rows.append_column("picture", pictures(thumbnails, [f"{image}.jpg" for image in first]))
    return rows.append_column("neighbors", _neighbors(vectors[plane.neurons]))


def _neighbors(vectors: np.ndarray) -> pa.Array:
    """Return of each point [P, D] the rows that are nearest to it by cosine, with their distances, itself first."""
    count = min(_NEIGHBORS + 1, len(vectors))
    ids, distances = [], []
    for start in range(0, len(vectors), BATCH):
        away = 1 - vectors[start : start + BATCH] @ vectors.T
        own = np.arange(len(away))
        away[own, start + own] = -1  # before its equals
        nearest = np.argsort(away, axis=1, kind="stable")[:, :count]
        ids += nearest.tolist()
        distances += np.maximum(np.take_along_axis(away, nearest, 1), 0).tolist()  # rounding makes some negative
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    return pa.array([{"ids": one, "distances": far} for one, far in zip(ids, distances, strict=True)], kind)
