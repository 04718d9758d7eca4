"""Neurons that each answer to one text, over images that each show one of five."""

from __future__ import annotations

import torch

from csp_index.labelling.evidence import Evidence

TEXTS, WIDTH = 30, 32


def answering() -> tuple[Evidence, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return evidence of five neurons, their scores [5, 30], leaders [5, 6], and 400 images with their activations."""
    rng = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(TEXTS, WIDTH, generator=rng), dim=1)
    shown = torch.randint(0, 5, (400,), generator=rng)
    images = texts[shown] + 0.15 * torch.randn(400, WIDTH, generator=rng)
    images = torch.nn.functional.normalize(images, dim=1)
    activations = (shown == torch.arange(5)[:, None]).float() * (1 + torch.rand(5, 400, generator=rng))
    values, top = activations.topk(10, dim=1)
    evidence = Evidence(images, top, values, torch.full((5, 10, 0), -1), texts, None)
    scores = images[top].mean(1) @ texts.T
    return evidence, scores, scores.topk(6, dim=1).indices, images, activations
