"""What each SQL view has in it, in a sentence: the page of SQL and its JSON say it. Knows nothing about SQL."""

from __future__ import annotations

from typing import Final

_VIEWS: Final = {
    "images": "The indexed images: where each came from, its size, its metadata, its thumbnail.",
    "failures": "Images that could not be read, and why.",
    "shards": "Which images were committed together, for every encoder and layer.",
    "runs": "Commands that wrote to the index: their settings, models, versions and how they ended.",
    "encoders": "Encoders whose embeddings are in the index.",
    "layers": "Layers whose neurons are in the index.",
    "neurons": "One row per neuron: statistics of its activations and its most activating images.",
    "label_nulls": "Where labels stand among those of a network that has learned nothing.",
    "label_probabilities": "How likely labels are to be right, by the package's calibration.",
    "associations": "Neurons and classes of images: how well each neuron tells each class, and images for and against.",
    "association_classes": "The classes that neurons were compared with, and how many images each has.",
    "class_names": "What the outputs of classifiers are called, as it came with their weights.",
    "vocabularies": "Sets of candidate texts.",
    "examples": "The activating and contrastive images behind each label, pair by pair.",
    "neuron_labels": "One row per neuron: the label that pages and searches show.",
    "labels": "Scored labels, best first (rank 0), of every run and method.",
    "label_terms": "The texts and weights of labels that are weighted sums, the largest weight first (position 0).",
    "answers": "Answers of models that name candidates.",
    "candidates": "Candidate texts that models named for a neuron.",
    "evaluations": "How faithful labels are, metric by metric.",
    "effects": "What neurons do to a network's logits, one row per neuron and class.",
    "effect_classes": "The classes of these effects: their images and mean logits.",
    "audits": "Audits of layers: what was expected of the network, and what was looked at.",
    "findings": "What audits found: labels and metadata that a network relies on and should not.",
    "comparisons": "Two layers compared, by concept vectors or activations.",
    "matches": "A neuron of one compared layer and its partner in the other.",
    "evolution": "A neuron at one checkpoint of its network's training.",
    "evolutions": "Neurons through all checkpoints: their labels, and when these settled.",
    "facets": "The meanings of neurons that have several.",
    "formulas": "The best logical label of each neuron.",
    "hierarchies": "Layers whose labels were put into a hierarchy of words.",
    "hierarchy_words": "The words at or above the labels of these layers.",
    "hierarchy_levels": "Neurons with the word that stands for their label in the hierarchy.",
    "layer_maps": "Maps of layers: how each was made, and how far its places can be trusted.",
    "map_clusters": "Clusters of neurons on the maps of layers, with their names.",
    "map_places": "Where neurons lie on the maps of layers, and in which cluster.",
    "pinned": "Neurons that readers named, with the name.",
    "notes": "What readers said of labels and findings.",
    "ratings": "Whether people found labels true of pictures.",
    "splits": "Which images chose labels and which judged them.",
    "embeddings": "Image embeddings, unit vectors.",
    "derived": "Images made for one neuron: edited or generated.",
    "maps": "Where neurons fire in their top images: how strongly at most, and on how many places.",
    "texts": "Candidate texts with embeddings, by encoder.",
}


def what_is_in(view: str) -> str:
    """Return what is in a view; those of one encoder's embeddings and of one layer's maps have names of their own.

    >>> what_is_in("maps_cnn_layers_17_3ae6ddd3")
    'Where neurons fire in their top images: how strongly at most, and on how many places.'
    """
    return _VIEWS.get(view) or _VIEWS["maps" if view.startswith("maps_") else "embeddings"]
