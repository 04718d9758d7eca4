"""Schemas and names of the tables of studies: what a network relies on, how networks differ, what readers say."""

from __future__ import annotations

import pyarrow as pa

from csp_index.store.fields import RESULT, UTC, schema_of

ASSOCIATIONS = "associations"
ASSOCIATION_CLASSES = "association_classes"
NOTES = "notes"
RATINGS = "ratings"
OF_READERS = (NOTES, RATINGS)  # what people said, which nothing makes again
IMAGE_LISTS = ("strongest", "weakest", "outside")  # of an association: image ids, and beside them their activations

_IDS, _VALUES = pa.list_(pa.int64()), pa.list_(pa.float32())
_CLASS = (
    ("classed_by", pa.string()),  # what sorts images into classes: a metadata column, or outputs:MODEL/LAYER
    ("position", pa.int32()),  # of the class among those of `classed_by`
    ("class_name", pa.string()),
)

EFFECTS = "effects"
EFFECT_CLASSES = "effect_classes"

# What `effects` has in lists, one value per class; null where a class has too few images.
EFFECT_LISTS = ("effects", "low", "high", "on_class", "elsewhere")
COMPARISONS = "comparisons"
EVOLUTION = "evolution"
MATCHES = "matches"
HIERARCHIES = "hierarchies"
HIERARCHY_WORDS = "hierarchy_words"
HIERARCHY_LEVELS = "hierarchy_levels"
# What came of a label: a broader word; itself; itself, as nothing explains the neuron; not in the hierarchy; no label.
HIERARCHY_STATES = ("climbed", "kept", "unexplained", "unknown", "unlabelled")
LAYER_MAPS = "layer_maps"
MAP_CLUSTERS = "map_clusters"
MAP_PLACES = "map_places"

# The second layer of a comparison; `other` is the address of its index, "" if it is in this one.
_OTHER = (("other", pa.string()), ("other_model", pa.string()), ("other_layer", pa.string()))

AUDITS = "audits"
FINDINGS = "findings"
FINDING_KINDS = ("artefact", "unexpected-label", "changed-label")
FACETS = "facets"
FORMULAS = "formulas"
FORMULA_NUMBERS = ("iou", "single_iou", "correlation", "single_correlation", "gain", "low", "high")
FINDING_NUMBERS = ("score", "effect", "doubt", "push", "push_share")  # in [0, 1] but for `push`

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
    EFFECTS: schema_of(  # of a neuron on each logit
        *RESULT,
        ("by", pa.string()),  # linear, zero, mean
        ("head", pa.string()),  # the module that gives the logits; "" the network itself
        ("images", pa.int64()),  # whose class is known
        ("checked", pa.int32()),  # images whose logits the weights and activations must give; 0: no linear head
        ("difference", pa.float64()),  # the largest between the two; null without a linear head, as the next
        ("largest", pa.float64()),  # of these logits, by size
        ("value", pa.float64()),  # that the neuron was set to; null with a linear head
        *((name, pa.list_(pa.float32())) for name in EFFECT_LISTS),
    ),
    EFFECT_CLASSES: schema_of(  # a class of the effects with this settings hash
        *(field for field in RESULT if field[0] != "neuron"),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),  # null where nothing names it
        ("images", pa.int64()),  # of the class
        ("logit_on", pa.float64()),  # the mean logit on its images; null without any, as the next
        ("logit_elsewhere", pa.float64()),  # on the others
    ),
    NOTES: schema_of(  # what readers say of labels and findings; rows are only added
        ("note_id", pa.string()),
        ("run_id", pa.string()),  # that wrote or imported it
        ("when", UTC),
        ("reader", pa.string()),
        ("subject", pa.string()),  # neuron:MODEL/LAYER/INDEX or finding:ID
        ("action", pa.string()),  # accept, reject, rename, unname, tag, untag, comment
        ("text", pa.string()),  # the name, tag, comment or reason; "" without one
        ("label", pa.string()),  # the label that was shown then; null without one, as of a finding
        ("method", pa.string()),  # that had made it
        ("label_run", pa.string()),  # and the run
        ("layer_digest", pa.string()),  # of the layer's identity then; "" of a finding
    ),
    RATINGS: schema_of(  # is a label true of a picture? Rows are only added; the last of a rater counts
        ("rating_id", pa.string()),
        ("run_id", pa.string()),
        ("when", UTC),
        ("rater", pa.string()),
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("layer_digest", pa.string()),
        ("method", pa.string()),  # that made the label, which the rater did not see
        ("label_run", pa.string()),
        ("text", pa.string()),  # the label
        ("image_id", pa.int64()),
        ("verdict", pa.string()),  # yes, no, unsure
        ("drawn", pa.string()),  # how the picture was drawn: importance, uniform
        ("weight", pa.float64()),  # makes means over drawn pictures means over all: its chance if uniform / its chance
        ("activation", pa.float32()),  # of the neuron on the picture
    ),
    AUDITS: schema_of(  # of a layer; written last, so that findings with their audit are whole
        *RESULT[:-1],
        ("classed_by", pa.string()),  # what sorts images into classes: a metadata column, or outputs:MODEL/LAYER
        ("method", pa.string()),  # of the labels with contrast
        ("encoder", pa.string()),
        ("threshold", pa.float64()),  # of the score, from which on a finding counts
        ("expected", pa.list_(pa.string())),  # concepts that the network should rely on
        ("unknown", pa.list_(pa.string())),  # those that no vocabulary has
        ("columns", pa.list_(pa.string())),  # of the metadata, that were looked at
        ("notes", pa.list_(pa.string())),  # what was not looked at, and why
        ("neurons", pa.int32()),
        ("classes", pa.int32()),
        ("images", pa.int64()),
    ),
    FINDINGS: schema_of(  # numbers but `push` are in [0, 1]; higher is more doubtful
        *RESULT,
        ("classed_by", pa.string()),
        ("finding", pa.string()),  # its id: the same whenever the same is found
        ("rank", pa.int32()),  # 0 has the highest score
        ("kind", pa.string()),  # artefact, unexpected-label, changed-label
        ("class_name", pa.string()),
        ("subject", pa.string()),  # what it is about: "column: value", or a label
        ("column_name", pa.string()),  # of an artefact, null for others, as the next
        ("value", pa.string()),
        ("label", pa.string()),  # with contrast
        ("plain_label", pa.string()),  # without; null unless contrast changes the label
        ("score", pa.float64()),  # effect x doubt
        ("effect", pa.float64()),  # on the class's logit, as a share of the strongest neuron's
        ("doubt", pa.float64()),
        ("push", pa.float64()),  # the effect itself, in units of the logit
        ("push_share", pa.float64()),  # of all that neurons push for the class
        ("above", pa.bool_()),  # the threshold
        ("statement", pa.string()),
        ("refutation", pa.string()),
        ("evidence", pa.string()),  # JSON: image ids, activations, effects
    ),
    FACETS: schema_of(  # a meaning of a neuron; a neuron without activating images has one row, without a facet
        *RESULT,
        ("encoder", pa.string()),
        ("method", pa.string()),  # that names facets
        ("candidates", pa.string()),  # the key of the texts that facets are named by
        ("of_images", pa.int64()),  # that were indexed then
        ("looked_at", pa.int32()),  # images that fire it, of many a sample
        ("clusters", pa.int32()),  # parts by texts, before those of one meaning were joined
        ("clear", pa.float64()),  # 1 less the most that a facet's label explains of another; 0 where there is one
        ("facets", pa.int32()),  # of the neuron
        ("facet", pa.int32()),  # 0 has the most images; null without one, as the next three
        ("label", pa.string()),
        ("score", pa.float64()),
        ("share", pa.float64()),  # of the neuron's images
        ("images", _IDS),  # most activating first
        ("activations", _VALUES),
    ),
    FORMULAS: schema_of(  # a logical label of a neuron, or why it has none
        *RESULT,
        ("encoder", pa.string()),  # whose texts are concepts; null where concepts are metadata
        ("concepts", pa.string()),  # what they are: the key of the texts, or the columns
        ("of_images", pa.int64()),
        ("firing", pa.string()),  # above what an image fires the neuron: a number, mean, quantile:Q or max:F
        ("fired", pa.int64()),  # images that fire it, of those that chose the formula
        ("formula", pa.string()),  # the best one of two or three concepts; null for a neuron that fires too rarely
        ("terms", pa.list_(pa.string())),  # its concepts, as they occur
        ("single", pa.string()),  # the best concept alone
        ("iou", pa.float64()),  # of fired images with those of the formula, of those that chose it
        ("single_iou", pa.float64()),
        ("correlation", pa.float64()),  # of activation and formula, on the held-out images
        ("single_correlation", pa.float64()),
        ("gain", pa.float64()),  # how much higher the formula's is
        ("low", pa.float64()),  # 95 % of the gain lies above, over images
        ("high", pa.float64()),
        ("kept", pa.bool_()),  # the interval lies above 0: the formula is a label
    ),
    COMPARISONS: schema_of(  # a row per way of matching two layers
        *RESULT[:4],
        *_OTHER,
        ("by", pa.string()),  # concepts or activations
        ("images", pa.int64()),  # that both layers have
        ("only_first", pa.int64()),  # images that only the first has
        ("only_second", pa.int64()),
        ("neurons", pa.int32()),
        ("other_neurons", pa.int32()),
        ("live", pa.int32()),  # that take part: they fire, or vary
        ("other_live", pa.int32()),
        ("matched", pa.int32()),  # pairs above all nulls
        ("null_images", pa.float64()),  # the 95th percentile of match scores where values belong to other images
        ("null_mixed", pa.float64()),  # and where neurons are random directions of their layer
        ("null_untrained", pa.float64()),  # and with a layer that has learned nothing, if one was named
        ("encoder", pa.string()),  # of the concept vectors; null for activations
        ("vocabulary", pa.string()),  # whose coverage was counted; null if none
        ("texts", pa.int32()),  # in it
        ("held", pa.int32()),  # of them, labels of the first layer
        ("other_held", pa.int32()),
        ("both_held", pa.int32()),
        ("untrained", pa.string()),  # the address of that layer; "" if none was named
        ("note", pa.string()),  # what was left out, and why; else ""
    ),
    HIERARCHIES: schema_of(  # a layer whose labels were put into a hierarchy; written last, so that its rows are whole
        *RESULT[:-1],
        ("source", pa.string()),  # the name of the hierarchy's file
        ("encoder", pa.string()),
        ("vocabulary", pa.string()),  # whose texts are the narrower words
        ("choosing", pa.int64()),  # images that decide how a broader word is read
        ("judging", pa.int64()),  # images that decide how broad a word a neuron bears
        ("keep", pa.float64()),  # the share of the label's correlation that a broader word keeps at least
        ("neurons", pa.int32()),
        ("words", pa.int32()),
        ("notes", pa.list_(pa.string())),  # what was left out, and why
    ),
    HIERARCHY_WORDS: schema_of(  # a word at or above one of the layer's labels
        *RESULT[:-1],
        ("word", pa.int32()),  # its place
        ("title", pa.string()),
        ("parents", pa.list_(pa.int32())),  # the places of broader words
        ("texts", pa.int32()),  # with an embedding, at or below it
        ("embedded", pa.bool_()),  # whether its own text has one
    ),
    HIERARCHY_LEVELS: schema_of(  # a neuron
        *RESULT,
        ("label", pa.string()),  # null without one
        ("state", pa.string()),  # one of HIERARCHY_STATES
        ("level", pa.int32()),  # the place of the word that stands for it; null if unknown or without label
        ("level_title", pa.string()),
        ("steps", pa.int32()),  # from the label up to it
        ("by", pa.string()),  # how the broader word is read: text, union; null where the label stands for itself
        ("correlation", pa.float64()),  # of the label with the activation; null without one, or if unknown
        ("level_correlation", pa.float64()),
        ("low", pa.float64()),  # bounds of the difference, level minus label; null where the label stands for itself
        ("high", pa.float64()),
        ("ended_at", pa.string()),  # the next broader word, which does not bear it; null if none is left
        ("ended_correlation", pa.float64()),
    ),
    LAYER_MAPS: schema_of(  # a layer whose neurons have places on a map; written last, so that its rows are whole
        *RESULT[:-1],
        ("by", pa.string()),  # umap, or pca where umap places too few neurons
        ("encoder", pa.string()),  # of the concept vectors
        ("vectors", pa.string()),  # the method that gave them
        ("vectors_digest", pa.string()),  # of all that they depend on
        ("seed", pa.int64()),
        ("neighbors", pa.int32()),  # of a neuron, that its place rests on
        ("min_dist", pa.float64()),
        ("cluster_size", pa.int32()),  # neurons that make a cluster, at least
        ("neurons", pa.int32()),  # of the layer
        ("placed", pa.int32()),  # that fire and have a concept vector
        ("clusters", pa.int32()),
        ("trust", pa.float64()),  # trustworthiness of the places; null for too few neurons, as the next
        ("plane_trust", pa.float64()),  # of the plane of the two main directions
        ("explained", pa.list_(pa.float64())),  # the share of variance of each of these directions
        ("notes", pa.list_(pa.string())),  # in what the map differs from what was asked for
    ),
    MAP_CLUSTERS: schema_of(  # neurons that are close in the space of concept vectors
        *RESULT[:-1],
        ("cluster", pa.int32()),  # 0 has the most neurons
        ("name", pa.string()),  # the most telling labels that its neurons had when the map was made; "" without any
        ("neurons", pa.int32()),
        ("share", pa.float64()),  # of its neurons, that have one of these labels
        ("x", pa.float64()),  # where its name stands
        ("y", pa.float64()),
    ),
    MAP_PLACES: schema_of(  # a neuron on the map
        *RESULT,
        ("x", pa.float64()),  # 0 to 1 from the left, as the next from the bottom; the longer side fills it
        ("y", pa.float64()),
        ("cluster", pa.int32()),  # null where it is in none
        ("central", pa.float64()),  # the cosine with the mean of its cluster; null in none
    ),
    EVOLUTION: schema_of(  # a row per neuron and checkpoint; model is the network at the checkpoint
        *RESULT,
        ("network", pa.string()),
        ("checkpoint", pa.string()),
        ("step", pa.int32()),  # of the checkpoint, in the order of training, from 0
        ("label", pa.string()),  # null without one
        ("firing_rate", pa.float64()),
        ("cosine", pa.float64()),  # of its concept vector with that of the step before; null where it is dead at one
        ("event", pa.string()),  # born or died since the step before; else ""
    ),
    MATCHES: schema_of(  # a row per way and neuron of the first layer, then those of the second that have no partner
        *RESULT,  # the neuron is null for a neuron of the second layer without partner
        *_OTHER,
        ("other_neuron", pa.int32()),  # null without a partner
        ("by", pa.string()),
        ("score", pa.float64()),  # of the two, -1 to 1; null without a partner
        ("matched", pa.bool_()),  # whether the score is above both nulls
        ("best", pa.float64()),  # the highest similarity to any neuron of the other layer; null for one that is dead
        ("other_best", pa.float64()),
        ("label", pa.string()),  # that was shown when they were compared; null without one
        ("other_label", pa.string()),
    ),
}

OF_RUNS = tuple(name for name, kind in STUDIES.items() if name not in OF_READERS and "run_id" in kind.names)
"""Tables whose rows are made by a run."""
