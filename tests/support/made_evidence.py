"""Whole example sets at random, and what is missing from some: the evidence that scoring is tested on."""

from __future__ import annotations

from dataclasses import replace

import torch

from csp_index.labelling import scoring
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.response.dataset_sums import label_share
from csp_index.labelling.response.views import Firing, Response
from csp_index.labelling.scoring import FORMULAS
from csp_index.records import ScoringOptions

IMAGES, WIDTH, TEXTS, RANKS, SCALE = 40, 8, 7, 6, 30.0


OPTIONS = ScoringOptions(logit_scale=SCALE)


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def evidence(neurons: int = 5, neighbours: int = 1, *, seed: int = 0) -> Evidence:
    """Whole example sets: each neuron's activating images, and contrastive ones among the others."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(IMAGES, generator=generator) for _ in range(neurons)])
    vectors, texts = unit(IMAGES, WIDTH, seed=seed), unit(TEXTS, WIDTH, seed=seed + 1)
    return Evidence(
        vectors,
        order[:, :RANKS],
        torch.rand(neurons, RANKS, generator=generator).sort(1, descending=True).values + 0.1,
        order[:, RANKS : RANKS + RANKS * neighbours].view(neurons, RANKS, neighbours),
        texts,
        vectors.mean(0),
        label_share(vectors, texts, SCALE).float() / IMAGES,
        response=response(neurons, generator),
    )


def response(neurons: int, generator: torch.Generator) -> Response:
    """Any response, with every part but the precision; the means of P are the squares of those of its root."""
    linear, agreement, root = torch.rand(3, neurons, TEXTS, generator=generator)
    return Response(linear, agreement, firing=Firing(0.5 * root.log(), root, root.square()))


def score(method: str, found: Evidence, options: ScoringOptions = OPTIONS) -> torch.Tensor:
    scale = FORMULAS[method].background(options)
    if scale is not None:
        found = replace(
            found, label_share=(label_share(found.vectors, found.texts, scale) / len(found.vectors)).float()
        )
    return scoring.score(method, found, options).scores


def with_absent(found: Evidence) -> Evidence:
    """Take examples away: one image of neuron 0, all but one of neuron 1, the contrast of neuron 2, all of neuron 3."""
    activating, contrastive = found.activating.clone(), found.contrastive.clone()
    activations = found.activations.clone()
    activating[0, -1], activating[1, 1:], activating[3] = -1, -1, -1
    contrastive[0, -1], contrastive[1, 1:], contrastive[3], contrastive[2] = -1, -1, -1, -1
    activations[activating < 0] = 0
    return replace(found, activating=activating, contrastive=contrastive, activations=activations)
