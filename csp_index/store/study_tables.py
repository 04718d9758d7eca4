"""Schemas and names of the tables of studies: what a network relies on, how networks differ, what readers say."""

from __future__ import annotations

import pyarrow as pa

from csp_index.store.fields import RESULT, schema_of

ASSOCIATIONS = "associations"
ASSOCIATION_CLASSES = "association_classes"
IMAGE_LISTS = ("strongest", "weakest", "outside")  # of an association: image ids, and beside them their activations

_IDS, _VALUES = pa.list_(pa.int64()), pa.list_(pa.float32())
_CLASS = (
    ("classed_by", pa.string()),  # what sorts images into classes: a metadata column, or outputs:MODEL/LAYER
    ("position", pa.int32()),  # of the class among those of `classed_by`
    ("class_name", pa.string()),
)

STUDIES: dict[str, pa.Schema] = {
    ASSOCIATIONS: schema_of(  # a neuron and a class
        *RESULT,
        *_CLASS,
        ("auroc", pa.float64()),  # that an image of the class activates the neuron more than another; null without one
        ("rate_in", pa.float64()),  # the share of the images of the class on which it fires
        ("rate_out", pa.float64()),  # the same of the others
        ("mean_in", pa.float64()),  # its mean activation on images of the class
        ("mean_out", pa.float64()),
        ("threshold", pa.float32()),  # an image fires the neuron above it
        ("strongest", _IDS),  # images of the class, most activating first
        ("strongest_activations", _VALUES),
        ("weakest", _IDS),  # images of the class, least activating first
        ("weakest_activations", _VALUES),
        ("outside", _IDS),  # images of no such class on which it fires, most activating first
        ("outside_activations", _VALUES),
    ),
    ASSOCIATION_CLASSES: schema_of(  # a class; written last, so that associations with their classes are whole
        *RESULT[:-1],
        *_CLASS,
        ("images", pa.int64()),  # in the class
        ("others", pa.int64()),  # with a class, and not this one
        ("without", pa.int64()),  # with no class at all: they count nowhere
        ("firing", pa.string()),  # above what an image fires a neuron: a number, mean, quantile:Q or max:F
        ("note", pa.string()),  # about the classes as a whole, the same in all rows
    ),
}

OF_NEURONS = tuple(name for name, kind in STUDIES.items() if {"run_id", "model", "layer", "neuron"} <= set(kind.names))
"""Tables whose rows are of a neuron, made by a run."""

OF_RUNS = tuple(name for name, kind in STUDIES.items() if "run_id" in kind.names)
"""Tables whose rows are made by a run."""
