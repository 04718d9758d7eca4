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

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from csp_index.labelling.evidence import Evidence
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.tensors.library import functional, torch
from csp_index.tensors.torch_threads import spread

if TYPE_CHECKING:
    from torch import Tensor

FEATURES: Final = (
    *("share", "soft", "vocabulary", "lead", "height", "fit", "spread"),
    *("tail", "response", "present", "behind", "breadth", "firing", "wide"),
)
_NEURONS, _TEXTS, _AT_ONCE = 64, 4096, 1024  # at once: neurons, and texts over which means are taken, by each thread
_LOOKED_AT = 10_240  # texts whose looks on the sample are in memory
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

    def add(looks: _Looks, places: Tensor, first_row: int, start: int) -> None:
        places = places[start : start + _NEURONS]
        rows = slice(first_row + start, first_row + start + len(places))
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
        seen = _on_sample(looks, places, shares[rows], y)
        wide = (y > _WIDE).float().mean(1)
        features[rows] = torch.stack([share, *seen[:2], lead, height, wrong, width_of, *seen[2:], wide], 1)

    together = max(_NEURONS, _LOOKED_AT // leaders.shape[1], _LOOKED_AT // len(evidence.texts) * len(leaders))
    for first_row in range(0, len(leaders), together):
        part = leaders[first_row : first_row + together]
        used, places = part.unique(return_inverse=True)
        spread(partial(add, _Looks.of(evidence.texts[used], sample), places, first_row), range(0, len(part), _NEURONS))
    return features


def text_deviations(texts: Tensor, sample: Tensor) -> Tensor:
    """Return the standard deviation of each text's cosines with a sample of image embeddings [R, D], [C]."""
    return torch.cat([(part @ sample.T).std(1) for part in texts.split(_TEXTS)])


@dataclass(frozen=True, slots=True)
class _Looks:
    """How T texts look on a sample of R images, whichever neuron they label."""

    unit: Tensor  # [T, R] cosines, centred, at unit length
    present: Tensor  # [T, R] presence, likewise
    shown: Tensor  # [T] mean presence
    tail: Tensor  # [T]

    @classmethod
    def of(cls, texts: Tensor, sample: Tensor) -> _Looks:
        """Return the looks of texts [T, D] on image embeddings [R, D]."""
        count = len(texts)
        looks = cls(*(torch.empty(count, len(sample)) for _ in range(2)), *(torch.empty(count) for _ in range(2)))

        def look(start: int) -> None:
            rows = slice(start, start + _AT_ONCE)
            cosines = texts[rows] @ sample.T
            looks.unit[rows] = _centred(cosines)
            high = cosines.topk(max(1, len(sample) // 100), dim=1).values[:, -1]
            looks.tail[rows] = (high - cosines.mean(1)) / cosines.std(1).clamp(min=_TINY)
            presence = PresenceSigmoids.fit(cosines).apply(cosines)
            looks.present[rows], looks.shown[rows] = _centred(presence), presence.mean(1)

        spread(look, range(0, count, _AT_ONCE))
        return looks


def _on_sample(looks: _Looks, places: Tensor, shares: Tensor, y: Tensor) -> list[Tensor]:
    """Return soft, vocabulary, tail, response, present, behind, breadth and firing of a block of neurons, [m] each."""
    own, y_unit = looks.unit[places[:, 0]], _centred(y)
    alike = (looks.unit[places] @ own[:, :, None])[..., 0].clamp(min=0)
    halves = 0.5 ** torch.arange(1, places.shape[1]).float()
    explained = (looks.present[places] @ y_unit[:, :, None])[..., 0]
    shown, fired = looks.shown[places[:, 0]], y.mean(1)
    return [
        (shares.nan_to_num(0.0) * alike).sum(1),
        alike[:, 1:] @ (halves / halves.sum()),
        looks.tail[places[:, 0]],
        (own * y_unit).sum(1),
        explained[:, 0],
        explained[:, 0] - explained.amax(1),
        ((shown + _LEAST) / (fired + _LEAST)).log(),
        (fired + _LEAST).log(),
    ]


def _centred(rows: Tensor) -> Tensor:
    return functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
