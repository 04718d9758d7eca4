"""Arrow schemas and table names of the store: the only file that defines tables, columns and their types.

Other files refer to tables by this file's constants and functions, and to columns by the names defined here.

Layout: one row per image (`images`, `embeddings_*`), one row per neuron and shard (`activations_*`) or per 64 neurons
and shard (`sparse_*`), one row per neuron (`neurons`), and one row per result; a shard exists once its mark is in
`shards`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import pyarrow as pa

FORMAT = "3"
SPARSE_FORMAT = "4"  # format 3 with a layer that is stored sparse
READ_SINCE = {FORMAT: "0.1.0", SPARSE_FORMAT: "0.2.0"}  # the first version of csp_index that reads it
OLD_FORMAT = "2"  # without a record of commits: read as it is, changed only by `migrate`
FORMAT_KEY = b"csp_index_format"

IMAGES = "images"
FAILURES = "failures"
SHARDS = "shards"
RUNS = "runs"
ENCODERS = "encoders"
LAYERS = "layers"
NEURONS = "neurons"
CLASS_NAMES = "class_names"
VOCABULARIES = "vocabularies"
EXAMPLES = "examples"
LABELS = "labels"
LABEL_NULLS = "label_nulls"
LABEL_TERMS = "label_terms"
LABEL_PROBABILITIES = "label_probabilities"
ANSWERS = "answers"
CANDIDATES = "candidates"
EVALUATIONS = "evaluations"
SPLITS = "splits"

EMBEDDING = "embedding"  # the column of an encoder's vectors

# The stored quantiles of each neuron's activations.
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

_utc = pa.timestamp("us", tz="UTC")


# What rows of results begin with; the settings hash is of all that they depend on.
_RESULT = (
    ("run_id", pa.string()),
    ("settings_hash", pa.string()),
    ("model", pa.string()),
    ("layer", pa.string()),
    ("neuron", pa.int32()),
)


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


ACTIVATIONS = ("activations_", "sparse_")  # what names of tables of activations begin with: dense ones and sparse ones
SPARSE_NEURONS = 64  # neurons in one row of a sparse table
# of a layer or encoder
_OF_COLUMNS = (*ACTIVATIONS, "concepts_", "derived_", "embeddings_", "neighbours_", "sums_", "texts_")

_TABLES: dict[str, pa.Schema] = {
    IMAGES: _schema(
        ("image_id", pa.int64()),  # dense from 0, never reused
        ("shard", pa.int32()),
        ("uri", pa.string()),
        ("sha256", pa.string()),  # of the encoded bytes
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        ("thumbnail", pa.binary()),  # JPEG
        ("metadata", pa.string()),  # the source's own columns, one JSON object
    ),
    FAILURES: _schema(("uri", pa.string()), ("reason", pa.string()), ("when", _utc), ("run_id", pa.string())),
    SHARDS: _schema(
        ("what", pa.string()),  # "images", "embeddings:<encoder>" or "activations:<model>/<layer>"
        ("shard", pa.int32()),
        ("first_image", pa.int64()),
        ("rows", pa.int32()),  # images in the shard
        ("settings_hash", pa.string()),
        ("run_id", pa.string()),
        ("digest", pa.string()),  # of its rows: see `digests`
    ),
    RUNS: _schema(
        ("run_id", pa.string()),
        ("command", pa.string()),
        ("state", pa.string()),  # running, done, failed, interrupted
        ("started", _utc),
        ("ended", _utc),
        ("settings", pa.string()),  # JSON
        ("settings_hash", pa.string()),
        ("models", pa.string()),  # JSON: weight hashes and preprocessing of every model used
        ("versions", pa.string()),  # JSON: package versions
        ("seed", pa.int64()),
        ("message", pa.string()),
    ),
    ENCODERS: _schema(
        ("encoder", pa.string()),
        ("width", pa.int32()),
        ("logit_scale", pa.float64()),
        ("identity", pa.string()),  # JSON
        ("table", pa.string()),
        ("run_id", pa.string()),
    ),
    LAYERS: _schema(
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neurons", pa.int32()),
        ("pool", pa.string()),
        ("network", pa.string()),  # the spec the network was loaded by
        ("weights", pa.string()),  # the weight file given with it, or null
        ("dtype", pa.string()),
        ("identity", pa.string()),  # JSON
        ("table", pa.string()),
        ("run_id", pa.string()),
    ),
    NEURONS: _schema(
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("images", pa.int64()),  # images the statistics cover: ids 0 .. images - 1
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("min", pa.float32()),
        ("max", pa.float32()),
        ("firing_rate", pa.float64()),  # share of images with activation > 0
        ("quantiles", pa.list_(pa.float32())),  # at QUANTILES
        ("top_images", pa.list_(pa.int64())),  # highest activation first, ties by lower image id
        ("top_activations", pa.list_(pa.float32())),
    ),
    CLASS_NAMES: _schema(  # of the outputs of classifiers, as they came with the weights: no labels from evidence
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("class_name", pa.string()),
        ("run_id", pa.string()),
    ),
    VOCABULARIES: _schema(
        ("vocabulary", pa.string()),  # name and content hash
        ("template_set", pa.string()),  # the templates it was last used with
        ("position", pa.int32()),
        ("text", pa.string()),
    ),
    EXAMPLES: _schema(
        _RESULT[0],
        *_RESULT[2:],
        ("kind", pa.string()),
        ("rank", pa.int32()),  # of the activating image, 0 is the most activating
        ("neighbour", pa.int32()),  # among those of one activating image, of each kind the nearest first
        ("image_id", pa.int64()),
        ("activation", pa.float32()),
        ("contrast_id", pa.int64()),  # an image, or one of `derived`; null where there is none
        ("contrast_activation", pa.float32()),
        ("similarity", pa.float32()),
        ("threshold", pa.float32()),
        ("encoder", pa.string()),
    ),
    LABELS: _schema(
        *_RESULT,
        ("method", pa.string()),
        ("state", pa.string()),
        ("rank", pa.int32()),  # 0 is the best; -1 if there is no label
        ("text", pa.string()),
        ("score", pa.float64()),
        ("score_low", pa.float64()),  # 95 % of the resamples score between these; null without resamples
        ("score_high", pa.float64()),
        ("confidence", pa.float64()),  # the share of the resamples in which this candidate comes first
        ("uncertain", pa.bool_()),  # of the best candidate: its lead is inside the noise; null for the others
        ("note", pa.string()),
    ),
    LABEL_TERMS: _schema(  # of labels that are weighted sums of texts; the label's own row has the sum as it is written
        *_RESULT,
        ("method", pa.string()),
        ("position", pa.int32()),  # 0 has the largest weight
        ("text", pa.string()),
        ("weight", pa.float64()),  # activation / its maximum = bias + sum of weight x sigmoid(slope (cosine + shift))
        *((name, pa.float64()) for name in ("bias", "slope", "shift")),  # one bias per label; null if not calibrated
    ),
    LABEL_NULLS: _schema(  # of a label, by its run: where it stands among a layer that has learned nothing
        *_RESULT,
        ("method", pa.string()),
        ("percentile", pa.float64()),  # the share of the null's labels with a lower score, equal ones count one half
        ("lead_percentile", pa.float64()),  # the same of the lead over the runner-up
        ("exceeded", pa.float64()),  # the share of the null's neurons with a sure label that scores as high
        ("null", pa.string()),  # its model/layer
        ("null_neurons", pa.int32()),  # that have a label
        ("null_run", pa.string()),  # the newest that made labels of it
    ),
    LABEL_PROBABILITIES: _schema(*_RESULT, ("method", pa.string()), ("probability", pa.float64())),  # of being right
    ANSWERS: _schema(
        *_RESULT,  # its hash is of proposer, revision, prompt, examples
        ("kind", pa.string()),  # vlm, captioner, neighbours
        ("proposer", pa.string()),  # its spec
        ("revision", pa.string()),  # what pins its weights
        ("prompt_hash", pa.string()),
        ("state", pa.string()),  # answered, unparsed, failed
        ("raw", pa.string()),  # what the model said, as it came
        ("reason", pa.string()),  # why there are no candidates, or not all that were said; else ""
        ("requests", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("when", _utc),
    ),
    CANDIDATES: _schema(
        *_RESULT,  # its hash is that of the answer it comes from
        ("kind", pa.string()),
        ("proposer", pa.string()),
        ("rank", pa.int32()),  # 0 is the proposer's best
        ("text", pa.string()),
        ("score", pa.float64()),  # the proposer's own, null where it has none
    ),
    EVALUATIONS: _schema(
        *_RESULT,  # its hash is of all that the values depend on, the method apart
        ("kind", pa.string()),  # the truth file's own grouping, for example single or pair; "" without one
        ("method", pa.string()),  # "" for what belongs to the neuron itself, whatever its label
        ("text", pa.string()),  # the label judged; null where the neuron has none
        ("metric", pa.string()),
        ("value", pa.float64()),  # null where it cannot be computed
        ("note", pa.string()),  # why not; else ""
    ),
    SPLITS: _schema(
        ("split", pa.string()),  # a hash of both sets of images
        ("origin", pa.string()),
        ("seed", pa.int64()),
        ("images", pa.int64()),
        ("choosing", pa.list_(pa.int64())),  # image ids that chose the labels
        ("judging", pa.list_(pa.int64())),  # image ids that judged them
    ),
}


def table_schema(name: str) -> pa.Schema:
    """Return the schema of a fixed table, stamped with the format of the store."""
    return _TABLES[name].with_metadata({FORMAT_KEY: FORMAT.encode()})


def fixed_tables() -> tuple[str, ...]:
    """Return the names of the tables that do not depend on an encoder or layer."""
    return tuple(_TABLES)


def is_own(table: str) -> bool:
    """Return whether a table has a name that csp_index gives.

    >>> is_own("labels"), is_own("activations_net_l_0a1b2c3d"), is_own("my_notes")
    (True, True, False)
    """
    return table in _TABLES or table.startswith(_OF_COLUMNS)


def embeddings_schema(width: int) -> pa.Schema:
    """Return the schema of one encoder's image embeddings: unit vectors of `width` float32."""
    return _schema(("image_id", pa.int64()), ("shard", pa.int32()), (EMBEDDING, pa.list_(pa.float32(), width)))


def activations_schema(dtype: str) -> pa.Schema:
    """Return the schema of one layer's activations: a row is one neuron over one shard of images."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    return _schema(("shard", pa.int32()), ("neuron", pa.int32()), ("values", pa.list_(value)))


def sparse_schema(dtype: str) -> pa.Schema:
    """Return the schema of a layer stored sparse: a row has the activations of 64 neurons over one shard of images.

    Those that are 0 are left out; the others are in the order of neurons, then of images.
    """
    value = pa.float16() if dtype == "float16" else pa.float32()
    return _schema(
        ("shard", pa.int32()),
        ("neuron", pa.int32()),  # the first of the 64
        ("neurons", pa.list_(pa.uint8())),  # of each activation, counted from the first of the 64
        ("images", pa.list_(pa.int32())),  # of each activation, counted from the first image of the shard
        ("values", pa.list_(value)),
    )


def texts_schema(width: int) -> pa.Schema:
    """Return the schema of one encoder's text embeddings: means over templates, not re-normalised."""
    return _schema(
        ("vocabulary", pa.string()),
        ("template_set", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("embedding", pa.list_(pa.float32(), width)),
    )


def concepts_schema(width: int) -> pa.Schema:
    """Return the schema of the concept vectors behind labels: unit vectors in one encoder's space."""
    return _schema(
        *_RESULT,
        ("method", pa.string()),
        ("images", pa.int64()),  # images the vector rests on: ids 0 .. images - 1
        ("vector", pa.list_(pa.float32(), width)),
    )


def derived_schema(width: int) -> pa.Schema:
    """Return the schema of images made for one neuron, as one encoder sees them; they are no indexed images."""
    return _schema(
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


def neighbours_schema() -> pa.Schema:
    """Return the schema of lists of nearest neighbours in one encoder's space, whatever the activation."""
    return _schema(
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
    return _schema(
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


def neighbours_table(encoder: str) -> str:
    """Return the name of the table of lists of nearest neighbours in an encoder's space."""
    return f"neighbours_{slug(encoder)}"


def sums_table(encoder: str) -> str:
    """Return the name of the table of sums over the images in an encoder's space."""
    return f"sums_{slug(encoder)}"


def activations_table(layer: str, *, sparse: bool = False) -> str:
    """Return the name of the table of a layer's activations; `layer` is `model/layer`."""
    return f"{ACTIVATIONS[sparse]}{slug(layer)}"


def is_sparse(table: str) -> bool:
    """Return whether a table has a layer's activations without those that are 0.

    >>> is_sparse(activations_table("net/sae", sparse=True)), is_sparse(activations_table("net/layer4"))
    (True, False)
    """
    return table.startswith(ACTIVATIONS[True])


def format_with(tables: Iterable[str]) -> str:
    """Return the format of an index that has these tables: the least that a reader must know."""
    return SPARSE_FORMAT if any(map(is_sparse, tables)) else FORMAT


def file_format(table: str) -> str | None:
    """Return the Lance file format that a new table is kept in, None for the default.

    Activations are long lists of numbers that do not compress. Format 2.0 writes them as they are; later ones look for
    a shorter form first, and take two to six times as long. Sparse ones are mostly small integers, which format 2.1
    writes in as few bits as they need.
    """
    if is_sparse(table):
        return "2.1"
    return "2.0" if table.startswith(ACTIVATIONS) else None
