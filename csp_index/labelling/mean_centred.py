"""The concept vectors of a layer that no run has labelled whole: weighted means of its activating images."""

from __future__ import annotations

import numpy as np

from csp_index.contrast.selection import Selection
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.scoring import mean_centred_terms, vectors_of_terms
from csp_index.store.tables import Store


def mean_centred_vectors(store: Store, selection: Selection) -> np.ndarray:
    """Return the weighted means [M, D] of activating images minus the dataset's mean, at unit length."""
    request = LabelRequest("mean-centred")
    evidence = Pipeline(store).evidence(selection, request).evidence
    return vectors_of_terms(mean_centred_terms, evidence, request.scoring).numpy()
