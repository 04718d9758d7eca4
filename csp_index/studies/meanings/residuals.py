"""What the activating images of neurons have beyond the silent images that look like them: CSP's residuals, gathered.

NumPy arrays of M neurons with K activating images each, of D dimensions; what is absent is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csp_index.labelling.evidence import Evidence

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Residuals:
    """Activating images of M neurons: which are `present` [M, K], their unit embeddings, and their silent neighbors'.

    `images` and `removed` are [M, K, D]: e(p), and mean_j s_j e(n_j) over the neighbors n_j of p, s_j their cosines
    with p. A residual is e(p) minus what is removed (CSP, arXiv 2604.22477, r_i with gamma 1).
    """

    present: np.ndarray
    images: np.ndarray
    removed: np.ndarray

    @classmethod
    def of(cls, evidence: Evidence) -> Residuals:
        """Return the residuals of the evidence of some neurons."""
        vectors = evidence.vectors.numpy()
        activating, contrastive = evidence.activating.numpy(), evidence.contrastive.numpy()
        present = activating >= 0
        images = vectors[np.maximum(activating, 0)] * present[..., None]
        removed = np.zeros_like(images)
        counts = np.maximum((contrastive >= 0).sum(2), 1)
        for place in range(contrastive.shape[2]):
            near = contrastive[..., place]
            rows = vectors[np.maximum(near, 0)]
            similar = np.einsum("mkd,mkd->mk", rows, images) * (near >= 0) / counts
            removed += similar[..., None] * rows
        return cls(present, images, removed)

    def rows(self) -> np.ndarray:
        """Return the residuals [M, K, D]; zeros where there is none."""
        return np.asarray(self.images - self.removed)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows at unit length; zeros stay."""
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), _TINY)
    return scaled
