"""The probability that labels are right, at labelling time: for labels like those that regressions were fitted on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from csp_index.labelling.confidence import Confidence
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.methods import METHODS
from csp_index.labelling.probabilities.calibration import read_calibrations
from csp_index.labelling.probabilities.features import label_features
from csp_index.labelling.request import LabelRequest
from csp_index.records import ExampleOptions, ScoringOptions
from csp_index.tensors.library import torch

FEWEST = 20
"""The fewest candidates with which a label has a probability: a score's place among a handful says nothing."""


def is_calibrated(request: LabelRequest, candidates: int) -> bool:
    """Return whether labels of a request have a probability: a calibrated method with its default options.

    The encoder's scale and the seeds may be any.
    """
    info = METHODS.get(request.method)
    if info is None or request.method not in read_calibrations() or candidates < FEWEST:
        return False
    examples = ExampleOptions(examples=info.examples, neighbours=info.neighbours, seed=request.examples.seed)
    scoring = ScoringOptions(logit_scale=request.scoring.logit_scale, seed=request.scoring.seed)
    return request.examples == examples and request.scoring == scoring


def label_probability(
    request: LabelRequest,
    evidence: Evidence,
    scores: torch.Tensor,
    leaders: torch.Tensor,
    confidence: Confidence,
    fit: torch.Tensor,
    sample: torch.Tensor,
    sampled: torch.Tensor,
    deviations: Callable[[], torch.Tensor],
) -> np.ndarray | None:
    """Return the probability [M] that the first of the `leaders` [M, L] is right, NaN where one cannot be known.

    None for a request that is not calibrated, and for a `sample` of a single image, on which nothing varies; then
    `deviations` is not called. The arguments are those of `label_features`.
    """
    if not is_calibrated(request, scores.shape[1]) or len(sample) < 2:
        return None
    resamples = request.scoring.bootstrap
    features = label_features(
        evidence, scores, leaders, confidence.share, resamples, fit, sample, sampled, deviations()
    )
    return read_calibrations()[request.method].probability(features.double().numpy())
