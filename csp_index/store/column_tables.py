"""Schemas and names of the tables that an encoder or a layer has for itself."""

from __future__ import annotations

import hashlib
import re

import pyarrow as pa

from csp_index.store.fields import RESULT, schema_of

EMBEDDING = "embedding"  # the column of an encoder's vectors
ACTIVATIONS = ("activations_", "sparse_")  # what names of tables of activations begin with: dense ones and sparse ones
SPARSE_NEURONS = 64  # neurons in one row of a sparse table
MAPS = "maps_"  # what names of tables of activation maps begin with
CROPS = "crops_"  # what names of tables of crops begin with
PREFIXES = (*ACTIVATIONS, "concepts_", CROPS, "derived_", "embeddings_", MAPS, "neighbours_", "sums_", "texts_")


def embeddings_schema(width: int) -> pa.Schema:
    """Return the schema of one encoder's image embeddings: unit vectors of `width` float32."""
    return schema_of(("image_id", pa.int64()), ("shard", pa.int32()), (EMBEDDING, pa.list_(pa.float32(), width)))


def activations_schema(dtype: str) -> pa.Schema:
    """Return the schema of one layer's activations: a row is one neuron over one shard of images."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    return schema_of(("shard", pa.int32()), ("neuron", pa.int32()), ("values", pa.list_(value)))


def sparse_schema(dtype: str) -> pa.Schema:
    """Return the schema of a layer stored sparse: a row has the activations of 64 neurons over one shard of images.

    Those that are 0 are left out; the others are in the order of neurons, then of images.
    """
    value = pa.float16() if dtype == "float16" else pa.float32()
    return schema_of(
        ("shard", pa.int32()),
        ("neuron", pa.int32()),  # the first of the 64
        ("neurons", pa.list_(pa.uint8())),  # of each activation, counted from the first of the 64
        ("images", pa.list_(pa.int32())),  # of each activation, counted from the first image of the shard
        ("values", pa.list_(value)),
    )


def maps_schema() -> pa.Schema:
    """Return the schema of a layer's activation maps: a row has those of one neuron, among some images.

    While images are indexed a row is of one shard; after the last shard there is one row per neuron, over all images.
    """
    return pa.schema(
        [
            *schema_of(
                ("neuron", pa.int32()),
                ("first_image", pa.int64()),
                ("images", pa.int64()),  # images looked at: ids first_image .. first_image + images - 1
                ("height", pa.int16()),  # places of a map
                ("width", pa.int16()),
                # The part of a picture that maps cover: around its middle, a square of side x its short side, where
                # negative of -side x its long side; 0: all of it; null: unknown.
                ("side", pa.float32()),
                ("image_ids", pa.list_(pa.int64())),  # of those looked at, highest activation first
                ("scales", pa.list_(pa.float32())),  # of each map: its largest value; 0 where no place fires
            ),
            # of each image whose scale is not 0, height x width bytes: the value of a place is scale x byte / 255
            pa.field("maps", pa.binary(), metadata={"lance-encoding:compression": "zstd"}),
        ]
    )


def texts_schema(width: int) -> pa.Schema:
    """Return the schema of one encoder's text embeddings: means over templates, not re-normalised."""
    return schema_of(
        ("vocabulary", pa.string()),
        ("template_set", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("embedding", pa.list_(pa.float32(), width)),
    )


def concepts_schema(width: int) -> pa.Schema:
    """Return the schema of the concept vectors behind labels: unit vectors in one encoder's space."""
    return schema_of(
        *RESULT,
        ("method", pa.string()),
        ("images", pa.int64()),  # images the vector rests on: ids 0 .. images - 1
        ("vector", pa.list_(pa.float32(), width)),
    )


def derived_schema(width: int) -> pa.Schema:
    """Return the schema of images made for one neuron, as one encoder sees them; they are no indexed images."""
    return schema_of(
        ("image_id", pa.int64()),  # from 2**40 on, never reused, distinct over all encoders
        ("kind", pa.string()),  # perturbation or synthetic
        ("origin", pa.int64()),  # the indexed image it was made from
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("rank", pa.int32()),  # of the origin among the neuron's activating images
        ("settings_hash", pa.string()),  # of all that the making depends on
        ("recipe", pa.string()),  # JSON: edit, strength, region; or prompt, seed, model
        ("activation", pa.float32()),  # of that neuron
        (EMBEDDING, pa.list_(pa.float32(), width)),
        ("picture", pa.binary()),  # PNG or JPEG
        ("run_id", pa.string()),
    )


def crops_schema(width: int) -> pa.Schema:
    """Return the schema of crops of indexed images, as one encoder sees them; the box is in pixels of the picture."""
    return schema_of(
        ("image_id", pa.int64()),
        *((side, pa.int32()) for side in ("left", "top", "right", "bottom")),
        (EMBEDDING, pa.list_(pa.float32(), width)),
        ("run_id", pa.string()),
    )


def neighbours_schema() -> pa.Schema:
    """Return the schema of lists of nearest neighbours in one encoder's space, whatever the activation."""
    return schema_of(
        ("image_id", pa.int64()),
        ("images", pa.int64()),  # images looked at: ids 0 .. images - 1
        ("neighbours", pa.list_(pa.int64())),  # image ids, nearest first, the image itself among them
        ("cosines", pa.list_(pa.float32())),  # rough: off by absolute + relative x the largest of the list at most
        ("absolute", pa.float64()),
        ("relative", pa.float64()),
    )


SUMS_PARTS = ("totals", "share", "root", "embedding", "products")
PRESENCE_PARTS = ("slope", "shift", "mean", "deviation")  # a number per text each


def sums_schema() -> pa.Schema:
    """Return the schema of sums over the images that depend on one encoder's embeddings and a vocabulary alone."""
    return schema_of(
        ("key", pa.string()),  # hash of the encoder, the texts and the scale of their softmax
        ("first_image", pa.int64()),
        ("images", pa.int64()),  # images summed over: ids first_image .. first_image + images - 1
        ("part", pa.string()),  # of SUMS_PARTS: a number per image, text (twice), dimension; or of PRESENCE_PARTS
        ("values", pa.list_(pa.float64())),
    )


def slug(name: str) -> str:
    """Return a table-name part for any name: readable, at most 49 characters, unique by hash.

    >>> slug("resnet50/layer4").rsplit("_", 1)[0]
    'resnet50_layer4'
    """
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[-40:]
    return f"{words}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def embeddings_table(encoder: str) -> str:
    """Return the name of the table of an encoder's image embeddings."""
    return f"embeddings_{slug(encoder)}"


def texts_table(encoder: str) -> str:
    """Return the name of the table of an encoder's text embeddings."""
    return f"texts_{slug(encoder)}"


def concepts_table(encoder: str) -> str:
    """Return the name of the table of concept vectors in an encoder's space."""
    return f"concepts_{slug(encoder)}"


def derived_table(encoder: str) -> str:
    """Return the name of the table of images made for neurons, with their embeddings in an encoder's space."""
    return f"derived_{slug(encoder)}"


def crops_table(encoder: str) -> str:
    """Return the name of the table of crops of images, with their embeddings in an encoder's space."""
    return f"{CROPS}{slug(encoder)}"


def neighbours_table(encoder: str) -> str:
    """Return the name of the table of lists of nearest neighbours in an encoder's space."""
    return f"neighbours_{slug(encoder)}"


def sums_table(encoder: str) -> str:
    """Return the name of the table of sums over the images in an encoder's space."""
    return f"sums_{slug(encoder)}"


def activations_table(layer: str, *, sparse: bool = False) -> str:
    """Return the name of the table of a layer's activations; `layer` is `model/layer`."""
    return f"{ACTIVATIONS[sparse]}{slug(layer)}"


def maps_table(layer: str) -> str:
    """Return the name of the table of a layer's activation maps; `layer` is `model/layer`."""
    return f"{MAPS}{slug(layer)}"


def is_sparse(table: str) -> bool:
    """Return whether a table has a layer's activations without those that are 0.

    >>> is_sparse(activations_table("net/sae", sparse=True)), is_sparse(activations_table("net/layer4"))
    (True, False)
    """
    return table.startswith(ACTIVATIONS[True])


def file_format(table: str) -> str | None:
    """Return the Lance file format that a new table is kept in, None for the default.

    Activations are long lists of numbers that do not compress. Format 2.0 writes them as they are; later ones look for
    a shorter form first, and take two to six times as long. Sparse ones are mostly small integers, which format 2.1
    writes in as few bits as they need; maps it compresses.
    """
    if is_sparse(table) or table.startswith(MAPS):
        return "2.1"
    return "2.0" if table.startswith(ACTIVATIONS) else None
