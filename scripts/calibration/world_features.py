"""Labels with features and truth, of drawn worlds and real pictures, by the product's formulas on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from search_categories import Graded
from search_variants import Sight
from torch import Tensor

from csp_index.labelling.confidence import bootstrap
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.methods import METHODS
from csp_index.labelling.nulls.fit import Sample, label_fit
from csp_index.labelling.probabilities.features import label_features
from csp_index.labelling.request import KEPT
from csp_index.labelling.response.dataset_sums import dataset_sums
from csp_index.labelling.response.leader_ranks import LeaderRanks
from csp_index.labelling.response.response_sums import FiringSums, WholeSums
from csp_index.labelling.response.share_means import Weights
from csp_index.labelling.response.views import Saturation
from csp_index.labelling.scoring import score
from csp_index.ordering import leaders_of
from csp_index.records import ScoringOptions

CALIBRATED: Final = ("csp", "semanticlens", "pmi", "contrastive-pmi", "consensus", "firing-contrast")
MOST_NEURONS: Final = 150
_SAMPLE: Final = 1000
_LEADERS: Final = 24


def evidence_of(sight: Sight, method: str) -> Evidence:
    """Return what the product would show a method of a world."""
    info = METHODS[method]
    values = sight.activations.gather(1, sight.top)
    top = sight.top.masked_fill(values <= 0, -1)
    near = sight.near[:, :, : info.neighbours] if info.needs_contrast else sight.near[:, :, :0]
    sums = dataset_sums([sight.vectors], sight.texts, sight.scale)
    evidence = Evidence(sight.vectors, top, values, near, sight.texts, sight.vectors.mean(0), sums.label_share)
    if not info.needs_response:
        return evidence
    saturation = Saturation.of(values)
    adder = (
        FiringSums(saturation, sight.texts, sight.scale)
        if info.needs_firing
        else WholeSums(saturation, sight.texts, sight.scale, sums)
    )
    adder.add(sight.vectors, sums.totals, sight.activations, Weights.none())
    response = adder.finish()
    evidence = replace(evidence, response=response)
    scores = score(method, evidence, ScoringOptions(logit_scale=sight.scale)).scores
    leaders = leaders_of(scores, min(_LEADERS, scores.shape[1]))
    ranks = LeaderRanks(sums, sight.texts, saturation, leaders)
    ranks.add(sight.vectors, sight.activations)
    precision = torch.zeros(scores.shape).scatter(1, leaders, ranks.finish())
    return replace(evidence, response=replace(response, precision=precision))


def few(graded: Graded, most: int) -> Graded:
    """Return the world with at most so many of its neurons, drawn at random."""
    count = len(graded.agreement)
    rows = torch.from_numpy(np.sort(np.random.default_rng(count).permutation(count)[:most]))
    world = replace(
        graded.world,
        activations=graded.world.activations[rows],
        truth=graded.world.truth[rows],
        arity=graded.world.arity[rows],
    )
    cells = [graded.cells[row] for row in rows.tolist()]
    return Graded(world, graded.agreement[rows], cells, graded.best[rows])


def features_of(
    worlds: Iterable[Graded], methods: Sequence[str] = CALIBRATED, most: int = MOST_NEURONS
) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Yield for every world and method the `features` [M, F], the `overlap` [M] and whether the label is `exact` [M].

    The overlap is the IoU of what the label and the neuron's truth are true of; exact is the best word there is.
    """
    for graded in worlds:
        part = few(graded, most)
        sight = Sight(part.world)
        picked = np.random.default_rng(len(sight.vectors)).permutation(len(sight.vectors))[:_SAMPLE]
        rows = torch.from_numpy(np.sort(picked))
        sample, sampled = sight.vectors[rows], sight.activations[:, rows]
        result = {}
        for method in methods:
            evidence, options = evidence_of(sight, method), ScoringOptions(logit_scale=sight.scale)
            scores = score(method, evidence, options).scores
            leaders = leaders_of(scores, min(KEPT, scores.shape[1]))
            shares = bootstrap(method, evidence, options, scores, leaders).share
            labels = evidence.texts[leaders[:, 0]]
            fit = label_fit(evidence, labels, sampled.mean(1), Sample(sample, (), np.zeros(0)), sampled)
            features = label_features(evidence, scores, leaders, shares, options.bootstrap, fit, sample, sampled)
            agreement = part.agreement.gather(1, leaders[:, :1])[:, 0]
            result[method] = {
                "features": features,
                "overlap": agreement * part.best,
                "exact": (agreement > 0.999).float(),
            }
        yield result
