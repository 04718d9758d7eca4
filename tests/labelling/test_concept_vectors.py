"""Concept vectors that are computed: those of the method mean-centred, written in NumPy."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np

from csp_index import open_index
from csp_index.contrast.selection import Selection
from csp_index.labelling.concept_vectors import mean_centred_vectors
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.scoring import mean_centred_terms, vectors_of_terms
from csp_index.store import catalog


def test_computed_vectors_are_those_of_the_method_they_are_named_after(tmp_path: Path) -> None:
    paths = fakes.write_arrays(tmp_path)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=16)
    target = catalog.layers(index.store)[0]
    selection = Selection(catalog.encoder(index.store), target, np.arange(target.neurons))
    vectors = mean_centred_vectors(index.store, selection)
    request = LabelRequest("mean-centred")
    evidence = Pipeline(index.store).evidence(selection, request).evidence
    expected = vectors_of_terms(mean_centred_terms, evidence, request.scoring).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    alive = catalog.neuron_rows(index.store, target)["max"].to_numpy() > 0
    np.testing.assert_allclose(np.linalg.norm(vectors[alive], axis=1), 1, atol=1e-6)
    assert not alive.all()  # one neuron never fires
