"""Arrow schemas and names of the tables that every index has; what is named here and in the two files below is ours.

`column_tables` defines the tables that an encoder or a layer has for itself, `study_tables` those of studies. Other
files refer to tables by the constants and functions of these three, and to columns by the names defined there.

Layout: one row per image (`images`, `embeddings_*`), one row per neuron and shard (`activations_*`) or per 64 neurons
and shard (`sparse_*`), one row per neuron (`neurons`), and one row per result; a shard exists once its mark is in
`shards`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pyarrow as pa

from csp_index.store.column_tables import PREFIXES, is_sparse
from csp_index.store.fields import RESULT, UTC, schema_of
from csp_index.store.study_tables import STUDIES

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

# The stored quantiles of each neuron's activations.
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

_TABLES: dict[str, pa.Schema] = (
    {
        IMAGES: schema_of(
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
        FAILURES: schema_of(("uri", pa.string()), ("reason", pa.string()), ("when", UTC), ("run_id", pa.string())),
        SHARDS: schema_of(
            ("what", pa.string()),  # "images", "embeddings:<encoder>" or "activations:<model>/<layer>"
            ("shard", pa.int32()),
            ("first_image", pa.int64()),
            ("rows", pa.int32()),  # images in the shard
            ("settings_hash", pa.string()),
            ("run_id", pa.string()),
            ("digest", pa.string()),  # of its rows: see `digests`
        ),
        RUNS: schema_of(
            ("run_id", pa.string()),
            ("command", pa.string()),
            ("state", pa.string()),  # running, done, failed, interrupted
            ("started", UTC),
            ("ended", UTC),
            ("settings", pa.string()),  # JSON
            ("settings_hash", pa.string()),
            ("models", pa.string()),  # JSON: weight hashes and preprocessing of every model used
            ("versions", pa.string()),  # JSON: package versions
            ("seed", pa.int64()),
            ("message", pa.string()),
        ),
        ENCODERS: schema_of(
            ("encoder", pa.string()),
            ("width", pa.int32()),
            ("logit_scale", pa.float64()),
            ("identity", pa.string()),  # JSON
            ("table", pa.string()),
            ("run_id", pa.string()),
        ),
        LAYERS: schema_of(
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
        NEURONS: schema_of(
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
        CLASS_NAMES: schema_of(  # of the outputs of classifiers, as they came with the weights: no labels from evidence
            ("model", pa.string()),
            ("layer", pa.string()),
            ("neuron", pa.int32()),
            ("class_name", pa.string()),
            ("run_id", pa.string()),
        ),
        VOCABULARIES: schema_of(
            ("vocabulary", pa.string()),  # name and content hash
            ("template_set", pa.string()),  # the templates it was last used with
            ("position", pa.int32()),
            ("text", pa.string()),
        ),
        EXAMPLES: schema_of(
            RESULT[0],
            *RESULT[2:],
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
        LABELS: schema_of(
            *RESULT,
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
        LABEL_TERMS: schema_of(  # of labels that are weighted sums of texts; the label's own row has the sum in words
            *RESULT,
            ("method", pa.string()),
            ("position", pa.int32()),  # 0 has the largest weight
            ("text", pa.string()),
            (
                "weight",
                pa.float64(),
            ),  # activation / its maximum = bias + sum of weight x sigmoid(slope (cosine + shift))
            *(
                (name, pa.float64()) for name in ("bias", "slope", "shift")
            ),  # one bias per label; null if not calibrated
        ),
        LABEL_NULLS: schema_of(  # of a label, by its run: where it stands among a layer that has learned nothing
            *RESULT,
            ("method", pa.string()),
            (
                "percentile",
                pa.float64(),
            ),  # the share of the null's labels with a lower score, equal ones count one half
            ("lead_percentile", pa.float64()),  # the same of the lead over the runner-up
            ("exceeded", pa.float64()),  # the share of the null's neurons with a sure label that scores as high
            ("null", pa.string()),  # its model/layer
            ("null_neurons", pa.int32()),  # that have a label
            ("null_run", pa.string()),  # the newest that made labels of it
        ),
        LABEL_PROBABILITIES: schema_of(
            *RESULT, ("method", pa.string()), ("probability", pa.float64())
        ),  # of being right
        ANSWERS: schema_of(
            *RESULT,  # its hash is of proposer, revision, prompt, examples
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
            ("when", UTC),
        ),
        CANDIDATES: schema_of(
            *RESULT,  # its hash is that of the answer it comes from
            ("kind", pa.string()),
            ("proposer", pa.string()),
            ("rank", pa.int32()),  # 0 is the proposer's best
            ("text", pa.string()),
            ("score", pa.float64()),  # the proposer's own, null where it has none
        ),
        EVALUATIONS: schema_of(
            *RESULT,  # its hash is of all that the values depend on, the method apart
            ("kind", pa.string()),  # the truth file's own grouping, for example single or pair; "" without one
            ("method", pa.string()),  # "" for what belongs to the neuron itself, whatever its label
            ("text", pa.string()),  # the label judged; null where the neuron has none
            ("metric", pa.string()),
            ("value", pa.float64()),  # null where it cannot be computed
            ("note", pa.string()),  # why not; else ""
        ),
        SPLITS: schema_of(
            ("split", pa.string()),  # a hash of both sets of images
            ("origin", pa.string()),
            ("seed", pa.int64()),
            ("images", pa.int64()),
            ("choosing", pa.list_(pa.int64())),  # image ids that chose the labels
            ("judging", pa.list_(pa.int64())),  # image ids that judged them
        ),
    }
    | STUDIES
)

OF_NEURONS = tuple(name for name, kind in _TABLES.items() if {"run_id", "model", "layer", "neuron"} <= set(kind.names))
"""Tables whose rows are of a neuron, made by a run."""


@cache
def table_schema(name: str) -> pa.Schema:
    """Return the schema of a fixed table, stamped with the format of the store."""
    return _TABLES[name].with_metadata({FORMAT_KEY: FORMAT.encode()})


@cache
def empty_table(name: str, columns: tuple[str, ...] = ()) -> pa.Table:
    """Return a fixed table without rows, of these columns or all; a page asks for several."""
    empty = table_schema(name).empty_table()
    return empty.select(list(columns)) if columns else empty


def fixed_tables() -> tuple[str, ...]:
    """Return the names of the tables that do not depend on an encoder or layer."""
    return tuple(_TABLES)


def is_own(table: str) -> bool:
    """Return whether a table has a name that csp_index gives.

    >>> is_own("labels"), is_own("activations_net_l_0a1b2c3d"), is_own("my_notes")
    (True, True, False)
    """
    return table in _TABLES or table.startswith(PREFIXES)


def format_with(tables: Iterable[str]) -> str:
    """Return the format of an index that has these tables: the least that a reader must know."""
    return SPARSE_FORMAT if any(map(is_sparse, tables)) else FORMAT
