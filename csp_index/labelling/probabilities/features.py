"""What speaks for a label being right: features from scores, resamples and a sample of images. Pure tensor functions.

With y the neuron's response on the sample (activation over half the mean of the activating images, cut at 0 and 1), c
the cosines of the label with the sampled images and p its presence in them (`labelling.linear.presence`):

share       logit of the share of resamples of the activating images in which the label comes first
soft        sum over the leaders of share x max(corr(c, c of the leader), 0): rivals that mean the same do no harm
vocabulary  expected max(corr(c, c of the winner), 0) where each rival is offered with chance 1/2, the label not at all
lead        log(1 + lead over the second / deviation of the neuron's scores over the vocabulary)
height      log(1 + (score - mean) / deviation), both over the vocabulary
fit         -log of the share of pairs in the wrong order in `labelling.nulls.fit`
spread      log(deviation of c / median deviation over the vocabulary)
tail        (highest hundredth of c - mean) / deviation: a word that the encoder knows stands out on some images
response    corr(y, c)
present     corr(y, p)
behind      corr(y, p) minus the highest one among the leaders
breadth     log(mean of p / mean of y): whether the label is narrower or broader than what the neuron answers to
firing      log of the mean of y
wide        share of the sample on which the activation is above a fifth of the mean of the activating images
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from csp_index.labelling.evidence import Evidence
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.torch_threads import spread

FEATURES: Final = (
    *("share", "soft", "vocabulary", "lead", "height", "fit", "spread"),
    *("tail", "response", "present", "behind", "breadth", "firing", "wide"),
)
_NEURONS, _TEXTS = 128, 4096  # at once; of the neurons, by each thread
_LEAST = 1e-4  # of the means whose logarithm is taken
_TINY = 1e-12
_WIDE = 0.4  # of y: a fifth of the mean of the activating images


def label_features(
    evidence: Evidence,
    scores: Tensor,
    leaders: Tensor,
    shares: Tensor,
    resamples: int,
    fit: Tensor,
    sample: Tensor,
    sampled: Tensor,
    deviations: Tensor | None = None,
) -> Tensor:
    """Return the features [M, F] of the first of the `leaders` [M, L] by `scores` [M, C], L and C at least 2.

    `shares` [M, L] of the `resamples` in which a leader comes first, and `fit` [M] (`labelling.nulls.fit`), may be NaN:
    so are then the features from them. `sample` [R, D] are image embeddings, `sampled` [M, R] the activations on them;
    `deviations` [C] are those of `text_deviations`, where already known.
    """
    if deviations is None:
        deviations = text_deviations(evidence.texts, sample)
    usual = deviations.median().clamp(min=_TINY)
    features = torch.empty(len(leaders), len(FEATURES))

    def add(start: int) -> None:
        rows = slice(start, start + _NEURONS)
        best, present = leaders[rows], evidence.activating[rows] >= 0
        first = scores[rows].gather(1, best[:, :2])
        mean, width = scores[rows].mean(1), scores[rows].std(1).clamp(min=_TINY)
        top = (evidence.activations[rows] * present).sum(1) / present.sum(1).clamp(min=1)
        columns = [
            torch.logit((shares[rows, 0] * resamples + 0.5) / (resamples + 1)),
            ((first[:, 0] - first[:, 1]) / width).log1p(),
            ((first[:, 0] - mean) / width).clamp(min=0).log1p(),
            -(1 - fit[rows] + 1e-3).log(),
            (deviations[best[:, 0]].clamp(min=_TINY) / usual).log(),
        ]
        y = (sampled[rows] / (0.5 * top[:, None]).clamp(min=_TINY)).clamp(0, 1)
        share, lead, height, wrong, width_of = columns
        looks = _on_sample(evidence.texts, best, shares[rows], sample, y)
        wide = (y > _WIDE).float().mean(1)
        features[rows] = torch.stack([share, *looks[:2], lead, height, wrong, width_of, *looks[2:], wide], 1)

    spread(add, range(0, len(leaders), _NEURONS))
    return features


def text_deviations(texts: Tensor, sample: Tensor) -> Tensor:
    """Return the standard deviation of each text's cosines with a sample of image embeddings [R, D], [C]."""
    return torch.cat([(part @ sample.T).std(1) for part in texts.split(_TEXTS)])


def _on_sample(texts: Tensor, best: Tensor, shares: Tensor, sample: Tensor, y: Tensor) -> list[Tensor]:
    """Return soft, vocabulary, tail, response, present, behind, breadth and firing of a block of neurons, [m] each."""
    used, places = best.unique(return_inverse=True)
    cosines = texts[used] @ sample.T
    unit = _centred(cosines)
    own, y_unit = unit[places[:, 0]], _centred(y)
    alike = (unit[places] @ own[:, :, None])[..., 0].clamp(min=0)
    halves = 0.5 ** torch.arange(1, best.shape[1]).float()
    high = cosines.topk(max(1, len(sample) // 100), dim=1).values[:, -1]
    tail = (high - cosines.mean(1)) / cosines.std(1).clamp(min=_TINY)
    presence = PresenceSigmoids.fit(cosines).apply(cosines)
    explained = (_centred(presence)[places] @ y_unit[:, :, None])[..., 0]
    shown, fired = presence.mean(1)[places[:, 0]], y.mean(1)
    return [
        (shares.nan_to_num(0.0) * alike).sum(1),
        alike[:, 1:] @ (halves / halves.sum()),
        tail[places[:, 0]],
        (own * y_unit).sum(1),
        explained[:, 0],
        explained[:, 0] - explained.amax(1),
        ((shown + _LEAST) / (fired + _LEAST)).log(),
        (fired + _LEAST).log(),
    ]


def _centred(rows: Tensor) -> Tensor:
    return normalize(rows - rows.mean(1, keepdim=True), dim=1)
