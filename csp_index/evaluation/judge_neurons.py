"""The neurons themselves on the judging images, whatever their labels, as the judging encoder sees the images.

Memory: that of `JudgingImages`, and the activations of one block of neurons.
"""

from __future__ import annotations

import torch

from csp_index.evaluation.judge_labels import JudgingImages
from csp_index.evaluation.metrics.separability import TENTHS, Images, monosemanticity, separability
from csp_index.records import Progress


def neuron_metrics(images: JudgingImages, progress: Progress) -> dict[str, torch.Tensor]:
    """Return metric -> values [M]: separability, that of each tenth of the activating images, monosemanticity.

    The choosing images are the reference, the judging ones are held out.
    """
    tenths = [f"separability-{tenth + 1}" for tenth in range(TENTHS)]
    names = ("separability", *tenths, "monosemanticity")
    values_of = {name: torch.full((len(images.neurons),), torch.nan, dtype=torch.float64) for name in names}
    for pick, choosing, activations in images.blocks():
        judging = Images(images.embeddings, activations)
        result = separability(Images(images.fit_embeddings, choosing), judging, images.alpha)
        values_of["separability"][pick] = result.whole
        for name, values in zip(tenths, result.tenths.unbind(1), strict=True):
            values_of[name][pick] = values
        values_of["monosemanticity"][pick] = monosemanticity(judging)
        progress(min(pick.stop, len(images.neurons)), len(images.neurons), "neurons separated")
    return values_of
